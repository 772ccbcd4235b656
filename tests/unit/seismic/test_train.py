import csv
import math

import pytest
import torch
from torch import nn

import stratascope as ss
from stratascope.errors import DataError
from stratascope.seismic import (
    Recipe,
    build_network,
    evaluate,
    hold_out,
    load_weights,
    take_evenly,
    train,
)
from stratascope.seismic._weights import read_weights

FAST = Recipe(epochs=3, batch_size=2, learning_rate=1e-2)


def draw_data(samples, seed=0):
    """Two layers: the shots change their sign at the boundary, and tell how fast the layers are."""
    generator = torch.Generator().manual_seed(seed)
    data = []
    for _ in range(samples):
        fast, depth = torch.rand(2, generator=generator).tolist()
        depth = int(10 + 50 * depth)
        velocity, seismic = torch.full((1, 70, 70), fast - 1), torch.full((5, 64, 70), fast)
        velocity[:, depth:] = fast
        seismic[:, depth * 64 // 70 :] *= -1
        data.append((seismic, velocity))
    return data


class Net(nn.Module):
    """Small and quick, with all that a continued training could get wrong."""

    def __init__(self, channels=4):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(5, channels, 3, stride=(2, 1), padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x):
        y = self.drop(self.norm(self.conv(x)).relu())
        return self.head(nn.functional.interpolate(y, size=(70, 70))).tanh()


@pytest.fixture
def data():
    return draw_data(8)


@pytest.fixture
def validation():
    return draw_data(4, seed=1)


def same_state(first, second):
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def without_seconds(training):
    return [{**row, "seconds": 0} for row in training.history]


def test_training_learns_what_the_mean_map_does_not_tell(tmp_path):
    data, validation = draw_data(24), draw_data(12, seed=1)
    true = torch.stack([velocity for _, velocity in validation])
    mean_map = torch.stack([velocity for _, velocity in data]).mean(0)
    recipe = Recipe(epochs=16, batch_size=4, learning_rate=2e-2)
    ended = train(Net(8), data, validation, to=tmp_path / "run", recipe=recipe)

    assert ended.best["mae"] < 0.5 * (true - mean_map).abs().mean()


def test_the_files_say_what_the_result_says(tmp_path, data, validation):
    seen = []
    ended = train(
        *(Net(), data, validation),
        to=tmp_path / "run",
        recipe=FAST,
        facts={"network": "Net"},
        on_epoch=seen.append,
    )
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = [{name: float(v) for name, v in row.items()} for row in csv.DictReader(file)]

    assert ended.ended == "epochs"
    assert rows == list(ended.history) == seen
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert read_weights(tmp_path / "run" / "best.safetensors")[1] == {
        "network": "Net", **{name: ended.best[name] for name in ("epoch", "step", "mae")},
    }  # fmt: skip


def test_the_best_weights_give_the_best_score(tmp_path, data, validation):
    ended = train(Net(), data, validation, to=tmp_path / "run", recipe=FAST)
    best = Net()
    load_weights(best, tmp_path / "run" / "best.safetensors")

    assert evaluate(best, validation).means()["mae"] == pytest.approx(ended.best["mae"], rel=1e-6)


def test_the_loss_is_that_of_the_recipe(tmp_path, data, validation):
    recipe = Recipe(epochs=1, batch_size=8, l1=0.5, l2=2.0)
    net = Net()
    net.drop.p = 0.0
    seismic, velocity = (torch.stack(part) for part in zip(*data, strict=True))
    difference = net(seismic) - velocity
    expected = 0.5 * difference.abs().mean() + 2 * difference.square().mean()
    net = Net()
    net.drop.p = 0.0

    ended = train(net, data, validation, to=tmp_path / "run", recipe=recipe)
    assert ended.history[0]["loss"] == pytest.approx(expected.item(), rel=1e-3)


def test_a_step_is_that_of_adamw(tmp_path, data, validation):
    recipe = Recipe(epochs=2, batch_size=8, learning_rate=0.01, weight_decay=0.1)
    ours, other = Net(), Net()
    ours.drop.p = other.drop.p = 0.0
    train(ours, data, validation, to=tmp_path / "run", recipe=recipe)
    optimizer = torch.optim.AdamW(other.parameters(), 0.01, (0.9, 0.999), weight_decay=0.1)
    seismic, velocity = (torch.stack(part) for part in zip(*data, strict=True))
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.l1_loss(other(seismic), velocity).backward()
        optimizer.step()

    for name, value in ours.named_parameters():
        # BatchNorm takes a bias before it away, so its gradient is rounding, which Adam enlarges.
        if name != "conv.bias":
            expected = other.get_parameter(name)
            torch.testing.assert_close(value, expected, rtol=1e-2, atol=1e-3)


def test_a_training_resumed_after_an_epoch_is_the_uninterrupted_one(tmp_path, data, validation):
    whole, parts = Net(), Net()
    at_once = train(whole, data, validation, to=tmp_path / "whole", recipe=FAST)
    first = Recipe(epochs=1, batch_size=2, learning_rate=1e-2)
    train(parts, data, validation, to=tmp_path / "parts", recipe=first)
    again = Net()
    resumed = train(again, data, validation, to=tmp_path / "parts", recipe=FAST, resume=True)

    assert same_state(whole, again)
    assert without_seconds(resumed) == without_seconds(at_once)


class Stop(Exception):
    """What kills a training in a test."""


class Fragile:
    """Samples that end the training after so many have been read."""

    def __init__(self, data, reads, end=Stop):
        self.data, self.left, self.end = data, reads, end

    def __len__(self):
        return len(self.data)

    def __getitem__(self, place):
        self.left -= 1
        if self.left < 0:
            raise self.end
        return self.data[place]


@pytest.mark.parametrize("reads", [3, 13, 14, 17])
def test_a_training_killed_within_an_epoch_is_the_uninterrupted_one(
    tmp_path, data, validation, monkeypatch, reads
):
    monkeypatch.setattr("stratascope.seismic._train._SAVE_EVERY_S", 0)
    whole, again = Net(), Net()
    at_once = train(whole, data, validation, to=tmp_path / "whole", recipe=FAST)
    with pytest.raises(Stop):
        train(Net(), Fragile(data, reads), validation, to=tmp_path / "run", recipe=FAST)
    resumed = train(again, data, validation, to=tmp_path / "run", recipe=FAST, resume=True)

    assert same_state(whole, again)
    assert without_seconds(resumed) == without_seconds(at_once)


def test_a_training_that_is_interrupted_says_from_where_it_goes_on(tmp_path, data, validation):
    interrupted = Fragile(data, 14, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(Net(), interrupted, validation, to=tmp_path / "run", recipe=FAST)

    (note,) = caught.value.__notes__
    assert "run holds the training after step 4: the same call with resume=True" in note


def test_two_networks_of_one_seed_are_the_same_and_of_two_are_not(tmp_path, data, validation):
    nets = [Net() for _ in range(3)]
    for place, (net, seed) in enumerate(zip(nets, (5, 5, 6), strict=True)):
        recipe = Recipe(epochs=2, batch_size=2, learning_rate=1e-2, seed=seed)
        torch.manual_seed(place)
        train(net, data, validation, to=tmp_path / str(place), recipe=recipe)

    assert same_state(nets[0], nets[1])
    assert not same_state(nets[0], nets[2])


def test_the_random_numbers_and_the_modes_of_the_caller_are_left_alone(tmp_path, data, validation):
    net = Net()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(net, data, validation, to=tmp_path / "run", recipe=FAST)

    assert torch.rand(4).equal(expected)
    net.train()
    net.norm.eval()
    evaluate(net, data)
    assert (net.training, net.norm.training) == (True, False)


def test_every_sample_is_seen_once_an_epoch_in_another_order(tmp_path, data, validation):
    seen = []

    class Watched(Fragile):
        def __getitem__(self, place):
            seen.append(place)
            return self.data[place]

    train(Net(), Watched(data, 0), validation, to=tmp_path / "run", recipe=FAST)
    epochs = [seen[first : first + 8] for first in range(0, 24, 8)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_training_without_progress_stops_early(tmp_path, data, validation):
    recipe = Recipe(epochs=50, batch_size=2, learning_rate=1e-30, patience=2)
    net = Net()
    net.norm.momentum = 0.0
    ended = train(net, data, validation, to=tmp_path / "run", recipe=recipe)

    assert ended.ended == "patience"
    assert len(ended.history) == 3


def test_a_training_out_of_time_can_go_on(tmp_path, data, validation):
    whole, again = Net(), Net()
    train(whole, data, validation, to=tmp_path / "whole", recipe=FAST)
    stopped = train(Net(), data, validation, to=tmp_path / "run", recipe=FAST, minutes=0)
    resumed = train(again, data, validation, to=tmp_path / "run", recipe=FAST, resume=True)

    assert (stopped.ended, resumed.ended) == ("minutes", "epochs")
    assert [row["epoch"] for row in resumed.history] == [0.25, 1, 2, 3]
    assert same_state(whole, again)


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path, data, validation):
    data[3] = (data[3][0] * math.nan, data[3][1])
    ended = train(Net(), data, validation, to=tmp_path / "run", recipe=FAST)

    assert ended.ended == "diverged"
    assert math.isnan(ended.history[-1]["loss"])


def test_the_learning_rate_warms_up_and_falls_at_milestones(tmp_path, data, validation):
    recipe = Recipe(epochs=4, batch_size=4, learning_rate=0.1, warmup_epochs=2, milestones=(3,))
    ended = train(Net(), data, validation, to=tmp_path / "run", recipe=recipe)
    rates = [row["learning_rate"] for row in ended.history]

    # Each line has the rate of the last of two steps, which began half an epoch before its end.
    assert rates == pytest.approx([0.025, 0.075, 0.1, 0.01], rel=1e-3)


def test_what_layers_make_of_the_same_samples_is_recorded(tmp_path, data, validation):
    net = Net()
    bare = Net()
    train(bare, data, validation, to=tmp_path / "bare", recipe=FAST)
    train(
        *(net, data, validation),
        to=tmp_path / "run",
        recipe=FAST,
        sites=["conv", "head"],
        every=6,
    )
    store = ss.open_store(tmp_path / "run" / "activations.zarr", step=12)

    assert store.steps == (0, 6, 12)
    assert store["head"].shape == (4, 1, 70, 70)
    with torch.no_grad():
        expected = net.eval()(torch.stack([seismic for seismic, _ in validation])).atanh()
    assert store["head"][:] == pytest.approx(expected.numpy(), abs=1e-4)
    assert same_state(net, bare), "recording leaves the training as it was"


def test_recording_goes_on_with_a_killed_training(tmp_path, data, validation):
    settings = {"recipe": FAST, "sites": "conv", "every": 3, "to": tmp_path / "run"}
    with pytest.raises(Stop):
        train(Net(), Fragile(data, 14), validation, **settings)
    train(Net(), data, validation, **settings, resume=True)

    assert ss.open_store(tmp_path / "run" / "activations.zarr").steps == (0, 3, 6, 9, 12)


def test_without_tensorboard_the_table_is_enough(tmp_path, data, validation, monkeypatch):
    monkeypatch.setattr("stratascope.seismic._train.has_tensorboard", lambda: False)
    train(Net(), data, validation, to=tmp_path / "run", recipe=FAST)

    assert (tmp_path / "run" / "metrics.csv").is_file()
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_folder_of_another_training_is_left_alone(tmp_path, data, validation):
    train(Net(), data, validation, to=tmp_path / "run", recipe=FAST)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    other = Recipe(epochs=3, batch_size=2, learning_rate=0.5)
    cases = [
        (Net(), data, FAST, False, r"already holds a training, .*: pass resume=True \(--resume\)"),
        (Net(), data, other, True, r"other settings, .*: learning_rate \(was 0.01, is 0.5\)"),
        (Net(), data[:6], FAST, True, r"other settings, .*: samples \(was 8, is 6\)"),
        (Net(5), data, FAST, True, "must hold the state of this Net, got that of another network"),
    ]
    for net, samples, recipe, resume, message in cases:
        with pytest.raises(DataError, match=message):
            train(net, samples, validation, to=tmp_path / "run", recipe=recipe, resume=resume)

    after = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert after == before


def test_a_checkpoint_that_was_cut_off_is_named(tmp_path, data, validation):
    train(Net(), data, validation, to=tmp_path / "run", recipe=FAST)
    content = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(content[:-900])
    with pytest.raises(DataError, match=r"checkpoint.pt must be a whole file that torch"):
        train(Net(), data, validation, to=tmp_path / "run", recipe=FAST, resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"l1": 0.0}, r"one of them positive, got 0.0 and 0.0"),
        ({"l2": -1.0}, r"must not be negative, .* got 1.0 and -1.0"),
    ],
)
def test_a_recipe_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


