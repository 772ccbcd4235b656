"""Small trainings, at the top of a module so that other processes can be handed them."""

import os
import signal

import torch
from torch import nn

from stratascope.diagnose import optimizer, take_step


def fall(lr, seed, power=2.0):
    """Gradient descent on ``x ** power``, without a network."""
    x = 1.0 + 0.01 * (seed % 100)
    for _ in range(12):
        yield {"loss": abs(x) ** power, "accuracy": -abs(x)}
        x -= lr * power * abs(x) ** (power - 1) * (1 if x > 0 else -1)


def fit(lr, seed, name="sgd", **settings):
    """A small convolutional network on random images whose mean it is to give."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(64, 1)
    )
    x = torch.randn(48, 1, 6, 6)
    y = x.mean((1, 2, 3))[:, None] * 6
    made = optimizer(name, net, lr, **settings)
    for epoch in range(4):
        if epoch:
            net.train()
            for part in torch.arange(48).split(16):
                take_step(made, lambda part=part: (net(x[part]) - y[part]).square().mean())
        net.eval()
        with torch.no_grad():
            error = net(x) - y
        yield {"mse": error.square().mean(), "mae": error.abs().mean()}


def stumble(lr, seed):
    """It raises at one rate, dies at another, and goes through at the others."""
    yield {"loss": 1.0}
    if lr == 0.1:
        raise RuntimeError("the disk is full")
    if lr == 1.0:
        os.kill(os.getpid(), signal.SIGKILL)
    yield {"loss": lr}


def fill(lr, seed):
    """It holds 64 MB for a moment."""
    yield {"loss": 1.0}
    held = torch.ones(16_000_000)
    yield {"loss": held[0] * lr}
