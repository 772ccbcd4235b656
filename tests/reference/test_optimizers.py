"""The own optimizers against their papers' formulas written out slowly, and against PyTorch's."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from stratascope.diagnose import Lamb, Muon


def make_net(dtype=torch.float64):
    torch.manual_seed(0)
    net = nn.Sequential(
        # A bias before a normalisation has no gradient but rounding errors.
        nn.Conv2d(2, 3, 3, bias=False),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Conv2d(3, 2, 2),
    )
    return net.to(dtype), torch.randn(4, 2, 7, 7, dtype=dtype)


def train(net, x, made, steps):
    for _ in range(steps):
        made.zero_grad()
        net(x).square().mean().backward()
        made.step()
    return [param.detach().clone() for param in net.parameters()]


class SlowLamb:
    """Algorithm 2 of You et al. (2020), one number after another."""

    def __init__(self, params, lr, beta1, beta2, eps, decay, clip, corrects):
        self.params = list(params)
        self.first = [np.zeros(p.shape) for p in self.params]
        self.second = [np.zeros(p.shape) for p in self.params]
        self.t = 0
        self.ratios = []
        self.values = lr, beta1, beta2, eps, decay, clip, corrects

    def zero_grad(self):
        for p in self.params:
            p.grad = None

    def step(self):
        lr, beta1, beta2, eps, decay, clip, corrects = self.values
        self.t += 1
        self.ratios = []
        for number, p in enumerate(self.params):
            x, g = p.detach().numpy().copy(), p.grad.numpy()
            m, v = self.first[number], self.second[number]
            r = np.zeros(x.shape)
            for i in np.ndindex(x.shape):
                m[i] = beta1 * m[i] + (1 - beta1) * g[i]
                v[i] = beta2 * v[i] + (1 - beta2) * g[i] ** 2
                m_hat = m[i] / (1 - beta1**self.t) if corrects else m[i]
                v_hat = v[i] / (1 - beta2**self.t) if corrects else v[i]
                r[i] = m_hat / (v_hat**0.5 + eps) + decay * x[i]
            weight = float((x**2).sum()) ** 0.5
            bounded = weight if clip is None else min(max(weight, clip[0]), clip[1])
            length = float((r**2).sum()) ** 0.5
            self.ratios.append(bounded / length if weight > 0 and length > 0 else 1.0)
            with torch.no_grad():
                p.copy_(torch.from_numpy(x - lr * self.ratios[-1] * r))


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("corrects", [True, False])
@pytest.mark.parametrize("clip", [None, (0.5, 1.0)])
def test_lamb_takes_the_steps_of_its_paper(decay, corrects, clip):
    net, x = make_net()
    slow_net = copy.deepcopy(net)
    lamb = Lamb(
        net.named_parameters(), 0.02, weight_decay=decay, clip=clip, bias_correction=corrects
    )
    slow = SlowLamb(slow_net.parameters(), 0.02, 0.9, 0.999, 1e-6, decay, clip, corrects)

    for steps in (1, 1, 4):
        got, expected = train(net, x, lamb, steps), train(slow_net, x, slow, steps)

        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
        assert list(lamb.trust_ratios().values()) == pytest.approx(slow.ratios, rel=1e-9)


def test_lamb_without_adaptation_takes_the_steps_of_adam():
    net, x = make_net()
    other = copy.deepcopy(net)

    got = train(net, x, Lamb(net.parameters(), 0.01, adapt=False, eps=1e-8), 6)
    expected = train(other, x, torch.optim.Adam(other.parameters(), 0.01), 6)

    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_muon_takes_the_steps_of_torch_on_matrices():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 9, bias=False), nn.Tanh(), nn.Linear(9, 3, bias=False))
    other, x = copy.deepcopy(net), torch.randn(8, 5)
    peer = torch.optim.Muon(other.parameters(), lr=0.02, weight_decay=0.1)

    got = train(net, x, Muon(net.parameters(), 0.02, weight_decay=0.1), 6)
    expected = train(other, x, peer, 6)

    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_muon_takes_a_kernel_as_the_matrix_of_its_output_channels():
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(4, 3, 3, 2))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    kernel.grad = torch.randn(4, 3, 3, 2)
    matrix.grad = kernel.grad.flatten(1).clone()

    Muon([kernel], 0.1).step()
    torch.optim.Muon([matrix], lr=0.1, weight_decay=0.0).step()

    torch.testing.assert_close(kernel.flatten(1), matrix, rtol=0, atol=0)


def test_muon_takes_a_kernel_with_channels_last_alike():
    torch.manual_seed(0)
    kernel, grad = torch.randn(4, 3, 3, 2), torch.randn(4, 3, 3, 2)
    moved = []
    for layout in (torch.contiguous_format, torch.channels_last):
        param = nn.Parameter(kernel.clone(memory_format=layout))
        param.grad = grad.clone(memory_format=layout)
        Muon([param], 0.1).step()
        moved.append(param.detach())

    assert moved[1].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(*moved, rtol=0, atol=0)


def test_what_is_no_matrix_takes_the_steps_of_adamw_in_muon():
    net, x = make_net()
    other = copy.deepcopy(net)
    settings = {"betas": (0.9, 0.95), "weight_decay": 0.1}

    made = Muon(net.parameters(), 0.02, orthogonal=False, adam_scale=0.5, weight_decay=0.1)
    got = train(net, x, made, 6)
    expected = train(other, x, torch.optim.AdamW(other.parameters(), 0.01, **settings), 6)

    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
