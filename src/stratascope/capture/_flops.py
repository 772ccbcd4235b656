"""How many floating-point operations a call of torch takes: two for each multiply and add.

Only what multiplies matrices is counted, as is usual; element-wise work is not.
"""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor


def count_flops(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
    """Count the floating-point operations of one call, 0 where its kind is not counted.

    Args:
        name: Name of the function, such as ``conv1d``.
        args: Its arguments.
        kwargs: Its named arguments.
        output: What it gave.

    >>> import torch
    >>> x, w = torch.zeros(2, 3, 10), torch.zeros(4, 3, 5)
    >>> count_flops("conv1d", (x, w), {}, torch.conv1d(x, w))
    1440
    """
    formula = _FORMULAS.get(name)
    return 0 if formula is None else formula(args, kwargs, output)


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)


def _convolution(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
    weight = _argument(args, kwargs, 1, "weight")
    # (out, in / groups, *kernel): one column of it for each output value.
    return 2 * output.numel() * math.prod(weight.shape[1:])


def _transposed(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
    source = _argument(args, kwargs, 0, "input")
    weight = _argument(args, kwargs, 1, "weight")
    return 2 * source.numel() * math.prod(weight.shape[1:])


def _linear(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
    return 2 * output.numel() * _argument(args, kwargs, 1, "weight").shape[-1]


def _product(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
    left = _argument(args, kwargs, 0, "input")
    return 2 * output.numel() * left.shape[-1]


def _added_product(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
    return 2 * output.numel() * _argument(args, kwargs, 1, "mat1").shape[-1]


def _attention(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
    query = _argument(args, kwargs, 0, "query")
    key = _argument(args, kwargs, 1, "key")
    scores = math.prod(query.shape[:-1]) * key.shape[-2]
    return 2 * scores * query.shape[-1] + 2 * scores * output.shape[-1]


def _recurrent(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
    source = args[0]
    weights = next((part for part in args if isinstance(part, list)), [])
    matrices = sum(weight.numel() for weight in weights if weight.ndim == 2)
    return 2 * math.prod(source.shape[:-1]) * matrices


def _multi_head(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
    query, key = args[0], args[1]
    width = query.shape[-1]
    steps, sources = query.shape[0], key.shape[0]
    others = query.numel() // (steps * width)
    projections = 2 * others * width * width * (2 * steps + 2 * sources)
    return projections + 4 * others * steps * sources * width


Formula = Callable[[tuple[Any, ...], dict[str, Any], Tensor], int]
_FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **{f"conv_transpose{n}d": _transposed for n in (1, 2, 3)},
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm"), _product),
    **dict.fromkeys(("addmm", "baddbmm"), _added_product),
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    "multi_head_attention_forward": _multi_head,
}
