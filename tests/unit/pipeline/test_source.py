import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from stratascope.pipeline._source import Batch, digest_batch, make_source


class Items(Dataset):
    def __init__(self, make, length=20):
        self.make, self.length = make, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.make(index)


class Opaque:
    """What only a collate_fn understands."""


@pytest.mark.parametrize(
    "make",
    [
        lambda k: (torch.full((3,), float(k)), k),
        lambda k: {"x": np.full(3, k), "name": "s"},
        lambda k: ((torch.zeros(2), torch.zeros(3)), k),
        lambda k: torch.zeros(3, dtype=torch.bfloat16),
        lambda k: torch.zeros(3, dtype=torch.float8_e4m3fn),
        lambda k: Opaque(),
        lambda k: k,
    ],
)
def test_samples_of_any_kind_are_described_the_same_each_time(make):
    described = [make_source(Items(make), batch_size=4).describe() for _ in range(2)]

    assert described[0] == described[1]
    assert described[0]["samples"] == 20


def test_a_description_reads_a_few_samples_only():
    read = []
    make_source(Items(lambda k: read.append(k) or torch.zeros(3), 10_000), batch_size=4).describe()

    assert len(read) == 8
    assert (min(read), max(read)) == (0, 9999)


def test_indices_that_are_no_numbers_are_taken_as_they_are():
    class Library(Dataset):
        def __getitem__(self, name):
            return torch.full((3,), float(len(name)))

    loader = DataLoader(Library(), batch_sampler=[["a", "bb"], ["ccc"]])
    source = make_source(loader, batch_size=1)

    assert source.samples == 3
    assert source.sample_index is None
    assert source.describe()["samples"] == 3
    assert [b.args[0][:, 0].tolist() for b in source.batches(0, None)] == [[1, 2], [3]]


def test_a_batch_is_told_from_another():
    batches = [
        Batch(0, 2, (torch.zeros(2),), {}),
        Batch(0, 2, (torch.ones(2),), {}),
        Batch(0, 2, (), {"x": torch.tensor([0.0, 1.0])}),
    ]

    assert len({digest_batch(batch) for batch in batches}) == 3
    assert digest_batch(batches[0]) == digest_batch(Batch(9, 2, (torch.zeros(2),), {}))
