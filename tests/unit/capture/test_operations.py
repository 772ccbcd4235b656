"""Names of operations."""

import pytest
import torch
from torch import nn

from stratascope.capture._operations import (
    OperationMode,
    OperationNames,
    aside,
    find_given,
    is_operation,
    name_function,
)


def names_of(run) -> list[str]:
    seen: list[str] = []
    names = OperationNames()

    def note(function, args, kwargs):
        output = function(*args, **kwargs)
        if find_given(output, []) is not None:
            seen.append(names.next("", function))
        return output

    x = torch.ones(3, 3)
    with OperationMode(note):
        run(x)
    return seen


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (lambda x: x + 1, "add"),
        (lambda x: 1 + x, "add"),
        (lambda x: 1 - x, "sub"),
        (lambda x: 1 / x, "div"),
        (lambda x: x @ x, "matmul"),
        (lambda x: x.__iadd__(x), "add"),
        (lambda x: x[0], "getitem"),
        (lambda x: x.T, "T"),
        (lambda x: -x, "neg"),
        (lambda x: torch.cat([x, x]), "cat"),
        (lambda x: nn.functional.relu(x), "relu"),
        (lambda x: nn.functional.relu_(x), "relu_"),
        (lambda x: x.chunk(3), "chunk"),
    ],
)
def test_an_operation_is_named_as_in_a_graph(run, name):
    assert names_of(run) == [name]


def test_operations_of_one_name_are_counted():
    assert names_of(lambda x: (x + 1) * 2 + 1) == ["add", "mul", "add_1"]


def test_what_gives_no_tensor_is_no_operation():
    assert names_of(lambda x: (x.shape, x.dim(), len(x), x.dtype)) == []


def test_the_module_stands_before_the_name():
    names = OperationNames()
    found = [names.next(path, torch.add) for path in ("enc.0", "enc.0", "enc.1")]

    assert found == ["enc.0.add", "enc.0.add_1", "enc.1.add"]


@pytest.mark.parametrize("name", ["add", "relu_", "cat_12", "getitem", "conv2d", "T", "softmax"])
def test_names_of_torch_can_be_operations(name):
    assert is_operation(name)


@pytest.mark.parametrize("name", ["conv_first", "", "encoder", "layer_1", "12"])
def test_other_names_cannot(name):
    assert not is_operation(name)


def test_a_function_of_torch_is_named_without_underscores():
    assert name_function(torch.Tensor.__getitem__) == "getitem"


def test_what_runs_aside_is_not_seen_but_what_it_watches_itself_is():
    inner: list[list[str]] = []

    def run(x):
        with aside:
            x.mean()
            inner.append(names_of(lambda y: y.mean()))
        x.sum()

    assert names_of(run) == ["sum"]
    assert inner == [["mean"]]
