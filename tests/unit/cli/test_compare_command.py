import csv
import json

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch import nn

import stratascope as ss
from stratascope.cli import main
from tables import write_table

RNG = np.random.default_rng


@pytest.fixture(autouse=True)
def stores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"x": RNG(0).standard_normal((40, 3)), "y": RNG(1).standard_normal((40, 2, 5))}
    write_table("a.zarr", values)
    write_table("same.zarr", values)
    write_table("b.zarr", values | {"y": values["y"] * 1.01})


def run(capsys, *words):
    code = main(["compare", *words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_two_stores_are_compared_as_a_table(capsys):
    code, out, err = run(capsys, "a.zarr", "b.zarr")
    table = ss.compare("a.zarr", "b.zarr").table()
    assert (code, err) == (0, "")
    assert out.startswith(table)
    assert "They first differ at sites.y: 400 of 400 values differ, relative L2 0.01" in out


def test_what_does_not_differ_is_told_apart(capsys):
    assert "are identical to the bit" in run(capsys, "a.zarr", "same.zarr")[1]
    within = run(capsys, "a.zarr", "b.zarr", "--tolerance", "0.1")[1]
    assert "No site that both have differs by more than 0.1" in within
    beyond = run(capsys, "a.zarr", "b.zarr", "--tolerance", "0.001")[1]
    assert "They first differ by more than 0.001 at sites.y" in beyond


def test_one_store_is_compared_with_itself(capsys):
    code, out, _ = run(capsys, "a.zarr", "--method", "procrustes", "--flatten")
    assert code == 0
    assert out.strip() == ss.compare("a.zarr", method="procrustes", flatten=True).table()


def test_two_steps_of_one_store(capsys, tmp_path):
    torch.manual_seed(0)
    model, probe = nn.Conv1d(1, 3, 3), torch.randn(20, 1, 8)
    with ss.record(model, "model", to="run.zarr", every=1, probe=probe) as record:
        record.step(0)
        torch.nn.init.zeros_(model.bias)
        record.step(1)
    code, out, _ = run(capsys, "run.zarr", "--step-a", "0", "--step-b", "1")
    assert code == 0
    assert out.startswith("minibatch_cka of run.zarr step 0 and of run.zarr step 1, 20 samples")


@pytest.mark.parametrize(
    ("condition", "failed"),
    [
        ("diff>1e-3", ["sites.y: diff 0.0"]),
        ("diff>1", []),
        ("relative > 0.005", ["sites.y: relative 0.01 > 0.005"]),
        ("cosine<0.99, diff>10", []),
        ("similarity<0.9", []),
        ("similarity<2,relative>0.5", ["sites.x: similarity 1 < 2", "sites.y: similarity 1 < 2"]),
    ],
)
def test_a_condition_that_holds_makes_it_fail(capsys, condition, failed):
    code, out, _ = run(capsys, "a.zarr", "b.zarr", "--fail-on", condition)
    assert code == (1 if failed else 0)
    lines = [line for line in out.splitlines() if line.startswith("failed: ")]
    assert len(lines) == len(failed)
    for line, wanted in zip(lines, failed, strict=True):
        assert line.startswith(f"failed: {wanted}")


def test_what_cannot_be_computed_does_not_pass(capsys):
    values = RNG(0).standard_normal((40, 3))
    values[3, 1] = np.nan
    write_table("nan.zarr", {"x": values})
    code, out, _ = run(capsys, "a.zarr", "nan.zarr", "--fail-on", "similarity<0.5")
    assert code == 1
    assert "failed: sites.x: similarity cannot be computed" in out
    # The same NaN in both is no difference.
    assert run(capsys, "nan.zarr", "nan.zarr", "--fail-on", "similarity<0.5,diff>0")[0] == 0
    # Nor are the zeros of a dead layer, of whatever type.
    write_table("dead.zarr", {"x": np.zeros((40, 3), "float32")})
    write_table("half.zarr", {"x": np.zeros((40, 3), "float16")})
    assert run(capsys, "dead.zarr", "half.zarr", "--fail-on", "cosine<1,similarity<1")[0] == 0


def test_programs_read_it_as_json(capsys):
    code, out, _ = run(capsys, "a.zarr", "b.zarr", "--json", "--fail-on", "diff>1e-3")
    found = json.loads(out)
    compared = ss.compare("a.zarr", "b.zarr")
    assert code == 1
    assert found["first_divergence"] == "sites.y"
    assert len(found["failed"]) == 1
    assert found["matrix"] == compared.matrix.tolist()
    assert [each["identical"] for each in found["differences"]] == [True, False]
    assert found["differences"][1]["worst"]["largest"] == list(
        compared.differences["sites.y"].worst("largest")
    )
    assert json.loads(run(capsys, "a.zarr", "--json")[1])["first_divergence"] is None


def test_notes_are_printed_once(capsys):
    write_table("few.zarr", {"x": RNG(0).standard_normal((40, 3))}, order=range(10))
    code, out, err = run(capsys, "a.zarr", "few.zarr")
    assert (code, err) == (0, "")
    assert out.count("are left out") == 1


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_figures_go_to_a_file(capsys, name):
    assert run(capsys, "a.zarr", "b.zarr", "--to", name)[0] == 0
    if name.endswith("csv"):
        with open(name, newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = pyarrow.parquet.read_table(name).to_pylist()
    compared = ss.compare("a.zarr", "b.zarr")
    assert [(row["site_a"], row["site_b"]) for row in rows] == [
        (one, other) for one in compared.sites_a for other in compared.sites_b
    ]
    assert [float(row["minibatch_cka"]) for row in rows] == compared.matrix.ravel().tolist()
    assert float(rows[3]["relative"]) == compared.differences["sites.y"].relative
    assert rows[1]["relative"] in ("", None)


def test_the_matrix_is_drawn(capsys):
    code, out, _ = run(capsys, "a.zarr", "b.zarr", "--to", "map.png")
    assert code == 0
    assert out.rstrip().endswith("map.png")
    assert ss.render.read_provenance("map.png")["method"] == "minibatch_cka"
    found = ss.compare("a.zarr", "b.zarr")
    names = ss.render.Axis("a.zarr step 0", labels=found.sites_a)
    others = ss.render.Axis("b.zarr step 0", labels=found.sites_b)
    words = {"scale": ss.render.Scale(0, 1), "title": "minibatch_cka of 40 samples"}
    with Image.open("map.png") as image:
        expected = ss.render.map(found.matrix, axes=(names, others), **words)
        assert np.array_equal(np.asarray(image), expected)


def test_wrong_usage(capsys):
    code, _, err = run(capsys, "a.zarr", "b.zarr", "--fail-on", "dif>1")
    assert code == 2
    assert "--fail-on must be such as 'diff>1e-3'" in err
    assert run(capsys, "a.zarr", "b.zarr", "--fail-on", "diff>x")[0] == 2
    assert run(capsys, "a.zarr", "b.zarr", "--fail-on", "diff>nan")[0] == 2
    code, _, err = run(capsys, "a.zarr", "b.zarr", "--fail-on", "diff<1")
    assert code == 2
    assert "diff is a difference, 0 for alike: --fail-on 'diff>1', got 'diff<1'" in err
    distance = ["a.zarr", "b.zarr", "--method", "procrustes", "--fail-on"]
    code, _, err = run(capsys, *distance, "similarity<0.9")
    assert code == 2
    assert "procrustes is a distance, 0 for alike" in err
    assert run(capsys, *distance, "similarity>0.9")[0] == 0
    code, _, err = run(capsys, "a.zarr", "--fail-on", "diff>1")
    assert code == 2
    assert "--fail-on needs two stores, or --step-b" in err
    code, _, err = run(capsys, "a.zarr", "--to", "out.txt")
    assert code == 2
    assert "--to must end in .csv, .parquet, .png, got out.txt" in err
    write_table("z.zarr", {"z": RNG(0).standard_normal((40, 3))})
    code, _, err = run(capsys, "a.zarr", "z.zarr", "--fail-on", "diff>1")
    assert code == 2
    assert "--fail-on needs a site of the same name and shape in a.zarr and z.zarr" in err
    assert run(capsys, "a.zarr", "--sites", "nowhere")[0] == 2
