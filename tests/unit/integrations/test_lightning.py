import copy
import os
import pickle
import random
from unittest import mock

import lightning as L
import numpy as np
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import distributed, nn
from torch.utils.data import DataLoader, TensorDataset

import stratascope as ss
from stratascope.errors import CaptureError, SiteNotFoundError, StoreError
from stratascope.integrations import LightningRecord
from stratascope.integrations._session import check_whole

PROBE = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))


class Steps:
    """What a module of either framework does: it calls its parts, and never itself."""

    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self.head(self.enc(x) + self.enc(x)), y)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class Parts(Steps, L.LightningModule):
    pass


class Net(Parts):
    """Draws random numbers in its steps, and keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.given = []

    def forward(self, x):
        return self.head(self.enc(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x + 0.1 * torch.randn_like(x) + 0.01 * random.random() + 0.01 * np.random.rand()
        self.given.append(x)
        return nn.functional.cross_entropy(self(x), y)


class Validated(Net):
    """Has a validation too."""

    def validation_step(self, batch, batch_idx):
        self(batch[0])


def make(kind=Net):
    L.seed_everything(0, verbose=False)
    return kind()


def loader(shuffle=True):
    drawn = torch.Generator().manual_seed(2)
    data = TensorDataset(torch.randn(24, 5, generator=drawn), torch.arange(24) % 2)
    return DataLoader(data, batch_size=4, shuffle=shuffle)


def fit(model, *callbacks, framework=L, shuffle=True, val=False, ckpt_path=None, **settings):
    settings = {"max_epochs": 2, "enable_checkpointing": False, **settings}
    running = framework.Trainer(
        callbacks=list(callbacks),
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    validated = loader(shuffle=False) if val else None
    running.fit(model, loader(shuffle), validated, ckpt_path=ckpt_path)
    return running


def stored(path, site, step):
    return torch.from_numpy(ss.open_store(path, step=step)[site][:])


def count_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("probe", [PROBE, None], ids=["probe", "batches"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulate_grad_batches": 2, "val_check_interval": 2}, {"precision": "bf16-mixed"}],
    ids=["plain", "accumulated", "bfloat16"],
)
def test_a_training_is_bit_for_bit_the_same_with_and_without_it(tmp_path, probe, settings):
    ends = []
    for recorded in (False, True):
        model = make(Validated)
        record = LightningRecord(["enc.1", "head"], to=tmp_path / "s", every=4, probe=probe)
        running = fit(model, *[record] * recorded, val=True, **settings)
        drawn = (torch.rand(3).tolist(), random.random(), np.random.rand())
        optimizer = running.optimizers[0].state_dict()["state"]
        moments = [value for state in optimizer.values() for value in state.values()]
        ends.append(([*model.state_dict().values(), *moments, *model.given], drawn))

    (tensors, drawn), (others, also_drawn) = ends
    assert drawn == also_drawn
    assert all(torch.equal(one, two) for one, two in zip(tensors, others, strict=True))
    assert ss.open_store(tmp_path / "s").steps[:2] == (0, 4)


def test_steps_are_those_of_the_optimizer(tmp_path):
    record = LightningRecord("enc.0", to=tmp_path / "s", every=2, probe=PROBE)
    running = fit(make(), record, accumulate_grad_batches=3, max_epochs=3)

    assert running.global_step == 6
    assert ss.open_store(tmp_path / "s").steps == (0, 2, 4, 6)


def test_a_probe_shows_the_network_after_so_many_updates(tmp_path):
    expected = {}

    class Look(L.Callback):
        def on_train_start(self, trainer, pl_module):
            self.on_train_batch_end(trainer, pl_module)

        def on_train_batch_end(self, trainer, pl_module, *_):
            with torch.no_grad():
                expected[trainer.global_step] = copy.deepcopy(pl_module).eval()(PROBE)

    record = LightningRecord(["enc.0", "head"], to=tmp_path / "s", every=4, probe=PROBE)
    fit(make(Validated), Look(), record, val=True)

    assert ss.open_store(tmp_path / "s").steps == (0, 4, 8, 12)
    for step in (0, 4, 8, 12):
        assert torch.equal(stored(tmp_path / "s", "head", step), expected[step])


def test_without_a_probe_the_last_batch_before_an_update_is_kept(tmp_path):
    model = make(Validated)
    record = LightningRecord("enc:in", to=tmp_path / "s", every=2)
    fit(model, record, val=True, accumulate_grad_batches=2, val_check_interval=1)

    assert ss.open_store(tmp_path / "s").steps == (0, 2, 4)
    for step in (0, 2, 4):
        assert torch.equal(stored(tmp_path / "s", "enc:in", step), model.given[2 * step + 1])


def test_a_training_step_that_calls_only_parts_of_the_module_is_one_forward(tmp_path):
    record = LightningRecord(["enc.0", "enc.1@-1"], to=tmp_path / "s", every=4)
    model = make(Parts)
    running = fit(model, record)

    assert ss.open_store(tmp_path / "s").steps == (0, 4, 8)
    assert list(ss.open_store(tmp_path / "s")) == ["enc.0@1", "enc.0@2", "enc.1@2"]
    assert "forward" not in vars(model)
    assert running.strategy.training_step.__self__ is running.strategy


def test_a_probe_needs_a_forward(tmp_path):
    record = LightningRecord("enc.0", to=tmp_path / "s", probe=PROBE)

    with pytest.raises(CaptureError, match=r"needs a LightningModule with a forward, got Parts"):
        fit(make(Parts), record)


def test_a_site_is_named_from_the_module(tmp_path):
    record = LightningRecord("model.enc", to=tmp_path / "s", probe=PROBE)

    with pytest.raises(SiteNotFoundError, match=r"matches 'model\.enc'"):
        fit(make(), record)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
@pytest.mark.parametrize("probe", [PROBE, None], ids=["probe", "batches"])
def test_a_training_that_goes_on_from_a_checkpoint_goes_on_in_the_store(tmp_path, probe):
    def run(epochs, ckpt_path=None):
        record = LightningRecord("enc.0", to=tmp_path / "s", every=2, probe=probe)
        saved = ModelCheckpoint(tmp_path / "saved", filename="{step}")
        settings = {"max_epochs": epochs, "enable_checkpointing": True}
        fit(make(), record, saved, ckpt_path=ckpt_path, **settings)
        return ss.open_store(tmp_path / "s").steps

    before = run(1)
    after = run(2, ckpt_path=tmp_path / "saved" / "step=6.ckpt")

    assert before == ((0, 2, 4, 6) if probe is not None else (0, 2, 4))
    assert after == ((0, 2, 4, 6, 8, 10, 12) if probe is not None else (0, 2, 4, 6, 8, 10))


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_the_batch_after_a_checkpoint_may_be_another_one_than_before(tmp_path):
    def run(ckpt_path=None):
        record = LightningRecord("enc.0", to=tmp_path / "s", every=3)
        saved = ModelCheckpoint(tmp_path / "saved", filename="{step}", every_n_train_steps=3)
        settings = {"max_steps": 4, "max_epochs": -1, "enable_checkpointing": True}
        fit(make(), record, saved, ckpt_path=ckpt_path, **settings)
        return stored(tmp_path / "s", "enc.0", 3)

    before = run()
    after = run(ckpt_path=tmp_path / "saved" / "step=3.ckpt")

    assert torch.equal(before, after)


def test_another_training_is_not_taken_for_the_same(tmp_path):
    fit(make(), LightningRecord("enc.0", to=tmp_path / "s", every=5, probe=PROBE))

    with pytest.raises(StoreError, match=r"already holds step 0.*Pass resume=True"):
        fit(make(), LightningRecord("enc.0", to=tmp_path / "s", every=5, probe=PROBE))
    resumed = LightningRecord("enc.0", to=tmp_path / "s", every=5, probe=PROBE, resume=True)
    with pytest.raises(StoreError, match=r"holds step 5 of another training"):
        fit(make(), resumed, accumulate_grad_batches=2)


@pytest.mark.parametrize("probe", [PROBE, None], ids=["probe", "batches"])
def test_a_training_that_fails_leaves_whole_steps_and_no_hooks(tmp_path, probe):
    class Fail(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, *_):
            if trainer.global_step == 5:
                raise RuntimeError("of the training")

    model = make()
    before = count_hooks(model)
    record = LightningRecord("enc.0", to=tmp_path / "s", every=2, probe=probe)
    with pytest.raises(RuntimeError, match="of the training"):
        fit(model, Fail(), record)

    assert ss.open_store(tmp_path / "s").steps == (0, 2, 4)
    assert all(ss.open_store(tmp_path / "s", step=step).complete for step in (0, 2, 4))
    assert count_hooks(model) == before


def test_one_callback_serves_one_training_after_another(tmp_path):
    model = make()
    record = LightningRecord("enc.0", to=tmp_path / "s", every=4, probe=PROBE)
    running = fit(model, record)
    running.fit_loop.max_epochs = 4
    running.fit(model, loader())

    assert ss.open_store(tmp_path / "s").steps == (0, 4, 8, 12, 16, 20, 24)


def test_checkpoints_and_copies_made_in_the_training_know_nothing_of_it(tmp_path):
    copies = []

    class Save(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            copies.append(copy.deepcopy(pl_module))
            copies.append(pickle.loads(pickle.dumps(pl_module)))
            trainer.save_checkpoint(tmp_path / "now.ckpt")

    record = LightningRecord("enc.0", to=tmp_path / "s", every=1)
    fit(make(), record, Save(), max_epochs=1, limit_train_batches=3)

    saved = torch.load(tmp_path / "now.ckpt", weights_only=True)
    assert not any("Record" in key for key in saved["callbacks"])
    for copied in copies:
        copied.training_step((PROBE, torch.zeros(7, dtype=torch.long)), 0)
    assert [ss.open_store(tmp_path / "s", step=step).samples for step in range(3)] == [4] * 3


def test_a_callback_can_be_pickled_before_and_after_a_training(tmp_path):
    record = pickle.loads(pickle.dumps(LightningRecord("enc.0", to=tmp_path / "s", probe=PROBE)))
    fit(make(), record)
    pickle.dumps(record)

    assert ss.open_store(tmp_path / "s").steps == (0,)


class Two(Net):
    """Two optimizers, each for a part that runs just before it."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        encoded = self.enc(batch[0])
        for optimizer, part in zip(self.optimizers(), (self.enc, self.head), strict=True):
            optimizer.zero_grad()
            made = encoded if part is self.enc else self.head(encoded.detach())
            self.manual_backward(made.square().mean())
            if batch_idx % 2:
                optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.enc, self.head)]


