"""Optimizers by name: what each needs, its parameter groups, and one step of any of them."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stratascope._optional import require
from stratascope.diagnose._lamb import Lamb
from stratascope.diagnose._muon import Muon
from stratascope.errors import DataError
from stratascope.sites import suggest

Sees = Literal["gradient", "gradient history", "curvature"]

_UNDECAYED = (
    nn.modules.batchnorm._NormBase,  # pyright: ignore[reportPrivateUsage]
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.Embedding,
)


@dataclass(frozen=True, slots=True)
class OptimizerKind:
    """What an optimizer is and what it needs.

    Attributes:
        name: What `optimizer` calls it.
        sees: ``gradient`` for first-order methods that use the gradient, also scaled coordinate by
            coordinate or layer by layer by what it was; ``gradient history`` for those that turn it
            by second moments between coordinates, which stand for curvature; ``curvature`` for
            those that use differences or products of Hessians.
        paper: Where it is described.
        closure: Whether its step computes the loss anew, as often as it likes.
        create_graph: Whether it differentiates the gradients once more.

    >>> describe_optimizer("adahessian").create_graph
    True
    """

    name: str
    sees: Sees
    paper: str
    closure: bool
    create_graph: bool


_PAPERS: list[tuple[str, Sees, str]] = [
    ("sgd", "gradient", "Robbins & Monro (1951); momentum: Polyak (1964)"),
    ("adamw", "gradient", "Loshchilov & Hutter (2019), arXiv:1711.05101"),
    ("lamb", "gradient", "You et al. (2020), arXiv:1904.00962"),
    ("lion", "gradient", "Chen et al. (2023), arXiv:2302.06675"),
    ("prodigy", "gradient", "Mishchenko & Defazio (2024), arXiv:2306.06101"),
    ("muon", "gradient", "Jordan et al. (2024), https://kellerjordan.github.io/posts/muon"),
    ("shampoo", "gradient history", "Anil et al. (2020), arXiv:2002.09018"),
    ("soap", "gradient history", "Vyas et al. (2025), arXiv:2409.11321"),
    ("kron", "gradient history", "Li (2018), arXiv:1512.04202"),
    ("lbfgs", "curvature", "Liu & Nocedal (1989), doi:10.1007/BF01589116"),
    ("adahessian", "curvature", "Yao et al. (2021), arXiv:2006.00719"),
    ("sophiah", "curvature", "Liu et al. (2024), arXiv:2305.14342"),
]
_KINDS = {
    name: OptimizerKind(name, sees, paper, name == "lbfgs", name in ("adahessian", "sophiah"))
    for name, sees, paper in _PAPERS
}
_CLASSES: dict[str, Callable[..., Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adamw": torch.optim.AdamW,
    "lbfgs": torch.optim.LBFGS,
    "lamb": Lamb,
    "muon": Muon,
}
_BORROWED = {
    "lion": "Lion",
    "prodigy": "Prodigy",
    "shampoo": "ScalableShampoo",
    "soap": "SOAP",
    "kron": "Kron",
    "adahessian": "AdaHessian",
    "sophiah": "SophiaH",
}
_DIFFERENTIATED = [_BORROWED[name] for name, kind in _KINDS.items() if kind.create_graph]
# Where a class's own values would surprise, or cost more than they bring.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9},
    "lbfgs": {"line_search_fn": "strong_wolfe"},
    "shampoo": {
        "preconditioning_compute_steps": 10,
        "block_size": 256,
        # Else weights of fewer values than a block would be left to plain gradient descent.
        "shape_interpretation": False,
        "decoupled_weight_decay": True,
    },
    "soap": {"max_precondition_dim": 2048},
}
_PLAIN: dict[str, dict[str, Any]] = {"lamb": {"adapt": False}, "muon": {"orthogonal": False}}


def describe_optimizer(name: str) -> OptimizerKind:
    """Say what an optimizer is and what it needs.

    Args:
        name: One of those of `optimizer`.

    Raises:
        DataError: There is none of that name.

    >>> describe_optimizer("lbfgs").closure, describe_optimizer("lamb").sees
    (True, 'gradient')
    """
    kind = _KINDS.get(name.casefold())
    if kind is None:
        raise DataError(
            f"the optimizer must be one of {', '.join(_KINDS)}, got {name!r}: choose one, or build "
            f"another with its own class.{suggest(name, _KINDS)}"
        )
    return kind


def optimizer(
    name: str,
    params: nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]],
    lr: float,
    *,
    weight_decay: float = 0.0,
    **settings: Any,
) -> Optimizer:
    """Build an optimizer by name, with sensible parameter groups.

    Biases, embeddings, what normalisation has and all else of fewer than two dimensions get no
    weight decay, no trust ratio of LAMB and no orthogonal step of Muon; the last are AdamW's for
    them. Frozen parameters are left out.

    ``sgd``, ``adamw`` and ``lbfgs`` are PyTorch's, ``lamb`` and ``muon`` those of this package, and
    ``lion``, ``prodigy``, ``shampoo`` (of Anil et al., with grafting), ``soap``, ``kron``,
    ``adahessian`` and ``sophiah`` those of pytorch-optimizer (extra ``diagnose``). SGD has a
    momentum of 0.9, L-BFGS a strong-Wolfe line search, Shampoo one preconditioner for each
    dimension, new at every tenth step, SOAP none for dimensions above 2048, unless the settings say
    otherwise. The first step of SOAP prepares it and changes no parameter. SophiaH bounds the
    change of a parameter in a step to ``p * lr``, with ``p=0.01``, so that its rates are large.

    Args:
        name: Which one.
        params: The model, or its parameters, with or without names.
        lr: Learning rate.
        weight_decay: Weight decay of the parameters that get it; ``lbfgs`` takes none.
        settings: What else the optimizer's class takes.

    Raises:
        DataError: There is none of that name, no trainable parameter, or a setting that it cannot
            use on these parameters.
        MissingExtraError: It needs pytorch-optimizer, or ``kron`` opt_einsum.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> lamb = optimizer("lamb", net, lr=0.01, weight_decay=0.1)
    >>> [(group["param_names"], group["weight_decay"]) for group in lamb.param_groups]
    [(['0.weight'], 0.1), (['0.bias', '1.weight', '1.bias'], 0.0)]
    """
    kind = describe_optimizer(name)
    build = _CLASSES.get(kind.name)
    if build is None:
        build = getattr(require("pytorch_optimizer", extra="diagnose"), _BORROWED[kind.name])
    decayed, others = _part_parameters(params)
    known = inspect.signature(build).parameters
    for setting in settings:
        # Most classes of pytorch-optimizer take any, and ignore it.
        if setting not in known:
            raise DataError(f"{name} has no setting {setting!r}.{suggest(setting, known)}")
    settings = _DEFAULTS.get(kind.name, {}) | settings
    if kind.name == "lbfgs":
        if weight_decay:
            raise DataError(
                f"lbfgs must have weight_decay=0, got {weight_decay}: add the penalty to the loss"
            )
        return build([param for _, param in decayed + others], lr=lr, **settings)
    if kind.name == "kron":
        # Without it torch multiplies the factors with each other first, into the full matrix.
        require("opt_einsum", extra="diagnose")
    if settings.get("merge_dims"):
        raise DataError(
            "soap must have merge_dims=False, got True: pytorch-optimizer 4.1 fails with it on "
            "parameters of fewer values than max_precondition_dim"
        )
    groups = [{"params": decayed, "weight_decay": weight_decay}]
    groups.append({"params": others, "weight_decay": 0.0, **_PLAIN.get(kind.name, {})})
    return build([group for group in groups if group["params"]], lr=lr, **settings)


def take_step(optimizer: Optimizer, compute_loss: Callable[[], Tensor]) -> float:
    """Take one step of any optimizer, in the way that it needs, and give the loss before it.

    Gradients are cleared, then computed; twice differentiable where the optimizer's kind wants
    that and this step uses it. L-BFGS computes the loss as often as it likes. Afterwards gradients
    that hold on to a graph are dropped.

    Args:
        optimizer: The optimizer.
        compute_loss: Runs the model and gives its loss, a scalar, without going backward.

    Raises:
        DataError: The loss is no scalar.

    >>> net = nn.Linear(2, 1)
    >>> sgd = optimizer("sgd", net, lr=0.1)
    >>> losses = [take_step(sgd, lambda: net(torch.ones(1, 2)).square().sum()) for _ in range(9)]
    >>> losses[-1] < losses[0]
    True
    """
    name = type(optimizer).__name__
    keeps_graph = name in _DIFFERENTIATED and _is_due(optimizer)
    first: list[float] = []

    def compute() -> Tensor:
        loss = compute_loss()
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            given = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise DataError(f"the loss must be a tensor of one value, got {given}: take its mean")
        first.append(loss.item()) if not first else None
        optimizer.zero_grad()
        if keeps_graph:
            _keep_gradients(optimizer, loss)
        else:
            loss.backward()
        return loss

    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step(compute)
    else:
        compute()
        optimizer.step()
    if keeps_graph:
        optimizer.zero_grad()
    return first[0]


def _part_parameters(
    params: nn.Module | Iterable[Any],
) -> tuple[list[tuple[str, Tensor]], list[tuple[str, Tensor]]]:
    """Part parameters into those with weight decay and those without."""
    undecayed: set[int] = set()
    if isinstance(params, nn.Module):
        undecayed = {
            id(param)
            for module in params.modules()
            for name, param in module.named_parameters(recurse=False)
            if isinstance(module, _UNDECAYED) or name.startswith("bias")
        }
        listed: list[Any] = list(params.named_parameters())
    else:
        listed = list(params)
    named = [one if isinstance(one, tuple) else (str(n), one) for n, one in enumerate(listed)]
    for _, param in named:
        if not isinstance(param, Tensor):
            raise DataError(
                "params must be a model or tensors, with or without names, got "
                f"{type(param).__name__}: to choose the groups, build the optimizer's own class"
            )
    trainable = [(name, param) for name, param in named if param.requires_grad]
    if not trainable:
        raise DataError(
            f"an optimizer must have parameters to train, got none of {len(named)} that requires a "
            "gradient: unfreeze some with requires_grad_(True)"
        )
    decayed = [one for one in trainable if one[1].ndim >= 2 and id(one[1]) not in undecayed]
    kept = {id(param) for _, param in decayed}
    return decayed, [one for one in trainable if id(one[1]) not in kept]


def _is_due(optimizer: Optimizer) -> bool:
    """Whether the next step of an optimizer estimates curvature anew."""
    period = getattr(optimizer, "update_period", 1)
    return optimizer.param_groups[0].get("step", 0) % period == 0


def _keep_gradients(optimizer: Optimizer, loss: Tensor) -> None:
    # backward(create_graph=True) would tie each parameter and its gradient in a cycle that only
    # the garbage collector ends, and warn about it.
    params = [param for group in optimizer.param_groups for param in group["params"]]
    grads = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
