"""The demonstration, from real seismograms to pictures."""

import json

import pytest
import zarr

from stratascope.cli import main
from stratascope.cli._demo import _make_room
from stratascope.errors import StoreError
from stratascope.render import read_provenance


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shown") / "demo"
    code = main(["demo", "--to", str(folder), "--signal-seconds", "0.5", "--image-seconds", "0.5"])
    assert code == 0
    return folder


def test_the_fifth_convolution_of_every_window_is_in_the_store(shown):
    report = json.loads((shown / "demo.json").read_text())
    fifth = zarr.open_array(shown / "1-d/activations.zarr/data.zarr/0/encoder.8/activation")

    assert report["signals"]["sites"] == [f"encoder.{place}" for place in (0, 2, 4, 6, 8)]
    assert fifth.shape == (report["signals"]["samples"], 256, 256)
    assert report["signals"]["overhead"] > 0


def test_every_block_of_the_encoder_decoder_is_drawn(shown):
    report = json.loads((shown / "demo.json").read_text())
    sites = report["images"]["sites"]
    drawn = {read_provenance(path).get("site") for path in report["images"]["pictures"]}

    assert sites == [f"enc.{n}" for n in range(1, 5)] + [f"dec.{n}" for n in range(8)]
    assert drawn >= set(sites)


def test_a_second_demo_replaces_the_first(shown):
    (shown / "1-d" / "old.png").write_bytes(b"")
    _make_room(shown)

    assert not (shown / "1-d").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(StoreError, match="is left alone: choose another folder with --to"):
        _make_room(tmp_path)

    assert (tmp_path / "letter.txt").read_text() == "mine"
