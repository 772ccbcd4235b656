"""The benchmark of capture runs, and judges what comes out of what it measures."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    # They import each other by their plain names, of which the tests have some too.
    monkeypatch.setitem(sys.modules, "torchvision._meta_registrations", None)
    found = SimpleNamespace()
    for name in ("common", "networks", "peers", "capture"):
        spec = spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        setattr(found, name, module)
    return found


@pytest.fixture
def judge(scripts: SimpleNamespace) -> Callable[..., Any]:
    """Check a way to keep all convolutions that gives whatever a function makes of the right."""
    case = scripts.networks.Case("", scripts.networks.FiveConvs(), torch.randn(1, 1, 9), "7")
    wanted = scripts.peers.hook(case.copy(), torch.clone)()

    def check(spoil: Callable[[dict[str, torch.Tensor]], Any], package: str = "") -> Any:
        task = scripts.networks.CONVOLUTIONS
        way = scripts.peers.Way(task, "", lambda case: lambda: spoil(wanted), package=package)
        row, _ = scripts.capture.check(way, "", case, wanted)
        return row

    return check


def test_every_way_is_measured_or_listed_as_not_installed(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    options = ["--quick", "--only", "Conv1d|ResNet", "--json", str(found)]
    command = [sys.executable, str(BENCHMARKS / "capture.py"), *options]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = json.loads(found.read_text())["rows"]
    assert all(row["way"] in printed for row in rows)
    for row in rows:
        assert (row["right"] == "not installed") == (row["ratio"] is None), row
        if row["way"].startswith(("stratascope", "hooks", "cut")):
            assert row["right"] in ("yes", ""), row
    measured = {(row["network"], row["task"]) for row in rows if row["ratio"] is not None}
    assert len(measured) == 6
    # Its references show what was written over them.
    dispatch = [row for row in rows if row["way"].startswith("TorchDispatchMode")]
    assert [row["right"] for row in dispatch] == ["yes", "wrong"]


def test_inversionnet_has_the_published_parameters_and_shapes(scripts: SimpleNamespace) -> None:
    model = scripts.networks.InversionNet().eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 24_409_123
    with torch.no_grad():
        x = torch.zeros(1, 5, 1000, 70)
        assert (model.run_half(x).shape, model(x).shape) == ((1, 512, 1, 1), (1, 1, 70, 70))


def test_a_copied_case_shares_its_weights_and_nothing_else(scripts: SimpleNamespace) -> None:
    case = scripts.networks.Case("", scripts.networks.FiveConvs(), torch.randn(1, 1, 9), "7")
    copied = case.copy()
    assert copied.model[0] is not case.model[0]
    assert copied.model[0].weight is case.model[0].weight


def test_what_came_out_is_compared_with_clones(judge: Callable[..., Any]) -> None:
    row = judge(dict)
    assert (row.right, row.tensors) == ("yes", 5)
    assert judge(lambda right: right | {"0": right["0"] + 1}).right == "wrong"
    assert judge(lambda right: dict(list(right.items())[1:])).right == "wrong"
    assert judge(lambda right: right | {"more": torch.zeros(1)}).right == "wrong"


def test_an_absent_package_and_an_error_of_one_are_told(judge: Callable[..., Any]) -> None:
    def fail(right: dict[str, torch.Tensor]) -> None:
        raise KeyError("no such layer")

    assert judge(dict, "no-such-package").right == "not installed"
    assert judge(fail, "torch").right == "error: KeyError: 'no such layer'"
    with pytest.raises(KeyError, match="no such layer"):
        judge(fail)
