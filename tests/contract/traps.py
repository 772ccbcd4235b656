"""What makes captures wrong: each trap in one line, and which routes have no answer to it."""

import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import stratascope as ss
from contract.trap import Refusal, Trap, noise
from contract.trap_networks import (
    Backwards,
    Block,
    Branches,
    Chain,
    Checkpointed,
    Collects,
    Counted,
    Does,
    Encodes,
    Introspective,
    Meets,
    Quantizes,
    Spectrum,
    Unrolled,
    chain,
    chain_in_place,
    compiled_and_run,
    compiled_by_inductor,
    join_counted,
    mixed,
    pick_hidden,
    take_none,
)
from flows import frozen, pull
from networks import (
    Dataclasses,
    Dicts,
    Failing,
    InPlaceFunction,
    Loop,
    Recurrent,
    Recursive,
    Reused,
    Transformer,
    TwoNames,
    ViewWriter,
)
from stratascope.errors import CaptureError, SiteNotFoundError

# What is done with a network


def compile_first(session: Any, *args: Any) -> Any:
    torch.compiler.reset()
    session.target = torch.compile(session.target, backend="eager")
    return session.forward(*args)


def write_past_torch(session: Any, x: Tensor) -> Any:
    output = session.forward(x)
    x.numpy()[:] = 7
    return output


def write_into_input(session: Any, x: Tensor) -> Any:
    output = session.forward(x)
    x.fill_(7)
    return output


def tap_beside(session: Any, *args: Any) -> Any:
    with ss.tap(session.model, session.trap.sites) as acts:
        output = session.forward(*args)
    session.beside.append(acts)
    return output


def forget_a_tap(session: Any, *args: Any) -> Any:
    reference = weakref.ref(ss.tap(session.model, session.trap.sites))
    gc.collect()
    output = session.forward(*args)
    # Its hooks keep it until it is removed.
    forgotten = reference()
    assert forgotten is not None
    session.beside.append(forgotten.activations)
    forgotten.remove()
    return output


def pull_output(model: nn.Module, output: Any, look: Callable[[str], Any]) -> Any:
    # What a trace keeps is cut off the graph.
    if output is None or not output.requires_grad:
        return None
    pull(output)
    return [frozen(parameter.grad) for parameter in model.parameters()]


def pull_value(model: nn.Module, output: Any, look: Callable[[str], Any]) -> Any:
    look("0").square().sum().backward()
    return [frozen(parameter.grad) for parameter in model[0].parameters()]


def train_on_value(model: nn.Module, output: Any, look: Callable[[str], Any]) -> Any:
    look("0").square().mean().backward()
    torch.optim.SGD(model[0].parameters(), lr=0.1).step()
    return [frozen(parameter) for parameter in model[0].parameters()]


def pull_twice(model: nn.Module, output: Any, look: Callable[[str], Any]) -> Any:
    weight = model[0].weight
    (first,) = torch.autograd.grad(look("1").square().sum(), weight, create_graph=True)
    first.square().sum().backward()
    return frozen(weight.grad)


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def spoil(value: Tensor) -> Any:
    """Take a value, and write into it as its owner may."""
    kept = frozen(value)
    with torch.no_grad():
        value.fill_(7)
    return kept


def take_small(value: Tensor) -> Any:
    assert value.untyped_storage().nbytes() == value.nbytes
    return frozen(value)


# Why a route has no answer

