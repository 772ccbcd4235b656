"""A callback for Lightning's Trainer."""

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stratascope._optional import require
from stratascope.capture._hooks import ReplacedForward
from stratascope.errors import CaptureError
from stratascope.integrations._session import Session, check_whole, is_spread
from stratascope.sites import Selector


def _find_callbacks() -> list[type]:
    """Give the base class of callbacks under each name that Lightning is installed by.

    The two are the same code twice, but a Trainer of one does not take the other's callbacks.
    """
    names = ("lightning.pytorch", "pytorch_lightning")
    found = [name for name in names if importlib.util.find_spec(name.partition(".")[0])]
    return [require(name, extra="lightning").Callback for name in found or names[:1]]


if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import Strategy
else:

    class Callback(*_find_callbacks()):
        """A callback for either."""


class LightningRecord(Callback):
    """Write what the sites of a LightningModule hold to a store while it trains, as `record` does.

    Steps are the optimizer's, ``trainer.global_step``. With a ``probe``, step n holds the network
    after n of them, before the first and after the last too. Without one, it holds what flowed in
    the ``training_step`` that led to the next; of accumulated batches that is the last.

    The training is the same, bit for bit, as without the callback. Where it goes on from a
    checkpoint, so does the store. The first process alone writes; nothing is written under
    ``fast_dev_run``. It is a callback of ``pytorch_lightning`` too, where that is installed.

    Args:
        sites: What to keep, named from the LightningModule: names, globs, modules, classes,
            predicates.
        to: The store's folder, new or one that lacks the steps to come.
        every: How many optimizer steps apart.
        probe: Always the same samples, which the module's ``forward`` is given: a tensor, or a
            batch as a DataLoader gives it. None records the training's own batches.
        dtype: What floating-point values are cast to before they are stored, such as ``"float16"``.
        transform: Applied to each captured tensor, on its device: pool, slice, reduce.
        resume: Pass over steps that the store already holds, also in a training that begins anew.

    Raises:
        MissingExtraError: Lightning is not installed.
        CaptureError: When the training begins: a probe needs a ``forward`` that is not there, or
            FSDP's first version or DeepSpeed's stage 3 has spread the parameters over processes.
            What `record` raises comes then too.

    >>> import lightning as L, torch, stratascope as ss
    >>> from stratascope.integrations import LightningRecord
    >>> class Net(L.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.enc = torch.nn.Linear(3, 2)
    ...     def forward(self, x):
    ...         return self.enc(x)
    ...     def training_step(self, x):
    ...         return self(x).square().mean()
    ...     def configure_optimizers(self):
    ...         return torch.optim.SGD(self.parameters(), lr=0.1)
    >>> callback = LightningRecord("enc", to="run.zarr", every=2, probe=torch.randn(5, 3))
    >>> trainer = L.Trainer(
    ...     callbacks=[callback], max_epochs=1, accelerator="cpu", logger=False,
    ...     enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ... )
    >>> trainer.fit(Net(), torch.utils.data.DataLoader(torch.randn(16, 3), batch_size=4))
    >>> ss.open_store("run.zarr").steps
    (0, 2, 4)
    """

    def __init__(
        self,
        sites: Selector | Iterable[Selector],
        *,
        to: str | Path,
        every: int = 100,
        probe: Any = None,
        dtype: torch.dtype | str | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        resume: bool = False,
    ) -> None:
        super().__init__()
        self._session = Session(
            sites=sites,
            to=to,
            every=every,
            probe=probe,
            dtype=dtype,
            transform=transform,
            resume=resume,
        )
        self._called: _CalledStep | None = None
        self._before = 0

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Open the record."""
        wrapped = trainer.strategy.model
        check_whole(pl_module if wrapped is None else wrapped)
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        if self._session.probed:
            _check_forward(pl_module)
        compiled = getattr(pl_module, "_compiler_ctx", None) is not None
        first = trainer.is_global_zero
        self._session.begin(pl_module, trainer.global_step, first=first, compiled=compiled)
        # What wraps the module, such as DistributedDataParallel, calls it for each step anyway; and
        # what fully_shard has spread must be called alike in all processes.
        if first and not self._session.probed and wrapped is pl_module and not is_spread(pl_module):
            self._called = _CalledStep(trainer.strategy, pl_module)

    def on_train_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", *args: Any, **kwargs: Any
    ) -> None:
        """Note how many steps there have been."""
        self._before = trainer.global_step

    def on_before_optimizer_step(
        self, trainer: "Trainer", pl_module: "LightningModule", optimizer: Any
    ) -> None:
        """Record the batch, where one is due."""
        if pl_module.automatic_optimization:
            self._session.show_batch(trainer.global_step)

    def on_train_batch_end(
        self, trainer: "Trainer", pl_module: "LightningModule", *args: Any, **kwargs: Any
    ) -> None:
        """Record the probe, where it is due."""
        self._session.show_network(trainer.global_step)
        # Where the step itself calls the optimizers, it is over only now.
        if not pl_module.automatic_optimization and trainer.global_step > self._before:
            self._session.show_batch(self._before)

    def on_train_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Finish writing, and leave the module as it was."""
        self._end()

    def on_exception(
        self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException
    ) -> None:
        """Finish writing, and leave the module as it was."""
        self._end(exception)

    def _end(self, error: BaseException | None = None) -> None:
        called, self._called = self._called, None
        if called is not None:
            called.remove()
        self._session.end(error)


class _CalledStep:
    """Training steps by way of a module's own call, as what wraps a module makes them.

    So its hooks know where a step begins and ends, also where it calls only parts of the module.
    """

    def __init__(self, strategy: "Strategy", module: "LightningModule") -> None:
        self._strategy = strategy
        self._module = module
        self._step = strategy.training_step
        strategy.training_step = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            # The step itself may call the module's own.
            replaced.remove()
            return self._step(*args, **kwargs)

        replaced = ReplacedForward(self._module, lambda _: step)
        try:
            return self._module(*args, **kwargs)
        finally:
            replaced.remove()

    def remove(self) -> None:
        """Let the steps be made as they were."""
        self._strategy.training_step = self._step


def _check_forward(module: "LightningModule") -> None:
    owner = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    package = owner.__module__.partition(".")[0]
    if owner.__name__ == "LightningModule" and package in ("lightning", "pytorch_lightning"):
        raise CaptureError(
            f"a probe needs a LightningModule with a forward, got {type(module).__name__} without: "
            "give it one that takes the probe, or leave out probe to record the training's batches"
        )
