# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What is measured (the model, its batch, a training step) and how (in turns, medians, without the warm-up)."""

import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_maavt import MAAVTForAudioVisualClassification

from .plain_port import paper_config


BATCH, SIDE = 8, 224
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build_model(
    dtype: torch.dtype = torch.float32, device: str = "cpu", blocks: int = 12, **overrides
) -> MAAVTForAudioVisualClassification:
    """ViT-B/16 with the paper's options and random weights. Trained weights stay in float32 whatever the `dtype`."""
    torch.manual_seed(0)
    vision = {"model_type": "vit", "layer_norm_eps": 1e-6, "num_hidden_layers": blocks}
    model = MAAVTForAudioVisualClassification(paper_config(vision, **overrides))
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
    """A batch of noise. Every fourth pair is a mismatched pair.

    Returns:
        Frames `[B, T, 3, 224, 224]`, spectrograms `[B, S, 224, 224]`, labels `[B]` and `is_matched` `[B]`.
    """
    generator = torch.Generator().manual_seed(1)
    batch = {
        "pixel_values_videos": torch.randn(clips, frames, 3, SIDE, SIDE, generator=generator).to(dtype),
        "input_features": torch.randn(clips, segments, SIDE, SIDE, generator=generator).to(dtype),
        "labels": torch.randint(num_labels, (clips,), generator=generator),
        "is_matched": torch.arange(clips) % 4 != 3,
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def inputs_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("pixel_values_videos", "input_features")}


def for_inference(model: MAAVTForAudioVisualClassification) -> MAAVTForAudioVisualClassification:
    """The model as an exported adapter is used: tokens folded, no projections."""
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


def interleaved(functions: dict[str, Callable], repeats: int = 5) -> dict[str, list[float]]:
    """Seconds of every function, taken in turns, after one call each that is not counted."""
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], base: str, other: str) -> float:
    """How many times faster `other` is than `base`: the median over turns, each of which saw the same machine."""
    return statistics.median(b / o for b, o in zip(seconds[base], seconds[other], strict=True))


def median(seconds: list[float]) -> float:
    return statistics.median(seconds)


def operations(function: Callable) -> int:
    """Floating-point operations of the matrix products, convolutions and attention that `function` runs on meta tensors."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def forward_operations(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> int:
    """Operations that a forward runs on a batch. Moves the model to meta tensors."""
    model = model.to("meta")
    inputs = {name: tensor.to("meta") for name, tensor in inputs_of(batch).items()}
    with torch.inference_mode():
        return operations(lambda: model(**inputs))


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_product(dtype: torch.dtype, device: str = "cpu", size: int | None = None) -> tuple[Callable, int]:
    """A large matrix product and its number of operations. Its speed is the product rate of the machine.

    Args:
        size: rows and columns of both matrices; by default 2048 on a CPU and 8192 on a GPU.
    """
    if size is None:
        size = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)

    def multiply() -> None:
        torch.mm(left, right, out=out)
        synchronize(device)

    return multiply, 2 * size**3


def check_equal(name: str, actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> float:
    """The largest difference relative to the largest value.

    Raises:
        AssertionError: the difference is above the tolerance, so the times would compare different things.
    """
    difference = float((actual.float() - expected.float()).abs().max() / expected.float().abs().max())
    if not difference <= tolerance:
        raise AssertionError(f"{name}: differs from the reference by {difference:.2e} (at most {tolerance:g})")
    return difference


def measure_machine() -> dict[str, float]:
    """Product rates in GFLOP/s, and the bandwidth of a copy in GB/s (each byte is read and written)."""
    products = {name: matrix_product(dtype) for name, dtype in DTYPES.items()}
    source = torch.randn(64 << 20)
    target = torch.empty_like(source)
    functions = {name: multiply for name, (multiply, _) in products.items()}
    functions["copy"] = lambda: target.copy_(source)
    seconds = interleaved(functions, repeats=9)
    rates = {
        f"machine.gemm_gflops.{name}": count / median(seconds[name]) / 1e9 for name, (_, count) in products.items()
    }
    rates["machine.copy_gb_per_second"] = 2 * source.numel() * 4 / median(seconds["copy"]) / 1e9
    return rates
