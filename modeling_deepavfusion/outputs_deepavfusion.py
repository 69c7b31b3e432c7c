# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The outputs of all DeepAVFusion models.

Shapes: B clips, S windows a clip (one frame and one spectrogram each), N = B * S windows, D width, L layers, H heads,
N_v and N_a patches of frame and spectrogram (fewer when masked), n = n_f + g_v + g_a fusion and aggregation tokens,
C classes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers.utils import ModelOutput


class FusionAttentions(NamedTuple):
    """
    Attention weights of one fusion block. A modality that the whole batch lacks has None.

    Args:
        image_aggregation, audio_aggregation: `[N, H, g_v, N_v]` and `[N, H, g_a, N_a]`, A_v and A_a: what the aggregation
            tokens read in the patches. None for fusion types without aggregation.
        image, audio: the two factors of the attention over pairs (docs/deepavfusion.md, equation 3), for q queries over i
            visual and j audio entries: `[N, H, q, i]` and `[N, H, q, j]`. Each row sums to 1.
            Factorized: q = n_f, i = g_v, j = g_a, so that `image @ image_aggregation` is over patches.
            Dense: q = n, i = N_v, j = N_a.
            Token: the same shapes as dense, but the two rows together sum to 1.
    """

    image_aggregation: torch.Tensor | None = None
    audio_aggregation: torch.Tensor | None = None
    image: torch.Tensor | None = None
    audio: torch.Tensor | None = None


@dataclass
class DeepAVFusionModelOutput(ModelOutput):
    """
    Output of [`DeepAVFusionModel`]. The fields of a modality are None without its input.

    Args:
        last_hidden_state, fusion_last_hidden_state: `[N, n, D]`, the tokens `[fusion | visual | audio aggregation]` after
            their final LayerNorm. One tensor under two names.
        pooler_output: `[N, D]`, the mean of these tokens.
        image_last_hidden_state: `[N, N_v, D]`, patches of the frame after the final LayerNorm of their ViT.
        audio_last_hidden_state: `[N, N_a, D]`, patches of the spectrogram in row-major order (frequency, then time).
        hidden_states, fusion_hidden_states: L + 1 times `[N, n, D]`: the tokens that enter the first layer, and those that
            leave each layer, before the final LayerNorm. On request; one tuple under two names.
        image_hidden_states, audio_hidden_states: the same for the patches, `[N, N_v, D]` and `[N, N_a, D]` each.
        attentions, audio_attentions: L times `[N, H, N_v, n + N_v]` and `[N, H, N_a, n + N_a]`: attention of the two ViTs
            over `[tokens | patches]`, without the n tokens in a layer without fusion. On request, eager attention only.
        fusion_attentions: one [`FusionAttentions`] for every layer with fusion. On request, with any attention.
    """

    # tokens and patches after the last layer
    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    image_last_hidden_state: torch.FloatTensor | None = None
    audio_last_hidden_state: torch.FloatTensor | None = None
    fusion_last_hidden_state: torch.FloatTensor | None = None
    # on request
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    image_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    audio_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    fusion_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    audio_attentions: tuple[torch.FloatTensor, ...] | None = None
    fusion_attentions: tuple[FusionAttentions, ...] | None = None


# what every task model passes on from the encoder, each None where it was not asked for
REQUESTED_FIELDS = (
    "hidden_states",
    "image_hidden_states",
    "audio_hidden_states",
    "fusion_hidden_states",
    "attentions",
    "audio_attentions",
    "fusion_attentions",
)


def requested_outputs(outputs: DeepAVFusionModelOutput) -> dict[str, tuple | None]:
    """The hidden states and attentions of the encoder, as keyword arguments of a task model's output."""
    return {name: outputs.get(name) for name in REQUESTED_FIELDS}


