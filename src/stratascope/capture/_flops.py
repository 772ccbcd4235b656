"""How many floating-point operations a call of torch takes: two for each multiply and add.

Only what multiplies matrices is counted, as is usual: element-wise work, normalisation, pooling,
softmax, FFTs and factorisations are not.
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
    names = ("mat1", "batch1", "mat")
    left = args[1] if len(args) > 1 else next(kwargs[name] for name in names if name in kwargs)
    # addbmm adds up the products of its batch.
    summed = left.shape[0] * left.shape[-1] if left.ndim > output.ndim > 1 else left.shape[-1]
    return 2 * output.numel() * summed


def _tensordot(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
    left, right = _argument(args, kwargs, 0, "a"), _argument(args, kwargs, 1, "b")
    # What is summed over is in both, and not in the output.
    summed = math.isqrt(left.numel() * right.numel() // max(output.numel(), 1))
    return 2 * output.numel() * summed


def _bilinear(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
    return 2 * output.numel() * math.prod(_argument(args, kwargs, 2, "weight").shape[1:])


def _einsum(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int:
    equation, *operands = args
    if not isinstance(equation, str):
        return 0
    operands = (
        operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    )
    taken, arrow, given = equation.replace(" ", "").partition("->")
    labels: list[list[str]] = []
    sizes: dict[str, int] = {}
    for term, operand in zip(taken.split(","), operands, strict=True):
        before, dots, after = term.partition("...")
        # Counted from the last, as they are broadcast.
        spread = [f"...{n}" for n in range(operand.ndim - len(before + after), 0, -1) if dots]
        labels.append([*before, *spread, *after])
        for label, size in zip(labels[-1], operand.shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    every = [label for part in labels for label in part]
    kept = {label for label in sizes if label[0] == "." or label in given}
    if not arrow:
        kept |= {label for label in sizes if every.count(label) == 1}
    total, now = 0, set(labels[0])
    for place, part in enumerate(map(set, labels[1:]), 2):
        later = kept.union(*labels[place:])
        # From left to right, as torch does without opt_einsum.
        if (now & part) - later:
            total += 2 * math.prod(sizes[one] for one in now | part if one in later | (now & part))
        now = (now | part) & later
    return total


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
    **dict.fromkeys(("matmul", "linalg_matmul", "mm", "bmm", "mv", "dot", "inner"), _product),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "addmv"), _added_product),
    "tensordot": _tensordot,
    "bilinear": _bilinear,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    "multi_head_attention_forward": _multi_head,
}
