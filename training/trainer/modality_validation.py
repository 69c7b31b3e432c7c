# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Validation by modality from the passes of an ordinary one: what MA-AVT says of the video alone and of the audio alone.

The streams of MA-AVT do not meet before the heads, and the class head adds one half of its weights for each modality
(docs/maavt.md, 5). Each half is what the model would say if the other modality were missing, so that nothing is computed twice.
"""

import torch
from torch import nn
from transformers import Trainer


class ModalityTrainer(Trainer):
    """`Trainer` whose evaluations also predict from one modality alone, where the model's class head has two halves.

    `compute_metrics` then finds two more predictions, of the video and of the audio, in the shape of the logits; they are
    zeros where a clip lacks the modality. Not with LAVISH adapters, through which the streams meet, and not with
    `torch_compile`, whose graph has no place for a look at the head.
    """

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        self._class_head = None
        if metric_key_prefix == "eval" and not self.args.torch_compile:
            self._class_head = divided_head(self.accelerator.unwrap_model(self.model))
        try:
            return super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        finally:
            self._class_head = None

    def prediction_step(self, model: nn.Module, inputs: dict, prediction_loss_only: bool, *args, **kwargs):
        head = getattr(self, "_class_head", None)
        both = "has_video" in inputs and "has_audio" in inputs
        if head is None or prediction_loss_only or not both:
            return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)
        halves = []
        hook = head.register_forward_hook(lambda module, given, said: halves.extend(alone(given[2:], said[1:])))
        try:
            loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)
        finally:
            hook.remove()
        predictions = logits if isinstance(logits, tuple) else (logits,)
        if predictions[0].ndim == 2:  # per clip: the mean over segments
            halves = [half.mean(1) for half in halves]  # (B, C)
        return loss, (*predictions, *halves), labels


def divided_head(model: nn.Module) -> nn.Module | None:
    """The class head whose halves are what the modalities say alone; None of another model."""
    if hasattr(model, "get_base_model"):  # PEFT
        model = model.get_base_model()
    head = getattr(model, "classifier", None)
    if not hasattr(head, "halves") or getattr(model.config, "lavish", None) is not None:
        return None
    return head


def alone(presence: tuple[torch.Tensor, ...], halves: tuple[torch.Tensor | None, ...]) -> list[torch.Tensor]:
    """`[B, S, C]` of the video and of the audio, from the halves of the class head; zeros where a clip lacks it."""
    size = next(half for half in halves if half is not None)
    said = []
    for half, present in zip(halves, presence, strict=True):
        if half is None:
            half = torch.zeros_like(size)
        said.append(half.detach() * present[:, None, None])
    return said