@dataclass
class DeepAVFusionPreTrainingOutput(ModelOutput):
    """
    Output of [`DeepAVFusionForPreTraining`]. The fields of a modality are None without its input.

    Args:
        loss: scalar, the weighted sum of the two losses below (docs/deepavfusion.md, equation 4).
        image_loss, audio_loss: scalars, mean squared error over the hidden patches.
        image_logits, audio_logits: `[N, P, p * p * C]` for all P patches of side p and C channels: the reconstructed values
            in the order row, column, channel (the last fastest). Standardized patch by patch with `config.norm_pix_loss`.
        image_mask, audio_mask: `[N, P]`, 1 for a hidden patch and 0 for a visible one.
        image_ids_restore, audio_ids_restore: `[N, P]`, the rank of each patch by its noise.
        The remaining fields: as in [`DeepAVFusionModelOutput`].
    """

    # losses
    loss: torch.FloatTensor | None = None
    image_loss: torch.FloatTensor | None = None
    audio_loss: torch.FloatTensor | None = None
    # reconstructions
    image_logits: torch.FloatTensor | None = None
    audio_logits: torch.FloatTensor | None = None
    # what was hidden
    image_mask: torch.FloatTensor | None = None
    audio_mask: torch.FloatTensor | None = None
    image_ids_restore: torch.LongTensor | None = None
    audio_ids_restore: torch.LongTensor | None = None
    # on request
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    image_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    audio_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    fusion_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    audio_attentions: tuple[torch.FloatTensor, ...] | None = None
    fusion_attentions: tuple[FusionAttentions, ...] | None = None


@dataclass
class DeepAVFusionClassifierOutput(ModelOutput):
    """
    Output of [`DeepAVFusionForAudioVisualClassification`].

    Args:
        loss: scalar, when `labels` are given.
        logits: `[B, C]`, the mean over a clip's heads (of the modalities that it has) and windows.
        window_logits: `[B, S, C]`, the mean over the heads alone.
        image_logits, audio_logits, fusion_logits: `[B, C]`, each head alone, the mean over windows. 0 for a clip without the
            modality, None if no clip of the batch has it.
        The remaining fields: as in [`DeepAVFusionModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    # all heads
    logits: torch.FloatTensor | None = None
    window_logits: torch.FloatTensor | None = None
    # each head alone
    image_logits: torch.FloatTensor | None = None
    audio_logits: torch.FloatTensor | None = None
    fusion_logits: torch.FloatTensor | None = None
    # on request
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    image_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    audio_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    fusion_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    audio_attentions: tuple[torch.FloatTensor, ...] | None = None
    fusion_attentions: tuple[FusionAttentions, ...] | None = None


@dataclass
class DeepAVFusionSegmentationOutput(ModelOutput):
    """
    Output of [`DeepAVFusionForAudioVisualSegmentation`].

    Args:
        loss: scalar, when `labels` are given.
        logits: `[B, S, K, H, W]` for K classes. For K = 1 the sigmoid is the probability that a pixel sounds.
        The remaining fields: as in [`DeepAVFusionModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    # on request
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    image_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    audio_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    fusion_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    audio_attentions: tuple[torch.FloatTensor, ...] | None = None
    fusion_attentions: tuple[FusionAttentions, ...] | None = None


@dataclass
class DeepAVFusionSeparationOutput(ModelOutput):
    """
    Output of [`DeepAVFusionForSoundSourceSeparation`].

    Args:
        loss: scalar, when `labels` are given.
        logits: `[B, S, F, W]`. The sigmoid is the share of the mixture's mel power that belongs to the source in the frame.
        mask_targets: `[B, S, F, W]`, the mask that the loss asks for, when `labels` are given.
        The remaining fields: as in [`DeepAVFusionModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    mask_targets: torch.FloatTensor | None = None
    # on request
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    image_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    audio_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    fusion_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    audio_attentions: tuple[torch.FloatTensor, ...] | None = None
    fusion_attentions: tuple[FusionAttentions, ...] | None = None


@dataclass
class DeepAVFusionLocalizationOutput(ModelOutput):
    """
    Output of [`DeepAVFusionForSoundSourceLocalization`].

    Args:
        loss: scalar, when `labels` are given.
        logits: `[B, S, H, W]`, the map scaled to 0..1 within its frame and enlarged to it. The higher, the likelier a source.
        attention_map: `[B, S, h, w]`, the attention over the h x w patches before scaling. Sums to 1 (token fusion: to the
            share of the frame).
        The remaining fields: as in [`DeepAVFusionModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    attention_map: torch.FloatTensor | None = None
    # on request
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    image_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    audio_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    fusion_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    audio_attentions: tuple[torch.FloatTensor, ...] | None = None
    fusion_attentions: tuple[FusionAttentions, ...] | None = None


__all__ = [
    "DeepAVFusionClassifierOutput",
    "DeepAVFusionLocalizationOutput",
    "DeepAVFusionModelOutput",
    "DeepAVFusionPreTrainingOutput",
    "DeepAVFusionSegmentationOutput",
    "DeepAVFusionSeparationOutput",
    "FusionAttentions",
    "requested_outputs",
]
