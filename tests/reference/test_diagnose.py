"""Diagnostics against dense matrices, another library and direct evaluation."""

import numpy as np
import pytest
import torch
from hessian_eigenthings import (
    GGNOperator,
    HessianOperator,
    hutchinson,
    spectral_density,
    supervised_forward,
    supervised_loss,
    supervised_loss_of_output,
)
from torch import nn
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import StructuralSimilarityIndexMeasure
from torchmetrics.regression import MeanSquaredError

from stratascope.diagnose import (
    Directions,
    curvature,
    hessian_directions,
    landscape,
    random_directions,
)
from stratascope.diagnose._xtrace import xtrace
from stratascope.seismic import ReconstructionNet

mse = nn.functional.mse_loss
cross_entropy = nn.functional.cross_entropy


def small_networks():
    """Networks, losses and data of which the whole Hessian can be formed."""
    torch.manual_seed(0)
    smooth = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    convolving = nn.Sequential(
        nn.Conv1d(1, 3, 3, padding=1), nn.BatchNorm1d(3), nn.SiLU(), nn.Dropout(0.5),
        nn.ConvTranspose1d(3, 1, 2, stride=2),
    ).double()  # fmt: skip
    for _ in range(3):
        convolving(torch.randn(8, 1, 6).double())
    x = torch.randn(12, 4).double()
    classes = [(x[:8], torch.arange(8) % 3), (x[8:], torch.arange(4) % 3)]
    signals = torch.randn(6, 1, 6).double()
    pairs = [(signals, torch.randn(6, 1, 12).double())]
    return {
        "classes": (smooth, cross_entropy, classes),
        "convolutions": (convolving, mse, pairs),
    }


NETWORKS = small_networks()


def form_hessian(model, loss, batches):
    """The whole matrix, by torch.autograd.functional.hessian."""
    model = model.eval()
    names = [name for name, _ in model.named_parameters()]
    shapes = [value.shape for value in model.parameters()]
    samples = sum(len(x) for x, _ in batches)

    def evaluate(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        named = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return sum(
            loss(torch.func.functional_call(model, named, (x,)), y) * len(x) / samples
            for x, y in batches
        )

    flat = torch.cat([value.detach().flatten() for value in model.parameters()])
    return torch.autograd.functional.hessian(evaluate, flat).numpy()


def form_gauss_newton(model, loss, batches):
    """The whole matrix, from the whole Jacobian."""
    model = model.eval()
    samples = sum(len(x) for x, _ in batches)
    named = {name: value.detach() for name, value in model.named_parameters()}
    total = 0.0
    for x, y in batches:
        jacobians = torch.func.jacrev(
            lambda values, x=x: torch.func.functional_call(model, values, (x,)).flatten()
        )(named)
        jacobian = torch.cat([value.flatten(1) for value in jacobians.values()], dim=1)
        output = model(x).detach()
        bend = torch.autograd.functional.hessian(
            lambda flat, y=y, shape=output.shape: loss(flat.view(shape), y), output.flatten()
        )
        total = total + jacobian.T @ bend @ jacobian * (len(x) / samples)
    return total.numpy()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("matrix", "form"), [("hessian", form_hessian), ("gauss_newton", form_gauss_newton)]
)
def test_eigenvalues_are_those_of_the_whole_matrix(name, matrix, form):
    whole = form(*NETWORKS[name])
    expected = np.linalg.eigvalsh(whole)[::-1]
    found = curvature(
        *NETWORKS[name], matrix=matrix, top=4, tolerance=1e-8, probes=0, progress=False
    )

    np.testing.assert_allclose(found.eigenvalues, expected[:4], rtol=1e-6)
    assert found.lowest == pytest.approx(expected[-1], abs=1e-6 * expected[0])
    assert (found.residuals <= 1e-8 * expected[0]).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_each_eigenvalue_lies_within_its_residual(name):
    expected = np.linalg.eigvalsh(form_hessian(*NETWORKS[name]))
    found = curvature(*NETWORKS[name], top=3, iterations=12, probes=0, progress=False)

    for value, residual in zip(found.eigenvalues, found.residuals, strict=True):
        assert np.abs(expected - value).min() <= residual + 1e-9


@pytest.mark.parametrize(("trace", "probes"), [("hutchinson", 100), ("xtrace", 15)])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_trace_is_that_of_the_whole_matrix_within_its_error(name, trace, probes):
    whole = form_hessian(*NETWORKS[name])
    settings = {"probes": probes, "depth": 2, "trace": trace, "progress": False}
    found = curvature(*NETWORKS[name], **settings)

    assert abs(found.trace - np.trace(whole)) < 4 * found.trace_error
    assert found.trace_error < 0.2 * abs(np.trace(whole))


