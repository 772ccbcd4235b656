"""``stratascope extract``."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stratascope.capture import tune_allocator
from stratascope.cli._output import name_program, name_size, print_json, print_line
from stratascope.cli._targets import describe_targets, load_data, load_model
from stratascope.errors import UsageError
from stratascope.pipeline._extract import extract as extract_to_store
from stratascope.store import Codec


def extract(
    model: str,
    data: str,
    *,
    sites: Annotated[list[str], Parameter(consume_multiple=True, negative="")],
    to: Path,
    weights: Path | None = None,
    batch_size: int = 64,
    dtype: str | None = None,
    codec: Codec = "fast",
    device: str | None = None,
    step: int = 0,
    limit: int | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Run a data set through a model and write what its sites hold to a store.

    Args:
        model: package.module:function or path/to/file.py:function that gives the model.
        data: A .npy file, or package.module:function that gives a Dataset, DataLoader, array or
            batches.
        sites: What to store: names, globs such as 'enc.*', classes such as 'Conv1d[*]'.
        to: Folder of the store.
        weights: File of a state dict, .pt or .safetensors.
        batch_size: Samples a forward, where the data does not come in batches.
        dtype: What floating-point values are stored as, such as float16, or uint8 for codes of one
            byte.
        codec: How the values are compressed: fast, or compact, which takes less room and more time.
        device: Where to run, such as cuda.
        step: Number of the step, such as the training step of a checkpoint.
        limit: Use only the first samples.
        resume: Continue an interrupted run.
        json: Print JSON.
    """
    if batch_size < 1 or step < 0 or (limit is not None and limit < 1):
        raise UsageError("--batch-size and --limit must be at least 1, and --step at least 0")
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
        step=step,
        limit=limit,
        resume=resume,
        provenance=describe_targets(model, data, weights),
    )
    seconds = time.perf_counter() - began
    if json:
        summary = {
            "store": str(to),
            "step": step,
            "samples": store.samples,
            "sites": list(store),
            "bytes": store.nbytes,
            "seconds": round(seconds, 3),
        }
        print_json(summary)
        return
    rate = store.samples / seconds
    print_line(repr(store))
    print_line(
        f"{name_size(store.nbytes)} on disk, {seconds:.1f} s, {rate:,.0f} samples/s. Look at it:"
    )
    print_line(
        f"  {name_program()} render {to} --site '{next(iter(store))}' --sample 0 --to layer.png"
    )
