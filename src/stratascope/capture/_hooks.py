"""What is put on a model for a while, made so that copies of the model do not take it along."""

import pickle
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn

from stratascope.capture._modes import beside_graphs


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

    Args:
        model: The network.
        replacement: Takes the model's own forward and gives the one to run instead.
    """

    def __init__(
        self, model: nn.Module, replacement: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        self._model: nn.Module | None = model
        self._own = vars(model).get("forward")
        model.forward = _Forward(replacement(model.forward), model)

    def remove(self) -> None:
        """Give the model its own forward back. Idempotent."""
        model, self._model = self._model, None
        if model is None:
            return
        if self._own is None:
            del model.forward
        else:
            model.forward = self._own


class _Forward:
    """A forward in place of a model's own, which a copy of the model has again."""

    __slots__ = ("_function", "_model_id")

    def __init__(self, function: Callable[..., Any], model: nn.Module) -> None:
        self._function = function
        self._model_id = id(model)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # The model may be compiled after this came.
        return beside_graphs(self._function)(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo[self._model_id]
        return MethodType(type(copied).forward, copied)

    def __reduce__(self) -> tuple[Any, ...]:
        raise pickle.PicklingError(
            "a model cannot be pickled while its operations are watched: remove the tap first"
        )