def test_too_few_samples_are_refused(tmp_path, data, validation):
    with pytest.raises(DataError, match="at least two samples to train on, got 1"):
        train(Net(), data[:1], validation, to=tmp_path / "run")
    with pytest.raises(DataError, match="at least one sample to evaluate, got none"):
        evaluate(Net(), [])
    with pytest.raises(DataError, match=r"samples must be 1 to 8, .* got 9"):
        take_evenly(data, 9)
    with pytest.raises(DataError, match=r"must leave samples on both sides, got 0.01 of 8"):
        hold_out(data, 0.01)


@pytest.mark.parametrize("share", [0.125, 0.25, 0.5, 0.9])
def test_what_is_held_out_is_not_learned(data, share):
    learned, held = hold_out(range(40), share)

    assert sorted([*learned, *held]) == list(range(40))
    assert len(held) == round(40 * share)


@pytest.mark.parametrize("name", ["InversionNet", "ReconstructionNet"])
def test_both_networks_train(tmp_path, name):
    data = [(torch.randn(5, 1000, 70), torch.zeros(1, 70, 70)) for _ in range(2)]
    recipe = Recipe(epochs=2, batch_size=2, learning_rate=1e-2)
    ended = train(build_network(name, 2), data, data, to=tmp_path / "run", recipe=recipe)

    assert ended.history[1]["loss"] < ended.history[0]["loss"]


def test_tensorboard_shows_the_table(tmp_path, data, validation):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ended = train(Net(), data, validation, to=tmp_path / "run", recipe=FAST)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()

    shown = [(event.step, event.value) for event in events.Scalars("mae")]
    assert [step for step, _ in shown] == [4, 8, 12]
    assert [value for _, value in shown] == pytest.approx([row["mae"] for row in ended.history])