def trace_without_each(matrix, probes):
    """XTrace by its definition: a basis for each vector of what the others give."""
    size = len(matrix)
    found = []
    for k, probe in enumerate(probes.T):
        others = np.delete(probes, k, axis=1)
        basis, sizes, _ = np.linalg.svd(matrix @ others, full_matrices=False)
        basis = basis[:, sizes > 1e-10 * np.abs(matrix).max()]
        rest = probe - basis @ (basis.T @ probe)
        rest *= np.sqrt(size - basis.shape[1]) / np.linalg.norm(rest)
        found.append(np.trace(basis.T @ matrix @ basis) + rest @ matrix @ rest)
    return np.array(found)


def draw_matrix(spectrum, *, seed=0):
    generator = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(generator.standard_normal((len(spectrum), len(spectrum))))
    return (turn * spectrum) @ turn.T


SPECTRA = {
    "decaying": 0.7 ** np.arange(60),
    "of two signs": np.linspace(-1, 1, 60) ** 3 + 0.1,
    "of rank 4": np.r_[5.0, 3.0, -2.0, 1.0, np.zeros(56)],
    "of rank 7, one alone": np.r_[1e3, np.ones(6), np.zeros(53)],
}


def estimate(matrix, probes):
    whole = torch.from_numpy(matrix)
    return xtrace(whole.mv, torch.from_numpy(probes), torch.from_numpy(matrix @ probes)).numpy()


@pytest.mark.parametrize("name", SPECTRA)
def test_each_estimate_of_xtrace_is_that_of_its_definition(name):
    matrix = draw_matrix(SPECTRA[name])
    probes = np.random.default_rng(1).standard_normal((60, 8))
    found = estimate(matrix, probes)

    np.testing.assert_allclose(found, trace_without_each(matrix, probes), rtol=1e-8)
    if "rank" in name:
        np.testing.assert_allclose(found, SPECTRA[name].sum(), rtol=1e-8)


def test_xtrace_knows_what_only_one_of_its_vectors_sees():
    # The first and the second product are alike, and nothing but the third has the last axis.
    matrix = np.diag([3.0, 0.0, 0.0, 7.0])
    probes = np.array([[1.0, 2.0, 0.0], [1.0, -1.0, 1.0], [0.5, 1.0, 2.0], [0.0, 0.0, 1.0]])
    found = estimate(matrix, probes)

    np.testing.assert_allclose(found, trace_without_each(matrix, probes))
    assert found[:2].tolist() == pytest.approx([10, 10])
    assert estimate(np.zeros((4, 4)), probes).tolist() == [0, 0, 0]


def test_xtrace_is_unbiased_and_sure_where_a_spectrum_decays():
    matrix = draw_matrix(SPECTRA["decaying"])
    generator = np.random.default_rng(2)
    runs = np.array([estimate(matrix, generator.standard_normal((60, 10))) for _ in range(300)])
    means, true = runs.mean(axis=1), np.trace(matrix)
    signs = generator.choice([-1.0, 1.0], (300, 60, 20))
    hutchinson = np.einsum("rik,ij,rjk->r", signs, matrix, signs) / 20
    spread = np.sqrt(np.mean((means - true) ** 2))

    assert abs(means.mean() - true) < 4 * spread / 300**0.5
    # Both take 20 products.
    assert spread < 0.2 * np.sqrt(np.mean((hutchinson - true) ** 2))
    assert np.sqrt(np.mean(runs.var(axis=1, ddof=1) / 10)) == pytest.approx(spread, rel=0.4)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_density_has_the_moments_of_the_whole_matrix_within_their_errors(name):
    expected = np.linalg.eigvalsh(form_hessian(*NETWORKS[name]))
    found = curvature(*NETWORKS[name], probes=60, depth=6, progress=False)
    for power in (1, 2, 3, 4):
        each = (found.weights * found.nodes**power).sum(axis=1)
        error = each.std(ddof=1) / len(each) ** 0.5

        assert abs(each.mean() - (expected**power).mean()) < 4 * error
        assert error < 0.3 * abs((expected**power).mean())


def test_eigenvectors_are_those_of_the_whole_matrix():
    model, loss, batches = NETWORKS["classes"]
    _, vectors = np.linalg.eigh(form_hessian(model, loss, batches))
    found = hessian_directions(model, loss, batches, tolerance=1e-8)

    for k, vector in enumerate(found.vectors):
        flat = torch.cat([value.flatten() for value in vector.values()]).numpy()
        assert abs(flat @ vectors[:, -1 - k]) == pytest.approx(1, abs=1e-6)


# Its Gauss-Newton products load decompositions that torch still scripts.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_those_of_hessian_eigenthings(name):
    from stratascope.diagnose._operators import LossAt

    model, loss, batches = NETWORKS[name]
    model.eval()
    at = LossAt(model, loss, batches, "frozen")
    vector = torch.randn(at.size, generator=torch.Generator().manual_seed(0)).double()
    # It averages batches without their sizes: one batch at a time.
    for batch in batches:
        one = LossAt(model, loss, [batch], "frozen")
        hessian = HessianOperator(model, [batch], supervised_loss(loss))
        gauss_newton = GGNOperator(
            model, [batch], supervised_forward, supervised_loss_of_output(loss)
        )

        torch.testing.assert_close(one.hessian(vector), hessian.matvec(vector))
        torch.testing.assert_close(one.gauss_newton(vector), gauss_newton.matvec(vector))


