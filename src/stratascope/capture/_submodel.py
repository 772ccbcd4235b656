"""The route by a submodel: a network that computes only as far as the wanted sites."""

from collections.abc import Iterable
from typing import Any, Literal

from torch import nn

from stratascope.capture._activations import Activations, number_calls
from stratascope.capture._survey import match_forward_sites, select
from stratascope.capture._tap import tap
from stratascope.sites import Selector, Site


class _WantedSitesDone(BaseException):
    """Leaves the forward; no Exception, so that no handler of the network's own stops it."""


class Submodel(nn.Module):
    """A network that runs until its wanted sites have their values; made by `submodel`.

    Attributes:
        model: The network it was made from, whose parameters it shares.
        sites: The sites whose values it returns, in the order of execution.
        method: ``"stop"``: it runs the model itself and leaves it after the last wanted site.
    """

    method: Literal["stop"] = "stop"

    def __init__(self, model: nn.Module, sites: tuple[Site, ...]) -> None:
        super().__init__()
        self.model = model
        self.sites = sites

    def forward(self, *args: Any, **kwargs: Any) -> Activations:
        """Compute the wanted sites; takes what the model takes, and keeps the autograd graph.

        Raises:
            CaptureError: The forward ended without reaching one of the sites.
        """
        last = self.sites[-1]
        module = self.model.get_submodule(last.path)
        with tap(self.model, self.sites, detach=False) as acts:

            def stop(*_: Any) -> None:
                if last in acts:
                    raise _WantedSitesDone

            # Registered after the tap's own hooks, so the last value is there when this one runs.
            if last.port == "in":
                stopper = module.register_forward_pre_hook(stop)
            else:
                stopper = module.register_forward_hook(stop)
            try:
                self.model(*args, **kwargs)
            except _WantedSitesDone:
                pass
            finally:
                stopper.remove()
        number_calls(acts, self.sites)
        return acts

    def extra_repr(self) -> str:
        """Show the sites and the way they are reached, for ``print``."""
        return f"sites={[str(site) for site in self.sites]}, method={self.method!r}"


def submodel(
    model: nn.Module, sites: Selector | Iterable[Selector], *, example: tuple[Any, ...]
) -> Submodel:
    """Cut out a network that computes only as far as the wanted sites.

    What would run after the last of them does not run. The example shows in which order the
    sites come; for a network whose control flow depends on its input, sites that come later than
    in the example are cut off with the rest.

    Args:
        model: The network; it is run once in evaluation mode, and its parameters are shared.
        sites: Names, globs, modules, classes, predicates; gradients are no value of a forward.
        example: Positional arguments for one forward of the model.

    Returns:
        A module that takes what the model takes and returns the `Activations` of the sites.

    Raises:
        SiteNotFoundError: A selector matches nothing.
        CaptureError: A gradient is asked for.

    >>> import torch, stratascope as ss
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
    >>> x = torch.randn(2, 1, 10)
    >>> part = ss.submodel(model, "1", example=(x,))
    >>> part.sites, part.method
    ((Site(path='1', port='out', call=None),), 'stop')
    >>> torch.equal(part(x)["1"], model[:2](x))
    True
    """
    match_forward_sites(model, sites)
    return Submodel(model, select(model, sites, example=example))
