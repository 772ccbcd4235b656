"""Which values of a forward are tokens, and which have their channels first."""

import re
import weakref
from collections.abc import Iterable, Mapping

from torch import Tensor

from stratascope.sites import Port

# Modules whose last axis is the features: what they take and put out are tokens, not signals.
_TOKEN_MODULES = {
    "Embedding", "GRU", "LSTM", "LayerNorm", "Linear", "MultiheadAttention", "RMSNorm", "RNN",
    "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder",
    "TransformerEncoderLayer",
}  # fmt: skip
# Modules whose first axis after the samples is the channels.
_CHANNEL_MODULES = re.compile(
    r"(Lazy)?(Conv(Transpose)?|BatchNorm|InstanceNorm)[123]d|SyncBatchNorm|GroupNorm"
    r"|(Adaptive|Fractional)?(Max|Avg|LP)(Unp|P)ool[123]d|LocalResponseNorm"
    r"|Pixel(Uns|S)huffle|ChannelShuffle|Upsample|\w+Pad[123]d|Dropout[123]d"
)

_Shape = tuple[int, ...]


def puts_out_tokens(name: str) -> bool | None:
    """Say by its name whether a class works on tokens or on channels; None where on any.

    >>> puts_out_tokens("Linear"), puts_out_tokens("MaxPool1d"), puts_out_tokens("ReLU")
    (True, False, None)
    """
    if name in _TOKEN_MODULES:
        return True
    return False if _CHANNEL_MODULES.fullmatch(name) else None


class AxisOrder:
    """Which values with two axes for each sample are tokens, by what modules of a forward said.

    A module that works on any order of the axes, such as ReLU or a network's own block, says
    nothing: its values are what the same tensor was elsewhere, or else an input of the same shape,
    or else the last known value of that shape, or else the first one to come.

    >>> import torch
    >>> order, x = AxisOrder({"": "Net", "fc": "Linear", "act": "ReLU"}), torch.zeros(4, 17, 32)
    >>> order.note("fc", "out", [x]); order.note("act", "out", [x.relu()])
    >>> order.is_tokens("act", "out", (17, 32)), order.is_tokens("act", "out", (32, 17))
    (True, True)
    >>> order.is_tokens("add", "out", (17, 32)), order.is_tokens("add", "out", (32, 17))
    (True, False)
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._notes: dict[tuple[str, Port], dict[_Shape, bool | None]] = {}
        # By the module within which it was: what was first known of a shape.
        self._first: dict[str, dict[_Shape, bool]] = {}
        self._last: dict[_Shape, bool] = {}
        # An id is given anew when a tensor is gone, which the reference tells.
        self._tensors: dict[int, tuple[weakref.ref[Tensor], _Shape, bool]] = {}

    def note(
        self, path: str, port: Port, tensors: Iterable[Tensor], inputs: Iterable[Tensor] = ()
    ) -> None:
        """Note what a module takes or gives.

        Args:
            path: The module.
            port: Where the tensors are.
            tensors: What it takes or gives there.
            inputs: What it took, where it gives.
        """
        said = puts_out_tokens(self._names.get(path, ""))
        for tensor in tensors:
            # A nested tensor has no shape.
            if tensor.ndim != 3 or tensor.is_nested:
                continue
            shape = tuple(tensor.shape[1:])
            known = said
            if known is None:
                known = self._inherit(tensor, shape, inputs)
            notes = self._notes.setdefault((path, port), {})
            notes[shape] = notes.get(shape) if known is None else known
            if known is not None:
                self._last[shape] = known
                self._tensors[id(tensor)] = (weakref.ref(tensor), shape, known)
                for outer in _list_outer(path):
                    self._first.setdefault(outer, {}).setdefault(shape, known)

    def forget_tensors(self) -> None:
        """Let go of what only the forward needs."""
        self._tensors.clear()

    def is_tokens(self, path: str, port: Port, shape: _Shape) -> bool:
        """Say whether a value is tokens; where nothing tells, it has its channels first.

        Args:
            path: The module, or the operation.
            port: Where the value is.
            shape: That of a sample.
        """
        said = puts_out_tokens(self._names.get(path, ""))
        if said is not None:
            return said
        notes = self._notes.get((path, "in" if port == "in" else "out"), {})
        # Operations are not noted, nor is what a module takes by keyword.
        if not notes and (path not in self._names or port == "in"):
            return self._look_around(path, shape) or False
        # A transform keeps the order of the axes, and may change their lengths.
        for noted in [shape] if shape in notes else list(notes):
            known = notes[noted]
            known = self._look_around(path, noted) if known is None else known
            if known is not None:
                return known
        return False

    def _inherit(self, tensor: Tensor, shape: _Shape, inputs: Iterable[Tensor]) -> bool | None:
        for other in (tensor, *inputs):
            reference, held, known = self._tensors.get(id(other), (None, (), None))
            if reference is not None and reference() is other and held == shape:
                return known
        return self._last.get(shape)

    def _look_around(self, path: str, shape: _Shape) -> bool | None:
        """Find the first known value of a shape in the innermost module that has one."""
        around = (self._first.get(outer, {}).get(shape) for outer in _list_outer(path))
        return next((known for known in around if known is not None), None)


def _list_outer(path: str) -> list[str]:
    """List a path and those around it, the innermost first, the model last.

    >>> _list_outer("layers.0.act")
    ['layers.0.act', 'layers.0', 'layers', '']
    """
    parts = path.split(".") if path else []
    return [".".join(parts[:count]) for count in range(len(parts), -1, -1)]
