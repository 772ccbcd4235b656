import itertools

import pytest
import torch
from torch import nn

from stratascope.cli import _demo_models
from stratascope.cli._demo_models import FiveConvs, train
from stratascope.seismic import ReconstructionNet


@pytest.fixture
def twenty_steps_a_second(monkeypatch):
    """A clock by which each step takes a twentieth of a second, however busy the machine is."""
    monkeypatch.setattr(_demo_models, "perf_counter", itertools.count(step=0.05).__next__)


class Small(nn.Module):
    def __init__(self, out_channels=1):
        super().__init__()
        self.conv = nn.Conv1d(1, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, x):
        return self.norm(self.conv(x))


def waves(count=64, length=64):
    generator = torch.Generator().manual_seed(0)
    phase = 6 * torch.rand((count, 1, 1), generator=generator)
    return torch.sin(torch.linspace(0, 12, length) + phase) * 1.4


def test_five_convolutions_have_16_to_256_filters():
    convolutions = [m for m in FiveConvs().modules() if isinstance(m, nn.Conv1d)]

    assert [m.out_channels for m in convolutions] == [16, 32, 64, 128, 256]
    assert {(m.kernel_size, m.padding) for m in convolutions} == {((3,), (1,))}


def test_each_convolution_of_the_encoder_is_followed_by_a_relu_that_keeps_its_input():
    encoder = FiveConvs().encoder

    assert [type(layer) for layer in encoder] == [nn.Conv1d, nn.ReLU] * 5
    assert not any(layer.inplace for layer in encoder[1::2])


def test_the_signal_keeps_its_length():
    for length in (1, 255, 256):
        assert FiveConvs()(torch.zeros(2, 1, length)).shape == (2, 1, length)


@pytest.mark.usefixtures("twenty_steps_a_second")
def test_training_explains_most_of_the_signals():
    model = FiveConvs()

    result = train(model, waves(), seconds=0.99, seed=0)

    assert result.steps == 20
    assert result.losses[-1] < 0.5 * result.losses[0]
    assert 0.5 < result.explained <= 1


@pytest.mark.usefixtures("twenty_steps_a_second")
def test_a_reconstruction_net_learns_images():
    images = torch.nn.functional.interpolate(waves(8, 64)[:, :, None], (64, 64))

    result = train(ReconstructionNet(base_channels=2), images, seconds=0.99, seed=0)

    assert result.losses[-1] < result.losses[0]


def test_training_takes_about_the_time_given():
    result = train(Small(), waves(), seconds=0.2, seed=0)

    assert 0.2 <= result.seconds < 5
    assert result.steps == len(result.losses)


def test_a_step_is_made_however_short_the_time():
    assert train(Small(), waves(), seconds=1e-9, seed=0).steps == 1


def test_the_model_is_left_in_eval_mode():
    model = Small()
    train(model, waves(), seconds=0.01, seed=0)

    assert not any(module.training for module in model.modules())


def test_the_same_seed_gives_the_same_steps():
    first, second = Small(), Small()
    losses = train(first, waves(), seconds=1e-9, seed=3).losses

    assert train(second, waves(), seconds=1e-9, seed=3).losses == losses
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert train(second, waves(), seconds=1e-9, seed=4).losses != losses


def test_training_again_starts_from_new_weights():
    model = Small()
    once = train(model, waves(), seconds=0.1, seed=0)

    assert train(model, waves(), seconds=0.1, seed=0).losses[0] == once.losses[0]


def test_the_random_state_of_the_caller_is_left_as_it_was():
    model, inputs = Small(), waves()
    before = torch.get_rng_state()

    train(model, inputs, seconds=0.01, seed=0)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("twenty_steps_a_second")
def test_progress_is_told_after_each_step_and_ends_at_one():
    told = []

    result = train(
        Small(), waves(), seconds=0.1, seed=0, progress=lambda *values: told.append(values)
    )

    assert tuple(loss for _, loss in told) == result.losses
    parts = [part for part, _ in told]
    assert parts == pytest.approx([0.5, 1.0])


@pytest.mark.usefixtures("twenty_steps_a_second")
def test_every_sample_is_used_before_one_is_used_again():
    seen = []

    class Spy(Small):
        def forward(self, x):
            if self.training:
                seen.append(x[:, 0, 0])
            return super().forward(x)

    inputs = torch.arange(40.0)[:, None, None].repeat(1, 1, 8)
    train(Spy(), inputs, seconds=0.2, seed=0)

    assert [len(batch) for batch in seen[:2]] == [32, 8]
    assert sorted(torch.cat(seen[:2]).tolist()) == list(range(40))


def test_a_perfect_model_explains_everything():
    class Same(Small):
        def forward(self, x):
            return x + 0 * self.conv(x)

    assert train(Same(), waves(300), seconds=1e-9, seed=0).explained == 1.0


@pytest.mark.parametrize(
    ("model", "inputs", "seconds", "message"),
    [
        (Small(), torch.zeros(4, 1, 8), 0, "seconds must be more than 0, got 0"),
        (Small(), torch.zeros(0, 1, 8), 1, r"inputs must hold a sample, got shape \(0, 1, 8\)"),
        (Small(2), torch.zeros(4, 1, 8), 1, r"shape of its input, \(4, 1, 8\), got \(4, 2, 8\)"),
    ],
)
def test_training_refuses_what_it_cannot_use(model, inputs, seconds, message):
    with pytest.raises(ValueError, match=message):
        train(model, inputs, seconds=seconds, seed=0)
