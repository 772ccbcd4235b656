import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from shots import write_pair
from stratascope.errors import DataError
from stratascope.seismic import FAMILIES, OpenFWI
from stratascope.seismic._openfwi import find_family, find_pairs, guess_family


@pytest.fixture
def fault(tmp_path):
    folder = tmp_path / "CurveFault_A"
    for seed, number in enumerate(["2_1_0", "2_1_10", "2_1_9", "3_1_32"]):
        write_pair(folder, number, seed=seed)
    return folder


def test_samples_come_in_the_order_of_the_numbers(fault):
    data = OpenFWI(fault)
    first = [data[2 * file][1][0, 0, 0].item() for file in range(4)]
    expected = [write_pair(fault / "x", seed=seed)[1][0, 0, 0, 0] for seed in (0, 2, 1, 3)]

    assert len(data) == 8
    assert [pair.number for pair in data.pairs] == [(2, 1, 0), (2, 1, 9), (2, 1, 10), (3, 1, 32)]
    assert first == pytest.approx([(v - 3000) / 1500 for v in expected], abs=1e-6)
    assert data[-1][1].equal(data[7][1])


def test_a_sample_has_the_shapes_and_the_type_of_a_network_input(fault):
    seismic, velocity = OpenFWI(fault)[3]

    assert (seismic.shape, velocity.shape) == ((5, 1000, 70), (1, 70, 70))
    assert (seismic.dtype, velocity.dtype) == (torch.float32, torch.float32)


