"""A callback for the Trainer of Hugging Face transformers."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stratascope._optional import require
from stratascope.integrations._session import Session, check_whole
from stratascope.sites import Selector, unwrap

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
else:
    TrainerCallback = require("transformers", extra="transformers").TrainerCallback


class TransformersRecord(TrainerCallback, AbstractContextManager["TransformersRecord"]):
    """Write what the sites of a model hold to a store while a Trainer trains it, as `record` does.

    Steps are the optimizer's, ``state.global_step``. With a ``probe``, step n holds the network
    after n of them, before the first and after the last too. Without one, it holds what flowed for
    the batch that led to the next; of accumulated batches that is the last.

    The training is the same, bit for bit, as without the callback. Where it goes on from a
    checkpoint, so does the store. The first process alone writes.

    A Trainer does not tell its callbacks when it fails. What was recorded is kept all the same;
    used as a context manager around ``trainer.train()``, the callback then also tells an error of
    the last write, and takes its hooks off the model.

    Args:
        sites: What to keep, named from the model that the Trainer was given: names, globs, modules,
            classes, predicates.
        to: The store's folder, new or one that lacks the steps to come.
        every: How many optimizer steps apart.
        probe: Always the same samples: a tensor, or a batch as a tokenizer or DataLoader gives it,
            a dict as named arguments. None records the training's own batches.
        dtype: What floating-point values are cast to before they are stored, such as ``"float16"``.
        transform: Applied to each captured tensor, on its device: pool, slice, reduce.
        resume: Pass over steps that the store already holds, also in a training that begins anew.

    Raises:
        MissingExtraError: transformers is not installed.
        CaptureError: When the training begins: FSDP's first version or DeepSpeed's stage 3 has
            spread the parameters over processes. What `record` raises comes then too.

    >>> import torch, stratascope as ss
    >>> from stratascope.integrations import TransformersRecord
    >>> from transformers import BertConfig, BertForSequenceClassification, Trainer
    >>> from transformers import TrainingArguments
    >>> model = BertForSequenceClassification(BertConfig(
    ...     vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
    ...     intermediate_size=8, max_position_embeddings=16,
    ... ))
    >>> ids = torch.randint(20, (16, 6))
    >>> data = [{"input_ids": row, "labels": row[0] % 2} for row in ids]
    >>> callback = TransformersRecord(
    ...     "bert.encoder.layer.*", to="run.zarr", every=2, probe={"input_ids": ids[:5]}
    ... )
    >>> arguments = TrainingArguments(
    ...     "checkpoints", max_steps=4, per_device_train_batch_size=4, use_cpu=True,
    ...     save_strategy="no", report_to="none", disable_tqdm=True,
    ... )
    >>> _ = Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
    {...}
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
        self._session = Session(
            sites=sites,
            to=to,
            every=every,
            probe=probe,
            dtype=dtype,
            transform=transform,
            resume=resume,
        )

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Open the record."""
        given: nn.Module = kwargs["model"]
        check_whole(given)
        # It may have been compiled before the Trainer was given it.
        compiled = args.torch_compile or hasattr(given, "_orig_mod")
        first = state.is_world_process_zero
        self._session.begin(unwrap(given), state.global_step, first=first, compiled=compiled)

    def on_pre_optimizer_step(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Record the batch, where one is due."""
        self._session.show_batch(state.global_step)

    def on_step_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Record the probe, where it is due."""
        self._session.show_network(state.global_step)

    def on_train_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        """Finish writing, and leave the model as it was."""
        self._session.end()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.end(error)
