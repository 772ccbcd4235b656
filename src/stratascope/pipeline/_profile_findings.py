"""What of a profile a person should look at: rules with limits, and what they hit."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stratascope.sites import Site, suggest

if TYPE_CHECKING:
    from stratascope.pipeline._profile_result import SiteProfile

Severity = Literal["error", "warning", "note"]

RULES = (
    "nan, inf, dead, constant, saturated, redundant>0.1, low-rank>0.9, exploding>100, vanishing>100"
)
"""The rules of `findings`, unless others are given."""

# Correlations of fewer positions are high by chance.
_FEWEST_POSITIONS = 30
# They let something through below zero, and are meant to be above it all the same.
_RECTIFIERS = {
    "CELU", "ELU", "GELU", "Hardswish", "LeakyReLU", "Mish", "PReLU", "RReLU", "SELU", "SiLU",
    "celu", "elu", "gelu", "hardswish", "leaky_relu", "mish", "prelu", "rrelu", "selu", "silu",
}  # fmt: skip
# What is compared is no share.
_FACTORS = ("exploding", "vanishing")
_RULE = re.compile(r"\s*([\w-]+)\s*(?:>\s*([\d.eE+-]+)\s*)?")
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something at one site that a person should look at.

    Attributes:
        site: The site.
        kind: What it is, such as ``"dead"``.
        text: A sentence that says it, with the figures.
        rule: The rule that it hit, such as ``"dead>0.5"``.
        channels: The channels in question.
        share: Their share of the site's channels; of ``"low-rank"`` that of the directions which
            nothing fills.
        severity: ``"error"``, ``"warning"`` or ``"note"``.

    >>> finding = Finding("enc.3", "dead", "2 of 4 dead", "dead>0.4", (0, 2), 0.5, "warning")
    >>> print(finding)
    enc.3: 2 of 4 dead
    """

    site: str
    kind: str
    text: str
    rule: str
    channels: tuple[int, ...]
    share: float
    severity: Severity

    def __str__(self) -> str:
        return f"{self.site}: {self.text}"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a site has of one kind: how much, in which channels, in words."""

    amount: float
    channels: tuple[int, ...]
    share: float
    text: str


def find(profile: Mapping[str, Any], rules: str) -> list[Finding]:
    """Hold the sites of a profile to rules.

    Raises:
        ValueError: A rule is none.
    """
    limits = parse_rules(rules)
    sizes = [site.rms for site in profile.values()]
    usual = float(np.median([size for size in sizes if size > 0] or [math.nan]))
    found: list[Finding] = []
    for name, site in profile.items():
        for kind, limit in limits.items():
            measure, severity = _KINDS[kind]
            seen = measure(site, usual)
            if seen is not None and seen.amount > limit:
                rule = f"{kind}>{limit:g}" if limit else kind
                found.append(
                    Finding(name, kind, seen.text, rule, seen.channels, seen.share, severity)
                )
    return sorted(found, key=lambda finding: _ORDER.index(finding.severity))


def parse_rules(rules: str) -> dict[str, float]:
    """Read rules: kinds with commas between them, alone or with ``>`` and a number.

    Raises:
        ValueError: One is none, or two are of one kind.

    >>> parse_rules("nan, dead>0.5")
    {'nan': 0.0, 'dead': 0.5}
    """
    parsed = [_parse_rule(text) for text in rules.split(",")]
    kinds = [kind for kind, _ in parsed]
    if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
        raise ValueError(f"each kind must be there once, got {twice!r} several times in {rules!r}")
    return dict(parsed)


def _parse_rule(text: str) -> tuple[str, float]:
    match = _RULE.fullmatch(text)
    kind, limit = match.groups() if match else (text.strip(), None)
    if kind not in _KINDS and re.split(r"[\s<>=]", kind)[0] in _KINDS:
        raise ValueError(
            f"a rule must be a kind alone, or with > and a number, as 'dead>0.5', got {kind!r}"
        )
    if kind not in _KINDS:
        raise ValueError(
            f"a rule must be one of {', '.join(_KINDS)}, alone or as 'dead>0.5', got {kind!r}."
            f"{suggest(kind, [*_KINDS])}"
        )
    try:
        number = 0.0 if limit is None else float(limit)
    except ValueError:
        raise ValueError(
            f"behind > must be a number, as 'dead>0.5', got {text.strip()!r}"
        ) from None
    if number >= 1 and kind not in _FACTORS:
        share = f"{number / 100:g}" if 1 < number < 100 else "0.5"
        raise ValueError(
            f"{kind} is a share, from 0 to 1, and never above {number:g}: as '{kind}>{share}', got "
            f"{text.strip()!r}"
        )
    least = 1.0 if kind in _FACTORS and limit is None else 0.0
    return kind, max(number, least)


def _find_nan(site: "SiteProfile", usual: float) -> _Seen | None:
    return _find_nonfinite(site, site.nans, "NaN")


def _find_inf(site: "SiteProfile", usual: float) -> _Seen | None:
    return _find_nonfinite(site, site.infs, "Inf")


def _find_nonfinite(site: "SiteProfile", counts: Any, what: str) -> _Seen | None:
    where = counts > 0
    first = site.counts.first_nonfinite[where]
    first = first[first >= 0]
    begin = f", first not finite in sample {first.min()}" if first.size else ""
    values = f"{counts.sum():,} of {site.counts.values.sum():,} values"
    return _say(site, where, f"with {what} ({values}{begin})")


def _find_dead(site: "SiteProfile", usual: float) -> _Seen | None:
    threshold = site.extremes.threshold
    where = _list_dead(site)
    return _say(site, where, f"dead (never above {threshold:g} in {site.samples:,} samples)")


def _list_dead(site: "SiteProfile") -> Any:
    """Tell which channels are dead, and not negative by design, as logits may be."""
    # An operation has no class, and its name ends the path.
    made_by = site.array.kind or Site.parse(site.array.site).path.rpartition(".")[2]
    return site.dead() & ((site.min >= 0) | (made_by in _RECTIFIERS))


def _find_constant(site: "SiteProfile", usual: float) -> _Seen | None:
    # A dead channel behind a ReLU is constant, too, and listed as dead.
    where = site.constant & (site.counts.finite > 1) & ~_list_dead(site)
    return _say(site, where, f"constant (one value in {site.samples:,} samples)")


def _find_saturated(site: "SiteProfile", usual: float) -> _Seen | None:
    return _say(
        site, site.saturated(), "saturated (over half of the values at an end of the range)"
    )


def _find_redundant(site: "SiteProfile", usual: float) -> _Seen | None:
    if not site.has_covariance or site.covariance.count < _FEWEST_POSITIONS:
        return None
    groups = site.redundant_groups()
    where = np.zeros(site.channels, bool)
    where[[channel for group in groups for channel in group[1:]]] = True
    example = f", such as {', '.join(map(str, groups[0][:3]))}" if groups else ""
    return _say(site, where, f"repeat others (correlation above 0.95 in size{example})")


def _find_low_rank(site: "SiteProfile", usual: float) -> _Seen | None:
    # Positions can fill no more directions than there are of them.
    if not site.has_covariance or site.covariance.count < max(_FEWEST_POSITIONS, 2 * site.channels):
        return None
    # Channels with NaN have no direction, and are found as what they are.
    channels = int(np.isfinite(site.covariance.covariance.diagonal()).sum())
    if channels < 2:
        return None
    empty = 1 - site.effective_rank / channels
    text = f"{channels} channels fill {site.effective_rank:.1f} directions (effective rank)"
    return _Seen(empty, (), empty, text)


def _find_exploding(site: "SiteProfile", usual: float) -> _Seen | None:
    return _find_scale(site, site.rms / usual, f"times the median of the sites, {usual:.3g}")


def _find_vanishing(site: "SiteProfile", usual: float) -> _Seen | None:
    factor = usual / site.rms if site.rms > 0 else math.nan
    return _find_scale(site, factor, f"times below the median of the sites, {usual:.3g}")


def _find_scale(site: "SiteProfile", factor: float, how: str) -> _Seen | None:
    text = f"values of size {site.rms:.3g} (root mean square), {factor:,.0f} {how}"
    return _Seen(factor, (), 1.0, text) if factor > 1 else None


def _say(site: "SiteProfile", where: Any, what: str) -> _Seen | None:
    channels = tuple(np.flatnonzero(where).tolist())
    if not channels:
        return None
    share = len(channels) / site.channels
    # A few of many are no 0 %, and all but a few no 100 %.
    percent = f"{share:.0%}".replace("%", " %")
    exact = percent if 0.01 <= share <= 0.99 or share == 1 else f"{len(channels):,}"
    amount = f"{exact} of {site.channels:,} channels"
    return _Seen(share, channels, share, f"{amount} {what}")


_KINDS: dict[str, tuple[Callable[["SiteProfile", float], _Seen | None], Severity]] = {
    "nan": (_find_nan, "error"),
    "inf": (_find_inf, "error"),
    "exploding": (_find_exploding, "warning"),
    "vanishing": (_find_vanishing, "warning"),
    "dead": (_find_dead, "warning"),
    "constant": (_find_constant, "warning"),
    "saturated": (_find_saturated, "warning"),
    "redundant": (_find_redundant, "note"),
    "low-rank": (_find_low_rank, "note"),
}