def test_scaling_is_that_of_openfwi(fault):
    raw = np.load(fault / "seis2_1_0.npy")[1].astype("float64")
    low, high = -np.log1p(26.48), np.log1p(52.32)
    expected = (np.sign(raw) * np.log1p(np.abs(raw)) - low) / (high - low) * 2 - 1
    maps = (np.load(fault / "vel2_1_0.npy")[1] - 1500) / 3000 * 2 - 1
    seismic, velocity = OpenFWI(fault)[1]

    np.testing.assert_allclose(seismic.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(velocity.numpy(), maps, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_the_ends_of_each_range_become_one_and_scaling_can_be_undone(family):
    ends = torch.tensor([family.seismic_min, 0.0, family.seismic_max])
    scaled = family.scale_seismic(ends)

    torch.testing.assert_close(scaled[[0, 2]], torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(family.unscale_seismic(scaled), ends, atol=1e-5, rtol=1e-5)
    velocity = torch.tensor([1500.0, 2222.0, 4500.0])
    torch.testing.assert_close(family.unscale_velocity(family.scale_velocity(velocity)), velocity)


def test_files_are_left_as_they_are(fault):
    before = {path: path.read_bytes() for path in fault.glob("*.npy")}
    data = OpenFWI(fault)
    for seismic, velocity in data:
        seismic.zero_()
        velocity.zero_()

    assert {path: path.read_bytes() for path in fault.glob("*.npy")} == before


def test_the_published_split_goes_by_the_number_of_a_file(fault):
    assert [pair.number for pair in OpenFWI(fault, split="test").pairs] == [(3, 1, 32)]
    assert len(OpenFWI(fault, split="train")) == 6


@pytest.mark.parametrize(
    ("name", "last_train", "last"),
    [("FlatVel_A", 48, 60), ("CurveFault_B", 96, 108), ("Style_A", 120, 134)],
)
def test_numbered_files_are_split_after_the_training_files(name, last_train, last, tmp_path):
    family = find_family(name)
    for number in (1, last_train, last_train + 1, last):
        (tmp_path / f"data{number}.npy").touch()
    pairs = find_pairs(tmp_path, family)

    assert [pair.split for pair in pairs] == ["train", "train", "test", "test"]
    assert family.train_files + family.test_files == last


def test_numbered_files_are_found_in_their_folders(tmp_path):
    folder = tmp_path / "FlatVel_A"
    _, velocity = write_pair(folder, 2, scheme="numbered")
    (folder / "data").mkdir()
    (folder / "model").mkdir()
    (folder / "data2.npy").rename(folder / "data" / "data2.npy")
    (folder / "model2.npy").rename(folder / "model" / "model2.npy")
    data = OpenFWI(folder, split="train")

    assert data.family.name == "FlatVel_A"
    assert data[0][1][0, 0, 0].item() == pytest.approx((velocity[0, 0, 0, 0] - 3000) / 1500, 1e-5)


def test_a_split_file_chooses_by_name_and_needs_no_last_newline(fault, tmp_path):
    lines = [f"/far/away/seis{n}.npy\t/far/away/vel{n}.npy" for n in ("3_1_32", "2_1_0")]
    (tmp_path / "split.txt").write_text("\n".join(lines))
    data = OpenFWI(fault, split_file=tmp_path / "split.txt")

    assert [pair.number for pair in data.pairs] == [(3, 1, 32), (2, 1, 0)]


@pytest.mark.parametrize("written", ["CurveFault_A", "curvefault-a", "CURVEFAULTA", "CurveFaultA"])
def test_a_family_is_known_however_it_is_written(written):
    assert find_family(written) is FAMILIES["CurveFault_A"]


def test_the_family_is_that_of_the_folder_or_of_one_above_it(tmp_path):
    (tmp_path / "Style_B" / "mine" / "of 2026").mkdir(parents=True)

    assert guess_family(tmp_path / "Style_B" / "mine" / "of 2026").name == "Style_B"


def test_a_worker_reads_the_same_samples(fault):
    data = OpenFWI(fault)
    alone = list(DataLoader(data, batch_size=3))
    beside = list(DataLoader(data, batch_size=3, num_workers=1, multiprocessing_context="fork"))

    assert all(a[0].equal(b[0]) for a, b in zip(alone, beside, strict=True))


def test_pickled_it_is_a_list_of_paths(fault):
    data = OpenFWI(fault)
    sample = data[0]
    packed = pickle.dumps(data)

    assert len(packed) < 5000
    assert pickle.loads(packed)[0][0].equal(sample[0])


def test_a_data_set_larger_than_memory_is_read(tmp_path):
    folder = tmp_path / "CurveFault_A"
    folder.mkdir()
    for name, shape in (("seis2_1_0", (90_000, 5, 1000, 70)), ("vel2_1_0", (90_000, 1, 70, 70))):
        # Sparse: 126 GB of zeros that take no room.
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", "float32", shape)
    seismic, velocity = OpenFWI(folder)[-1]

    assert seismic.unique().numel() == velocity.unique().numel() == 1


def break_shape(folder):
    np.save(folder / "seis2_1_9.npy", np.zeros((2, 5, 70, 1000), "float32"))


def break_count(folder):
    np.save(folder / "vel2_1_9.npy", np.zeros((3, 1, 70, 70), "float32"))


def break_type(folder):
    np.save(folder / "vel2_1_9.npy", np.zeros((2, 1, 70, 70), "int32"))


def cut_off(folder):
    content = (folder / "seis2_1_9.npy").read_bytes()
    (folder / "seis2_1_9.npy").write_bytes(content[:-1000])


def leave_empty(folder):
    (folder / "seis2_1_9.npy").write_bytes(b"")


def write_text(folder):
    (folder / "seis2_1_9.npy").write_text("<html>quota exceeded</html>")


def lose_maps(folder):
    (folder / "vel2_1_9.npy").unlink()


def lose_shots(folder):
    (folder / "seis2_1_9.npy").unlink()


def mix_schemes(folder):
    write_pair(folder, 1, scheme="numbered")


def mix_layers(folder):
    write_pair(folder, "7_1_0")


BROKEN = {
    "shape": (break_shape, r"seis2_1_9.npy must hold .* shape \(n, 5, 1000, 70\), got float32 of"),
    "count": (break_count, "seis2_1_9.npy and vel2_1_9.npy .* equally many samples, got 2 and 3"),
    "type": (break_type, "must hold floating-point numbers .* got int32 of shape"),
    "cut off": (cut_off, r"must be a whole .npy file, .* cut off .*: fetch it again"),
    "empty": (leave_empty, r"seis2_1_9.npy must be a whole .npy file"),
    "text": (write_text, r"seis2_1_9.npy must be a whole .npy file"),
    "no maps": (lose_maps, "seis2_1_9.npy must have its file of velocity maps beside it, got none"),
    "no shots": (lose_shots, "vel2_1_9.npy must have its file of seismic data beside it, got none"),
    "schemes": (mix_schemes, "must hold files of one family, got such as .*data1.npy and .*2_1_0"),
    "layers": (mix_layers, "must hold files of one family, got such as .*[23]_1_.* and .*7_1_0"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_gets_one_sentence(case, fault):
    spoil, message = BROKEN[case]
    spoil(fault)
    with pytest.raises(DataError, match=message) as caught:
        OpenFWI(fault)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("half", ["seis", "vel"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_value_that_is_not_finite_is_found_when_it_is_read(fault, half, value):
    values = np.load(fault / f"{half}2_1_9.npy", mmap_mode="r+")
    values[1, 0, 3, 4] = value
    values.flush()
    data = OpenFWI(fault)

    assert data[2][0].isfinite().all()
    with pytest.raises(DataError, match=f"{half}2_1_9.npy must be finite, .* sample 1: fetch"):
        data[3]


def test_files_of_another_family_are_refused(fault):
    with pytest.raises(DataError, match=r"files of CurveFault_B, got vel3_1_32.npy, .* family A"):
        OpenFWI(fault, family="CurveFault_B")


def test_a_near_name_is_offered_for_a_family(fault):
    with pytest.raises(DataError, match=r"no family 'CurvedFault_A' .* mean 'CurveFault_A'"):
        OpenFWI(fault, family="CurvedFault_A")


def test_a_folder_of_several_families_lists_them(fault):
    with pytest.raises(DataError, match=r"folder of one family, .*: name one of .*CurveFault_A"):
        OpenFWI(fault.parent)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("nowhere", {}, "nowhere must be a folder of OpenFWI's .npy files, got none of that name"),
        ("CurveFault_A/empty", {}, "must hold pairs such as data1.npy and model1.npy, .* got none"),
        ("mine", {}, r"the family of .*mine must be known, .*: pass family='CurveFault_A'"),
    ],
)
def test_a_folder_without_data_is_refused(fault, name, arguments, message):
    (fault / "empty").mkdir()
    (fault.parent / "mine").mkdir()
    if name == "mine":
        fault.rename(fault.parent / "other")
    with pytest.raises(DataError, match=message):
        OpenFWI(fault.parent / name, **arguments)


def test_a_split_without_files_is_refused(fault):
    (fault / "seis3_1_32.npy").unlink()
    (fault / "vel3_1_32.npy").unlink()

    with pytest.raises(DataError, match="must hold files of CurveFault_A to test, got none"):
        OpenFWI(fault, split="test")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seis2_1_0.npy vel2_1_0.npy", "line 2 of .* must be two paths with a tabulator between"),
        ("seis2_1_0.npy\tvel2_1_9.npy", "line 2 of .* lists seis2_1_0.npy and vel2_1_9.npy, which"),
        ("seis2_1_5.npy\tvel2_1_5.npy", "line 2 .* must hold as a pair and does not: fetch them"),
    ],
)
def test_a_line_of_a_split_file_that_does_not_fit_is_named(fault, tmp_path, line, message):
    (tmp_path / "split.txt").write_text(f"seis2_1_0.npy\tvel2_1_0.npy\n{line}\n")

    with pytest.raises(DataError, match=message):
        OpenFWI(fault, split_file=tmp_path / "split.txt")


def test_a_split_is_train_or_test(fault, tmp_path):
    with pytest.raises(ValueError, match="split must be 'train', 'test' or None, got 'valid'"):
        OpenFWI(fault, split="valid")
    with pytest.raises(ValueError, match="split must be None where a split_file says"):
        OpenFWI(fault, split="test", split_file=tmp_path / "split.txt")


def test_an_index_out_of_range_ends_a_loop(fault):
    data = OpenFWI(fault)
    with pytest.raises(IndexError, match="index must be below 8, got 8"):
        data[8]
    with pytest.raises(IndexError, match="index must be below 8, got -9"):
        data[-9]
