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
    "addmm": (torch.addmm, (torch.ones(5), torch.ones(3, 4), torch.ones(4, 5)), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_count_is_that_of_torch(name):
    function, args, kwargs = CASES[name]
    with FlopCounterMode(display=False) as counter:
        output = function(*args, **kwargs)

    assert count_flops(name, args, kwargs, output) == counter.get_total_flops() > 0


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
