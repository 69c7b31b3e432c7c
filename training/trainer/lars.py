# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""LARS (You et al., arXiv 1708.03888), the optimizer of linear probes in the literature; PyTorch and Transformers have none."""

from collections.abc import Callable, Iterable

import torch


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step is scaled, matrix by matrix, to a share of the weights' norm.

        d = g + weight_decay w,   m <- momentum m + (trust |w| / |d|) d,   w <- w - lr m

    Biases, norms and other vectors are neither scaled nor decayed. The scale is 1 where |w| or |d| is 0.

    Args:
        params: tensors or groups of them.
        lr, momentum, weight_decay, trust: as above.

    Raises:
        ValueError: a negative rate, decay or trust, or a momentum outside of 0 to 1.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ):
        if lr < 0 or weight_decay < 0 or trust < 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"{lr=}, {momentum=}, {weight_decay=}, {trust=}; give nothing negative, and a momentum below 1"
            )
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                update = weight.grad
                # Biases and norms get neither weight decay nor the trust ratio.
                if weight.ndim > 1:
                    update = update.add(weight, alpha=group["weight_decay"])
                    size, change = weight.norm(), update.norm()
                    scale = torch.where((size > 0) & (change > 0), group["trust"] * size / change, 1.0)
                    update = update * scale
                # Momentum of the scaled gradient.
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.mul_(group["momentum"]).add_(update)
                weight.add_(momentum, alpha=-group["lr"])
        return loss