EVERY_ROUTE = (
    "tap", "copy", "reference", "callback", "submodel", "submodel-stop", "split", "trace", "debug",
    "batch", "probe",
)  # fmt: skip
OVERWRITTEN = {
    "reference": Refusal(
        CaptureError,
        "was captured with copy=False and has been written to since",
        "what flowed was overwritten",
    )
}
NO_GRAPH = {
    "split": Refusal(
        CaptureError,
        "cannot be split at .* stratascope.submodel gives its head",
        "torch.fx finds no graph to cut, or no single value to cut at",
    )
}
MODULES_ONLY = {
    "debug": Refusal(
        SiteNotFoundError, "is not captured in this forward", "only modules were to be kept"
    )
}
CUT_OFF = dict.fromkeys(
    ("trace", "debug"),
    Refusal(RuntimeError, "does not require grad", "a trace keeps values without their graph"),
)
NO_GRADIENT = {
    **dict.fromkeys(
        ("submodel", "submodel-stop", "split", "batch", "probe"),
        Refusal(
            CaptureError, "sites must be values of a forward", "a gradient is no value of a forward"
        ),
    ),
    **dict.fromkeys(
        ("trace", "debug"),
        Refusal(
            SiteNotFoundError,
            "A gradient is there after backward",
            "a gradient is no value of a forward",
        ),
    ),
}
SCRIPTED = {
    **dict.fromkeys(
        EVERY_ROUTE,
        Refusal(CaptureError, "is TorchScript, which calls no hooks", "TorchScript has no hooks"),
    ),
    **dict.fromkeys(
        ("trace", "debug"),
        Refusal(
            SiteNotFoundError, "is not captured in this forward", "only its output can be seen"
        ),
    ),
}
NOT_BY_SAMPLE = dict.fromkeys(
    ("batch", "probe"),
    Refusal(
        UserWarning,
        "not stored: .* does not begin with the batch's 2 samples",
        "a warning names the tensor that has no samples; the others are stored",
    ),
)
NOT_IN_ZARR = dict.fromkeys(
    ("batch", "probe"),
    Refusal(
        UserWarning,
        "not stored: .*(its layout is sparse_coo|its type quint8 has no place in Zarr)",
        "a warning names what Zarr cannot hold; the rest is stored",
    ),
)
NOT_COUNTED = {
    "reference": Refusal(
        CaptureError, "in inference_mode torch does not count writes", "no write would be noticed"
    )
}
NOT_CHANGED = {
    "reference": Refusal(ValueError, "copy=False keeps values as they are", "it is no reference")
}
ITS_OWN = "the network's own error"
NUMBERS_ONLY = dict.fromkeys(("batch", "probe"), "a store holds numbers, which have no graph")
NOT_SENT = dict.fromkeys(("split", "batch", "probe"), "these give no activations to send")
NO_TRANSFORM = dict.fromkeys(
    ("submodel", "submodel-stop", "split", "trace", "debug"), "these take no transform"
)
PLAIN_MODULE = {"split": "a head is a module like any other, and its output may be its input"}

