"""What two processes check together; each of them runs this file.

Each check runs in both, with a batch of its own in each: where one process does what the other does
not, both would wait. Its name is the sentence that it checks.
"""

import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import stratascope as ss
from stratascope.errors import CaptureError
from stratascope.pipeline import _together

RANKS = 2
PROBE = torch.linspace(-1, 1, 3 * 16).reshape(3, 1, 16)
PATIENCE = 120
CHECKS: dict[str, Callable[[], None]] = {}


class Block(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(before, after, 3, padding=1)
        self.norm = nn.BatchNorm1d(after)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.norm(self.conv(x)))
        return self.relu(y + x.mean(1, keepdim=True))


class Place(nn.Module):
    """Puts out a part of its parameter."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, 32))

    def forward(self, length: int):
        return self.weight[:, :length]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.place = Place(4)
        self.enc = nn.Sequential(Block(1, 4), Block(4, 4), Block(4, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.enc(x)
        return self.head(torch.cat([x + self.place(x.shape[-1])]).mean(-1))


def build() -> nn.Module:
    torch.manual_seed(0)
    return Net()


def wrap(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model)


def shard(model: nn.Module, **settings: Any) -> nn.Module:
    # Not the place by itself: its memory would be freed before the others have read it.
    for part in model.enc:
        fully_shard(part, **settings)
    return fully_shard(model, **settings)


def rank() -> int:
    return distributed.get_rank()


def batch(step: int = 0) -> Tensor:
    return torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(10 * step + rank()))


SITES = [
    "**", "", "enc.*:in", "enc.1.conv:grad", "enc.2:grad", "head:grad", "enc.1.relu@2:grad",
    "enc.*.add", "enc.0.add:in", "enc.2.add:grad", "enc.1.conv.conv1d:in", "head.linear:in",
]  # fmt: skip


def capture(model: nn.Module, handle: Any = None, **settings: Any) -> ss.Activations:
    """Capture a forward and a backward by a tap that is on already, or by one made now."""
    handle = ss.tap(model, SITES, **settings) if handle is None else handle
    with handle as acts:
        model(batch()).square().sum().backward()
    return acts


def check_same(acts: ss.Activations, expected: ss.Activations) -> None:
    assert list(acts) == list(expected), (list(acts), list(expected))
    for site, value in acts.items():
        for one, other in zip(_tensors(value), _tensors(expected[site]), strict=True):
            assert type(one) is Tensor, (site, type(one))
            assert torch.equal(one, other), site


def _tensors(value: Any) -> list[Tensor]:
    parts = value if isinstance(value, tuple) else (value,)
    return [part for part in parts if isinstance(part, Tensor)]


def train(model: nn.Module, steps: int = 3, look: Callable[[int], object] = lambda step: None):
    """Train, look between each backward and its step, and give all weights in full."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        optimiser.zero_grad()
        model(batch(step)).square().mean().backward()
        look(step)
        optimiser.step()
    return list_weights(model)


def list_weights(model: nn.Module) -> dict[str, Tensor]:
    """List all weights in full; every process has to ask."""
    state = model.state_dict().items()
    return {name.removeprefix("module."): _make_whole(value) for name, value in state}


def _make_whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def train_recorded(model: nn.Module, rec: Any) -> dict[str, Tensor]:
    """Train and record, and look at whether the store holds what a whole network gives."""
    expected, plain = {}, build()

    def look(step: int) -> None:
        if rec is not None:
            rec.step(step)
        plain.load_state_dict(list_weights(model))
        with torch.no_grad():
            expected[step] = plain.eval().enc[:2](PROBE)

    trained = train(model, look=look)
    if rec is not None:
        rec.close()
        assert rec.steps == (() if rec.path is None else (0, 1, 2))
    for step in () if rec is None else rec.steps:
        stored = ss.open_store("run.zarr", step=step)["enc.1"]
        assert torch.equal(torch.from_numpy(stored[:]), expected[step]), step
    return trained


