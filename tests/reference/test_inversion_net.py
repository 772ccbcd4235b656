"""InversionNet against its published layer table, computed by functions from the state alone."""

import torch
from torch.nn import functional

from stratascope.seismic import InversionNet

# Stride and padding of each convolution; the kernels and channels are in the state.
ENCODER = {
    "convblock1": ((2, 1), (3, 0)),
    "convblock2_1": ((2, 1), (1, 0)),
    "convblock2_2": (1, (1, 0)),
    "convblock3_1": ((2, 1), (1, 0)),
    "convblock3_2": (1, (1, 0)),
    "convblock4_1": ((2, 1), (1, 0)),
    "convblock4_2": (1, (1, 0)),
    "convblock5_1": (2, 1),
    "convblock5_2": (1, 1),
    "convblock6_1": (2, 1),
    "convblock6_2": (1, 1),
    "convblock7_1": (2, 1),
    "convblock7_2": (1, 1),
    "convblock8": (1, 0),
}
DECODER = {f"deconv{level}_1": (2, 0 if level == 1 else 1) for level in range(1, 6)}


def run(state, x):
    def block(name, x, stride, padding, transposed=False):
        weight, bias = (state[f"{name}.layers.0.{part}"] for part in ("weight", "bias"))
        convolve = functional.conv_transpose2d if transposed else functional.conv2d
        y = convolve(x, weight, bias, stride=stride, padding=padding)
        mean, var, gain, shift = (
            state[f"{name}.layers.1.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(y, mean, var, gain, shift, eps=1e-5)

    for name, (stride, padding) in ENCODER.items():
        x = functional.leaky_relu(block(name, x, stride, padding), 0.2)
    for name, (stride, padding) in DECODER.items():
        x = functional.leaky_relu(block(name, x, stride, padding, transposed=True), 0.2)
        x = functional.leaky_relu(block(name.replace("_1", "_2"), x, 1, 1), 0.2)
    return block("deconv6", x[:, :, 5:-5, 5:-5], 1, 1).tanh()


def test_the_network_gives_what_its_table_gives():
    torch.manual_seed(0)
    net = InversionNet((4, 6, 8, 10, 12))
    state = {
        name: torch.rand_like(value) + 0.5 if "running" in name or "layers.1" in name else value
        for name, value in net.state_dict().items()
        if value.is_floating_point()
    }
    net.load_state_dict(state, strict=False)
    x = torch.randn(2, 5, 1000, 70)

    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), run(state, x))
