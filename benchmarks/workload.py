# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What is measured: the model, its batch, a training step; and how: interleaved, medians, warm-up not counted."""

import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_maavt import MAAVTForAudioVisualClassification

from .plain_port import published_config


BATCH, SIDE = 8, 224


def build_model(
    dtype: torch.dtype = torch.float32, device: str = "cpu", blocks: int = 12, **overrides
) -> MAAVTForAudioVisualClassification:
    """ViT-B/16 with the published options and random weights; what is trained stays in float32 whatever the `dtype`."""
    torch.manual_seed(0)
    vision = {"model_type": "vit", "layer_norm_eps": 1e-6, "num_hidden_layers": blocks}
    model = MAAVTForAudioVisualClassification(published_config(vision, **overrides))
    for module in (model.maavt.embeddings, model.maavt.encoder, model.maavt.layernorm):
        module.to(dtype)
    model.freeze_backbone()
    return model.to(device)


def build_batch(
    clips: int = BATCH,
    frames: int = 1,
    segments: int = 1,
    num_labels: int = 309,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> dict[str, torch.Tensor]:
    """Frames `[B, T, 3, 224, 224]` and spectrograms `[B, S, 224, 224]` of noise, labels, every fourth pair mismatched."""
    generator = torch.Generator().manual_seed(1)
    batch = {
        "pixel_values_videos": torch.randn(clips, frames, 3, SIDE, SIDE, generator=generator).to(dtype),
        "input_features": torch.randn(clips, segments, SIDE, SIDE, generator=generator).to(dtype),
        "labels": torch.randint(num_labels, (clips,), generator=generator),
        "is_matched": torch.arange(clips) % 4 != 3,
    }
    return {name: value.to(device) for name, value in batch.items()}


def inputs_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("pixel_values_videos", "input_features")}


def for_inference(model: MAAVTForAudioVisualClassification) -> MAAVTForAudioVisualClassification:
    """As an exported adapter is used: tokens folded, projections left out."""
    model.fold_token_attention()
    model.maavt.contrastive_head = None
    model.config.contrastive = None
    return model.eval()


class Step:
    """One training step: forward, losses, backward, Adam on what is trained."""

    def __init__(self, model: torch.nn.Module, loss_of: Callable):
        self.model, self.loss_of = model.train(), loss_of
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-4, fused=True)

    def __call__(self) -> torch.Tensor:
        loss = self.loss_of(self.model)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def interleaved(
    functions: dict[str, Callable], repeats: int = 5, limit: float = 1e9, warm: bool = False
) -> dict[str, list[float]]:
    """Seconds of every function, taken in turns after one call each that is not counted, unless they are `warm`.

    At least 5 turns; fewer than `repeats` where `limit` seconds are over.
    """
    for function in () if warm else functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    start = time.perf_counter()
    for turn in range(repeats):
        if turn >= 5 and time.perf_counter() - start > limit:
            break
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def ratio(seconds: dict[str, list[float]], base: str, other: str) -> float:
    """How many times faster `other` is than `base`: the median over turns, each of which saw the same machine."""
    return statistics.median(b / o for b, o in zip(seconds[base], seconds[other], strict=True))


def median(values: list[float]) -> float:
    return statistics.median(values)


def operations(function: Callable) -> int:
    """Floating-point operations of the matrix products, convolutions and attention that `function` runs on meta tensors."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


__all__ = [
    "BATCH",
    "SIDE",
    "Step",
    "build_batch",
    "build_model",
    "for_inference",
    "inputs_of",
    "interleaved",
    "median",
    "operations",
    "ratio",
]
