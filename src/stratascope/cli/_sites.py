"""``stratascope sites``."""

from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter

from stratascope.capture import SiteInfo, survey
from stratascope.cli._output import print_json, print_line, print_table
from stratascope.cli._targets import load_model, parse_shape
from stratascope.errors import StratascopeError, UsageError, first_line


def sites(
    model: str,
    pattern: str = "**",
    *,
    input: str | None = None,
    weights: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """List the sites of a model: class, shape, parameters.

    Args:
        model: package.module:function or path/to/file.py:function that gives the model.
        pattern: Which sites: a name, a glob such as 'enc.*', or a class such as 'Conv1d[*]'.
        input: Shape of an example input, such as 1x3x224x224; with it the sites come in the order
            of execution, with their shapes.
        weights: File of a state dict, .pt or .safetensors.
        json: Print JSON.
    """
    network = load_model(model, weights)
    example = None
    if input is not None:
        generator = torch.Generator().manual_seed(0)
        example = (torch.randn(parse_shape(input), generator=generator),)
    try:
        found = survey(network, pattern, example=example)
    except (RuntimeError, TypeError, ValueError) as error:
        if input is None or isinstance(error, StratascopeError):
            raise
        raise UsageError(
            f"the model cannot take an input of shape {input}: {first_line(error)}. Give "
            "--input the shape that its forward expects, samples first"
        ) from error
    if json:
        print_json([_to_json(info) for info in found])
        return
    rows = [
        [str(info.site), info.kind, _name_shapes(info), f"{info.parameters:,}", _remark(info)]
        for info in found
    ]
    print_table(["site", "class", "output", "parameters", ""], rows)
    if example is None:
        print_line(
            "\nIn the model's own order; --input 1x3x224x224 adds shapes and execution order."
        )


def _to_json(info: SiteInfo) -> dict[str, Any]:
    return {
        "site": str(info.site),
        "class": info.kind,
        "parameters": info.parameters,
        "shapes": {place: list(shape) for place, shape in info.shapes.items()},
        "dtype": info.dtype,
        "aliases": list(info.aliases),
    }


def _name_shapes(info: SiteInfo) -> str:
    if not info.shapes:
        return "–"
    return ", ".join(
        f"{place}: {shape}" if place else str(shape) for place, shape in info.shapes.items()
    )


def _remark(info: SiteInfo) -> str:
    return f"also {', '.join(info.aliases)}" if info.aliases else ""
