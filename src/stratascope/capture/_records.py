"""What a trace is made of: descriptions of tensors, operations and module calls."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape, type and place of a tensor at one moment.

    Attributes:
        shape: Its shape; -1 for a size that differs within a nested tensor.
        dtype: Its type, as ``float32``.
        device: Where it was, as ``cuda:0``.
        stride: How many elements apart neighbours lie on each axis; empty where it has none.
    """

    shape: tuple[int, ...]
    dtype: str
    device: str
    stride: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype}"


@dataclass(frozen=True, slots=True)
class Summary:
    """The values of a tensor in a few numbers; of complex ones, the magnitudes.

    Attributes:
        low: Smallest finite value; NaN where none is finite, as for the next three.
        high: Largest finite value.
        mean: Mean of the finite values.
        std: Their standard deviation, divided by their number.
        zeros: Number of zeros.
        nans: Number of NaN.
        infs: Number of Inf.
        count: Number of all values.
    """

    low: float
    high: float
    mean: float
    std: float
    zeros: int
    nans: int
    infs: int
    count: int

    @classmethod
    def of(cls, tensor: Tensor) -> "Summary":
        """Summarise a tensor; what is not finite is counted and left out of the rest."""
        values = tensor.detach()
        if values.is_quantized:
            values = values.dequantize()
        elif values.layout is not torch.strided:
            values = values.to_dense()
        values = (values.abs() if values.is_complex() else values).to(torch.float64).flatten()
        nans, infs = int(values.isnan().sum()), int(values.isinf().sum())
        finite = values[values.isfinite()] if nans or infs else values
        if finite.numel() == 0:
            low = high = mean = std = float("nan")
        else:
            low, high = (float(value) for value in finite.aminmax())
            mean, std = float(finite.mean()), float(finite.std(correction=0))
        zeros = int((values == 0).sum())
        return cls(low, high, mean, std, zeros, nans, infs, values.numel())

    def __str__(self) -> str:
        bad = [f"{n} {what}" for n, what in ((self.nans, "NaN"), (self.infs, "Inf")) if n]
        spread = f"{self.low:.4g} … {self.high:.4g}" if self.low == self.low else "nothing finite"
        if not self.count:
            spread = "empty"
        return ", ".join([spread, *bad])


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a forward.

    Attributes:
        index: Its place in the order of execution.
        name: Its site: the path of the module in which it runs, and its function.
        function: The function of torch.
        module: Path of the module in which it runs.
        inputs: The tensors that went in.
        outputs: The tensors that came out.
        parents: Indices of the operations that made its inputs; -1 is the model's own input.
        in_place: Whether it wrote into one of its inputs.
        source: The line of the user's code, as ``file.py:12``.
        seconds: How long it took on the host.
        new_bytes: Memory that its outputs took beside what was there.
        flops: Floating-point operations of its matrix products, two for each multiply and add:
            of convolutions, ``linear``, ``matmul`` and its kin, ``einsum``, ``tensordot``,
            ``bilinear``, attention and recurrent layers. All else counts 0: element-wise work,
            normalisation, pooling, softmax, FFTs, factorisations, and what runs inside TorchScript.
        nans: Number of NaN in its outputs; None where it was not looked for. What only moves or
            chooses values that were finite, such as a ReLU, is not read again.
        infs: Number of Inf in its outputs.
        input_summaries: What went in, where something not finite came out.
        output_summaries: What came out, where statistics were asked for.
    """

    index: int
    name: str
    function: str
    module: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    parents: tuple[int, ...]
    in_place: bool
    source: str
    seconds: float
    new_bytes: int
    flops: int
    nans: int | None = None
    infs: int | None = None
    input_summaries: tuple[Summary, ...] = ()
    output_summaries: tuple[Summary, ...] = ()

    def __str__(self) -> str:
        text = f"{self.name} ({self.function}) at {self.source}"
        if not (self.nans or self.infs):
            return text
        bad = [f"{n} {what}" for n, what in ((self.nans, "NaN"), (self.infs, "Inf")) if n]
        lines = [f"{text}: {' and '.join(bad)} in {self.outputs[0]}"]
        if any(summary.nans or summary.infs for summary in self.input_summaries):
            lines.append("  It only passes on what was not finite in what came in:")
        for info, summary in zip(self.inputs, self.input_summaries, strict=True):
            lines.append(f"  from {info}: {summary}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module in a forward.

    Attributes:
        name: The module's path, ``model`` for the model itself.
        kind: Its class.
        depth: How many module calls it runs inside.
        first: Index of the first operation in it.
        stop: Index after the last one.
        seconds: How long it took on the host.
        outputs: The tensors that came out.
    """

    name: str
    kind: str
    depth: int
    first: int
    stop: int
    seconds: float
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two runs first differ beyond a tolerance.

    Attributes:
        name: The site.
        largest: Largest absolute difference there.
        relative: L2 norm of the difference over that of the first run.
        shapes: Shape in the first and in the second run.
    """

    name: str
    largest: float
    relative: float
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