@pytest.mark.parametrize("probe", [PROBE, None], ids=["probe", "batches"])
def test_the_steps_of_several_optimizers_count_together(tmp_path, probe):
    record = LightningRecord(["enc.0", "head"], to=tmp_path / "s", every=4, probe=probe)
    running = fit(make(Two), record)

    assert running.global_step == 12
    assert ss.open_store(tmp_path / "s").steps == ((0, 4, 8) if probe is None else (0, 4, 8, 12))
    assert list(ss.open_store(tmp_path / "s")) == ["enc.0", "head"]


class Repeated(Net):
    """An optimizer that asks for the gradients several times a step."""

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), max_iter=3)


def test_an_optimizer_that_asks_repeatedly_makes_one_step(tmp_path):
    model = make(Repeated)
    record = LightningRecord("enc:in", to=tmp_path / "s", every=1)
    fit(model, record, max_epochs=1, limit_train_batches=3)

    assert ss.open_store(tmp_path / "s").steps == (0, 1, 2)
    assert torch.equal(stored(tmp_path / "s", "enc:in", 0), model.given[0])


def test_a_try_writes_nothing(tmp_path):
    fit(make(), LightningRecord("enc.0", to=tmp_path / "s", probe=PROBE), fast_dev_run=True)

    assert not (tmp_path / "s").exists()


