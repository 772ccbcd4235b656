import copy
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BatchEncoding,
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import stratascope as ss
from stratascope.errors import SiteNotFoundError, StoreError
from stratascope.integrations import TransformersRecord

DRAWN = torch.Generator().manual_seed(1)
PROBE = {"input_ids": torch.randint(20, (7, 6), generator=DRAWN)}
ROWS = torch.randint(20, (24, 6), generator=DRAWN)
DATA = [{"input_ids": row, "labels": row[0] % 2} for row in ROWS]
LAYER = "bert.encoder.layer.1"
INPUT = "bert.embeddings.word_embeddings:in"


def make():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    return BertForSequenceClassification(config)


class Watched(Trainer):
    """Keeps what its steps are given, and draws random numbers in them."""

    def training_step(self, model, inputs, *args):
        noted = self.__dict__.setdefault("given", [])
        noted.append(inputs["input_ids"].clone())
        torch.rand(1), random.random(), np.random.rand()
        return super().training_step(model, inputs, *args)


def prepare(folder, model, *callbacks, trainer=Watched, **settings):
    settings = {"max_steps": 8, "save_strategy": "no", **settings}
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        learning_rate=0.01,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
        **settings,
    )
    return trainer(model, arguments, train_dataset=DATA, eval_dataset=DATA, callbacks=[*callbacks])


def train(folder, model, *callbacks, **settings):
    running = prepare(folder, model, *callbacks, **settings)
    running.train()
    return running


def stored(path, site, step):
    return torch.from_numpy(ss.open_store(path, step=step)[site][:])


def count_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("probe", [PROBE, None], ids=["probe", "batches"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 2},
        {"bf16": True},
    ],
    ids=["plain", "accumulated", "bfloat16"],
)
def test_a_training_is_bit_for_bit_the_same_with_and_without_it(tmp_path, probe, settings):
    ends = []
    for recorded in (False, True):
        model = make()
        record = TransformersRecord("*.encoder.layer.*", to=tmp_path / "s", every=4, probe=probe)
        running = train(tmp_path, model, *[record] * recorded, **settings)
        drawn = (torch.rand(3).tolist(), random.random(), np.random.rand())
        optimizer = running.optimizer.state_dict()["state"]
        moments = [value for state in optimizer.values() for value in state.values()]
        ends.append(([*model.state_dict().values(), *moments, *running.given], drawn))

    (tensors, drawn), (others, also_drawn) = ends
    assert drawn == also_drawn
    assert all(torch.equal(one, two) for one, two in zip(tensors, others, strict=True))
    assert ss.open_store(tmp_path / "s").steps[:2] == (0, 4)


def test_a_probe_shows_the_network_after_so_many_updates(tmp_path):
    expected = {}

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, *, model, **kwargs):
            with torch.no_grad():
                expected[state.global_step] = copy.deepcopy(model).eval()(**PROBE).logits

        on_train_begin = on_step_end

    record = TransformersRecord([LAYER, "classifier"], to=tmp_path / "s", every=4, probe=PROBE)
    train(tmp_path, make(), Look(), record, eval_strategy="steps", eval_steps=1)

    assert ss.open_store(tmp_path / "s").steps == (0, 4, 8)
    for step in (0, 4, 8):
        assert torch.equal(stored(tmp_path / "s", "classifier", step), expected[step])


def test_without_a_probe_the_last_batch_before_an_update_is_kept(tmp_path):
    record = TransformersRecord(INPUT, to=tmp_path / "s", every=3)
    settings = {"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 1}
    running = train(tmp_path, make(), record, **settings)

    assert ss.open_store(tmp_path / "s").steps == (0, 3, 6)
    for step in (0, 3, 6):
        assert torch.equal(stored(tmp_path / "s", INPUT, step), running.given[2 * step + 1])


def test_a_probe_may_be_what_a_tokenizer_gives(tmp_path):
    record = TransformersRecord(LAYER, to=tmp_path / "s", probe=BatchEncoding(dict(PROBE)))
    train(tmp_path, make(), record, max_steps=1)

    assert ss.open_store(tmp_path / "s")[LAYER].shape == (7, 6, 8)


def test_a_site_is_named_from_the_model(tmp_path):
    record = TransformersRecord("encoder.layer.1", to=tmp_path / "s", probe=PROBE)

    with pytest.raises(SiteNotFoundError, match=r"matches 'encoder\.layer\.1'"):
        train(tmp_path, make(), record)


@pytest.mark.parametrize("probe", [PROBE, None], ids=["probe", "batches"])
def test_a_training_that_goes_on_from_a_checkpoint_goes_on_in_the_store(tmp_path, probe):
    def run(**settings):
        record = TransformersRecord(LAYER, to=tmp_path / "s", every=2, probe=probe)
        running = prepare(tmp_path, make(), record, save_strategy="steps", save_steps=4)
        running.train(**settings)
        return running.model.state_dict(), ss.open_store(tmp_path / "s").steps

    whole, steps = run()
    again, same_steps = run(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))

    assert steps == same_steps == ((0, 2, 4, 6, 8) if probe is not None else (0, 2, 4, 6))
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_another_training_is_not_taken_for_the_same(tmp_path):
    train(tmp_path, make(), TransformersRecord(LAYER, to=tmp_path / "s", every=5, probe=PROBE))

    with pytest.raises(StoreError, match=r"already holds step 0.*Pass resume=True"):
        train(tmp_path, make(), TransformersRecord(LAYER, to=tmp_path / "s", probe=PROBE))
    resumed = TransformersRecord(LAYER, to=tmp_path / "s", every=5, probe=PROBE, resume=True)
    with pytest.raises(StoreError, match=r"holds step 5 of another training"):
        train(tmp_path, make(), resumed, gradient_accumulation_steps=2)


