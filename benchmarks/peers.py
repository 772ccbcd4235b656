"""The ways in which other packages, and a few lines by hand, do what the benchmark asks for."""

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from networks import CONVOLUTIONS, EVERYTHING, MIDDLE, Case

# The wheel on PyPI declares operators that only a CUDA build of torch has. What is used of it is
# Python, which needs none of them.
sys.modules.setdefault("torchvision._meta_registrations", ModuleType("_meta_registrations"))

Run = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to do a task.

    Attributes:
        task: What it is for.
        name: What it is called.
        prepare: Attaches what stays attached to the model of a case, whose modules are its own, and
            gives the run that is timed.
        read: Finds the tensors in what a run gives: by the names of their modules, or in any order
            where the task is everything. None where a run gives nothing to compare.
        package: The package that it is a part of; ``""`` for Stratascope and for a few lines.
    """

    task: str
    name: str
    prepare: Callable[[Case], Run]
    read: Callable[[Any], dict[str, Tensor] | Iterable[Any]] | None = dict
    package: str = ""

    def find_version(self) -> str | None:
        """Find the version of the package: None where it is not installed."""
        try:
            return metadata.version(self.package) if self.package else ""
        except metadata.PackageNotFoundError:
            return None


def hook(case: Case, keep: Callable[[Tensor], Tensor], task: str = CONVOLUTIONS) -> Run:
    """Attach hooks, as one writes them by hand, that keep all outputs of a task."""
    kept: dict[str, Tensor] = {}

    def take(name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        # A module that runs again must not take the place of its first call.
        kept[f"{name}@{len(kept)}" if name in kept else name] = keep(output)

    for name, module in case.find_modules(task).items():
        module.register_forward_hook(partial(take, name))

    def run() -> dict[str, Tensor]:
        case.model(case.x)
        found = kept.copy()
        kept.clear()
        return found

    return run


def _refer(tensor: Tensor) -> Tensor:
    return tensor


def _copy_bytes(case: Case) -> Run:
    outputs = hook(case, _refer)()
    return lambda: [output.clone() for output in outputs.values()]


class _RecordingMode(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.outputs.append(func(*args, **(kwargs or {})))
        return self.outputs[-1]


def _dispatch(case: Case) -> Run:
    def run() -> list[Any]:
        with _RecordingMode() as mode:
            case.model(case.x)
        return mode.outputs

    return run


class _RecordingInterpreter(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.outputs: list[Any] = []

    def run_node(self, n: fx.Node) -> Any:
        self.outputs.append(super().run_node(n))
        return self.outputs[-1]


def _interpret(case: Case) -> Run:
    graph = fx.symbolic_trace(case.model)

    def run() -> list[Any]:
        interpreter = _RecordingInterpreter(graph)
        interpreter.run(case.x)
        return interpreter.outputs

    return run


def _torchvision(case: Case, task: str) -> Run:
    from torchvision.models.feature_extraction import create_feature_extractor

    extractor = create_feature_extractor(case.model, list(case.find_modules(task)))
    return lambda: extractor(case.x)


def _timm(case: Case) -> Run:
    from timm.models._features import FeatureHooks

    hooks = FeatureHooks(list(case.find_modules(CONVOLUTIONS)), case.model.named_modules())

    def run() -> Any:
        case.model(case.x)
        return hooks.get_output(case.x.device)

    return run


def _captum(case: Case) -> Run:
    from captum.attr import LayerActivation

    layers = case.find_modules(CONVOLUTIONS)
    activation = LayerActivation(case.model, list(layers.values()))
    return lambda: dict(zip(layers, activation.attribute(case.x), strict=True))


def _torchextractor(case: Case) -> Run:
    import torchextractor

    extractor = torchextractor.Extractor(case.model, list(case.find_modules(CONVOLUTIONS)))

    def run() -> dict[str, Tensor]:
        extractor(case.x)
        found = extractor.collect().copy()
        extractor.clear_placeholder()
        return found

    return run


def _nnsight(case: Case) -> Run:
    from nnsight import NNsight

    model = NNsight(case.model)
    paths = {f"model.{name}": name for name in case.find_modules(CONVOLUTIONS)}

    def run() -> dict[str, Tensor]:
        with model.trace(case.x) as tracer:
            cache = tracer.cache(modules=list(paths))
        return {name: cache[path].output for path, name in paths.items()}

    return run


def _tdhook(case: Case) -> Run:
    from tdhook.latent import ActivationCaching
    from tensordict import TensorDict

    pattern = "|".join(f"{re.escape(name)}$" for name in case.find_modules(CONVOLUTIONS))
    hooked = ActivationCaching(pattern).prepare(case.model).__enter__()
    return lambda: hooked(TensorDict({"input": case.x}, batch_size=len(case.x)))["cache"]


def _torchlens(case: Case, do: Callable[[Any, Case], Any]) -> Run:
    import torchlens

    return partial(do, torchlens, case)


def _record_convolutions(torchlens: Any, case: Case) -> Any:
    kinds = ("conv1d", "conv2d", "conv_transpose2d")
    wanted = torchlens.func(kinds[0]) | torchlens.func(kinds[1]) | torchlens.func(kinds[2])
    return torchlens.record(case.model, case.x, save=wanted)


def _extract_convolutions(torchlens: Any, case: Case) -> Any:
    return torchlens.extract(case.model, case.x, {n: n for n in case.find_modules(CONVOLUTIONS)})


def _record_everything(torchlens: Any, case: Case) -> Any:
    return torchlens.record(case.model, case.x, default_op=True)


def _trace(torchlens: Any, case: Case) -> Any:
    return torchlens.trace(case.model, case.x)


def _read_addresses(recording: Any) -> dict[str, Tensor]:
    places = recording.by_address.items()
    return {name: recording.records[place].ram_payload for name, (place,) in places}


def _read_records(recording: Any) -> list[Any]:
    return [record.ram_payload for record in recording.records]


def _read_operations(trace: Any) -> list[Any]:
    return [operation.out for operation in trace.ops]


# The first of each task is what the others are compared with, beside the plain forward.
BY_HAND = (
    Way(CONVOLUTIONS, "hooks, references", partial(hook, keep=_refer)),
    Way(CONVOLUTIONS, "hooks, clones", partial(hook, keep=torch.clone)),
    Way(CONVOLUTIONS, "only a copy of their bytes", _copy_bytes, read=None),
    Way(EVERYTHING, "TorchDispatchMode, references", _dispatch, tree_leaves),
    Way(EVERYTHING, "fx.Interpreter, references", _interpret, tree_leaves),
    Way(MIDDLE, "cut by hand", lambda case: lambda: {case.middle: case.model.run_half(case.x)}),
)
PEERS = (
    Way(
        CONVOLUTIONS,
        "create_feature_extractor",
        partial(_torchvision, task=CONVOLUTIONS),
        package="torchvision",
    ),
    Way(CONVOLUTIONS, "FeatureHooks", _timm, package="timm"),
    Way(CONVOLUTIONS, "LayerActivation", _captum, package="captum"),
    Way(CONVOLUTIONS, "Extractor", _torchextractor, package="torchextractor"),
    Way(CONVOLUTIONS, "tracer.cache", _nnsight, package="nnsight"),
    Way(
        CONVOLUTIONS,
        "ActivationCaching",
        _tdhook,
        lambda cache: dict(cache.items()),
        package="tdhook",
    ),
    Way(
        CONVOLUTIONS,
        "record",
        partial(_torchlens, do=_record_convolutions),
        _read_addresses,
        package="torchlens",
    ),
    Way(
        CONVOLUTIONS,
        "extract",
        partial(_torchlens, do=_extract_convolutions),
        package="torchlens",
    ),
    Way(
        EVERYTHING,
        "record",
        partial(_torchlens, do=_record_everything),
        _read_records,
        package="torchlens",
    ),
    Way(
        EVERYTHING,
        "trace",
        partial(_torchlens, do=_trace),
        _read_operations,
        package="torchlens",
    ),
    Way(
        MIDDLE,
        "create_feature_extractor",
        partial(_torchvision, task=MIDDLE),
        package="torchvision",
    ),
)
