"""Random numbers that go on afterwards as if nothing had drawn any."""

import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def keeping_random(model: nn.Module) -> Generator[None]:
    """Give random numbers the state back that they had: PyTorch's, NumPy's and Python's.

    Those of PyTorch on the devices of the model, and of NumPy and Python the global ones.
    """
    tensors = (*model.parameters(), *model.buffers())
    own, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(sorted({t.device.index for t in tensors if t.is_cuda})):
            yield
    finally:
        random.setstate(own)
        np.random.set_state(of_numpy)
