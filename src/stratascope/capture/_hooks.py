"""What is put on a model for a while, made so that copies of the model do not take it along."""

import pickle
from collections.abc import Callable
from copy import deepcopy
from types import MethodType
from typing import Any

from torch import nn

from stratascope.capture._modes import beside_graphs

_Replacement = Callable[[Callable[..., Any]], Callable[..., Any]]


class Hook:
    """A hook that does nothing in a copy of its model, and that can be pickled with it.

    Without this, ``copy.deepcopy`` would make a copy that still writes into the first model's tap,
    and ``torch.save`` would fail on the functions of the tap.
    """

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @property
    def owner(self) -> Any:
        """The object whose method this hook calls, or None."""
        return getattr(self._function, "__self__", None)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Hook":
        return Hook(_do_nothing)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hook, (_do_nothing,)


def _do_nothing(*_: Any) -> None:
    return None


class ReplacedForward:
    """Another forward on one model, until it is removed.

    Several may be on a model: the last one runs first, and each may be removed before the others.

    Args:
        model: The network.
        replacement: Takes the forward to replace and gives the one to run instead. It is asked
            again whenever an earlier one is removed.
        attribute: Where the model holds what is replaced.
    """

    def __init__(
        self,
        model: nn.Module,
        replacement: _Replacement,
        attribute: str = "forward",
    ) -> None:
        found = vars(model).get(attribute)
        # A shallow copy of a model has the other one's.
        if not isinstance(found, _Forward) or found.model is not model:
            found = _Forward(model, attribute)
        self._forward: _Forward | None = found
        self._replacement = replacement
        found.add(replacement)

    def remove(self) -> None:
        """Take it away; with the last the model has its own forward back. Idempotent."""
        forward, self._forward = self._forward, None
        if forward is not None:
            forward.discard(self._replacement)


class _Forward:
    """All that replaces one forward of a model, whose copies have their own forward again."""

    __slots__ = ("_attribute", "_function", "_own", "_plain", "_replacements", "model")

    def __init__(self, model: nn.Module, attribute: str) -> None:
        self.model = model
        self._attribute = attribute
        # What the model itself holds, beside what its class has.
        self._own = vars(model).get(attribute)
        self._plain = self._function = getattr(model, attribute)
        self._replacements: list[_Replacement] = []
        setattr(model, attribute, self)

    def add(self, replacement: _Replacement) -> None:
        self._replacements.append(replacement)
        self._compose()

    def discard(self, replacement: _Replacement) -> None:
        self._replacements.remove(replacement)
        self._compose()
        # What others have put there meanwhile is theirs to take away.
        if self._replacements or vars(self.model).get(self._attribute) is not self:
            return
        if self._own is None:
            delattr(self.model, self._attribute)
        else:
            setattr(self.model, self._attribute, self._own)

    def _compose(self) -> None:
        function = self._plain
        for replacement in self._replacements:
            function = replacement(function)
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # The model may be compiled after this came.
        return beside_graphs(self._function)(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self._own is not None:
            return deepcopy(self._own, memo)
        copied = memo[id(self.model)]
        return MethodType(type(copied).forward, copied)

    def __reduce__(self) -> tuple[Any, ...]:
        raise pickle.PicklingError(
            "a model cannot be pickled while its operations are watched: remove the tap first"
        )
