"""The names of the sites of a step: aliases, and which of its class a module is to run."""

import threading
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from stratascope.capture import named_tensors
from stratascope.pipeline._axes import AxisOrder
from stratascope.sites import ModuleTable, Site, class_name, class_names
from stratascope.store import SiteSpec


class RunOrder:
    """Which modules of a model a forward ran, in the order in which they began, and how often.

    Attributes:
        calls: How often each ran, by path, in that order.
        axes: Which of their values are tokens.
    """

    def __init__(self, model: nn.Module) -> None:
        self.calls: Counter[str] = Counter()
        self._modules = ModuleTable(model).modules
        self._paths = {id(module): path for path, module in self._modules.items()}
        self.axes = AxisOrder({path: class_name(module) for path, module in self._modules.items()})
        self._thread = threading.get_ident()

    @contextmanager
    def watching(self) -> Generator[None]:
        """Note what runs."""
        # A hook on the modules themselves would keep transformers from their fused forward, and
        # the first batch would not be computed as the others are.
        # Not with_kwargs: torch leaves such a hook's mark behind when the hook is removed.
        with (
            register_module_forward_pre_hook(self._note),
            register_module_forward_hook(self._note_result),
        ):
            try:
                yield
            finally:
                self.axes.forget_tensors()

    def number_classes(self) -> dict[str, dict[str, int]]:
        """Give by path the how many-th of each of its classes a module was to run, from 1."""
        ran: Counter[str] = Counter()
        ordinals: dict[str, dict[str, int]] = {}
        for path in self.calls:
            names = class_names(self._modules[path])
            ran.update(names)
            ordinals[path] = {name: ran[name] for name in names}
        return ordinals

    def _note(self, module: nn.Module, args: Any) -> None:
        path = self._find(module)
        if path is not None:
            self.calls[path] += 1
            self.axes.note(path, "in", _list_tensors(args))

    def _note_result(self, module: nn.Module, args: Any, result: Any) -> None:
        path = self._find(module)
        if path is not None:
            self.axes.note(path, "out", _list_tensors(result), _list_tensors(args))

    def _find(self, module: nn.Module) -> str | None:
        return self._paths.get(id(module)) if threading.get_ident() == self._thread else None


def _list_tensors(value: Any) -> list[Tensor]:
    return [tensor for _, tensor in named_tensors(value)]


def describe_sites(
    model: nn.Module,
    sites: Iterable[Site],
    *,
    calls: Mapping[str, int],
    ordinals: Mapping[str, dict[str, int]],
) -> tuple[SiteSpec, ...]:
    """Say what is known of sites beside their values.

    Args:
        model: The network.
        sites: The sites.
        calls: How often modules ran, by path, as far as that is known.
        ordinals: By path, the how many-th of its classes a module was to run, as far as that is
            known.
    """
    table = ModuleTable(model)
    aliases: dict[str, list[str]] = {}
    for alias, path in table.aliases.items():
        aliases.setdefault(path, []).append(alias)
    return tuple(
        SiteSpec(
            site=str(site),
            path=site.path,
            port=site.port,
            call=site.call,
            calls=calls.get(site.path),
            module=class_name(table.modules[site.path]) if site.path in table.modules else "",
            aliases=tuple(aliases.get(site.path, ())),
            ordinals=ordinals.get(site.path, {}),
        )
        for site in sites
    )
