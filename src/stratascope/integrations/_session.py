"""A record that lasts as long as a training; what the callbacks have in common."""

from contextlib import ExitStack
from typing import Any

from torch import distributed, nn

from stratascope.capture._modes import uncompiled
from stratascope.errors import CaptureError
from stratascope.pipeline._record import TrainingRecord, record
from stratascope.pipeline._warn import warn_caller
from stratascope.store import Paths, open_folder


class Session:
    """A record that is opened where a training begins, and fed by its optimizer's steps.

    Step n of the store is the network after n updates: a probe sees it between two of them, and of
    the training's own batches it is the one that leads to update n + 1.

    Args:
        settings: The arguments of `record`, but for the model.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._record: TrainingRecord | None = None
        self._plain = ExitStack()
        self._start = 0
        self._last = -1

    @property
    def probed(self) -> bool:
        """Whether a probe is recorded, and not the training's own batches."""
        return self._settings["probe"] is not None

    def begin(self, model: nn.Module, step: int, *, first: bool, compiled: bool) -> None:
        """Open the record; a probe sees the model as the training finds it.

        Args:
            model: The network.
            step: How many updates it has had; any means that the training goes on.
            first: Whether this is the first process, which alone writes.
            compiled: Whether the training runs the network through ``torch.compile``.
        """
        # A training that failed may have left one.
        self.end()
        # The forward of a probe needs all processes that hold the network together.
        if not first and not (self.probed and is_spread(model)):
            return
        here = {"resume": self._settings["resume"] or step > 0}
        if not first:
            here["to"] = None
        self._start, self._last = step, -1
        self._record = record(model, **{**self._settings, **here})
        if compiled and not self.probed:
            self._plain.enter_context(uncompiled())
            warn_caller(
                "the model is compiled: while its batches are recorded it runs as plain Python, "
                "since a compiled graph calls no hooks; with a probe it stays compiled"
            )
        self.show_network(step)

    def show_batch(self, step: int) -> None:
        """Record the last batch, where one is due: what flowed after this number of updates."""
        if self._record is not None and not self.probed and not self._is_held_from_before(step):
            self._step(self._record, step)

    def show_network(self, step: int) -> None:
        """Record the probe, where it is due, after this number of updates."""
        if self._record is not None and self.probed:
            self._step(self._record, step)

    def end(self, error: BaseException | None = None) -> None:
        """Close the record, if one is open; errors of the training go before errors of its own."""
        self._plain.close()
        running, self._record = self._record, None
        if running is None:
            return
        if error is None:
            running.close()
        else:
            running.__exit__(type(error), error, error.__traceback__)

    def _step(self, running: TrainingRecord, step: int) -> None:
        # An optimizer such as L-BFGS asks for the gradients several times before one update.
        if step == self._last:
            return
        self._last = step
        try:
            running.step(step)
        except BaseException as error:
            # Not every framework tells its callbacks that a training has failed.
            self.end(error)
            raise

    def _is_held_from_before(self, step: int) -> bool:
        """Tell whether the batch after the checkpoint was recorded before the training stopped.

        This time it may be another batch, which need not leave the same statistics in BatchNorm.
        """
        if step != self._start or step == 0:
            return False
        return Paths(open_folder(self._settings["to"]), step).is_complete


def check_whole(model: nn.Module) -> None:
    """Make sure that a process can run a model, alone or with the others that record it.

    Args:
        model: The network, with whatever wraps it for several processes.

    Raises:
        CaptureError: Its parameters are spread over them by other means than ``fully_shard``.
    """
    # Only where there are several is it worth the import.
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    from torch.distributed.fsdp import FullyShardedDataParallel

    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        by = "FullyShardedDataParallel"
    # What DeepSpeed puts on the parameters that its third stage has taken apart.
    elif any(hasattr(value, "ds_id") for value in model.parameters()):
        by = "DeepSpeed's stage 3"
    else:
        return
    raise CaptureError(
        "the model must be one that its hooks see whole, got one whose parameters are spread over "
        f"processes by {by}: train it with DistributedDataParallel or fully_shard, or run "
        "stratascope.extract on its checkpoints"
    )


def is_spread(model: nn.Module) -> bool:
    """Tell whether several processes hold a network together."""
    # The parameters themselves may just be gathered.
    return any(hasattr(value, "device_mesh") for value in model.state_dict().values())
