"""What sites a model has, and what flows there for an example input."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from stratascope.capture._activations import Activations
from stratascope.capture._modes import probing
from stratascope.capture._operations import is_operation
from stratascope.capture._snapshot import snapshot
from stratascope.capture._structure import map_tensors, named_tensors
from stratascope.capture._tap import tap
from stratascope.errors import CaptureError, SiteNotFoundError
from stratascope.sites import (
    Match,
    ModuleTable,
    Selector,
    Site,
    class_name,
    match_sites,
    unwrap,
)


@dataclass(frozen=True, slots=True)
class SiteInfo:
    """What is known of one site.

    Attributes:
        site: The site.
        kind: Class name of its module, or ``operation``.
        parameters: Number of parameters of the module, its children's included.
        shapes: Shape of each tensor that flowed there, by its place in the value (``""`` where the
            value is one tensor); empty without an example.
        dtype: Data type of the first of them, or ``""``.
        aliases: Further names of the same module.

    >>> import torch, stratascope as ss
    >>> info, = ss.survey(torch.nn.Sequential(torch.nn.Linear(3, 2)), "0")
    >>> str(info.site), info.kind, info.parameters
    ('0', 'Linear', 8)
    """

    site: Site
    kind: str
    parameters: int
    shapes: dict[str, tuple[int, ...]]
    dtype: str = ""
    aliases: tuple[str, ...] = ()


def select(
    model: nn.Module,
    sites: Selector | Iterable[Selector],
    *,
    example: tuple[object, ...] | None = None,
) -> tuple[Site, ...]:
    """Find the sites that selectors pick.

    Args:
        model: The network.
        sites: Names, globs, modules, classes, predicates.
        example: Positional arguments for one forward. With it the sites come in the order of
            execution, each call of a module that runs several times apart; without, in the order
            in which the model holds its modules.

    Raises:
        SiteNotFoundError: A selector matches nothing, or ``Class[k]`` is asked without an example:
            only a forward tells in which order modules run.

    >>> import torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    >>> [str(site) for site in ss.select(model, "**")]
    ['0', '1', '2']
    >>> ss.select(model, "Linear[2]", example=(torch.zeros(1, 3),))
    (Site(path='2', port='out', call=None),)
    """
    if example is not None:
        return tuple(info.site for info in survey(model, sites, example=example))
    matches = match_sites(ModuleTable(model, is_operation), sites)
    for match in matches:
        if match.ordinal is not None:
            raise SiteNotFoundError(
                f"'{match.selector}' counts modules in the order in which they run: pass an "
                "example input to find it, as example=(x,)"
            )
    found = (Site(match.path, match.port, match.call) for match in matches)
    return tuple(dict.fromkeys(found))


def survey(
    model: nn.Module,
    sites: Selector | Iterable[Selector] = "**",
    *,
    example: tuple[object, ...] | None = None,
) -> tuple[SiteInfo, ...]:
    """Describe the sites that selectors pick: module class, parameters, shapes.

    Args:
        model: The network; it is run in evaluation mode without gradients, and left as it was.
        sites: Names, globs, modules, classes, predicates.
        example: Positional arguments for one forward; without it there are no shapes.

    Raises:
        SiteNotFoundError: A selector matches nothing.

    >>> import torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU())
    >>> for info in ss.survey(model, example=(torch.zeros(2, 1, 10),)):
    ...     print(info.site, info.kind, info.parameters, info.shapes[""])
    0 Conv1d 16 (2, 4, 8)
    1 ReLU 0 (2, 4, 8)
    """
    table = ModuleTable(model)
    if example is None:
        return tuple(_describe(table, site, None) for site in select(model, sites))
    acts = look(model, sites, example)
    return tuple(_describe(table, site, acts) for site in acts)


def look(
    model: nn.Module, sites: Selector | Iterable[Selector], example: tuple[object, ...]
) -> Activations:
    """Run a forward only to see what the sites hold in it.

    Raises:
        SiteNotFoundError: A selector matches nothing.
    """
    if isinstance(example, Tensor):
        raise TypeError("example must be a tuple of the model's arguments: write example=(x,)")
    # Copies, as a network may write into its input.
    copies = map_tensors(snapshot, tuple(example))
    with probing(model), tap(model, sites) as acts:
        # Not through DistributedDataParallel, where one process would wait for the others.
        unwrap(model)(*copies)
    return acts


def match_forward_sites(
    model: nn.Module, sites: Selector | Iterable[Selector]
) -> tuple[Match, ...]:
    """Match selectors where only values of a forward make sense, not gradients.

    Raises:
        SiteNotFoundError: A selector matches nothing.
        CaptureError: A gradient is asked for.
    """
    matches = match_sites(ModuleTable(model, is_operation), sites)
    for match in matches:
        if match.port == "grad":
            raise CaptureError(
                f"sites must be values of a forward here, got '{match.selector}': capture "
                "gradients with stratascope.tap"
            )
    return matches


def _describe(table: ModuleTable, site: Site, acts: Activations | None) -> SiteInfo:
    module = table.modules.get(site.path)
    tensors: dict[str, Tensor] = {} if acts is None else dict(named_tensors(acts[site]))
    return SiteInfo(
        site=site,
        kind="operation" if module is None else class_name(module),
        parameters=0 if module is None else sum(p.numel() for p in module.parameters()),
        shapes={place: tuple(tensor.shape) for place, tensor in tensors.items()},
        dtype=next((str(t.dtype).removeprefix("torch.") for t in tensors.values()), ""),
        aliases=tuple(alias for alias, first in table.aliases.items() if first == site.path),
    )
