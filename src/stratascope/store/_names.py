"""Finding the sites of a store by all their names: texts, globs, aliases, ``Conv1d[5]``."""

from collections.abc import Iterable

from stratascope.errors import SiteNotFoundError
from stratascope.sites import ROOT_NAME, Site, match_names, parse_class_index, suggest
from stratascope.store._layout import SiteSpec

_LISTED = 8


class SiteNames:
    """The names of the sites of one step.

    Args:
        place: What holds them, for messages.
        sites: The sites, in order.
    """

    def __init__(self, place: str, sites: Iterable[SiteSpec]) -> None:
        self._place = place
        self._sites = {spec.site: spec for spec in sites}

    def find(self, name: str) -> str:
        """Find the one site behind a name.

        Raises:
            SiteNotFoundError: There is none, or one for each of several calls.
        """
        if name in self._sites:
            return name
        wanted = Site.parse(name)
        found = [spec for spec in self._sites.values() if _is_called(spec, wanted)]
        chosen = [spec.site for spec in found if _is_call(spec, wanted.call)]
        if len(chosen) != 1:
            several = [spec.site for spec in found] if wanted.call is None else []
            raise self._not_found(name, several)
        return chosen[0]

    def select(self, name: str) -> list[str]:
        """List the sites that a name or a glob picks, every call where it names none.

        Raises:
            SiteNotFoundError: It picks none.
        """
        if name in self._sites:
            return [name]
        wanted = Site.parse(name)
        found = [
            spec.site
            for spec in self._sites.values()
            if (_is_called(spec, wanted) or _matches(spec, wanted))
            and (wanted.call is None or _is_call(spec, wanted.call))
        ]
        if not found:
            raise self._not_found(name, [])
        return found

    def _not_found(self, name: str, calls: list[str]) -> SiteNotFoundError:
        specs = self._sites.values()
        known = [f"{kind}[{place}]" for spec in specs for kind, place in spec.ordinals.items()]
        ordinals = list(dict.fromkeys(known))
        indexed = parse_class_index(Site.parse(name).path)
        of_class = [other for other in ordinals if indexed and other.startswith(f"{indexed[0]}[")]
        aliases = [alias for spec in specs for alias in spec.aliases]
        hint = suggest(name, [*self._sites, *aliases, *ordinals])
        if calls:
            hint = f" It ran several times: ask for one of {', '.join(map(repr, calls))}."
        elif of_class:
            hint = f" Of that class it holds {', '.join(of_class[:_LISTED])}."
        listed = ", ".join(list(self._sites)[:_LISTED])
        more = " …" if len(self._sites) > _LISTED else ""
        return SiteNotFoundError(
            f"{self._place} holds no site {name!r}.{hint} It holds: {listed}{more}"
        )


def _is_called(spec: SiteSpec, wanted: Site) -> bool:
    """Tell whether a path, an alias or a class and number name the site's module."""
    if spec.port != wanted.port:
        return False
    if wanted.path in (spec.path, *spec.aliases):
        return True
    indexed = parse_class_index(wanted.path)
    if indexed is not None and indexed[1] is not None:
        return spec.ordinals.get(indexed[0]) == indexed[1]
    return {spec.path, wanted.path} == {"", ROOT_NAME}


def _is_call(spec: SiteSpec, call: int | None) -> bool:
    """Tell whether a call number means the site's; none means that it runs once."""
    if call is None:
        return spec.call is None
    if call > 0:
        return (spec.call or 1) == call
    if spec.calls is None:
        return spec.call is None and call == -1
    return (spec.call or 1) == spec.calls + call + 1


def _matches(spec: SiteSpec, wanted: Site) -> bool:
    """Tell whether a glob, or all of a class, picks the site."""
    indexed = parse_class_index(wanted.path)
    if spec.port != wanted.port:
        return False
    if indexed is not None and indexed[1] is None:
        return indexed[0] in spec.ordinals
    return bool(match_names(wanted.path, (spec.path, *spec.aliases)))
