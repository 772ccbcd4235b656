"""Floating-point operations against torch's own counter."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from stratascope.capture._flops import count_flops
from stratascope.capture._trace import trace

CASES = {
    "conv1d": (F.conv1d, (torch.ones(2, 4, 30), torch.ones(6, 2, 5)), {"groups": 2, "stride": 2}),
    "conv2d": (F.conv2d, (torch.ones(2, 3, 9, 9), torch.ones(4, 3, 3, 3)), {"padding": 1}),
    "conv3d": (F.conv3d, (torch.ones(1, 2, 5, 5, 5), torch.ones(4, 2, 3, 3, 3)), {}),
    "conv_transpose2d": (
        F.conv_transpose2d,
        (torch.ones(2, 3, 4, 4), torch.ones(3, 5, 2, 2)),
        {"stride": 2},
    ),
    "linear": (F.linear, (torch.ones(2, 7, 5), torch.ones(3, 5)), {}),
    "matmul": (torch.matmul, (torch.ones(2, 3, 4), torch.ones(2, 4, 5)), {}),
    "mm": (torch.mm, (torch.ones(3, 4), torch.ones(4, 5)), {}),
    "linalg_matmul": (torch.linalg.matmul, (torch.ones(3, 4), torch.ones(4, 5)), {}),
    "inner": (torch.inner, (torch.ones(3, 4), torch.ones(5, 4)), {}),
    "baddbmm": (torch.baddbmm, (torch.ones(5), torch.ones(2, 3, 4), torch.ones(2, 4, 5)), {}),
    "addmm": (torch.addmm, (torch.ones(5), torch.ones(3, 4), torch.ones(4, 5)), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_count_is_that_of_torch(name):
    function, args, kwargs = CASES[name]
    with FlopCounterMode(display=False) as counter:
        output = function(*args, **kwargs)

    assert count_flops(name, args, kwargs, output) == counter.get_total_flops() > 0


@pytest.mark.parametrize(
    ("left", "right", "dims"),
    [((5, 4, 6), (4, 6, 5), 2), ((5, 4, 6), (4, 5, 6), [[0, 2], [1, 2]]), ((5, 4), (4, 3), 1)],
)
def test_tensordot_counts_what_it_sums_over(left, right, dims):
    args = (torch.ones(left), torch.ones(right))
    with FlopCounterMode(display=False) as counter:
        output = torch.tensordot(*args, dims)

    assert count_flops("tensordot", args, {"dims": dims}, output) == counter.get_total_flops() > 0


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("nij,njk->nik", [(2, 3, 4), (2, 4, 5)]),
        ("ij, jk", [(3, 4), (4, 5)]),
        ("...ij,jk->...ik", [(2, 6, 3, 4), (4, 5)]),
        ("i...,...k", [(4, 1, 3), (2, 3, 5)]),
        ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("ijx,jk->ik", [(3, 4, 2), (4, 5)]),
        ("ij,jk,kl->il", [(3, 4), (4, 5), (5, 6)]),
        ("i,j->ij", [(3,), (4,)]),
        ("ij->i", [(3, 4)]),
    ],
)
def test_einsum_counts_its_products_as_torch_does(equation, shapes):
    operands = [torch.ones(shape) for shape in shapes]
    with torch.backends.opt_einsum.flags(enabled=False), FlopCounterMode(display=False) as counter:
        output = torch.einsum(equation, *operands)

    expected = counter.get_total_flops()
    assert count_flops("einsum", (equation, *operands), {}, output) == expected
    assert count_flops("einsum", (equation, operands), {}, output) == expected


def test_products_that_torch_does_not_count_are_counted_by_hand():
    matrix, vector, batch = torch.ones(3, 4), torch.ones(4), torch.ones(2, 3, 4)
    found = [
        count_flops("mv", (matrix, vector), {}, matrix @ vector),
        count_flops("dot", (vector, vector), {}, vector @ vector),
        count_flops("addmv", (torch.ones(3), matrix, vector), {}, matrix @ vector),
        count_flops("addbmm", (torch.ones(1),), {"batch1": batch}, torch.ones(3, 5)),
        count_flops("bilinear", (vector, vector, torch.ones(7, 4, 4)), {}, torch.ones(7)),
    ]

    assert found == [2 * 12, 2 * 4, 2 * 12, 2 * 2 * 3 * 5 * 4, 2 * 7 * 16]


def test_attention_counts_its_two_products():
    # torch's own counter does not know the kernel that the CPU uses.
    query, key = torch.ones(2, 3, 6, 8), torch.ones(2, 3, 7, 8)
    output = F.scaled_dot_product_attention(query, key, key)
    scores = torch.matmul(query, key.mT)
    products = [((query, key.mT), scores), ((scores, key), output)]

    assert count_flops("scaled_dot_product_attention", (query, key, key), {}, output) == sum(
        count_flops("matmul", args, {}, product) for args, product in products
    )


def test_recurrent_layers_count_their_matrices():
    run = trace(nn.LSTM(3, 4), torch.ones(5, 2, 3))

    assert run.flops == 2 * (5 * 2) * (4 * 4 * 3 + 4 * 4 * 4)


def test_elementwise_work_is_not_counted():
    x = torch.ones(3)

    assert count_flops("add", (x, x), {}, x + x) == 0
