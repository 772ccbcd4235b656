import dataclasses
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from stratascope.capture import map_tensors, named_tensors
from stratascope.capture._structure import count_bytes

Point = namedtuple("Point", ["x", "y"])


@dataclasses.dataclass
class Plain:
    x: Any
    y: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Strict:
    x: Any
    total: Any = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "total", self.x + 1)


@dataclasses.dataclass
class Unset:
    x: Any
    later: Any = dataclasses.field(init=False)


class Output(OrderedDict):
    """As the outputs of transformers: a mapping whose keys are attributes too."""

    def __getattr__(self, name):
        return self[name]


class Tagged(list):
    tag = "none"


leaves = st.builds(lambda value: torch.tensor(float(value)), st.integers(-9, 9))
values = st.recursive(
    leaves | st.none() | st.integers() | st.text(max_size=3),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.lists(parts, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2), parts, max_size=3)
        | st.builds(Point, parts, parts)
        | st.builds(Plain, parts, parts)
    ),
    max_leaves=8,
)


@given(values)
def test_mapping_visits_the_tensors_in_the_order_in_which_they_are_listed(value):
    visited = []
    map_tensors(lambda tensor: visited.append(tensor), value)

    assert [id(tensor) for tensor in visited] == [id(tensor) for _, tensor in named_tensors(value)]


@given(values)
def test_mapping_keeps_the_structure_and_the_original(value):
    before = repr(value)
    mapped = map_tensors(lambda tensor: tensor + 1, value)
    back = map_tensors(lambda tensor: tensor - 1, mapped)

    assert repr(back) == before
    assert repr(value) == before


@given(values)
def test_the_places_of_tensors_differ(value):
    tensors = list(named_tensors(value))
    places = {place for place, _ in tensors}

    # A key with a dot, or 1 beside "1", may read like another place.
    assert len(places) == len(tensors) or any("." in place for place in places)


def test_places_say_how_to_reach_a_tensor():
    one = torch.ones(1)
    value = (one, {"h": [one, None, one]}, Plain(one, Point(one, 3)))

    assert [place for place, _ in named_tensors(value)] == ["0", "1.h.0", "1.h.2", "2.x", "2.y.0"]
    assert [place for place, _ in named_tensors(one)] == [""]
    assert [place for place, _ in named_tensors(one, "out")] == ["out"]
    assert list(named_tensors("text")) == []


@pytest.mark.parametrize(
    "value",
    [
        (torch.ones(1),),
        Point(torch.ones(1), 2),
        [torch.ones(1)],
        {"a": torch.ones(1)},
        OrderedDict(a=torch.ones(1)),
        Output(a=torch.ones(1)),
        UserDict(a=torch.ones(1)),
        Plain(torch.ones(1)),
        Tagged([torch.ones(1)]),
        torch.max(torch.ones(1, 1), 1),
        pack_sequence([torch.ones(3, 2), torch.ones(1, 2)]),
        torch.Size([3]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_container_stays_what_it_is(value):
    mapped = map_tensors(torch.clone, value)

    assert type(mapped) is type(value)
    assert repr(mapped) == repr(value)


def test_a_packed_sequence_can_be_unpacked_again():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    mapped = map_tensors(lambda tensor: tensor.clone(), packed)

    assert isinstance(mapped, PackedSequence)
    assert torch.equal(mapped.batch_sizes, packed.batch_sizes)


def test_a_dataclass_is_copied_without_its_constructor():
    value = Strict(torch.ones(1))
    mapped = map_tensors(lambda tensor: 10 * tensor, value)

    assert (mapped.x.item(), mapped.total.item()) == (10, 20)
    assert [place for place, _ in named_tensors(value)] == ["x", "total"]


def test_a_dataclass_may_have_fields_that_are_not_set():
    value = Unset(torch.ones(1))
    mapped = map_tensors(torch.clone, value)

    assert not hasattr(mapped, "later")
    assert [place for place, _ in named_tensors(value)] == ["x"]


def test_a_class_is_no_value_although_its_instances_are():
    assert map_tensors(torch.clone, Plain) is Plain
    assert list(named_tensors(Plain)) == []


def test_a_list_of_a_class_of_its_own_keeps_its_attributes():
    value = Tagged([torch.ones(1)])
    value.tag = "kept"
    mapped = map_tensors(torch.clone, value)
    mapped.append(1)

    assert mapped.tag == "kept"
    assert len(value) == 1


def test_a_mapping_of_another_class_stays_one():
    value = defaultdict(list, a=torch.ones(1))
    mapped = map_tensors(torch.neg, value)

    assert (type(mapped), mapped.default_factory) == (defaultdict, list)
    assert (mapped["a"].item(), value["a"].item()) == (-1, 1)


def test_a_mapping_that_cannot_be_written_to_becomes_a_dict():
    mapped = map_tensors(torch.neg, MappingProxyType({"a": torch.ones(1)}))

    assert type(mapped) is dict
    assert mapped["a"].item() == -1


def test_what_holds_no_tensor_comes_back_as_it_is():
    marker = object()

    assert map_tensors(torch.clone, marker) is marker
    assert map_tensors(torch.clone, None) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.zeros(3, 2), 24),
        (torch.zeros(100, 2, dtype=torch.float16)[:3], 12),
        (torch.zeros(1).expand(5), 20),
        ((torch.zeros(3), {"y": torch.zeros(2, dtype=torch.int64), "n": None}, 3), 28),
        (torch.eye(100).to_sparse(), 100 * (2 * 8 + 4)),
        (torch.zeros(2, 3, device="meta"), 24),
        (None, 0),
    ],
    ids=["tensor", "part", "expanded", "structure", "sparse", "meta", "none"],
)
def test_a_value_counts_with_all_its_tensors_in_full(value, expected):
    assert count_bytes(value) == expected


@pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant|BSR|CSC|BSC):UserWarning")
@pytest.mark.parametrize("name", ["to_sparse_csr", "to_sparse_csc"])
def test_compressed_rows_count_with_all_their_parts(name):
    assert count_bytes(getattr(torch.eye(100), name)()) == 101 * 8 + 100 * (8 + 4)
