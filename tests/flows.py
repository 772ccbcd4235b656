"""The obviously right capture that all others are compared with, and what comparing takes."""

import dataclasses
import pickle

import torch
from torch import Tensor


def frozen(value):
    """Copy a value into lists that can be compared, the types of its containers included."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple | list):
        return [type(value), *(frozen(part) for part in value)]
    if not isinstance(value, dict) and not dataclasses.is_dataclass(value):
        return value
    parts = [[key, frozen(part)] for key, part in value.items()] if isinstance(value, dict) else []
    if dataclasses.is_dataclass(value):
        parts += [[key, frozen(part)] for key, part in vars(value).items()]
    return [type(value), *parts]


def same(left, right):
    """Compare frozen values exactly; NaN equals NaN."""
    if isinstance(left, Tensor):
        return (
            isinstance(right, Tensor)
            and describe(left) == describe(right)
            and same_numbers(left, right)
        )
    if isinstance(left, list):
        if not isinstance(right, list) or len(left) != len(right):
            return False
        return all(same(one, other) for one, other in zip(left, right, strict=True))
    return left == right


def describe(tensor):
    quantizer = (tensor.q_scale(), tensor.q_zero_point()) if tensor.is_quantized else None
    stride = tensor.stride() if tensor.layout is torch.strided else None
    return tensor.dtype, tensor.shape, tensor.layout, stride, quantizer


def same_numbers(left, right):
    if left.is_quantized:
        left, right = left.int_repr(), right.int_repr()
    left, right = left.to_dense(), right.to_dense()
    if torch.equal(left, right):
        return True
    return bool(((left == right) | (left.isnan() & right.isnan())).all())


def tensors_of(value):
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in tensors_of(part)]
    if isinstance(value, dict):
        return tensors_of(list(value.values()))
    return tensors_of(list(vars(value).values())) if dataclasses.is_dataclass(value) else []


def pull(output):
    """Draw a loss from all that a network put out."""
    loss = sum((tensor * (1 + torch.arange(tensor.numel()).reshape(tensor.shape))).sum()
               for tensor in tensors_of(output) if tensor.requires_grad)  # fmt: skip
    loss.backward()


def place(shape, gradients):
    """Put gradients where the tensors of a frozen value are."""
    if isinstance(shape, Tensor):
        return next(gradients)
    return [place(part, gradients) for part in shape] if isinstance(shape, list) else shape


def follow(flowed, key, output):
    """Copy the gradients of an output when they come."""
    shape, gradients = frozen(output), [None] * len(tensors_of(output))
    for index, tensor in enumerate(tensors_of(output)):
        if tensor.requires_grad:

            def keep(gradient, index=index):
                gradients[index] = gradient.clone()
                flowed[key] = place(shape, iter(gradients))

            tensor.register_hook(keep)


def watch(model, live=None):
    """Copy all that flows, at the moment at which it does, by replacing every forward.

    Args:
        model: The network.
        live: Gets clones of the outputs that stay on the graph.
    """
    flowed, counts = {}, {}

    def count(path, port):
        counts[path, port] = counts.get((path, port), 0) + 1
        return counts[path, port]

    def replace(path, module):
        original = module.forward

        def forward(*args, **kwargs):
            call = count(path, "in")
            if kwargs:
                named = {**{str(index): value for index, value in enumerate(args)}, **kwargs}
                flowed[path, "in", call] = frozen(named)
            else:
                flowed[path, "in", call] = frozen(args[0] if len(args) == 1 else args)
            output = original(*args, **kwargs)
            call = count(path, "out")
            flowed[path, "out", call] = frozen(output)
            if live is not None and isinstance(output, Tensor):
                live[path, "out", call] = output.clone()
            follow(flowed, (path, "grad", call), output)
            return output

        module.forward = forward

    for path, module in model.named_modules():
        replace(path, module)
        # The fused paths of transformers step aside for hooks, so they must do so here too.
        module.register_forward_hook(lambda module, args, output: None)
    return flowed


def by_call(acts):
    """List captured values as the reference does: each under its path, port and call."""
    return {(site.path, site.port, site.call or 1): frozen(acts[site]) for site in acts}


def condition(model):
    """Describe all of a module that a capture could disturb."""
    described = structure(model)
    for path, module in model.named_modules():
        described[path]["numbers"] = {
            name: tensor.tolist() for name, tensor in own_tensors(module).items()
        }
    return described


# What torch.compile leaves on what it compiled, and Lightning once it has been imported.
_OF_COMPILATION = ("_is_torch_compile", "_compile_kwargs")


def structure(model):
    """Describe a module without its numbers."""
    return {
        path: {
            "attributes": [name for name in vars(module) if name not in _OF_COMPILATION],
            "hooks": {name: dict(hooks) for name, hooks in vars(module).items() if "hook" in name
                      and isinstance(hooks, dict)},
            "training": module.training,
            "tensors": {
                name: (id(tensor), tensor.requires_grad)
                for name, tensor in own_tensors(module).items()
            },
            "tensor hooks": [
                dict(tensor._backward_hooks or {}) for tensor in module.parameters(recurse=False)
            ],
        }
        for path, module in model.named_modules()
    }  # fmt: skip


def own_tensors(module):
    parts = [*module._parameters.items(), *module._buffers.items()]
    return {name: tensor for name, tensor in parts if tensor is not None}


def is_pickled(model):
    try:
        return bool(pickle.dumps(model))
    except Exception as error:  # noqa: BLE001 - whatever keeps it from being pickled
        return type(error).__name__