class SecondProcess(SingleDeviceStrategy):
    is_global_zero = False


def test_the_first_process_alone_writes(tmp_path):
    record = LightningRecord("enc.0", to=tmp_path / "s", probe=PROBE)
    fit(make(), record, strategy=SecondProcess(device="cpu"))

    assert not (tmp_path / "s").exists()


@pytest.fixture
def no_process_group():
    """Take away what training by several processes leaves in this one."""
    with mock.patch.dict(os.environ):
        yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


@pytest.mark.usefixtures("no_process_group")
def test_a_wrapped_module_gives_what_it_gives_alone(tmp_path):
    for strategy in ("auto", "ddp"):
        record = LightningRecord(["enc:in", "**"], to=tmp_path / strategy, every=8)
        fit(make(Parts), record, shuffle=False, strategy=strategy, use_distributed_sampler=False)

    alone, wrapped = (ss.open_store(tmp_path / strategy, step=8) for strategy in ("auto", "ddp"))
    assert list(alone) == list(wrapped)
    np.testing.assert_array_equal(alone["enc@2:in"][:], wrapped["enc@2:in"][:])


@pytest.fixture
def process_group(no_process_group):
    """A group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("probe", [PROBE, None], ids=["probe", "batches"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_a_module_that_fully_shard_has_spread_is_recorded(tmp_path, first, probe):
    model = make()
    mesh = distributed.init_device_mesh("cpu", (1,))
    for part in (model.enc, model.head, model):
        distributed.fsdp.fully_shard(part, mesh=mesh)
    record = LightningRecord(["enc.0", "head"], to=tmp_path / "s", every=8, probe=probe)
    fit(model, record, strategy="auto" if first else SecondProcess(device="cpu"))

    if first:
        assert ss.open_store(tmp_path / "s").steps == (0, 8)
    else:
        assert not (tmp_path / "s").exists()


class OldShards(distributed.fsdp.FullyShardedDataParallel):
    """Is one by its class alone: to make one takes a GPU."""

    __init__ = nn.Module.__init__
    __getattr__ = nn.Module.__getattr__


@pytest.mark.usefixtures("process_group")
def test_a_module_that_is_spread_by_other_means_is_refused(tmp_path):
    model = make()
    model.head.weight.ds_id = 0
    with pytest.raises(CaptureError, match=r"over processes by DeepSpeed's stage 3: train it"):
        fit(model, LightningRecord("enc.0", to=tmp_path / "s"))

    with pytest.raises(CaptureError, match=r"over processes by FullyShardedDataParallel: train it"):
        check_whole(nn.Sequential(OldShards()))


class Plain(Parts):
    """Draws no random numbers of Python's or NumPy's, which would not be compiled."""

    def forward(self, x):
        return self.head(self.enc(x))


@pytest.mark.parametrize("probe", [PROBE, None], ids=["probe", "batches"])
def test_a_compiled_module_stays_compiled_beside_a_probe(tmp_path, probe):
    graphs = []
    torch.compiler.reset()
    compiled = torch.compile(
        make(Plain), backend=lambda graph, _: graphs.append(graph) or graph.forward
    )
    record = LightningRecord("enc.0", to=tmp_path / "s", every=4, probe=probe)
    if probe is None:
        with pytest.warns(UserWarning, match="the model is compiled: while its batches"):
            fit(compiled, record)
    else:
        fit(compiled, record)

    assert len(graphs) == (1 if probe is not None else 0)
    assert ss.open_store(tmp_path / "s").steps[:3] == (0, 4, 8)


def test_a_trainer_of_pytorch_lightning_takes_it(tmp_path):
    class Other(Steps, pytorch_lightning.LightningModule):
        pass

    record = LightningRecord("enc.0@1", to=tmp_path / "s", every=4)
    fit(make(Other), record, framework=pytorch_lightning)
    assert ss.open_store(tmp_path / "s").steps == (0, 4, 8)

    record = LightningRecord("enc.0", to=tmp_path / "other", probe=PROBE)
    with pytest.raises(CaptureError, match="needs a LightningModule with a forward, got Other"):
        fit(make(Other), record, framework=pytorch_lightning)
