"""``stratascope extract``."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stratascope.capture import tune_allocator
from stratascope.cli._output import name_program, name_size, print_json, print_line
from stratascope.cli._targets import describe_targets, load_data, load_model
from stratascope.errors import UsageError
from stratascope.pipeline import Processes
from stratascope.pipeline._extract import extract as extract_to_store
from stratascope.pipeline._lengths import Length
from stratascope.store import Codec


def extract(
    model: str,
    data: str,
    *,
    sites: Annotated[list[str], Parameter(consume_multiple=True, negative="")],
    to: str,
    weights: Path | None = None,
    batch_size: int = 64,
    dtype: str | None = None,
    codec: Codec = "fast",
    device: str | None = None,
    length: str | None = None,
    step: int = 0,
    limit: int | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    workers: int | None = None,
    shard: str | None = None,
    previews: bool = True,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Run a data set through a model and write what its sites hold to a store.

    Args:
        model: package.module:function or path/to/file.py:function that gives the model.
        data: A .npy file, or package.module:function that gives a Dataset, DataLoader, array or
            batches.
        sites: What to store: names, globs such as 'enc.*', classes such as 'Conv1d[*]'.
        to: Folder of the store, or s3://bucket/name, gs://bucket/name.
        weights: File of a state dict, .pt or .safetensors.
        batch_size: Samples a forward, where the data does not come in batches.
        dtype: What floating-point values are stored as, such as float16, or uint8 for codes of one
            byte.
        codec: How the values are compressed: fast, or compact, which takes less room and more time.
        device: Where to run, such as cuda.
        length: For samples that differ in length: the greatest length, or longest to look at all of
            them first.
        step: Number of the step, such as the training step of a checkpoint.
        limit: Use only the first samples.
        resume: Continue an interrupted run.
        workers: How many processes to run in; without it this one.
        shard: Do one part only, such as 0/4 of four parts; the commands for 1/4, 2/4 and 3/4 do the
            rest, on any hosts that share the folder.
        previews: Write small maps and histograms beside the values, for a first look at the store.
        json: Print JSON.
    """
    least = {"--batch-size": batch_size, "--limit": limit, "--workers": workers}
    for name, value in least.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    if step < 0:
        raise UsageError(f"--step must be at least 0, got {step}")
    part = None if shard is None else _parse_shard(shard)
    # This process is ours alone.
    tune_allocator()
    network = load_model(model, weights)
    inputs = load_data(data)
    began = time.perf_counter()
    store = extract_to_store(
        network,
        inputs,
        sites,
        to=to,
        batch_size=batch_size,
        dtype=dtype,
        codec=codec,
        device=device,
        length=None if length is None else _parse_length(length),
        step=step,
        limit=limit,
        resume=resume,
        executor=None if workers is None else Processes(workers),
        shard=part,
        previews=previews,
        provenance=describe_targets(model, data, weights),
    )
    seconds = time.perf_counter() - began
    if json:
        summary = {
            "store": str(to),
            "step": step,
            "samples": store.samples,
            "complete": store.complete,
            "sites": list(store),
            "bytes": store.nbytes,
            "seconds": round(seconds, 3),
        }
        print_json(summary)
        return
    print_line(repr(store))
    if not store.complete:
        done = sum(map(len, store.committed_ranges()))
        print_line(
            f"shard {shard} is done in {seconds:.1f} s: {done:,} of {store.samples:,} samples are "
            "there, and the other shards do the rest"
        )
        return
    rate = store.samples / seconds
    print_line(
        f"{name_size(store.nbytes)} on disk, {seconds:.1f} s, {rate:,.0f} samples/s. Look at it:"
    )
    print_line(
        f"  {name_program()} render {to} --site '{next(iter(store))}' --sample 0 --to layer.png"
    )


def _parse_shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise UsageError(
            f"--shard must be a number from 0 and how many there are, such as 0/4, got {text!r}"
        )
    return int(number), int(count)


def _parse_length(text: str) -> Length:
    if text == "longest":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--length must be a number from 1, or longest, got {text}")
    return int(text)