def test_trace_and_density_agree_with_those_of_hessian_eigenthings():
    model, loss, batches = NETWORKS["convolutions"]
    model.eval()
    operator = HessianOperator(model, batches, supervised_loss(loss))
    theirs = hutchinson(operator, num_samples=100, seed=1)
    density = spectral_density(operator, num_runs=30, lanczos_steps=12, seed=1)
    found = curvature(model, loss, batches, probes=60, depth=12, trace="hutchinson", progress=False)
    middle = found.eigenvalues[0] / 2
    own = found.weights[found.nodes > middle].sum() / len(found.nodes)
    their_nodes, their_weights = density.raw_eigenvalues.numpy(), density.raw_weights.numpy()
    other = their_weights[their_nodes > middle].sum() / their_weights.sum()

    assert found.trace == pytest.approx(float(theirs.estimate), abs=5 * found.trace_error)
    assert own == pytest.approx(other, rel=0.3)


def narrow_well(output, _):
    """A shallow bowl with a well of width 0.1 at (0.37, -0.61), which no coarse grid hits."""
    a, b = output.flatten()
    well = torch.exp(-((a - 0.37) ** 2 + (b + 0.61) ** 2) / 0.02)
    return 1 + (a * a + b * b) / 10 - well


def narrow_peak(output, target):
    return -narrow_well(output, target)


def test_a_refined_grid_finds_a_narrow_minimum_with_few_of_the_points_of_the_fine_one():
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    data = [(torch.eye(2, dtype=torch.float64), torch.zeros(2, 1))]
    directions = Directions(
        tuple({"weight": row[None]} for row in torch.eye(2).double()),
        ("a", "b"), ((-1.0, 1.0),) * 2, method="the weights",
    )  # fmt: skip
    metrics = {"well": narrow_well, "peak": narrow_peak}

    def measure(*names, **settings):
        chosen = {name: metrics[name] for name in names}
        return landscape(model, chosen, data, directions=directions, progress=False, **settings)

    plain, fine = (measure("well", "peak", steps=steps) for steps in (5, 17))
    assert np.abs(np.subtract(plain.lowest("well")[0], (0.37, -0.61))).max() > 0.1
    for name in metrics:
        refined = measure(name, steps=5, refine=2)
        measured = refined.rounds >= 0
        found = refined.lowest("well") if name == "well" else refined.highest("peak")

        np.testing.assert_array_equal(refined.axes, fine.axes)
        np.testing.assert_array_equal(refined[name][::4, ::4], plain[name])
        np.testing.assert_array_equal(refined[name][measured], fine[name][measured])
        assert np.isnan(refined[name][~measured]).all()
        assert found[0] == fine.lowest("well")[0]
        assert np.abs(np.subtract(found[0], (0.37, -0.61))).max() < 1 / 16
        # The grid, and two rounds around three places.
        assert measured.sum() <= 25 + 2 * 48 < fine[name].size / 2


def ssim(output, target):
    return structural_similarity_index_measure(output, target, data_range=2.0)


def test_surfaces_of_a_reconstruction_are_those_of_direct_evaluation():
    torch.manual_seed(0)
    model = ReconstructionNet(base_channels=2)
    images = torch.rand(6, 1, 32, 32) * 2 - 1
    for _ in range(3):
        model(images)
    batches = [(images[:4], images[:4]), (images[4:], images[4:])]
    metrics = {
        "mae": nn.functional.l1_loss,
        "ssim": ssim,
        "ssim over all": StructuralSimilarityIndexMeasure(data_range=2.0),
        "rmse": MeanSquaredError(squared=False),
    }
    directions = random_directions(model, seed=2)
    found = landscape(
        model, metrics, batches, directions=directions, steps=3, span=0.5, progress=False
    )
    assert found.settings["folded"] == 12
    for i, a in enumerate(found.axes[0]):
        for k, b in enumerate(found.axes[1]):
            moved = {
                name: value + a * directions.vectors[0][name] + b * directions.vectors[1][name]
                for name, value in model.named_parameters()
            }
            with torch.no_grad():
                output = torch.func.functional_call(model.eval(), moved, (images,))
            expected = {
                "mae": float((output - images).abs().mean()),
                "ssim": float(ssim(output, images)),
                "ssim over all": float(ssim(output, images)),
                "rmse": float((output - images).square().mean().sqrt()),
            }
            for name, value in expected.items():
                assert found[name][i, k] == pytest.approx(value, rel=1e-4, abs=1e-6)
