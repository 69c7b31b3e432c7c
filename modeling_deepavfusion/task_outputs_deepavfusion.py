# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What the models for segmentation, separation and localization return. Shapes: B clips, S windows a clip, K classes."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from .outputs_deepavfusion import FusionAttentions


@dataclass
class DeepAVFusionSegmentationOutput(ModelOutput):
    """
    Output of [`DeepAVFusionForAudioVisualSegmentation`].

    Args:
        loss: scalar, when `labels` are given.
        logits: `[B, S, K, H, W]`; for K = 1 the sigmoid is the probability that a pixel sounds.
        The rest as in [`DeepAVFusionModelOutput`], on request.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor] | None = None
    image_hidden_states: tuple[torch.FloatTensor] | None = None
    audio_hidden_states: tuple[torch.FloatTensor] | None = None
    fusion_hidden_states: tuple[torch.FloatTensor] | None = None
    attentions: tuple[torch.FloatTensor] | None = None
    audio_attentions: tuple[torch.FloatTensor] | None = None
    fusion_attentions: tuple[FusionAttentions] | None = None


@dataclass
class DeepAVFusionSeparationOutput(ModelOutput):
    """
    Output of [`DeepAVFusionForSoundSourceSeparation`].

    Args:
        loss: scalar, when `labels` are given.
        logits: `[B, S, F, W]`, whose sigmoid is the share of the mixture's mel power that belongs to what is seen.
        mask_targets: `[B, S, F, W]`, what the loss asks for, when `labels` are given.
        The rest as in [`DeepAVFusionModelOutput`], on request.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    mask_targets: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor] | None = None
    image_hidden_states: tuple[torch.FloatTensor] | None = None
    audio_hidden_states: tuple[torch.FloatTensor] | None = None
    fusion_hidden_states: tuple[torch.FloatTensor] | None = None
    attentions: tuple[torch.FloatTensor] | None = None
    audio_attentions: tuple[torch.FloatTensor] | None = None
    fusion_attentions: tuple[FusionAttentions] | None = None


@dataclass
class DeepAVFusionLocalizationOutput(ModelOutput):
    """
    Output of [`DeepAVFusionForSoundSourceLocalization`].

    Args:
        loss: scalar, when `labels` are given.
        logits: `[B, S, H, W]`, the map scaled to 0..1 within its frame and enlarged to it; the higher, the likelier a source.
        attention_map: `[B, S, h, w]`, the attention over the patches before scaling; sums to 1 (less without sound).
        The rest as in [`DeepAVFusionModelOutput`], on request.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    attention_map: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor] | None = None
    image_hidden_states: tuple[torch.FloatTensor] | None = None
    audio_hidden_states: tuple[torch.FloatTensor] | None = None
    fusion_hidden_states: tuple[torch.FloatTensor] | None = None
    attentions: tuple[torch.FloatTensor] | None = None
    audio_attentions: tuple[torch.FloatTensor] | None = None
    fusion_attentions: tuple[FusionAttentions] | None = None


__all__ = ["DeepAVFusionLocalizationOutput", "DeepAVFusionSegmentationOutput", "DeepAVFusionSeparationOutput"]
