"""What is wanted of one module and port: all its calls, some, or some as the k-th of its class."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from stratascope.capture._activations import Recording
from stratascope.sites import Match, suggest

Ordinals = dict[tuple[str, int], str]


@dataclass(slots=True)
class Wanted:
    """The matches that share a module and a port.

    Attributes:
        matches: These matches.
        every_call: Whether one of them takes every call.
        from_end: Whether one of them counts calls from the last.
    """

    matches: list[Match] = field(default_factory=list)
    every_call: bool = False
    from_end: bool = False

    def add(self, match: Match) -> None:
        """Add a match of this module and port."""
        self.matches.append(match)
        self.every_call = self.every_call or (match.ordinal is None and match.call is None)
        self.from_end = self.from_end or (match.call is not None and match.call < 0)

    def picks(self, call: int, ordinals: Ordinals) -> bool:
        """Tell, while the forward runs, whether a call is wanted whatever follows."""
        return any(is_match(match, call, None, ordinals) for match in self.matches)

    def may_pick(self, call: int, ordinals: Ordinals) -> bool:
        """Tell, while the forward runs, whether a call is or may turn out to be wanted."""
        return self.from_end or self.picks(call, ordinals)

    def keeps(self, call: int, count: int, ordinals: Ordinals) -> bool:
        """Tell whether a call is wanted, when the number of calls is known."""
        return any(is_match(match, call, count, ordinals) for match in self.matches)


def is_match(match: Match, call: int, count: int | None, ordinals: Ordinals) -> bool:
    """Tell whether a match means a call; a count of None is one that is not known yet."""
    if match.ordinal is not None and ordinals.get(match.ordinal) != match.path:
        return False
    if match.call is None or match.call == call:
        return True
    return count is not None and match.call == call - count - 1


def was_reached(match: Match, recording: Recording) -> bool:
    """Tell whether the forward made the call that a match means; of gradients it cannot tell."""
    if match.port == "grad":
        return False
    if match.ordinal is not None and recording.ordinals.get(match.ordinal) != match.path:
        return False
    return recording.count(match.path, match.port) >= abs(match.call or 1)


def describe_silent(
    matches: Sequence[Match], unreached: Sequence[Match], ran: Collection[str] | None
) -> str | None:
    """Say which selectors delivered nothing, and why that may be; None where there is none.

    Args:
        matches: What was asked for.
        unreached: What of it did not run.
        ran: The operations that ran, where some were asked for.
    """
    reached = {match.selector for match in matches if match not in unreached}
    silent = [match for match in unreached if match.selector not in reached]
    if not silent:
        return None
    names = ", ".join(f"'{name}'" for name in dict.fromkeys(m.selector for m in silent))
    if ran is not None and all(match.owner is not None for match in silent):
        return (
            f"nothing was captured at {names}: no such module, and no such operation ran."
            f"{suggest(silent[0].path, ran)} In these modules ran: {', '.join(ran) or 'none'}"
        )
    if all(match.port == "grad" for match in silent):
        reason = "no backward() reached them while the tap was on"
    else:
        reason = (
            "the forward does not call these modules, calls them fewer times than asked, runs "
            "copies of them (DataParallel) or TorchScript, or was compiled before the tap "
            "(then call torch.compiler.set_stance('force_eager') first)"
        )
    return f"nothing was captured at {names}: {reason}"
