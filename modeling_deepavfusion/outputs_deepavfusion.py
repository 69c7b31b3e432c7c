# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What DeepAVFusion returns. Shapes: B clips, S windows a clip (one frame and one spectrogram each), N = B*S, D width,
L layers, N_v and N_a patches of frame and spectrogram (fewer when masked), n fusion and aggregation tokens, H heads, C classes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers.utils import ModelOutput


class FusionAttentions(NamedTuple):
    """
    Attention of one fusion block, with q queries: the n_f fusion tokens of the factorized type, all n of the others.

    Args:
        image_aggregation, audio_aggregation: `[N, H, g_v, N_v]` and `[N, H, g_a, N_a]`, what the aggregation tokens read in
            the patches, A_v and A_a; None for types without aggregation.
        image, audio: the halves of the attention over pairs, each row summing to 1. Factorized: alpha `[N, H, n_f, g_v]` over
            the visual aggregation tokens, and `[N, H, n_f, g_a]`, so that alpha @ A_v is over patches. Dense:
            `[N, H, n, N_v]` and `[N, H, n, N_a]` over patches. Token: the same shapes, whose rows sum to 1 together.

    A modality that the whole batch lacks has None.
    """

    image_aggregation: torch.Tensor | None
    audio_aggregation: torch.Tensor | None
    image: torch.Tensor | None
    audio: torch.Tensor | None


@dataclass
class DeepAVFusionModelOutput(ModelOutput):
    """
    Output of [`DeepAVFusionModel`]. Without a modality its fields are None.

    Args:
        last_hidden_state, fusion_last_hidden_state: `[N, n, D]`, the tokens `[fusion | visual | audio]` after their
            final LayerNorm; one tensor under two names.
        pooler_output: `[N, D]`, their mean.
        image_last_hidden_state: `[N, N_v, D]`, patches of the frame after the final LayerNorm of its ViT.
        audio_last_hidden_state: `[N, N_a, D]`, patches of the spectrogram, frequency before time.
        hidden_states, fusion_hidden_states: L + 1 times `[N, n, D]`: what enters the first layer and what leaves each,
            before the final LayerNorm, on request.
        image_hidden_states, audio_hidden_states: the same of the patches.
        attentions, audio_attentions: L times `[N, H, N_v, n + N_v]` and `[N, H, N_a, n + N_a]`, eager attention of the two
            ViTs over `[tokens | patches]` (patches alone in layers without fusion), on request.
        fusion_attentions: one [`FusionAttentions`] for every layer with fusion, on request, whatever the attention
            implementation.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    image_last_hidden_state: torch.FloatTensor | None = None
    audio_last_hidden_state: torch.FloatTensor | None = None
    fusion_last_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor] | None = None
    image_hidden_states: tuple[torch.FloatTensor] | None = None
    audio_hidden_states: tuple[torch.FloatTensor] | None = None
    fusion_hidden_states: tuple[torch.FloatTensor] | None = None
    attentions: tuple[torch.FloatTensor] | None = None
    audio_attentions: tuple[torch.FloatTensor] | None = None
    fusion_attentions: tuple[FusionAttentions] | None = None


@dataclass
class DeepAVFusionPreTrainingOutput(ModelOutput):
    """
    Output of [`DeepAVFusionForPreTraining`]. Without a modality its fields are None.

    Args:
        loss: scalar, the weighted sum of the two below.
        image_loss, audio_loss: scalars, mean squared error over the hidden patches.
        image_logits, audio_logits: `[N, P, p * p * C]`, the reconstructed patches: row, column, channel, the last fastest;
            standardized patch by patch where `config.norm_pix_loss`.
        image_mask, audio_mask: `[N, P]`, 1 for a hidden patch and 0 for a visible one.
        image_ids_restore, audio_ids_restore: `[N, P]`, where each patch stood in the order of its noise.
        The rest as in [`DeepAVFusionModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    image_loss: torch.FloatTensor | None = None
    audio_loss: torch.FloatTensor | None = None
    image_logits: torch.FloatTensor | None = None
    audio_logits: torch.FloatTensor | None = None
    image_mask: torch.FloatTensor | None = None
    audio_mask: torch.FloatTensor | None = None
    image_ids_restore: torch.LongTensor | None = None
    audio_ids_restore: torch.LongTensor | None = None
    hidden_states: tuple[torch.FloatTensor] | None = None
    image_hidden_states: tuple[torch.FloatTensor] | None = None
    audio_hidden_states: tuple[torch.FloatTensor] | None = None
    fusion_hidden_states: tuple[torch.FloatTensor] | None = None
    attentions: tuple[torch.FloatTensor] | None = None
    audio_attentions: tuple[torch.FloatTensor] | None = None
    fusion_attentions: tuple[FusionAttentions] | None = None


@dataclass
class DeepAVFusionClassifierOutput(ModelOutput):
    """
    Output of [`DeepAVFusionForAudioVisualClassification`].

    Args:
        loss: scalar, when `labels` are given.
        logits: `[B, C]`, the mean of the heads and windows that there are; `[B, S, C]` for labels per window.
        image_logits, audio_logits, fusion_logits: the three heads' own, in the same shape, 0 for clips without the modality.
        The rest as in [`DeepAVFusionModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    image_logits: torch.FloatTensor | None = None
    audio_logits: torch.FloatTensor | None = None
    fusion_logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor] | None = None
    image_hidden_states: tuple[torch.FloatTensor] | None = None
    audio_hidden_states: tuple[torch.FloatTensor] | None = None
    fusion_hidden_states: tuple[torch.FloatTensor] | None = None
    attentions: tuple[torch.FloatTensor] | None = None
    audio_attentions: tuple[torch.FloatTensor] | None = None
    fusion_attentions: tuple[FusionAttentions] | None = None


__all__ = [
    "DeepAVFusionClassifierOutput",
    "DeepAVFusionModelOutput",
    "DeepAVFusionPreTrainingOutput",
    "FusionAttentions",
]