class Fail(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise RuntimeError("of the training")


@pytest.mark.parametrize("probe", [PROBE, None], ids=["probe", "batches"])
def test_a_training_that_fails_leaves_whole_steps_and_no_hooks(tmp_path, probe):
    model = make()
    before = count_hooks(model)
    with (
        pytest.raises(RuntimeError, match="of the training"),
        TransformersRecord(LAYER, to=tmp_path / "s", every=2, probe=probe) as record,
    ):
        train(tmp_path, model, Fail(), record)

    assert all(ss.open_store(tmp_path / "s", step=step).complete for step in (0, 2, 4))
    assert count_hooks(model) == before


def test_what_a_failed_training_left_is_closed_by_the_next(tmp_path):
    model = make()
    before = count_hooks(model)
    record = TransformersRecord(LAYER, to=tmp_path / "s", every=2, resume=True)
    with pytest.raises(RuntimeError, match="of the training"):
        train(tmp_path, model, Fail(), record)
    assert count_hooks(model) > before
    train(tmp_path, make(), record)

    assert count_hooks(model) == before
    assert ss.open_store(tmp_path / "s").steps == (0, 2, 4, 6)


def test_checkpoints_and_copies_made_in_the_training_know_nothing_of_it(tmp_path):
    copies = []

    class Save(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, *, model, **kwargs):
            copies.append(copy.deepcopy(model))
            copies.append(pickle.loads(pickle.dumps(model)))

    record = TransformersRecord(LAYER, to=tmp_path / "s", every=1)
    train(tmp_path, make(), record, Save(), max_steps=3, save_strategy="steps", save_steps=3)

    for copied in copies:
        copied(**PROBE)
    assert [ss.open_store(tmp_path / "s", step=step).samples for step in range(3)] == [4] * 3
    assert "Record" not in (tmp_path / "checkpoint-3" / "trainer_state.json").read_text()


def test_a_callback_can_be_pickled_before_and_after_a_training(tmp_path):
    record = pickle.loads(pickle.dumps(TransformersRecord(LAYER, to=tmp_path / "s", probe=PROBE)))
    train(tmp_path, make(), record, max_steps=1)
    pickle.dumps(record)

    assert ss.open_store(tmp_path / "s").steps == (0,)


def test_the_first_process_alone_writes(tmp_path):
    class SecondProcess(Watched):
        def is_world_process_zero(self):
            return False

    record = TransformersRecord(LAYER, to=tmp_path / "s", probe=PROBE)
    train(tmp_path, make(), record, trainer=SecondProcess, max_steps=1)

    assert not (tmp_path / "s").exists()


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 2)

    def forward(self, input_ids, labels=None, **_):
        logits = self.table(input_ids).mean(1)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


@pytest.mark.parametrize("probe", [PROBE, None], ids=["probe", "batches"])
@pytest.mark.parametrize("by", ["trainer", "user"])
def test_a_compiled_model_stays_compiled_beside_a_probe(tmp_path, by, probe):
    torch.compiler.reset()
    counted = torch._dynamo.utils.counters["stats"]
    counted.clear()
    model, settings = Small(), {"max_steps": 4, "remove_unused_columns": False}
    if by == "user":
        model = torch.compile(model, backend="eager")
    else:
        settings |= {"torch_compile": True, "torch_compile_backend": "eager"}
    record = TransformersRecord("table", to=tmp_path / "s", every=2, probe=probe)
    if probe is None:
        with pytest.warns(UserWarning, match="the model is compiled: while its batches"):
            train(tmp_path, model, record, **settings)
    else:
        train(tmp_path, model, record, **settings)

    assert counted["unique_graphs"] == (1 if probe is not None else 0)
    assert ss.open_store(tmp_path / "s").steps[:2] == (0, 2)
