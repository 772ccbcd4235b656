"""A benchmark as a page: Markdown, the same as JSON, and pictures."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stratascope import render
from stratascope.capture import evaluating, tap
from stratascope.seismic._benchmark import Benchmark
from stratascope.seismic._metrics import METRICS
from stratascope.seismic._openfwi import FASTEST, SLOWEST, OpenFWI
from stratascope.seismic._weights import NETWORKS, build_network, read_weights

_NAMES = {"mae": "MAE", "rmse": "RMSE", "ssim": "SSIM", "mae_m_s": "MAE in m/s"}
_SHOWN = 3  # test samples
_WORST = 1500.0  # m/s, where the colours of errors end
_BLOCKS = {"InversionNet": "*", "ReconstructionNet": ["enc.*", "dec.*"]}
_OPENFWI_SAMPLES, _OPENFWI_EPOCHS = 48_000, 120

# Deng et al. 2022, arXiv:2111.02926 (OpenFWI's table of benchmarks), and the evaluation of the
# repository KGML-lab/Generalized-Forward-Inverse-Framework-for-DL4SI.
_PUBLISHED = (
    ("InversionNet, L1 loss, OpenFWI", 0.0260, 0.0650, 0.9566),
    ("InversionNet, L2 loss, OpenFWI", 0.0280, 0.0602, 0.9592),
    ("InversionNet, trained again by others", 0.0328, 0.0592, 0.9695),
    ("VelocityGAN, L1 loss, OpenFWI", 0.0258, 0.0606, 0.9613),
    ("Latent U-Net with 33 M parameters, by others", 0.0180, 0.0412, 0.9800),
)


def write_report(benchmark: Benchmark, data: OpenFWI) -> Path:
    """Write ``report.md``, ``report.json`` and pictures beside the trainings of a benchmark.

    Args:
        benchmark: What to report.
        data: The test samples, of which the first few are drawn.

    Returns:
        The path of ``report.md``.
    """
    pictures = _draw(benchmark, data)
    document = {
        **summarise(benchmark),
        "machine": _machine(),
        "runs": [asdict(run) for run in benchmark.runs],
        "pictures": [path.name for path in pictures],
    }
    text = json.dumps(document, indent=2) + "\n"
    (benchmark.folder / "report.json").write_text(text, encoding="utf-8")
    page = benchmark.folder / "report.md"
    page.write_text(_tell(benchmark, pictures), encoding="utf-8")
    return page


def summarise(benchmark: Benchmark) -> dict[str, Any]:
    """Give what was found as plain values, for JSON."""
    return {
        "settings": benchmark.settings,
        "intervals": {
            network: {metric: asdict(benchmark.interval(network, metric)) for metric in METRICS}
            for network in NETWORKS
        },
        "differences": {metric: asdict(benchmark.difference(metric)) for metric in METRICS},
        "baselines": benchmark.baselines,
        "seconds_per_sample": {name: benchmark.seconds_per_sample(name) for name in NETWORKS},
    }


def tabulate(benchmark: Benchmark) -> tuple[list[str], list[list[str]]]:
    """Give the headings and the rows of a table of the metrics on the test samples."""
    rows = [
        [network, *(str(benchmark.interval(network, metric)) for metric in METRICS)]
        for network in NETWORKS
    ]
    rows.append(
        [
            f"{NETWORKS[1]} less {NETWORKS[0]}, by seed",
            *(str(benchmark.difference(metric)) for metric in METRICS),
        ]
    )
    for name, metrics in benchmark.baselines.items():
        values = [metrics[metric] for metric in METRICS]
        rows.append([f"guess: {name}", *(f"{v:.1f}" if v >= 10 else f"{v:.3f}" for v in values)])
    return ["", *_NAMES.values()], rows


def _tell(benchmark: Benchmark, pictures: Sequence[Path]) -> str:
    parts = [
        "# InversionNet and ReconstructionNet",
        _say_what_it_shows(benchmark),
        _say_how(benchmark),
        "## Test samples",
        _as_markdown(*tabulate(benchmark)),
        "Mean of the seeds, with the 95 % confidence interval of Student's t distribution: it "
        "covers other first weights and other orders of the samples, not other samples. MAE and "
        "RMSE are of maps in [-1, 1]. The weights are those of the epoch with the least MAE on the "
        "validation samples.",
        "## Published figures",
        _as_markdown(
            ["Published, of CurveFault-A", *_NAMES.values()],
            [
                [name, f"{mae:.4f}", f"{rmse:.4f}", f"{ssim:.4f}", f"{mae * _WORST:.1f}"]
                for name, mae, rmse, ssim in _PUBLISHED
            ],
        ),
        f"Not measured here: others trained them with {_OPENFWI_SAMPLES:,} of OpenFWI's own "
        "samples and tested them with 6,000 others. The last column is 1,500 times the first. They "
        "stand here for orientation; nothing above can be compared with them.",
        "## Time",
        _as_markdown(
            ["", "Parameters", "Seconds a sample and step", "5,000 samples", "48,000 samples"],
            [_list_times(benchmark, network) for network in NETWORKS],
        ),
        f"Measured on {_machine()}. The last two are projections of one training of "
        f"{_OPENFWI_EPOCHS} epochs, without validation.",
        "## Pictures",
        *(f"![{path.stem}]({path.name})" for path in pictures),
    ]
    return "\n\n".join(parts) + "\n"


def _say_what_it_shows(benchmark: Benchmark) -> str:
    settings = benchmark.settings
    epochs = sorted({round(run.history[-1]["epoch"], 1) for run in benchmark.runs})
    seen = f"{epochs[0]:g}" if len(epochs) == 1 else f"{epochs[0]:g} to {epochs[-1]:g}"
    share = settings["training_samples"] * epochs[-1] / (_OPENFWI_SAMPLES * _OPENFWI_EPOCHS)
    kind = "simulated samples of the kind of" if settings["simulated"] else "samples of"
    other = "; nor how they do on OpenFWI's own maps, as these are drawn by another generator"
    return (
        f"{settings['training_samples']:,} {kind} {settings['family']}, {seen} epochs, "
        f"{settings['seeds']} seeds, {settings['base_channels']} channels in the first layers, "
        f"{settings['test_samples']:,} test samples. This shows which of the two learns more from "
        "so little in so few steps, and by how much more than a guess that looks at no data. It "
        "cannot show which is better when both are trained as OpenFWI trains, of which this is "
        f"{100 * share:.2g} %{other if settings['simulated'] else ''}."
    )


def _say_how(benchmark: Benchmark) -> str:
    recipe = benchmark.settings["recipe"]
    notes: list[str] = []
    if recipe["warmup_epochs"]:
        notes.append(f"epochs of warm-up: {recipe['warmup_epochs']:g}")
    if recipe["milestones"]:
        after = ", ".join(str(epoch) for epoch in recipe["milestones"])
        notes.append(f"times {recipe['gamma']:g} after epoch {after}")
    rate = f"a learning rate of {recipe['learning_rate']:g}"
    if notes:
        rate += f" ({'; '.join(notes)})"
    return (
        f"Both were trained with AdamW, batches of {recipe['batch_size']}, a weight decay of "
        f"{recipe['weight_decay']:g} and {rate}. The loss is {recipe['l1']:g} x MAE + "
        f"{recipe['l2']:g} x MSE. Validation samples: "
        f"{benchmark.settings['validation_samples']:,}."
    )


def _list_times(benchmark: Benchmark, network: str) -> list[str]:
    seconds = benchmark.seconds_per_sample(network)
    hours = [seconds * samples * _OPENFWI_EPOCHS / 3600 for samples in (5_000, _OPENFWI_SAMPLES)]
    return [
        network,
        f"{benchmark.of(network)[0].parameters:,}",
        f"{seconds:.4f}",
        *(f"{each:,.0f} h" if each >= 10 else f"{each:.1f} h" for each in hours),
    ]


def _as_markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] + ["--:"] * (len(headings) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    threads = torch.get_num_threads()
    return f"{platform.machine()}, {device}, {threads} threads, PyTorch {torch.__version__}"


def _draw(benchmark: Benchmark, data: OpenFWI) -> list[Path]:
    seed = benchmark.runs[0].seed
    models = {network: _load(benchmark, network, seed) for network in NETWORKS}
    files = [_draw_curves(benchmark)]
    for place in range(min(_SHOWN, len(data))):
        files += _draw_maps(benchmark, data, place, models)
    seismic = data[0][0][None]
    for network, model in models.items():
        with evaluating(model), torch.no_grad(), tap(model, _BLOCKS[network]) as acts:
            model(seismic)
        layers = {str(site): acts[site][0].numpy() for site in acts if acts[site][0, 0].numel() > 1}
        picture = render.strip(
            layers, input=seismic[0].numpy(), height=120, title=f"Test sample 0 through {network}"
        )
        path = benchmark.folder / f"layers-{network}.png"
        files.append(render.save(picture, path, network=network, sample=0, seed=seed))
    return files


def _draw_curves(benchmark: Benchmark) -> Path:
    longest = max(len(run.history) for run in benchmark.runs)
    curves = np.full((len(benchmark.runs), longest), np.nan)
    for curve, run in zip(curves, benchmark.runs, strict=True):
        curve[: len(run.history)] = [row["mae"] for row in run.history]
    names = (f"{k} {run.network}, seed {run.seed}" for k, run in enumerate(benchmark.runs))
    picture = render.line(
        curves,
        scale=render.Scale(0, float(np.nanmax(curves))),
        columns=len(NETWORKS),
        title="MAE of the validation samples, epoch by epoch",
        caption="; ".join(names),
    )
    return render.save(picture, benchmark.folder / "training.png")


def _draw_maps(
    benchmark: Benchmark, data: OpenFWI, place: int, models: dict[str, torch.nn.Module]
) -> list[Path]:
    seismic, velocity = data[place]
    true = _in_m_s(data, velocity)
    maps = {"true": true}
    for network, model in models.items():
        with evaluating(model), torch.no_grad():
            maps[network] = _in_m_s(data, model(seismic[None])[0])
    files: list[Path] = []
    for name, panels, scale, title in (
        ("maps", maps, render.Scale(SLOWEST, FASTEST), "Velocity in m/s"),
        (
            "errors",
            {network: maps[network] - true for network in models},
            render.Scale(-_WORST, _WORST, diverging=True),
            "Error of the velocity in m/s",
        ),
    ):
        picture = render.strip(
            panels, single=True, scale=scale, height=210, title=f"{title}, test sample {place}"
        )
        path = benchmark.folder / f"{name}-{place}.png"
        files.append(render.save(picture, path, sample=place))
    return files


def _in_m_s(data: OpenFWI, velocity: torch.Tensor) -> NDArray[np.float32]:
    return data.family.unscale_velocity(velocity)[0].numpy()


def _load(benchmark: Benchmark, network: str, seed: int) -> torch.nn.Module:
    model = build_network(network, benchmark.settings["base_channels"])
    path = benchmark.folder / "runs" / f"{network}-{seed}" / "best.safetensors"
    model.load_state_dict(read_weights(path)[0])
    return model
