# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What MA-AVT returns.

Shapes: B clips, T frames and S audio segments per clip, D width, L blocks that see the learned tokens, L' contrasted blocks,
P patches, p patch size, C classes.
"""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class MAAVTEncoderOutput(ModelOutput):
    """
    Output of the shared blocks, before the final LayerNorm. Without a stream its fields are None.

    Args:
        video_state, audio_state: `[B*T, len, D]` and `[B*S, len, D]`.
        video_shared_states, audio_shared_states: `[N, L, D]`, mean over the shared tokens after every block.
        video_localization, audio_localization: `[N, P]`, rows sum to 1 (docs/maavt.md, 6); on request.
    """

    video_state: torch.FloatTensor | None = None
    audio_state: torch.FloatTensor | None = None
    video_shared_states: torch.FloatTensor | None = None
    audio_shared_states: torch.FloatTensor | None = None
    # on request
    video_localization: torch.FloatTensor | None = None
    audio_localization: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor] | None = None
    audio_hidden_states: tuple[torch.FloatTensor] | None = None
    attentions: tuple[torch.FloatTensor] | None = None
    audio_attentions: tuple[torch.FloatTensor] | None = None


@dataclass
class MAAVTModelOutput(ModelOutput):
    """
    Output of [`MAAVTModel`]. Without a modality its fields are None.

    Args:
        last_hidden_state: `[B*T, len, D]`, the video's sequence `[cls | patches | background? | visual | shared]`
            after the final LayerNorm.
        audio_last_hidden_state: `[B*S, len, D]`, the audio's sequence `[cls | patches | background? | audio | shared]`.
        video_class_state, audio_class_state: `[B, S, D]`, class tokens, averaged over the frames of a segment.
        video_background_state, audio_background_state: `[B, S, D]`, background tokens (with background mining).
        video_patch_states, audio_patch_states: `[B, S, P', D]`, the patches before the first block, averaged to
            `config.match_grid` and over the frames of a segment (with the match head `"patches"`).
        video_shared_states, audio_shared_states: `[B, S, L, D]`, mean of the shared tokens after every block.
        pooler_output: `[B, D]`, one unit vector per clip: the mean of the unit class states of the modalities that it has.
        video_localization: `[B, T, H/p, W/p]`, attention of the class token over a frame, sums to 1 (docs/maavt.md, 6).
        audio_localization: `[B, S, F/p, W/p]`, the same over frequency and time.
        hidden_states: `[B*T, len, D]` of the video, what enters the first block and then one per block, on request.
        audio_hidden_states: `[B*S, len, D]`, the audio's.
        attentions: `[B*T, heads, len, len]` of the video, one per block, on request (eager attention only).
        audio_attentions: `[B*S, heads, len, len]`, the audio's.
    """

    last_hidden_state: torch.FloatTensor | None = None
    audio_last_hidden_state: torch.FloatTensor | None = None
    video_class_state: torch.FloatTensor | None = None
    audio_class_state: torch.FloatTensor | None = None
    video_background_state: torch.FloatTensor | None = None
    audio_background_state: torch.FloatTensor | None = None
    video_patch_states: torch.FloatTensor | None = None
    audio_patch_states: torch.FloatTensor | None = None
    video_shared_states: torch.FloatTensor | None = None
    audio_shared_states: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    # on request
    video_localization: torch.FloatTensor | None = None
    audio_localization: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor] | None = None
    audio_hidden_states: tuple[torch.FloatTensor] | None = None
    attentions: tuple[torch.FloatTensor] | None = None
    audio_attentions: tuple[torch.FloatTensor] | None = None


@dataclass
class MAAVTClassifierOutput(ModelOutput):
    """
    Output of [`MAAVTForAudioVisualClassification`].

    Args:
        loss: scalar, the weighted sum of the losses below, when `labels` or `is_matched` is given.
        logits: `[B, C]`, the mean of `segment_logits` over the segments.
        match_logits: `[B]`, the mean of `segment_match_logits`; above 0 means that video and audio belong together (the
            paper's head has the opposite sign); with `match_head="patches"` and `match_class_agreement` 0 asks for too
            much, so take a threshold of your own clips. 0 where a modality is missing. None without a match head.
        segment_logits, segment_match_logits: `[B, S, C]` and `[B, S]`, of every audio segment with its frames.
        classification_loss, matching_loss, contrastive_loss: scalars (docs/maavt.md, 4 and 5).
        unimodal_loss: scalar, where `config.unimodal_loss_weight` is above 0 (docs/maavt.md, 5).
        contrastive_loss_per_block: `[L']`, the contrasted blocks: L, or 1 for `contrastive="last"`.
        class_agreement: `[B]`, the probability that video alone and audio alone name the same class (equation 8), with or
            without a match head. 0 where a modality is missing; None without one of the inputs and for multi-label
            models.
        The rest as in [`MAAVTModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    match_logits: torch.FloatTensor | None = None
    segment_logits: torch.FloatTensor | None = None
    segment_match_logits: torch.FloatTensor | None = None
    # the parts of the loss
    classification_loss: torch.FloatTensor | None = None
    matching_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    unimodal_loss: torch.FloatTensor | None = None
    contrastive_loss_per_block: torch.FloatTensor | None = None
    class_agreement: torch.FloatTensor | None = None
    # on request
    video_localization: torch.FloatTensor | None = None
    audio_localization: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor] | None = None
    audio_hidden_states: tuple[torch.FloatTensor] | None = None
    attentions: tuple[torch.FloatTensor] | None = None
    audio_attentions: tuple[torch.FloatTensor] | None = None


__all__ = ["MAAVTClassifierOutput", "MAAVTEncoderOutput", "MAAVTModelOutput"]
