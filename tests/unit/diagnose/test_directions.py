import numpy as np
import pytest
import torch
from torch import nn

from stratascope.diagnose import random_directions
from stratascope.diagnose._directions import dot


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, groups=2), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 4, 3, groups=2),
        nn.Flatten(), nn.LayerNorm([16]), nn.Linear(16, 5), nn.Embedding(3, 4),
    )  # fmt: skip
    model.register_parameter("bias_map", nn.Parameter(torch.ones(2, 2)))
    return model


def filter_norms(weight, module):
    """The norm of each filter, in plain words: of all weights that make one map of the output."""
    if isinstance(module, nn.ConvTranspose2d):
        inside, across = module.in_channels // module.groups, module.out_channels // module.groups
        return [
            weight[g * inside : (g + 1) * inside, k].norm().item()
            for g in range(module.groups)
            for k in range(across)
        ]
    return [row.norm().item() for row in weight]


@pytest.mark.parametrize("index", [0, 2, 5, 6])
def test_every_filter_of_a_direction_has_the_norm_of_the_filter_that_it_moves(network, index):
    module = network[index]
    for direction in random_directions(network, seed=4).vectors:
        found = filter_norms(direction[f"{index}.weight"], module)

        assert found == pytest.approx(filter_norms(module.weight.detach(), module), rel=1e-5)


def test_biases_and_normalisation_are_not_moved(network):
    for direction in random_directions(network).vectors:
        still = [name for name, value in direction.items() if not value.any()]

        assert still == [
            "bias_map", "0.bias", "1.weight", "1.bias", "2.bias", "4.weight", "4.bias", "5.bias",
        ]  # fmt: skip


def test_a_filter_of_zeros_is_not_moved():
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight[0] = 0
    (direction,) = random_directions(layer, 1).vectors

    assert direction["weight"][0].tolist() == [0, 0, 0]
    assert torch.isfinite(direction["weight"]).all()


def test_by_layer_whole_tensors_have_the_same_norm(network):
    (direction,) = random_directions(network, 1, normalize="layer").vectors

    assert direction["5.weight"].norm().item() == pytest.approx(network[5].weight.norm().item())


def test_without_normalisation_every_parameter_is_moved_by_normal_numbers(network):
    found = random_directions(network, 1, normalize="none")
    numbers = torch.cat([value.flatten() for value in found.vectors[0].values()])

    assert all(value.all() for value in found.vectors[0].values())
    assert numbers.std().item() == pytest.approx(1, abs=0.2)
    assert found.labels == ("random direction 1, absolute",)


def test_large_directions_are_all_but_orthogonal_and_the_cosine_tells():
    model = nn.Linear(200, 100)
    found = random_directions(model)
    first, second = (vector["weight"].double().flatten() for vector in found.vectors)

    assert abs(found.cosine()) < 0.03
    assert found.cosine() == pytest.approx(float(nn.functional.cosine_similarity(first, second, 0)))
    assert random_directions(model, 1).cosine() is None


def test_a_seed_gives_the_same_whatever_was_drawn_before(network):
    first = random_directions(network, seed=7)
    torch.randn(3)
    before = torch.get_rng_state()
    second = random_directions(network, seed=7)

    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(first.vectors, second.vectors, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert dot(first.vectors[0], random_directions(network, seed=8).vectors[0]) != pytest.approx(
        dot(first.vectors[0], first.vectors[0])
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 3}, "count must be 1 for a line or 2 for a plane, got 3"),
        ({"normalize": "filters"}, "normalize must be one of .* Did you mean 'filter'"),
    ],
)
def test_arguments_out_of_range_are_refused(network, arguments, message):
    with pytest.raises(ValueError, match=message):
        random_directions(network, **arguments)


def test_a_model_of_biases_only_is_refused():
    with pytest.raises(ValueError, match="must have a trainable weight of two dimensions or more"):
        random_directions(nn.BatchNorm1d(3))


def test_a_model_without_values_is_refused():
    with pytest.raises(ValueError, match="must have values, got none yet for 'weight'"):
        random_directions(nn.LazyLinear(3))


def test_a_bezier_curve_begins_and_ends_at_its_ends():
    found = random_directions(nn.Linear(2, 2))
    curve = type(found)(found.vectors, ("t",), ((0.0, 1.0),), method="by hand", bend=True)

    assert curve.axes == 1
    assert [curve.weigh([t]) for t in (0.0, 0.5, 1.0)] == [(0, 0), (0.5, 0.25), (0, 1)]
    assert np.isclose(sum(curve.weigh([0.25])), 2 * 0.25 * 0.75 + 0.25**2)