TRAPS = [
    Trap(
        "relu-in-place",
        "a `ReLU(inplace=True)` after the layer",
        "gives the layer's values without their negative half",
        lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(inplace=True)),
        ("0", "1"),
        noise(2, 1, 8),
        refused=OVERWRITTEN,
    ),
    Trap(
        "write-in-place",
        "`y += 1; F.relu_(y)` on what the layer put out",
        "gives what the network made of it",
        InPlaceFunction,
        ("first", "second"),
        refused=OVERWRITTEN,
    ),
    Trap(
        "write-through-view",
        "a write through a view of what the layer put out",
        "gives what the network made of it",
        ViewWriter,
        ("conv", "head"),
        noise(2, 1, 10),
        method="stop",
        refused={**OVERWRITTEN, **NO_GRAPH},
    ),
    Trap(
        "module-called-thrice",
        "one module called three times",
        "keeps the last call only, or the first",
        Reused,
        ("relu", "layers.1"),
        cut="relu@2",
        refused=OVERWRITTEN,
    ),
    Trap(
        "lstm-tuple",
        "an LSTM, which puts out a tuple of a tensor and a tuple",
        "fails, or keeps the first tensor only",
        lambda: Recurrent(nn.LSTM),
        ("rnn", "head"),
        noise(2, 5, 3),
        refused=NOT_BY_SAMPLE,
    ),
    Trap(
        "dict-output",
        "a dict with a dict inside, from which the network takes a part away",
        "fails, or shows the dict without that part",
        Dicts,
        ("heads", "heads.scale"),
        method="stop",
        refused=OVERWRITTEN,
    ),
    Trap(
        "branches",
        "branches that depend on the data",
        "cannot trace the network",
        Branches,
        ("first", "small"),
        method="stop",
        refused=NO_GRAPH,
    ),
    Trap(
        "container-output",
        "what a `Sequential` put out, and one inside of it",
        "knows leaves only",
        lambda: nn.Sequential(chain(), nn.Sequential(nn.ReLU(inplace=True), nn.Tanh())),
        ("0", "1", "1.0"),
        refused=OVERWRITTEN,
    ),
    Trap(
        "graph-kept",
        "a loss on an activation, where the graph was asked for",
        "has cut it off, or an in-place layer breaks the backward pass",
        chain_in_place,
        ("0", "1"),
        finish=pull_value,
        options={"detach": False},
        refused={**OVERWRITTEN, **CUT_OFF},
        left_out=NUMBERS_ONLY,
    ),
    Trap(
        "left-as-it-was",
        "modules with modes, hooks and attributes of their own",
        "leaves a wrapper, a hook, an attribute or one mode for all",
        mixed,
        ("0", "1", "2.0"),
        training=None,
    ),
    Trap(
        "forward-raises",
        "an error in the forward",
        "leaves its hooks on the network",
        lambda: chain(Failing(ValueError("broken"))),
        ("0", "2"),
        plain=lambda: chain(nn.Identity()),
        refused=dict.fromkeys(EVERY_ROUTE, Refusal(ValueError, "^broken$", ITS_OWN)),
    ),
    Trap(
        "batchnorm-counter",
        "a BatchNorm in training, which counts its forwards",
        "runs the network once more to see its shapes",
        lambda: chain(nn.BatchNorm1d(4)),
        ("1", "2"),
        training=True,
    ),
    Trap(
        "two-names",
        "one module under two names",
        "knows one of the names, or gives nothing under the other",
        TwoNames,
        ("decode", "act"),
        cut="decode@2",
    ),
    Trap(
        "second-of-its-class",
        "the second `Linear` to run, which is the last that the network holds",
        "counts in the order in which modules were written down, or knows no classes",
        Backwards,
        ("Linear[2]", "first"),
    ),
    Trap(
        "second-relu",
        "the second `F.relu` of a block",
        "sees modules only",
        lambda: nn.Sequential(Block("0"), Block("1")),
        ("1.relu_1", "1.relu", "0.add"),
        refused=MODULES_ONLY,
    ),
    Trap(
        "compiled-before",
        "a network that was compiled and has run",
        "gets nothing, without a word",
        compiled_and_run,
        ("0", "1"),
        plain=chain_in_place,
        quiet="the model is compiled",
        refused=OVERWRITTEN,
    ),
    Trap(
        "torchscript",
        "a network in TorchScript",
        "gets nothing",
        lambda: torch.jit.script(chain()),
        ("0", "1"),
        plain=chain,
        quiet=".*torch.jit.*",
        refused=SCRIPTED,
    ),
    Trap(
        "fused-transformer",
        "the layers inside a `TransformerEncoderLayer`, which runs fused in evaluation",
        "gets nothing of them",
        Transformer,
        ("layer.linear1", "layer"),
        noise(2, 5, 8),
        around=torch.no_grad,
        fused=True,
        method="stop",
        refused=NO_GRAPH,
    ),
    Trap(
        "dataclass-output",
        "a frozen dataclass of tensors, into which the network writes",
        "fails, or keeps what was written",
        Dataclasses,
        ("decoder", "decoder.up"),
        method="stop",
        refused={**OVERWRITTEN, **NO_GRAPH},
    ),
    Trap(
        "model-output",
        "an output with fields that are keys, as in the library transformers",
        "gives another class, or fields that are not the keys",
        lambda: Chain(Encodes(), Does(pick_hidden)),
        ("0", "0.up"),
        method="stop",
        refused={**OVERWRITTEN, **NO_GRAPH},
    ),
    Trap(
        "defaultdict-output",
        "a dict of another class, with lists of tensors",
        "gives another class",
        lambda: nn.Sequential(nn.Linear(4, 4), Counted(), Does(join_counted)),
        ("1", "0"),
        method="stop",
        refused=NO_GRAPH,
    ),
    Trap(
        "sparse",
        "a sparse tensor",
        "fails",
        lambda: nn.Sequential(
            nn.Linear(4, 4), Does(lambda x: x.to_sparse()), Does(lambda x: x.to_dense())
        ),
        ("1", "0"),
        refused=NOT_IN_ZARR,
    ),
    Trap(
        "complex",
        "complex numbers that are conjugated when they are read",
        "gives them without their imaginary part, or not conjugated",
        lambda: nn.Sequential(nn.Linear(4, 4), Spectrum(), Does(torch.view_as_real_copy)),
        ("1", "0"),
    ),
    Trap(
        "bfloat16",
        "a network in bfloat16",
        "fails when it makes an array of it",
        lambda: chain().to(torch.bfloat16),
        ("0", "1"),
        lambda: (noise(2, 4)()[0].to(torch.bfloat16),),
    ),
    Trap(
        "quantized",
        "quantized tensors",
        "loses the scale",
        lambda: nn.Sequential(nn.Linear(4, 4), Quantizes(), Does(lambda x: x.dequantize())),
        ("1", "0"),
        around=torch.no_grad,
        quiet=".*quantize.*",
        refused=NOT_IN_ZARR,
    ),
    Trap(
        "zero-size",
        "a tensor with no elements",
        "fails",
        lambda: nn.Sequential(nn.Linear(4, 4), Does(take_none)),
        ("1", "0"),
    ),
    Trap(
        "not-finite",
        "NaN and infinities",
        "drops or replaces them",
        lambda: nn.Sequential(nn.Linear(4, 4), Does(torch.log), nn.ReLU(inplace=True)),
        ("1", "2"),
        refused=OVERWRITTEN,
    ),
    Trap(
        "recursion",
        "a network that calls itself",
        "takes each call for a forward of its own",
        Recursive,
        ("layer", "model"),
        method="stop",
        cut="layer@2",
        refused=NO_GRAPH,
    ),
    Trap(
        "loop",
        "a loop as long as the input says",
        "cannot trace the network, or keeps one call",
        Loop,
        ("cell", "model"),
        method="stop",
        cut="cell@2",
        refused=NO_GRAPH,
    ),
    Trap(
        "operations-in-a-loop",
        "`torch.cat` and the k-th `+` of such a loop",
        "cannot trace the network, or sees modules only",
        Unrolled,
        ("cat", "add_1", "add"),
        method="stop",
        refused={**NO_GRAPH, **MODULES_ONLY},
    ),
    Trap(
        "gradient",
        "the gradient of an activation, after `backward()`",
        "needs another tool, or fails at an in-place layer",
        chain_in_place,
        ("0:grad", "2"),
        finish=pull_output,
        refused=NO_GRADIENT,
    ),
    Trap(
        "train-on-activation",
        "a step of training by a loss on an activation",
        "has cut it off the graph",
        chain_in_place,
        ("0", "1"),
        training=True,
        finish=train_on_value,
        options={"detach": False},
        refused={**OVERWRITTEN, **CUT_OFF},
        left_out=NUMBERS_ONLY,
    ),
    Trap(
        "double-backward",
        "the gradient of a gradient of an activation",
        "has cut it off the graph",
        lambda: chain(nn.Tanh()),
        ("1", "0"),
        finish=pull_twice,
        options={"detach": False},
        refused=CUT_OFF,
        left_out=NUMBERS_ONLY,
    ),
    Trap(
        "checkpoint-reentrant",
        "gradient checkpointing, which computes a part again in the backward pass",
        "keeps that part twice",
        lambda: Checkpointed(reentrant=True),
        ("body.0", "body", "first"),
        training=True,
        finish=pull_output,
        quiet="None of the inputs have requires_grad=True",
    ),
    Trap(
        "checkpoint",
        "the same, not reentrant",
        "keeps that part twice",
        lambda: Checkpointed(reentrant=False),
        ("body.0", "body", "first"),
        training=True,
        finish=pull_output,
    ),
    Trap(
        "dropout",
        "random numbers, which a later step of a training draws again",
        "has drawn some of them",
        lambda: chain(nn.Dropout(0.5)),
        ("1", "2"),
        training=True,
    ),
    Trap(
        "autocast",
        "autocast to bfloat16",
        "gives the type that the weights have",
        chain_in_place,
        ("0", "1"),
        around=lambda: torch.autocast("cpu", torch.bfloat16),
        refused=OVERWRITTEN,
    ),
    Trap("no-grad", "`no_grad`", "asks for a graph", chain, ("0", "1"), around=torch.no_grad),
    Trap(
        "inference-mode",
        "`inference_mode`, in which torch counts no writes",
        "fails, or notices no overwritten value",
        chain,
        ("0", "1"),
        around=torch.inference_mode,
        refused=NOT_COUNTED,
    ),
    Trap(
        "compiled-after",
        "a network that is compiled after the capture was set up",
        "gets nothing, or only in the first forward",
        chain_in_place,
        ("0", "1"),
        use=compile_first,
        quiet=".*",
        refused=OVERWRITTEN,
    ),
    Trap(
        "operation-compiled-after",
        "an operation of such a network",
        "gets nothing, or the compilation fails",
        chain,
        ("0.linear", "1"),
        plain=chain,
        renamed={"0.linear": "0"},
        use=compile_first,
        quiet=".*",
        method="stop",
        refused={**MODULES_ONLY, **NO_GRAPH},
    ),
    Trap(
        "compiled-by-inductor",
        "a network that inductor compiled, and that has run",
        "gets nothing, without a word",
        compiled_by_inductor,
        ("0", "1"),
        plain=lambda: chain(nn.Identity()),
        around=torch.no_grad,
        quiet=".*",
    ),
    Trap(
        "data-parallel",
        "a wrapper such as `DataParallel`",
        "knows the names with the wrapper's only, or copies that are gone",
        lambda: nn.DataParallel(chain()),
        ("0", "1"),
        plain=chain,
        method="graph",
    ),
    Trap(
        "exported",
        "what `torch.export` gave, in which there are no modules",
        "finds nothing to capture",
        lambda: torch.export.export(chain_in_place().eval(), noise(2, 4)()).module(),
        ("linear", "linear_1"),
        plain=chain_in_place,
        renamed={"linear": "0", "linear_1": "2"},
        refused={**OVERWRITTEN, **MODULES_ONLY},
    ),
    Trap(
        "graph-module",
        "a GraphModule of torch.fx",
        "cannot trace what was traced",
        lambda: torch.fx.symbolic_trace(chain()),
        ("0", "1"),
        plain=chain,
    ),
    Trap(
        "two-threads",
        "two threads with a network each, in their forwards at the same time",
        "mixes them up, or leaves one's state in the other",
        lambda: chain(nn.ReLU(), Meets()),
        ("0", "1"),
        scene="threads",
    ),
    Trap(
        "operation-in-two-threads",
        "an operation of each of them",
        "mixes them up, or leaves one's state in the other",
        lambda: chain(nn.ReLU(), Meets()),
        ("0.linear", "1"),
        renamed={"0.linear": "0"},
        scene="threads",
        method="stop",
        refused={**NO_GRAPH, **MODULES_ONLY},
    ),
    Trap(
        "coroutines",
        "coroutines with a network each, in turns",
        "mixes them up",
        chain,
        ("0", "1"),
        scene="turns",
    ),
    Trap(
        "pickled",
        "captured values that are pickled, to be sent to another process",
        "cannot be pickled",
        chain,
        ("0", "1"),
        through=pickled,
        left_out=NOT_SENT,
    ),
    Trap(
        "nested",
        "another tap on the same sites, within",
        "overwrites the hooks of the other",
        chain,
        ("0", "1"),
        use=tap_beside,
    ),
    Trap(
        "tapped-within",
        "a network that taps a part of itself in its forward",
        "takes off the hooks of both",
        Introspective,
        ("part.0", "part", "head"),
        method="stop",
        refused=NO_GRAPH,
    ),
    Trap(
        "written-by-user",
        "your own writes into what was captured, from a callback too",
        "writes into the network, or into another site's value",
        lambda: Chain(nn.Linear(4, 4), nn.Identity(), nn.Identity(), nn.Linear(4, 2)),
        ("0", "1", "2"),
        take=spoil,
        refused=OVERWRITTEN,
        left_out=PLAIN_MODULE,
    ),
    Trap(
        "interrupt",
        "Ctrl-C in the forward",
        "leaves its hooks on the network",
        lambda: chain(Failing(KeyboardInterrupt("broken"))),
        ("0", "2"),
        plain=lambda: chain(nn.Identity()),
        refused=dict.fromkeys(EVERY_ROUTE, Refusal(KeyboardInterrupt, "^broken$", ITS_OWN)),
    ),
    Trap(
        "forgotten-tap",
        "a tap that nobody holds, and a garbage collection in the forward",
        "loses its hooks at any time, or keeps the network alive for ever",
        lambda: chain(nn.ReLU(), Collects()),
        ("0", "1"),
        use=forget_a_tap,
        scene="forgotten",
    ),
    Trap(
        "slice",
        "a slice, asked for instead of the whole",
        "keeps the memory of the whole",
        chain_in_place,
        ("0", "2"),
        take=take_small,
        expect=lambda tensor: tensor[:, :1],
        options={"transform": lambda tensor: tensor[:, :1]},
        refused=NOT_CHANGED,
        left_out=NO_TRANSFORM,
    ),
    Trap(
        "numpy-input",
        "an input in the memory of a NumPy array, which is filled again afterwards",
        "gives the new numbers",
        lambda: Chain(nn.Identity(), nn.Linear(4, 2)),
        ("0", "1"),
        lambda: (torch.from_numpy(noise(2, 4)()[0].numpy().copy()),),
        use=write_past_torch,
        left_out=PLAIN_MODULE,
    ),
    Trap(
        "shared-memory-input",
        "an input in shared memory, as DataLoader workers give it, filled again afterwards",
        "fails, or gives the new numbers",
        lambda: Chain(nn.Identity(), nn.Linear(4, 2)),
        ("0", "1"),
        lambda: (noise(2, 4)()[0].share_memory_(),),
        use=write_into_input,
        left_out=PLAIN_MODULE,
    ),
]
