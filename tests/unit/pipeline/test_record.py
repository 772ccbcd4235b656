import contextlib
import copy
import json
import pickle
import random
import resource

import numpy as np
import pytest
import torch
from torch import nn

import stratascope as ss
from stratascope.errors import CaptureError, DataError, SiteNotFoundError, StoreError

PROBE = torch.randn(10, 2, 12, generator=torch.Generator().manual_seed(1))
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]


class Restless(nn.Module):
    """Draws random numbers and counts, in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        drawn = torch.rand(1, device=x.device) + random.random() + float(np.random.rand())
        return x + 1e-3 * drawn * self.calls


def net(device="cpu"):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 5, 3),
        nn.BatchNorm1d(5),
        nn.ReLU(inplace=True),
        nn.Dropout(0.4),
        Restless(),
        nn.Flatten(),
        nn.Linear(50, 3),
    )
    return model.to(device)


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU())


def seed(number):
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def train(model, steps, rec=None, autocast=False, size=6):
    """Train for some steps; give the losses and the batches."""
    device = next(model.parameters()).device
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses, batches = [], []
    for step in steps:
        batches.append(torch.randn(size, 2, 12, device=device))
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss = model(batches[-1]).float().square().mean()
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=False)
            if rec is not None:
                rec.step(step)
        losses.append(loss.item())
    return losses, batches


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("probed", [True, False])
def test_a_training_is_bit_for_bit_the_same_with_and_without_it(tmp_path, device, autocast, probed):
    ends = []
    for recorded in (False, True):
        model = net(device)
        model[5].eval()  # a mixture of modes
        seed(3)
        rec = contextlib.nullcontext()
        if recorded:
            probe = PROBE if probed else None
            rec = ss.record(model, "**", to=tmp_path / "s", every=2, probe=probe)
        with rec as running:
            losses, _ = train(model, range(9), running, autocast)
        flags = [module.training for module in model.modules()]
        drawn = (torch.rand(2), random.random(), np.random.rand())
        ends.append((losses, list(model.state_dict().values()), flags, drawn))

    (losses, state, flags, drawn), others = ends
    assert (losses, flags, drawn[1:]) == (others[0], others[2], others[3][1:])
    assert all(torch.equal(one, two) for one, two in zip(state, others[1], strict=True))
    assert torch.equal(drawn[0], others[3][0])
    assert ss.open_store(tmp_path / "s").steps == (0, 2, 4, 6, 8)


def test_batch_norm_in_training_keeps_its_statistics(tmp_path):
    model = net()
    rec = ss.record(model, "1", to=tmp_path / "s", probe=PROBE)
    before = copy.deepcopy(model.state_dict())
    rec.step(0)
    rec.close()

    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_a_probe_shows_the_model_of_each_step_as_evaluated(tmp_path):
    model = small()
    expected = {}
    with ss.record(model, ["0", "1"], to=tmp_path / "s", every=3, probe=PROBE) as rec:
        for step in range(7):
            train(model, [0])
            rec.step(step)
            with torch.no_grad():
                expected[step] = model(PROBE).numpy()

    assert rec.steps == (0, 3, 6)
    fingerprints = set()
    for step in rec.steps:
        store = ss.open_store(tmp_path / "s", step=step)
        np.testing.assert_array_equal(store["1"][:], expected[step])
        assert store.complete
        fingerprints.add(store.settings["model"]["parameters"])
    assert len(fingerprints) == 3


def test_the_probe_runs_outside_autocast_and_in_float32(tmp_path):
    model = small()
    rec = ss.record(model, "0", to=tmp_path / "s", probe=PROBE)
    with torch.autocast("cpu", torch.bfloat16):
        rec.step(0)
        assert torch.is_autocast_enabled("cpu")
    rec.close()

    assert ss.open_store(tmp_path / "s")["0"].source_dtype == "float32"


@pytest.mark.parametrize(
    "probe",
    [PROBE, (PROBE, torch.zeros(10)), [PROBE], {"input": PROBE}, PROBE.numpy()],
    ids=["tensor", "pair", "list", "dict", "array"],
)
def test_a_probe_is_what_a_loader_gives(tmp_path, probe):
    with ss.record(small(), "0", to=tmp_path / "s", probe=probe) as rec:
        rec.step(0)

    with torch.no_grad():
        expected = small()[0](PROBE).numpy()
    np.testing.assert_array_equal(ss.open_store(tmp_path / "s")["0"][:], expected)


def test_a_probe_that_is_changed_afterwards_stays_what_it_was(tmp_path):
    probe = PROBE.clone()
    with ss.record(small(), "0:in", to=tmp_path / "s", every=1, probe=probe) as rec:
        rec.step(0)
        probe.zero_()
        rec.step(1)

    np.testing.assert_array_equal(ss.open_store(tmp_path / "s")["0:in"][:], PROBE.numpy())


def test_without_a_probe_the_batch_before_a_due_step_is_kept(tmp_path):
    model = small()
    with ss.record(model, "0:in", to=tmp_path / "s", every=4) as rec:
        _, batches = train(model, range(9), rec)

    assert rec.steps == (0, 4, 8)
    for step in rec.steps:
        stored = ss.open_store(tmp_path / "s", step=step)["0:in"][:]
        np.testing.assert_array_equal(stored, batches[step].numpy())


def test_without_a_probe_batches_may_differ_in_size(tmp_path):
    model = small()
    with ss.record(model, "1", to=tmp_path / "s", every=1) as rec:
        train(model, [0], rec, size=6)
        train(model, [1], rec, size=70)

    assert [ss.open_store(tmp_path / "s", step=step).samples for step in (0, 1)] == [6, 70]


def test_nothing_is_captured_while_no_step_is_due(tmp_path):
    seen = []
    model = small()

    def look(value):
        seen.append(True)
        return value

    with ss.record(model, "0", to=tmp_path / "s", every=5, transform=look) as rec:
        train(model, range(11), rec)

    assert len(seen) == len(rec.steps) == 3


def test_steps_that_jump_evenly_are_foreseen(tmp_path):
    model = small()
    with ss.record(model, "0:in", to=tmp_path / "s", every=10) as rec:
        train(model, range(0, 43, 7), rec)

    # The first jump was no news yet at the second step.
    assert rec.steps == (0, 14, 21, 35, 42)


def test_a_step_that_falls_due_unexpectedly_is_made_up_for_at_the_next(tmp_path):
    model = small()
    with ss.record(model, "0:in", to=tmp_path / "s", every=10) as rec:
        train(model, [0, 1, 25, 26], rec)

    assert rec.steps == (0, 26)


def test_with_a_probe_a_jump_is_recorded_where_it_lands(tmp_path):
    with ss.record(small(), "0", to=tmp_path / "s", every=10, probe=PROBE) as rec:
        for step in (0, 1, 25, 26, 30):
            rec.step(step)

    assert rec.steps == (0, 25, 30)


def test_type_and_transform_are_those_of_the_store(tmp_path):
    def pool(value):
        return value.mean(-1)

    settings = {"dtype": "float16", "transform": pool, "probe": PROBE}
    with ss.record(small(), "1", to=tmp_path / "s", **settings) as rec:
        rec.step(0)

    stored = ss.open_store(tmp_path / "s")["1"]
    assert (stored.shape, str(stored.dtype)) == ((10, 4), "float16")


def test_a_step_that_is_held_is_left_alone(tmp_path):
    with ss.record(small(), "0", to=tmp_path / "s", probe=PROBE) as rec:
        rec.step(0)
    again = ss.record(small(), "0", to=tmp_path / "s", probe=PROBE)

    with pytest.raises(StoreError, match=r"already holds step 0 \(complete\).*Pass resume=True"):
        again.step(0)
    again.close()


def test_a_training_that_goes_on_from_a_checkpoint_passes_over_what_is_held(tmp_path):
    def run(first, last, model, resume=False):
        settings = {"every": 2, "probe": PROBE, "resume": resume}
        with ss.record(model, "0", to=tmp_path / "s", **settings) as rec:
            for step in range(first, last):
                seed(step)
                if step == 3:
                    checkpoint = copy.deepcopy(model)
                train(model, [step], rec)
        return rec.steps, checkpoint

    _, checkpoint = run(0, 6, small())
    steps, _ = run(3, 9, checkpoint, resume=True)

    assert steps == (6, 8)
    assert ss.open_store(tmp_path / "s").steps == (0, 2, 4, 6, 8)


def test_another_training_is_not_taken_for_the_same(tmp_path):
    with ss.record(small(), "0", to=tmp_path / "s", probe=PROBE) as rec:
        rec.step(0)
    other = small()
    train(other, [0])
    again = ss.record(other, "0", to=tmp_path / "s", probe=PROBE, resume=True)

    with pytest.raises(StoreError, match=r"another training.*the model's parameters changed"):
        again.step(0)
    again.close()


def test_a_step_that_was_cut_off_is_written_again(tmp_path):
    for resume in (False, True):
        with ss.record(small(), "0", to=tmp_path / "s", probe=PROBE, resume=resume) as rec:
            rec.step(0)
        if not resume:
            for name in ("complete.json", "u00000000.json"):
                (tmp_path / "s" / "commits" / "0" / name).unlink()
            assert not ss.open_store(tmp_path / "s").complete

    store = ss.open_store(tmp_path / "s")
    assert store.complete
    assert store["0"][:].shape == (10, 4, 10)


def test_a_step_of_other_shapes_is_not_mixed_with_what_was_cut_off(tmp_path):
    with ss.record(small(), "0", to=tmp_path / "s", probe=PROBE) as rec:
        rec.step(0)
    commits = tmp_path / "s" / "commits" / "0"
    (commits / "complete.json").unlink()
    spec = json.loads((commits / "spec.json").read_text())
    spec["arrays"][0]["shape"] = [4, 11]
    (commits / "spec.json").write_text(json.dumps(spec))
    again = ss.record(small(), "0", to=tmp_path / "s", probe=PROBE, resume=True)

    with pytest.raises(StoreError, match="the shapes or types at the sites changed"):
        again.step(0)
    again.close()


def test_an_error_in_writing_comes_out_at_the_next_step_or_at_the_end(tmp_path):
    rec = ss.record(small(), "0", to=tmp_path / "s", every=1, probe=PROBE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with _small_files(limits):
        rec.step(0)
        with pytest.raises(StoreError, match="is full for so large a file"):
            rec.step(1)
        rec.step(2)
        with pytest.raises(StoreError, match="is full for so large a file"):
            rec.close()
    rec.close()


@contextlib.contextmanager
def _small_files(limits):
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_an_error_of_the_training_goes_first(tmp_path):
    model = small()

    def run():
        with ss.record(model, "0", to=tmp_path / "s", probe=PROBE) as rec:
            rec.step(0)
            raise RuntimeError("of the training")

    with pytest.raises(RuntimeError, match="of the training"):
        run()
    assert ss.open_store(tmp_path / "s").complete


def test_no_hook_stays(tmp_path):
    model = small()
    with ss.record(model, "**", to=tmp_path / "s") as rec:
        train(model, range(3), rec)

    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in model.modules()]
    assert not any(before or after for before, after in hooks)


def test_a_closed_record_takes_no_more(tmp_path):
    rec = ss.record(small(), "0", to=tmp_path / "s", probe=PROBE)
    rec.close()
    rec.close()

    with pytest.raises(StoreError, match="is closed: make a new one"):
        rec.step(0)


@pytest.mark.parametrize("probe", [None, PROBE])
def test_a_site_that_never_runs_is_told_at_the_due_step(tmp_path, probe):
    model = small()
    model.unused = nn.Sequential(nn.Linear(1, 1))
    model.forward = lambda x: model[0](x)
    with ss.record(model, "unused.0", to=tmp_path / "s", probe=probe) as rec:
        model(PROBE)
        with pytest.raises(CaptureError, match=r"nothing was captured at 'unused\.0'"):
            rec.step(0)


def test_a_training_that_calls_only_parts_of_the_model_is_told_so(tmp_path):
    model = small()
    with ss.record(model, "0", to=tmp_path / "s", every=10) as rec:
        model[1](model[0](PROBE))
        rec.step(0)
        model[1](model[0](PROBE))
        with pytest.raises(CaptureError, match=r"call the model itself.*not before step 1: record"):
            rec.step(1)


def test_a_copy_of_a_model_that_is_recorded_is_not_recorded(tmp_path):
    model = small()
    with ss.record(model, "0:in", to=tmp_path / "s", every=1) as rec:
        model(PROBE)
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            copied(PROBE[:3])
        rec.step(0)

    np.testing.assert_array_equal(ss.open_store(tmp_path / "s")["0:in"][:], PROBE.numpy())


def test_what_cannot_be_stored_is_left_out_with_a_note(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Flatten(0))
    rec = ss.record(model, "**", to=tmp_path / "s", probe=PROBE)
    with pytest.warns(UserWarning, match="not stored: 1/activation"):
        rec.step(0)
    rec.close()

    assert list(ss.open_store(tmp_path / "s")) == ["0"]


def test_batches_without_tensors_need_a_probe(tmp_path):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat = nn.Flatten()

        def forward(self, words):
            return self.flat(torch.zeros(len(words), 2))

    model = Words()
    rec = ss.record(model, "flat", to=tmp_path / "s")
    model(["a", "b"])
    with pytest.raises(DataError, match="record with a probe"):
        rec.step(0)
    rec.close()


def test_wrong_arguments_are_told_at_once(tmp_path):
    def record(sites="0", to=tmp_path / "s", **settings):
        return ss.record(small(), sites, to=to, **settings)

    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="every must be a whole number from 1, got 0"):
        record(every=0)
    with pytest.raises(SiteNotFoundError, match="matches 'encoder'"):
        record("encoder")
    with pytest.raises(CaptureError, match=r"gradients with stratascope\.tap"):
        record("0:grad")
    with pytest.raises(StoreError, match="is not a stratascope store"):
        record(to=tmp_path / "taken")
    with pytest.raises(ValueError, match="dtype must be a floating-point type"):
        record(dtype="int8")
    with pytest.raises(DataError, match="the probe must have at least one sample"):
        record(probe=PROBE[:0])
    with pytest.raises(DataError, match="a batch must be a tensor"):
        record(probe="PROBE")
    with pytest.raises(ValueError, match="global_step must not be negative, got -1"):
        record(probe=PROBE).step(-1)


def test_a_probe_that_does_not_fit_is_told_with_its_shape(tmp_path):
    rec = ss.record(small(), "0", to=tmp_path / "s", probe=PROBE[:, :1])

    with pytest.raises(DataError, match=r"float32 \(10, 1, 12\)"):
        rec.step(0)
    rec.close()


@pytest.mark.filterwarnings("ignore:the model is compiled")
def test_a_compiled_training_stays_compiled_beside_a_probe(tmp_path):
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    ends = []
    for recorded in (False, True):
        torch.compiler.reset()
        graphs.clear()
        model = torch.compile(net()[:4], backend=count)
        seed(5)
        rec = contextlib.nullcontext()
        if recorded:
            rec = ss.record(model, "0", to=tmp_path / "s", every=2, probe=PROBE)
        with rec as running:
            losses, _ = train(model, range(6), running)
        ends.append((losses, len(graphs)))

    assert ends[0] == ends[1]
    assert ss.open_store(tmp_path / "s").steps == (0, 2, 4)


def test_a_probe_fills_no_cache_of_what_was_compiled(tmp_path):
    compiled = []
    model = net()
    model[0].forward = torch.compile(
        model[0].forward, backend=lambda graph, _: compiled.append(graph) or graph.forward
    )
    with ss.record(model, "0", to=tmp_path / "s", every=2, probe=PROBE) as rec:
        train(model, range(6), rec)

    assert len(compiled) == 1


@pytest.mark.parametrize("probe", [PROBE, None], ids=["probe", "batches"])
def test_each_step_keeps_the_command_that_made_it(tmp_path, monkeypatch, probe):
    monkeypatch.setattr("sys.argv", ["train.py", "--rate", "0.1"])
    model = small()
    with ss.record(model, "0", to=tmp_path / "s", every=1, probe=probe) as rec:
        model(PROBE)
        rec.step(0)

    known = ss.open_store(tmp_path / "s").provenance
    assert known["command"] == "train.py --rate 0.1"
    assert known["versions"]["torch"] == torch.__version__


class Takes(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, ids, *, mask=None, **more):
        return self.inner(ids if mask is None else ids * more["weights"])


def test_a_probe_with_other_arguments_than_the_network_takes_is_refused_at_once(tmp_path):
    probe = {"idx": torch.ones(2, 3)}
    with pytest.raises(
        DataError, match=r"arguments of Takes.forward, got idx = float32 \(2, 3\): missing .*'ids'"
    ):
        ss.record(Takes(), "inner", to=tmp_path / "s", probe=probe)
    with pytest.raises(
        DataError, match=r"Bilinear.forward, got float32 \(2, 3\): missing .*input2"
    ):
        ss.record(nn.Bilinear(3, 3, 2), "", to=tmp_path / "s", probe=torch.ones(2, 3))


def test_a_key_that_the_network_misses_in_a_probe_is_told(tmp_path):
    probe = {"ids": torch.ones(2, 3), "mask": torch.ones(2, 3)}
    rec = ss.record(Takes(), "inner", to=tmp_path / "s", probe=probe)
    with pytest.raises(
        DataError, match=r"ids = float32 \(2, 3\), mask = float32 \(2, 3\): 'weights'"
    ):
        rec.step(0)
    rec.close()
