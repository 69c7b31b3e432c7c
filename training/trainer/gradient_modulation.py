# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""On-the-fly gradient modulation with generalization enhancement (OGM-GE, Peng et al., CVPR 2022)."""

import torch
import torch.distributed as dist
from torch import nn
from transformers import TrainerCallback


STREAM_NAMES = {"video": ("visual", "video"), "audio": ("audio",)}


class GradientModulation(TrainerCallback):
    """
    Damp the gradients of the modality that classifies better, so that the weaker one keeps learning.

    The score of a modality is the sum of its softmax probability of the true class over the matched clips of a step, over
    micro-batches and processes, from its own half of the class weight plus bias / 2. With ratio = own score / other
    score, a modality whose ratio exceeds 1 gets k = 1 - tanh(alpha * ratio), the other k = 1. Then the gradients of the
    parameters that belong to one modality by name are scaled by its k, plus Gaussian noise of their own standard deviation.

    Use it as a callback, `Trainer(..., callbacks=[GradientModulation()])`, or in a loop of one's own: `attach(model)`
    once, `apply()` after `backward`, `detach()`.

    Args:
        alpha: strength of the damping.
        noise: add the noise (the "GE" of OGM-GE).
        seed: of the noise, which depends on it and on the optimizer step alone: it is equal on all processes, and a resumed
            run goes on with it.

    Raises:
        ValueError: labels that are not class indices.
    """

    def __init__(self, alpha: float = 0.1, noise: bool = True, seed: int = 0):
        self.alpha, self.noise, self.seed = alpha, noise, seed
        self.model, self._hooks = None, []
        self.coefficients = {"video": 1.0, "audio": 1.0}
        self._scores, self._step = None, 0

    def attach(self, model: nn.Module) -> None:
        self.detach()
        self.model = model
        classifier = next(module for name, module in model.named_modules() if name.split(".")[-1] == "classifier")
        head = next(
            module for module in model.modules() if type(module).__name__ == "MAAVTForAudioVisualClassification"
        )
        self._hooks = [
            head.register_forward_pre_hook(self._remember_labels, with_kwargs=True),
            classifier.register_forward_hook(self._score),
        ]

    def detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._scores = [], None

    def _remember_labels(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._labels, self._is_matched = kwargs.get("labels"), kwargs.get("is_matched")

    @torch.no_grad()
    def _score(self, classifier: nn.Module, args: tuple, outputs: tuple[torch.Tensor | None, ...]) -> None:
        if not classifier.training or self._labels is None or args[0] is None or args[1] is None:
            return
        if torch.is_floating_point(self._labels):
            raise ValueError(
                "Gradient modulation compares probabilities of one true class; labels must be class indices."
            )
        labels, matched = self._labels, self._is_matched
        # The logits of either half, (B, S, C), or (B, C) where a clip has one label.
        halves = [logits.float() for logits in outputs[1:]]
        if labels.ndim == 1:
            halves = [logits.mean(1) for logits in halves]
        # Only matched pairs with both modalities and a label count.
        valid = labels != -100
        if matched is not None:
            if matched.ndim > labels.ndim:
                matched = matched.all(1)
            valid = valid & (matched if matched.ndim == labels.ndim else matched[:, None])
        for present in args[2:4]:
            if present is not None:
                valid = valid & (present if labels.ndim == 1 else present[:, None])
        # Sum the probability of the true class; steps of gradient accumulation add up.
        index = labels.clamp(min=0)[..., None]
        scores = [(logits.softmax(-1).gather(-1, index)[..., 0] * valid).sum() for logits in halves]
        self._scores = torch.stack(scores) + (0 if self._scores is None else self._scores)

    @torch.no_grad()
    def apply(self) -> dict[str, float]:
        """Scale the gradients in place and return the coefficients k of `"video"` and `"audio"`."""
        scores, self._scores = self._scores, None
        self._step += 1
        # Over all processes, so that each scales by the same coefficients.
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            scores = torch.zeros(2, device=next(self.model.parameters()).device) if scores is None else scores
            dist.all_reduce(scores)
        if scores is None or not bool((scores > 0).all()):
            self.coefficients = {"video": 1.0, "audio": 1.0}
            return self.coefficients
        # Only the stronger modality is slowed down (docs/maavt.md, section 7).
        ratio = float(scores[0] / scores[1])
        stronger, ratio = ("video", ratio) if ratio > 1 else ("audio", 1 / ratio)
        self.coefficients = {"video": 1.0, "audio": 1.0}
        if ratio > 1:
            self.coefficients[stronger] = 1 - float(torch.tanh(torch.tensor(self.alpha * ratio)))
        # Noise is drawn on the CPU from seed and step: equal on every process and device.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._step)
        for name, parameter in self.model.named_parameters():
            stream = next((s for s, words in STREAM_NAMES.items() if any(word in name for word in words)), None)
            if parameter.grad is None or stream is None:
                continue
            parameter.grad.mul_(self.coefficients[stream])
            if self.noise and parameter.grad.numel() > 1:
                noise = torch.randn(parameter.grad.shape, generator=generator).to(parameter.grad)
                parameter.grad.add_(noise * parameter.grad.std())
        return self.coefficients

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.attach(model)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self._step = state.global_step
        self.apply()

    def on_train_end(self, args, state, control, **kwargs):
        self.detach()


__all__ = ["GradientModulation"]
