import subprocess
import sys

import numpy as np
import pytest

from stratascope.cli import _demo_data
from stratascope.cli._demo_data import (
    Seismogram,
    cut_windows,
    load_seismograms,
    time_frequency_images,
)
from stratascope.errors import DataError, MissingExtraError


@pytest.fixture(scope="module")
def recordings():
    try:
        return load_seismograms()
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def seismograms(recordings):
    return recordings[0]


def record(samples, name="A", source="a file"):
    return Seismogram(name, 100.0, np.asarray(samples, dtype=np.float32), source)


def noise(length, seed=0):
    return np.random.default_rng(seed).standard_normal(length)


def test_the_example_of_obspy_comes_first(seismograms):
    assert [s.name for s in seismograms[:3]] == ["BW.RJOB..EHZ", "BW.RJOB..EHN", "BW.RJOB..EHE"]
    assert {(s.sampling_rate, s.samples.shape) for s in seismograms[:3]} == {(100.0, (3000,))}


def test_seismograms_are_finite_and_named_after_their_channel(seismograms):
    for seismogram in seismograms:
        assert seismogram.samples.dtype == np.float32
        assert np.isfinite(seismogram.samples).all()
        assert seismogram.sampling_rate > 0
        assert " " not in seismogram.name
        assert not seismogram.name.startswith(".")
    names = [seismogram.name for seismogram in seismograms]
    assert len(set(names)) == len(names)


def test_a_file_that_obspy_lacks_is_reported(monkeypatch, recordings):
    monkeypatch.setattr(_demo_data, "_FILES", {"io/none/tests/data/gone.mseed": "*"})

    seismograms, missing = load_seismograms()

    assert len(seismograms) == 3
    assert missing == ["io/none/tests/data/gone.mseed"]


def test_a_file_without_the_channel_is_reported(monkeypatch, recordings):
    source = "io/dmx/tests/data/131114_090600.dmx"
    if source in recordings[1]:
        pytest.skip("this ObsPy lacks the file")
    monkeypatch.setattr(_demo_data, "_FILES", {source: "no such channel"})

    assert load_seismograms()[1] == [source]


def test_without_obspy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obspy", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'stratascope\[demo\]'"):
        load_seismograms()


def test_obspy_is_imported_only_when_seismograms_are_read():
    code = "import sys, stratascope.cli._demo_data; sys.exit('obspy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_real_recordings_give_enough_windows(recordings):
    seismograms, missing = recordings

    windows, labels = cut_windows(seismograms)

    assert windows.dtype == np.float32
    assert windows.shape == (len(labels), 1, 256)
    assert len(labels) == len(set(labels))
    assert len(windows) >= 40 if missing else 500 <= len(windows) <= 2000
    np.testing.assert_allclose(windows.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(windows.std(axis=-1), 1, atol=1e-4)


def test_windows_start_where_their_labels_say():
    samples = noise(1000)

    windows, labels = cut_windows([record(samples)], length=100, step=50)

    assert labels[3] == "A 1.5 s"
    expected = samples[150:250].astype(np.float32)
    np.testing.assert_allclose(
        windows[3, 0], (expected - expected.mean()) / expected.std(), atol=1e-5
    )


def test_windows_in_which_nothing_moves_are_left_out():
    silence, steps = np.zeros(256), np.arange(256) // 64

    windows, labels = cut_windows([record(np.concatenate([noise(256), silence, steps]))], step=256)

    assert labels == ["A 0.0 s"]
    assert np.isfinite(windows).all()


def test_seismograms_shorter_than_a_window_are_passed_over():
    _, labels = cut_windows([record(noise(255), "short"), record(noise(256), "long")])

    assert labels == ["long 0.0 s"]


def test_no_window_at_all_is_an_error():
    with pytest.raises(DataError, match="must hold a moving window of 256 samples, got none in 1"):
        cut_windows([record(np.zeros(1000))])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 1}, "length must be at least 2, got 1"),
        ({"step": 0}, "step must be at least 1, got 0"),
    ],
)
def test_windows_need_a_length_and_a_step(arguments, message):
    with pytest.raises(ValueError, match=message):
        cut_windows([record(noise(300))], **arguments)


def test_the_real_recordings_give_a_handful_of_images(recordings):
    seismograms, missing = recordings

    images, labels = time_frequency_images(seismograms)

    assert images.dtype == np.float32
    assert images.shape == (len(labels), 1, 64, 64)
    assert len(images) >= 1 if missing else 8 <= len(images) <= 16
    assert labels[0].startswith("BW.RJOB..EHZ ")
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(images.std(axis=(1, 2, 3)), 1, atol=1e-4)


def test_images_and_windows_are_the_same_each_time(seismograms):
    again, _ = load_seismograms()

    np.testing.assert_array_equal(cut_windows(seismograms)[0], cut_windows(again)[0])
    np.testing.assert_array_equal(
        time_frequency_images(seismograms)[0], time_frequency_images(again)[0]
    )


def test_an_image_shows_a_tone_at_its_frequency():
    # A quarter of the sampling rate is the 32nd of 64 frequencies; the last row is the first.
    tone = np.sin(np.pi / 2 * np.arange(3000)) + 1e-3 * noise(3000)

    images, _ = time_frequency_images([record(tone)])

    assert set(images[0, 0].argmax(axis=0)) == {32}


def test_an_image_begins_shortly_before_the_arrival():
    samples = 0.01 * noise(20_000)
    samples[12_000:13_000] += noise(1000, seed=1)

    images, labels = time_frequency_images([record(samples)])

    start = float(labels[0].split()[1]) * 100
    assert start < 12_000 < start + 2144 / 2
    quiet, loud = images[0, 0, :, :8].mean(), images[0, 0, :, 20:40].mean()
    assert loud - quiet > 1


def test_an_image_is_drawn_of_the_first_seismogram_of_each_file():
    files = [("A", "one"), ("B", "one"), ("C", "two"), ("D", "one")]

    _, labels = time_frequency_images([record(noise(3000), *file) for file in files])

    assert [label.split()[0] for label in labels] == ["A", "C"]


def test_at_most_sixteen_images_are_drawn():
    many = [record(noise(3000), "A", str(number)) for number in range(20)]

    assert time_frequency_images(many)[0].shape == (16, 1, 64, 64)


@pytest.mark.parametrize("size", [(2, 2), (32, 100), (100, 32)])
def test_images_have_the_size_asked_for(size):
    assert time_frequency_images([record(noise(3000))], size)[0].shape == (1, 1, *size)


def test_a_constant_seismogram_gives_a_finite_image():
    images, _ = time_frequency_images([record(np.full(3000, 7.0))])

    np.testing.assert_array_equal(images, 0)


def test_the_shortest_seismogram_still_gives_an_image():
    assert len(time_frequency_images([record(noise(191))])[0]) == 1
    with pytest.raises(DataError, match="must have 191 samples for an image of 64 x 64, got none"):
        time_frequency_images([record(noise(190))])


def test_an_image_needs_two_frequencies_and_two_times():
    with pytest.raises(ValueError, match="size must be at least 2 x 2, got 1 x 64"):
        time_frequency_images([record(noise(3000))], (1, 64))
