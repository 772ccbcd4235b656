"""``stratascope trace``."""

import json as json_text
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter

from stratascope.capture import Trace, evaluating
from stratascope.capture import trace as trace_forward
from stratascope.cli._output import name_size, print_json, print_line
from stratascope.cli._targets import load_model, parse_shape
from stratascope.errors import StratascopeError, UsageError


def trace(
    model: str,
    *,
    input: str,
    weights: Path | None = None,
    modules: Annotated[bool, Parameter(negative="")] = False,
    fail_on_nonfinite: Annotated[bool, Parameter(negative="")] = False,
    to: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Show every operation of one forward: shape, time, memory, the first NaN or Inf.

    The model runs once, in evaluation mode, on random numbers that are the same each time.

    Args:
        model: package.module:function or path/to/file.py:function that gives the model.
        input: Shape of the input, samples first, such as 1x3x224x224.
        weights: File of a state dict, .pt or .safetensors.
        modules: Show the calls of modules instead of the operations.
        fail_on_nonfinite: Exit with 1 if an operation makes a NaN or Inf.
        to: File for the whole trace as JSON.
        json: Print the whole trace as JSON.
    """
    network = load_model(model, weights)
    example = torch.randn(parse_shape(input), generator=torch.Generator().manual_seed(0))
    try:
        with evaluating(network), torch.no_grad():
            found = trace_forward(network, example, keep="none")
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, StratascopeError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UsageError(
            f"the model cannot take an input of shape {input}: {reason}. Give --input the shape "
            "that its forward expects, samples first"
        ) from error
    plain = _to_json(found)
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(json_text.dumps(plain, indent=2) + "\n", encoding="utf-8")
    if json:
        print_json(plain)
    else:
        _print_trace(found, modules=modules, to=to)
    bad = found.first_nonfinite()
    if fail_on_nonfinite and bad is not None:
        raise StratascopeError(f"'{bad.name}' is the first operation that is not finite")


def _print_trace(found: Trace, *, modules: bool, to: Path | None) -> None:
    print_line(found.table(modules=modules))
    print_line()
    print_line(
        f"{len(found)} operations in {len(found.modules)} module calls, "
        f"{found.seconds * 1e3:.1f} ms, {found.flops / 1e6:,.2f} MFLOP, "
        f"{name_size(found.peak_bytes)} at the peak"
    )
    bad = found.first_nonfinite()
    print_line("All values are finite." if bad is None else f"The first that is not finite: {bad}")
    if to is not None:
        print_line(f"The whole trace is in {to}.")


def _to_json(found: Trace) -> dict[str, Any]:
    # JSON has no NaN, and the range of what is nowhere finite is one.
    return json_text.loads(json_text.dumps(found.to_dict()), parse_constant=lambda _: None)
