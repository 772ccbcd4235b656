"""Floating-point values as codes of one byte, on the device where they are."""

import torch
from torch import Tensor

from stratascope.store import INFINITY_CODE, NAN_CODE, NEGATIVE_INFINITY_CODE, TOP_CODE


def quantize(values: Tensor, axes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give each value the nearest of 253 even steps between the least and greatest of its group.

    The range is that of the very values, so that none is clipped, and needs none but them. Affine
    codes with a scale and an offset for each group are what is usual for activations that are kept
    [1]_; the codes above the steps, for what is not finite, are not.

    Args:
        values: Values ``(n, …)`` of a floating-point type.
        axes: How many of the first axes tell the groups apart; all further ones are within a group.

    Returns:
        Codes, uint8 ``(n, …)``; scales and offsets, one for each group, float32 or, for float64,
        float64: a value is ``offset + scale * code``, and wrong by half a scale at most.

    .. [1] Chen et al., "ActNN: Reducing Training Memory Footprint via 2-Bit Activation Compressed
       Training", ICML 2021, section 3 (per-group quantization).

    >>> codes, scale, offset = quantize(torch.tensor([[-1.0, 0.0, 125.0, torch.nan]]), 1)
    >>> codes.tolist(), scale.tolist(), offset.tolist()
    ([[0, 2, 252, 255]], [0.5], [-1.0])
    """
    wide = values if values.dtype == torch.float64 else values.float()
    groups = wide.reshape(*wide.shape[:axes], wide.shape[axes:].numel())
    if groups.numel() == 0:
        none = groups.new_zeros(groups.shape[:-1])
        return values.to(torch.uint8), none, none
    low, high = groups.aminmax(dim=-1)
    finite = None if _are_finite(low, high) else groups.isfinite()
    if finite is not None:
        low, high = _find_range(groups, finite)
    # One after the other: the difference of two finite numbers may be beyond all.
    scale = high / TOP_CODE - low / TOP_CODE
    divisor = torch.where(scale > 0, scale, 1)
    codes = (groups / divisor[..., None]).sub_((low / divisor)[..., None]).round_()
    codes.clamp_(0, TOP_CODE)  # rounding may lead beyond the ends
    if finite is not None:
        special = groups.nan_to_num(NAN_CODE, INFINITY_CODE, NEGATIVE_INFINITY_CODE)
        codes = torch.where(finite, codes, special)
    return codes.to(torch.uint8).reshape(values.shape), scale, low


def _are_finite(low: Tensor, high: Tensor) -> bool:
    """Tell whether all values are known to be finite by the ends of their ranges."""
    # To ask a device would be to wait for it; there it is quicker to do all that may be needed.
    return low.device.type == "cpu" and bool((low.isfinite() & high.isfinite()).all())


def _find_range(groups: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
    """Find the ends of the finite values of each group; 0 and 0 where there are none."""
    low = torch.where(finite, groups, torch.inf).amin(-1)
    high = torch.where(finite, groups, -torch.inf).amax(-1)
    none = low > high
    return low.masked_fill(none, 0), high.masked_fill(none, 0)
