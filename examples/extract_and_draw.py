"""Run a data set through a network into a store, read it back lazily, and draw one sample.

Run it: python examples/extract_and_draw.py
"""

import numpy as np
import torch
from torch import nn

import stratascope as ss


def make_signals(count: int, length: int = 128) -> np.ndarray:
    """Make sines, each with a frequency of its own, under noise: ``(count, 1, length)``."""
    generator = np.random.default_rng(0)
    time = np.arange(length) / length
    frequency = generator.uniform(2, 12, size=(count, 1, 1))
    noise = generator.normal(scale=0.1, size=(count, 1, length))
    return (np.sin(2 * np.pi * frequency * time) + noise).astype("float32")


def main() -> None:
    """Extract, or finish an earlier run; then look at what is there."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(1, 8, 9, padding=4), nn.ReLU(), nn.Conv1d(8, 16, 9, padding=4), nn.ReLU()
    )
    signals = make_signals(1000)
    store = ss.extract(model, signals, "**", to="sines.zarr", dtype="float16", resume=True)
    print(store)

    layer = store["2"]
    print(f"channel 4 of sample 17: {layer[17, 4].shape}, mean {layer[17, 4].mean():.4f}")
    total = sum(float(np.abs(layer[i : i + 100]).mean()) for i in range(0, len(layer), 100))
    print(f"mean magnitude, a hundred samples at a time: {total / 10:.4f}")

    picture = ss.render.line(layer[17], title="site 2, sample 17")
    print(ss.render.save(picture, "sines.png", store=str(store.path), site="2", sample=17))


if __name__ == "__main__":
    main()
