"""The benchmark of the store runs, and compares what each format reads with what was written."""

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    module = importlib.import_module("store")
    # As little as there can be of everything.
    monkeypatch.setattr(module, "find_ballast", lambda pace: 0)
    monkeypatch.setattr(module, "_PICKED", 3)
    for name in ("store", "extractions"):
        monkeypatch.setattr(importlib.import_module(name), "UNIT", module.BATCH)
    monkeypatch.setattr("os.sync", lambda: None)
    monkeypatch.setattr("gc.collect", lambda: 0)
    yield module
    torch.set_num_threads(threads)


def test_every_way_is_measured_or_listed_as_not_installed(
    store: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(store, "alone", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(store, "is_installed", lambda package: package in ("", "zarr"))
    found = tmp_path / "found.json"
    options = ["--samples", "40", "--rounds", "1", "--folder", str(tmp_path), "--json", str(found)]
    monkeypatch.setattr(sys, "argv", ["store.py", *options])
    store.main()
    document, printed = json.loads(found.read_text()), capsys.readouterr().out
    tables = [rows for rows in document.values() if isinstance(rows, dict)]

    assert len(tables) == 3
    for name, figures in ((name, rows[name]) for rows in tables for name in rows):
        (line, *_) = [line for line in printed.splitlines() if line.strip().startswith(name)]
        assert line.endswith("not installed") == (not figures)
    assert [form.name for form in store.FORMATS if document["formats"][form.name]] == [
        "raw append",
        "stratascope StepWriter",
        "zarr-python, the same shards",
        "torch.save, a file a batch",
    ]
    assert not list(tmp_path.glob("tmp*"))


@pytest.mark.parametrize("package", ["tensorstore", "safetensors"])
def test_what_a_format_reads_is_what_was_written(
    store: ModuleType, tmp_path: Path, package: str
) -> None:
    (form,) = (form for form in store.FORMATS if form.package == package)
    figures = store.measure_format(form.name, 40, str(tmp_path), True)

    assert figures["files"] >= 2


def test_a_format_that_loses_a_sample_is_found_out(
    store: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    raw = store.FORMATS[0]
    short = replace(raw, read=lambda folder, samples: raw.read(folder, samples - 1))
    monkeypatch.setattr(store, "FORMATS", (short,))
    with pytest.raises(AssertionError, match="raw append"):
        store.measure_format(raw.name, 40, str(tmp_path), True)


def test_a_limit_is_met_from_the_right_side(
    store: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for limit in (0.5, -0.5):
        for found in (0.4, 0.6):
            store.print_limit("ours", found, limit)
    lines = [line.split()[1:] for line in capsys.readouterr().out.splitlines()]

    assert lines == [
        ["0.40", "≥", "0.5:", "NO"],
        ["0.60", "≥", "0.5:", "yes"],
        ["0.40", "≤", "0.5:", "yes"],
        ["0.60", "≤", "0.5:", "NO"],
    ]


def test_a_function_runs_in_a_process_of_its_own(store: ModuleType) -> None:
    assert store.alone(store.is_installed, "no-such-package") is False
