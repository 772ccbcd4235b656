import mmap

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import jobs
from stratascope.errors import DataError
from stratascope.pipeline._handover import check_portable, load_job, save_job


def hand_over(value, folder):
    """Give a value as another process gets it, and the size of the file."""
    job = jobs.Noted(folder)
    job.data = value
    save_job(job, folder / "job.pt")
    return load_job(folder / "job.pt").data, (folder / "job.pt").stat().st_size


def is_mapped(array):
    """Tell whether the memory of an array is that of a file."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as file:
        for line in file:
            low, high = (int(place, 16) for place in line.split()[0].split("-"))
            if low <= address < high:
                return line.split()[4] != "0"
    return False


@pytest.fixture
def numbers():
    return np.random.default_rng(0).normal(size=(200, 3, 50)).astype("f4")


@pytest.fixture(params=["np.load", "np.memmap"])
def mapped(request, tmp_path, numbers):
    if request.param == "np.load":
        np.save(tmp_path / "numbers.npy", numbers)
        return np.load(tmp_path / "numbers.npy", mmap_mode="r")
    # Its beginning is on no page's border.
    (tmp_path / "numbers.raw").write_bytes(bytes(mmap.PAGESIZE + 7) + numbers.tobytes())
    place = tmp_path / "numbers.raw"
    return np.memmap(place, "f4", "r+", offset=mmap.PAGESIZE + 7, shape=numbers.shape)


@pytest.mark.parametrize(
    "cut",
    [
        lambda x: x,
        lambda x: x[50:],
        lambda x: x[3:150:7, 1],
        lambda x: x[::-1],
        lambda x: x.transpose(2, 0, 1),
        lambda x: np.asarray(x)[20:],
        lambda x: x[0, 0, 0:1],
    ],
)
def test_a_mapped_array_is_mapped_again_and_not_copied(tmp_path, mapped, cut):
    given, size = hand_over(cut(mapped), tmp_path)

    np.testing.assert_array_equal(given, cut(mapped), strict=True)
    assert size < 10_000
    assert is_mapped(given)


def test_a_mapped_array_deep_in_a_data_set_is_mapped_again(tmp_path, mapped):
    given, size = hand_over(jobs.Pairs({"x": [mapped]}), tmp_path)

    np.testing.assert_array_equal(given.values["x"][0], mapped)
    assert size < 10_000


def test_what_was_written_to_a_copy_on_write_is_handed_over(tmp_path, numbers):
    np.save(tmp_path / "numbers.npy", numbers)
    copied = np.load(tmp_path / "numbers.npy", mmap_mode="c")
    copied[7] = 1
    given, _ = hand_over(copied, tmp_path)

    np.testing.assert_array_equal(given, copied)
    assert not np.array_equal(given, numbers)


def test_a_mapped_array_whose_file_is_gone_is_copied(tmp_path, mapped, numbers):
    for path in tmp_path.glob("numbers.*"):
        path.unlink()
    given, _ = hand_over(mapped, tmp_path)

    np.testing.assert_array_equal(given, numbers)


def test_a_part_that_was_picked_from_a_mapped_array_is_handed_over(tmp_path, mapped, numbers):
    given, _ = hand_over(mapped[[5, 3, 99]], tmp_path)

    np.testing.assert_array_equal(given, numbers[[5, 3, 99]])


@pytest.mark.parametrize("writable", [True, False])
def test_an_array_in_memory_is_mapped_from_the_job_itself(tmp_path, numbers, writable):
    numbers.flags.writeable = writable
    given, size = hand_over({"a": numbers, "b": numbers}, tmp_path)

    np.testing.assert_array_equal(given["a"], numbers, strict=True)
    assert given["a"] is given["b"]
    assert numbers.nbytes < size < 1.5 * numbers.nbytes
    assert is_mapped(given["a"])


@pytest.mark.parametrize(
    "value",
    [
        np.arange(3000.0).astype(">f4"),
        np.arange(3000)[::-1],
        np.array(["text", None] * 1000, dtype=object),
        np.ma.masked_less(np.arange(3000), 5),
        np.zeros(2000, [("x", "f4"), ("y", "i8")]),
        np.arange(3),
        np.float32(3),
        np.zeros((0, 5)),
    ],
    ids=["byte order", "reversed", "objects", "masked", "fields", "small", "scalar", "empty"],
)
def test_whatever_else_numpy_has_arrives_as_it_was(tmp_path, value):
    given, _ = hand_over(value, tmp_path)

    assert type(given) is type(value)
    np.testing.assert_array_equal(given, value, strict=True)


def test_tensors_are_mapped_and_what_is_written_there_stays_there(tmp_path):
    data = TensorDataset(torch.arange(10_000.0))
    given, _ = hand_over(data, tmp_path)
    assert is_mapped(given.tensors[0].numpy())
    given.tensors[0].zero_()
    again = load_job(tmp_path / "job.pt").data

    assert torch.equal(again.tensors[0], data.tensors[0])


def test_what_cannot_be_pickled_is_named(tmp_path):
    with pytest.raises(
        DataError,
        match="the data must be picklable to be handed to other processes, but is not: ",
    ) as caught:
        hand_over((n for n in range(3)), tmp_path)
    assert "generator" in str(caught.value)
    assert "at the top level of a module" in str(caught.value)


def test_what_has_no_room_is_an_error(tmp_path, monkeypatch, numbers):
    def fail(*_, **__):
        raise RuntimeError("[enforce fail] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(
        DataError, match=r"must hold model and data .* pos 64 vs 0\. Set TMPDIR to a folder with"
    ):
        hand_over(numbers, tmp_path)


class Loud(np.ndarray):
    """An array whose values must not be looked at."""

    def __reduce__(self):
        raise AssertionError("looked at")


def test_whether_a_job_can_be_pickled_is_told_without_its_values(tmp_path):
    job = jobs.Noted(tmp_path)
    job.data = {"a": np.zeros(3).view(Loud), "b": torch.nn.Linear(2, 3), "c": jobs.Pairs([])}
    check_portable(job)
    job.data["d"] = np.array([lambda x: x])

    with pytest.raises(DataError, match=r"the data must be picklable .*lambda"):
        check_portable(job)


def test_what_is_not_found_there_is_an_error(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "Lost", type("Lost", (), {"__module__": "jobs"}), raising=False)
        job = jobs.Noted(tmp_path)
        job.data = jobs.Lost()
        save_job(job, tmp_path / "job.pt")

    with pytest.raises(DataError, match=r"must be made again there, but was not: .*Lost.*notebook"):
        load_job(tmp_path / "job.pt")
