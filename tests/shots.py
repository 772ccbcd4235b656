"""Small files in the format of OpenFWI, with values that a network can learn from each other."""

import numpy as np


def write_pair(folder, number="2_1_0", *, samples=2, seed=0, scheme="layered"):
    """Write a pair of files: the seismic data tell the velocity of a half-space in two layers."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    top, bottom = np.sort(rng.uniform(1500, 4500, (2, samples)), axis=0)
    depth = rng.integers(15, 55, samples)
    rows = np.arange(70)
    maps = np.where(rows < depth[:, None], top[:, None], bottom[:, None])
    velocity = np.broadcast_to(maps[:, None, :, None], (samples, 1, 70, 70)).astype("float32")
    trace = np.interp(np.arange(1000), np.linspace(0, 999, 70), rows)[None]
    shots = np.where(trace < depth[:, None], top[:, None], -bottom[:, None]) / 100
    seismic = np.broadcast_to(shots[:, None, :, None], (samples, 5, 1000, 70)).astype("float32")
    names = {"layered": ("seis{}.npy", "vel{}.npy"), "numbered": ("data{}.npy", "model{}.npy")}
    for name, values in zip(names[scheme], (seismic, velocity), strict=True):
        np.save(folder / name.format(number), values)
    return seismic, velocity