def check_same_training(trained: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(trained) == list(expected)
    for name, value in trained.items():
        assert torch.equal(value, expected[name]), name


def describe(model: nn.Module) -> list[Any]:
    """List what a capture might leave behind."""
    return [
        (name, type(module), sorted(vars(module)), len(module._forward_hooks),
         len(module._forward_pre_hooks), module.training)
        for name, module in model.named_modules()
    ]  # fmt: skip


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


# DistributedDataParallel


@check
def ddp_is_captured_as_the_network_inside() -> None:
    check_same(capture(wrap(build())), capture(build()))


@check
def a_tap_stays_on_the_network_that_ddp_wraps() -> None:
    network = build()
    handle = ss.tap(network, SITES)
    check_same(capture(wrap(network), handle), capture(build()))


@check
def ddp_is_trained_as_without_a_tap() -> None:
    plain, tapped = wrap(build()), wrap(build())
    with ss.tap(tapped, SITES):
        trained = train(tapped)
    check_same_training(trained, train(plain))


@check
def ddp_is_left_as_it_was() -> None:
    model = wrap(build())
    before = describe(model)
    capture(model)
    assert describe(model) == before


@check
def ddp_is_traced_as_the_network_inside() -> None:
    run, expected = ss.trace(wrap(build()), batch()), ss.trace(build(), batch())
    assert [operation.name for operation in run] == [operation.name for operation in expected]
    check_same(run.activations, expected.activations)


@check
def every_forward_of_ddp_is_recorded_in_debugging() -> None:
    model = wrap(build())
    with ss.debug(model, keep="modules") as runs:
        train(model, steps=2)
    assert [run.activations["enc.1"].shape for run in runs] == [(2, 4, 16)] * 2


@check
def one_process_looks_at_a_ddp_and_does_not_wait_for_the_other() -> None:
    model = wrap(build())
    if rank() == 0:
        example = (batch(),)
        assert len(ss.survey(model, example=example)) == 18
        assert ss.trace(model, batch()).activations["module.enc.1"].shape == (2, 4, 16)
        part = ss.submodel(model, "module.enc.1", example=example)
        assert part.method == "graph"
        assert torch.equal(part(batch())["enc.1"], capture(build())["enc.1"])
        store = ss.extract(model, PROBE, "enc.1", to="acts.zarr", progress=False)
        assert torch.equal(torch.from_numpy(store["enc.1"][:]), part.eval()(PROBE)["enc.1"])
    distributed.barrier()


@check
def one_process_records_a_training_of_ddp() -> None:
    model = wrap(build())
    rec = ss.record(model, "enc.1", to="run.zarr", every=1, probe=PROBE) if rank() == 0 else None
    check_same_training(train_recorded(model, rec), train(wrap(build())))


@check
def one_process_records_its_batches_of_ddp() -> None:
    model = wrap(build())
    if rank() == 0:
        with ss.record(model, "enc.1", to="run.zarr", every=2) as rec:
            train(model, look=rec.step)
        assert ss.open_store("run.zarr").steps == (0, 2)
        assert ss.open_store("run.zarr")["enc.1"].shape == (2, 4, 16)
    else:
        train(model)


# fully_shard


@check
def a_sharded_network_is_captured_as_a_whole_one() -> None:
    model, expected = shard(build()), capture(build())
    check_same(capture(model), expected)
    # Once more: what was captured must not have taken the parameters' memory.
    check_same(capture(model), expected)
    check_same(capture(model, copy=True), expected)


@check
def references_to_sharded_parameters_stay_what_they_were() -> None:
    model = shard(build())
    with ss.tap(model, ["place", "enc.1.conv.conv1d:in"], copy=False) as acts:
        model(batch())
    model(batch(1))
    assert torch.equal(acts["place"], build().place(16))
    assert torch.equal(acts["enc.1.conv.conv1d:in"][1], build().enc[1].conv.weight)


@check
def a_tap_stays_on_a_network_that_is_sharded_under_it() -> None:
    network = build()
    handle = ss.tap(network, SITES)
    check_same(capture(shard(network), handle), capture(build()))


@check
def a_network_in_one_shard_is_captured() -> None:
    check_same(capture(fully_shard(build())), capture(build()))


@check
def classes_are_found_as_they_were_before_sharding() -> None:
    model = build()
    fully_shard(model.enc[1].conv)
    shard(model)
    example = (batch(),)
    assert ss.select(model, nn.Conv1d) == ss.select(build(), nn.Conv1d)
    assert ss.select(model, ["Conv1d[2]", "Block[*]"], example=example) == ss.select(
        build(), ["Conv1d[2]", "Block[*]"], example=example
    )
    assert ss.survey(model) == ss.survey(build())


@check
def mixed_precision_is_captured_as_it_flows() -> None:
    def make() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv1d(4, 2, 3))

    inside = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    outside = MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.float32)
    sites = ["0:in", "0", "1", "2", "0:grad", "0.conv1d:in"]
    for tapped_first in (True, False):
        model, plain = make(), make().bfloat16()
        handle = ss.tap(model, sites) if tapped_first else None
        fully_shard(model[0], mp_policy=inside)
        fully_shard(model, mp_policy=outside)
        with handle or ss.tap(model, sites) as acts:
            output = model(batch())
            output.sum().backward()
        with ss.tap(plain, sites) as expected:
            plain(batch().bfloat16()).sum().backward()
        assert output.dtype == torch.float32
        check_same(acts, expected)


@check
def a_sharded_network_is_trained_as_without_a_tap() -> None:
    plain, tapped = shard(build()), shard(build())
    with ss.tap(tapped, SITES):
        trained = train(tapped)
    check_same_training(trained, train(plain))


@check
def a_look_before_the_optimiser_steps_leaves_the_training_as_it_is() -> None:
    plain, looked_at = shard(build()), shard(build())
    look = lambda step: ss.select(looked_at, "**", example=(batch(),))  # noqa: E731
    check_same_training(train(looked_at, look=look), train(plain))
    plain, traced = shard(build()), shard(build())
    # A trace runs the model in its own mode.
    look = lambda step: ss.trace(traced.eval(), batch(), keep="all", backward=torch.sum)  # noqa: E731
    check_same_training(train(traced.eval(), look=look), train(plain.eval()))


