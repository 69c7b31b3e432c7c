# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Linear layers in evaluation on a CPU: weights laid out once for oneDNN, several layers in one product, GELU or the
residual sum in its epilogue.

`linears` is the one function. It takes the plain path (the modules themselves are called) unless everything it would
leave out is known to be absent; what it computes is the same either way. Training takes the plain path: there a second
layout of every weight would cost more memory than it saves time.
"""

import functools
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import nn


SMALLEST_WEIGHT = 1 << 15  # below this many entries a call costs more than the layout brings
SAMPLES = 64  # entries of a weight by which a change through `.data` is noticed


class PackedLinears:
    """The weights of layers that read the same states, one under the other, in oneDNN's own layout."""

    def __init__(self, modules: Sequence[nn.Linear], dtype: torch.dtype):
        self.dtype, self.widths = dtype, [module.out_features for module in modules]
        self.seen = [signature(module) for module in modules]
        with torch.no_grad():
            self.watched = [sample(module.weight) for module in modules]
            self.samples = [entries.clone() for entries in self.watched]
            weights = [module.weight.detach().to(dtype) for module in modules]
            weight = weights[0] if len(weights) == 1 else torch.cat(weights)
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
            biases = [module.bias for module in modules]
            self.bias = None if biases[0] is None else torch.cat([bias.detach().to(dtype) for bias in biases])

    def holds(self, modules: Sequence[nn.Linear]) -> bool:
        """Whether these still are the weights of the modules."""
        return self.seen == [signature(module) for module in modules] and all(
            map(torch.equal, self.watched, self.samples)
        )

    def __call__(
        self, states: torch.Tensor, epilogue: str = "none", residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        if residual is not None:
            multiply = torch.ops.mkldnn._linear_pointwise.binary
            return multiply(states, residual.contiguous(), self.weight, self.bias, "add")
        algorithm = "none" if epilogue == "gelu" else ""  # exact GELU, by the error function
        return torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, epilogue, [], algorithm)


def signature(module: nn.Linear) -> tuple:
    """What changes when a module gets other parameters or these are written to."""
    return tuple(
        None if value is None else (value.data_ptr(), value.dtype, 0 if value.is_inference() else value._version)
        for value in (module.weight, module.bias)
    )


def sample(weight: torch.Tensor) -> torch.Tensor:
    """A view of entries spread over a weight: writing through `.data`, as PEFT does when it merges, leaves no other trace."""
    entries = weight.detach().view(-1)
    return entries[:: max(1, len(entries) // SAMPLES)]


_packed: "weakref.WeakKeyDictionary[nn.Module, dict]" = weakref.WeakKeyDictionary()


def linears(
    states: torch.Tensor,
    modules: Sequence[nn.Module],
    activation: Callable | None = None,
    residual: torch.Tensor | None = None,
) -> list:
    """
    `activation(module(states))` of every module, or `residual + module(states)`.

    Args:
        states: `[..., in_features]`.
        modules: linear layers, or whatever stands in their place (LoRA, quantized layers).
        activation: applied to each output; an exact GELU is computed inside the product.
        residual: `[..., out_features]`, added to the output; for one module without activation.
    """
    packed = packed_linears(states, modules)
    if packed is None:
        forget(modules)
        outputs = [module(states) for module in modules]
        outputs = outputs if activation is None else [activation(output) for output in outputs]
        return outputs if residual is None else [residual + output for output in outputs]
    states = states.to(packed.dtype)
    if residual is not None and residual.dtype == packed.dtype:
        return [packed(states, residual=residual)]
    inside = is_exact_gelu(activation)
    product = packed(states, "gelu" if inside else "none")
    product = product if activation is None or inside else activation(product)
    product = product if residual is None else residual + product
    return list(product.split(packed.widths, dim=-1)) if len(modules) > 1 else [product]


def is_exact_gelu(activation: Callable | None) -> bool:
    if isinstance(activation, nn.GELU):
        return activation.approximate == "none"
    return type(activation).__name__ == "GELUActivation" and activation.act is nn.functional.gelu


def packed_linears(states: torch.Tensor, modules: Sequence[nn.Module]) -> PackedLinears | None:
    """The packed weights, or None where the plain path has to be taken."""
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and states.requires_grad):
        return None
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else states.dtype
    if not (on_fast_cpu(states, dtype) and all(is_plain(module) for module in modules)):
        return None
    if any((module.bias is None) != (modules[0].bias is None) for module in modules):
        return None
    casts = torch.is_autocast_enabled("cpu")
    for module in modules:
        tensors = [value for value in (module.weight, module.bias) if value is not None]
        if any(value.device.type != "cpu" or (value.dtype != dtype and not casts) for value in tensors):
            return None
        # what is trained changes with every step, and has a gradient
        if module.training or (torch.is_grad_enabled() and any(value.requires_grad for value in tensors)):
            return None
        if module.weight.numel() < SMALLEST_WEIGHT or not module.weight.is_contiguous():
            return None
    kinds = _packed.setdefault(modules[0], {})
    found = kinds.get(len(modules))
    if found is None or found.dtype != dtype or not found.holds(modules):
        keep_freed_memory()
        found = kinds[len(modules)] = PackedLinears(modules, dtype)
    return found


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MiB of freed memory: twice the largest block, of at most 32 MiB, that was ever given back.

    Otherwise it depends on chance how much new memory the next batch or block of a model touches, and that takes up to a
    fifth of a block's time in bfloat16. Nothing is touched here.
    """
    torch.empty((32 << 20) - (64 << 10), dtype=torch.uint8, device="cpu")


def forget(modules: Sequence[nn.Module]) -> None:
    """Free what was packed of modules that train now, have moved to a GPU or got a hook."""
    if not torch.compiler.is_compiling():
        _packed.pop(modules[0], None)


def on_fast_cpu(states: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether oneDNN can compute with these states here and now: not while a graph is traced or transformed."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # asked first: nothing below can be traced
        return False
    if states.device.type != "cpu" or type(states) is not torch.Tensor or torch._C._are_functorch_transforms_active():
        return False
    return dtype in fast_dtypes()


@functools.cache
def fast_dtypes() -> tuple[torch.dtype, ...]:
    """What oneDNN computes fast on this processor; asking takes longer than a small layer."""
    if not torch.backends.mkldnn.is_available():
        return ()
    return (torch.float32, torch.bfloat16) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else (torch.float32,)


def is_plain(module: nn.Module) -> bool:
    """Whether calling this module would do nothing but `nn.Linear`: no subclass, hook or exotic weight."""
    if type(module) is not nn.Linear or type(module.weight) not in (nn.Parameter, torch.Tensor):
        return False
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and "forward" not in module.__dict__ and not nn.modules.module._has_any_global_hook()


__all__ = ["linears", "on_fast_cpu"]