@check
def a_sharded_network_is_left_as_it_was() -> None:
    model = shard(build())
    model(batch()).sum().backward()
    before = describe(model)
    capture(model)
    ss.trace(model, batch())
    ss.survey(model, example=(batch(),))
    assert describe(model) == before


@check
def a_submodel_of_a_sharded_network_runs_it_to_its_end() -> None:
    model, plain = shard(build()).eval(), build().eval()
    part = ss.submodel(model, "enc.1", example=(batch(),))
    assert (part.method, part.reason) == (
        "stop", "its parameters are spread over several processes by fully_shard",
    )  # fmt: skip
    with torch.no_grad():
        assert torch.equal(part(batch())["enc.1"], plain.enc[:2](batch()))
    check_same_training(train(model.train()), train(shard(build())))
    with pytest.raises(CaptureError, match=r"cannot be split at 'enc\.1': its parameters are spr"):
        ss.split(model, "enc.1", example=(batch(),))
    with pytest.raises(CaptureError, match=r"share=False copies the network, .*: cut the submodel"):
        ss.submodel(model, "enc.1", example=(batch(),), share=False)


@check
def all_processes_record_the_training_of_a_sharded_network() -> None:
    model = shard(build())
    to = "run.zarr" if rank() == 0 else None
    rec = ss.record(model, ["enc.1", "head"], to=to, every=1, probe=PROBE)
    check_same_training(train_recorded(model, rec), train(shard(build())))


@check
def a_sharded_training_goes_on_from_a_checkpoint() -> None:
    to = "run.zarr" if rank() == 0 else None
    for steps in (2, 3):
        model = shard(build())
        with ss.record(model, "enc.1", to=to, every=1, probe=PROBE, resume=True) as rec:
            train(model, steps, look=rec.step)
    if rank() == 0:
        assert rec.steps == (2,)
        assert ss.open_store("run.zarr").steps == (0, 1, 2)


@check
def one_process_records_its_batches_of_a_sharded_network() -> None:
    model = shard(build())
    if rank() == 0:
        with ss.record(model, "enc.1", to="run.zarr", every=2) as rec:
            train(model, look=rec.step)
        assert ss.open_store("run.zarr").steps == (0, 2)
    else:
        train(model)


@check
def two_processes_do_not_both_write() -> None:
    with pytest.raises(CaptureError, match=r"2 of them are to: give to=None to the others"):
        ss.record(shard(build()), "enc.1", to="run.zarr", probe=PROBE)


@check
def a_sharded_network_is_traced_as_a_whole_one() -> None:
    settings = {"keep": "all", "statistics": True}
    run = ss.trace(shard(build()), batch(), **settings)
    expected = ss.trace(build(), batch(), **settings)
    assert [operation.name for operation in run] == [operation.name for operation in expected]
    assert [operation.output_summaries for operation in run] == [
        operation.output_summaries for operation in expected
    ]
    check_same(run.activations, expected.activations)
    assert [call.kind for call in run.modules] == [call.kind for call in expected.modules]


# Last, as the processes cannot talk to each other any more.


@check
def a_process_that_does_not_record_is_not_waited_for_without_end() -> None:
    model = shard(build())
    _together._PATIENCE = timedelta(seconds=0.5)
    if rank() == 0:
        with pytest.raises(CaptureError, match=r"in vain \(.*[Tt]imed? ?out.*: make the record"):
            ss.record(model, "enc.1", to="run.zarr", probe=PROBE)
    else:
        time.sleep(1)


def run_together(folder: Path) -> dict[str, list[str]]:
    """Run all checks in two processes; give for each what went wrong, by process."""
    paths = os.pathsep.join([str(Path(ss.__file__).parents[1]), *sys.path])
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(number), str(folder)],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )
        for number in range(RANKS)
    ]
    end = time.monotonic() + PATIENCE
    try:
        for process in processes:
            process.wait(max(0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return {name: [_read(folder, name, number) for number in range(RANKS)] for name in CHECKS}


def _read(folder: Path, name: str, number: int) -> str:
    file = folder / f"{name}.{number}"
    return file.read_text() if file.exists() else "it was not reached, or did not come to its end"


def _work(number: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=number,
        world_size=RANKS,
        timeout=timedelta(seconds=30),
    )
    for name, function in CHECKS.items():
        try:
            with tempfile.TemporaryDirectory() as place:
                os.chdir(place)
                function()
                os.chdir(folder)
            problem = ""
        except Exception:  # noqa: BLE001 - told by the test
            problem = traceback.format_exc()
        (folder / f"{name}.{number}").write_text(problem)
        if problem:
            # The other one may wait for this one now.
            break
    distributed.destroy_process_group()


if __name__ == "__main__":
    _work(int(sys.argv[1]), Path(sys.argv[2]))
