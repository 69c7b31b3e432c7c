# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion for source separation: the part of a mixture that belongs to a frame (docs/deepavfusion_tasks.md, 2).

Shapes: B clips, S windows a clip, N = B*S, D width, F mel bins, W time frames. Spectrograms are log10 mel power.
"""

import torch
from torch import nn
from transformers.utils.generic import can_return_tuple

from .maps_deepavfusion import (
    DeepAVFusionDoubleConv,
    DeepAVFusionMapModel,
    DeepAVFusionUpsampling,
    as_map,
    beside,
    side_outputs,
    spread_layers,
)
from .modeling_deepavfusion import DeepAVFusionModel
from .separation_loss_deepavfusion import separation_loss, separation_mask
from .task_outputs_deepavfusion import DeepAVFusionSeparationOutput
from .windows_deepavfusion import complete_streams


NUM_SCALES = 5


class DeepAVFusionSeparationDecoder(nn.Module):
    """The sound's patches of five layers and the frame's mean to one logit for every point of the spectrogram.

    As published, the shallowest layer feeds the coarsest scale; fusion tokens are not read.
    """

    def __init__(self, config):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        channels = [max(width // 2**scale, 1) for scale in range(NUM_SCALES)]
        self.layers = spread_layers(config.num_hidden_layers, NUM_SCALES)
        self.image_norm = nn.LayerNorm(width, eps=eps)
        self.audio_norms = nn.ModuleList([nn.LayerNorm(width, eps=eps) for _ in channels])
        self.conditions = nn.ModuleList([nn.Linear(width, size) for size in channels])
        self.top = DeepAVFusionDoubleConv(2 * width, width)
        scales = range(1, NUM_SCALES)
        self.lateral = nn.ModuleList([DeepAVFusionUpsampling(width, 0, channels[s], 2**s) for s in scales])
        self.up = nn.ModuleList(
            [DeepAVFusionUpsampling(channels[s - 1], 2 * channels[s], channels[s], 2) for s in scales]
        )
        self.predictor = nn.Conv2d(channels[-1], 1, 3, padding=1)

    def forward(
        self,
        audio_states: list[torch.Tensor],
        image_state: torch.Tensor | None,
        grid: tuple[int, int],
        size: tuple[int, int],
        has_video: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            audio_states: five times `[N, h w, D]`, shallow first, before the final LayerNorm.
            image_state: `[N, N_v, D]`, of the last layer; without a frame its place is zeros.
            grid: (h, w) of the spectrogram.
            size: (F, W).
            has_video: bool `[N]`, False for rows whose frame means nothing.

        Returns:
            logits `[N, F, W]`.
        """
        seen = audio_states[0].new_zeros(len(audio_states[0]), audio_states[0].shape[-1])
        if image_state is not None:
            seen = self.image_norm(image_state).mean(1)
            seen = seen if has_video is None else seen * has_video[:, None].to(seen.dtype)
        states = None
        for scale, patches in enumerate(audio_states):
            sound, condition = as_map(self.audio_norms[scale](patches), grid), self.conditions[scale](seen)
            if scale == 0:
                states = self.top(beside(sound, condition))
            else:
                states = self.up[scale - 1](states, beside(self.lateral[scale - 1](sound), condition))
        logits = self.predictor(states)
        if tuple(logits.shape[-2:]) != size:  # patches of another side than 16
            logits = nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits.squeeze(1)


class DeepAVFusionForSoundSourceSeparation(DeepAVFusionMapModel):
    """DeepAVFusion with a decoder for the share of a mixture's mel power that belongs to the frame's source."""

    def __init__(self, config):
        super().__init__(config)
        self.deepavfusion = DeepAVFusionModel(config)
        self.decoder = DeepAVFusionSeparationDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        has_video: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        other_features: torch.Tensor | None = None,
        **kwargs,
    ) -> DeepAVFusionSeparationOutput:
        """
        Args:
            pixel_values_videos: frames of the wanted source `[B, S, C, H, W]`, or None.
            input_features: log-mel spectrograms of the mixture `[B, S, F, W]`.
            has_video, has_audio: bool `[B]`; False marks a zero-filled row. Windows without sound count for no loss.
            labels: log-mel spectrograms of the wanted source `[B, S, F, W]`.
            other_features: those of the rest of the mixture; `config.separation_target` "ratio" and "binary" need them.
            output_hidden_states, output_attentions: as in [`DeepAVFusionModel`].

        Raises:
            ValueError: no mixture, labels of another shape, or no rest where the target needs one; see also
                [`DeepAVFusionModel.forward`].
        """
        if input_features is None:
            raise ValueError("Separation needs input_features; give the spectrograms of the mixtures.")
        streams = (pixel_values_videos, input_features, has_video, has_audio)
        if self.training:
            streams = complete_streams(self.config, *streams)
        pixel_values_videos, input_features, has_video, has_audio = streams
        outputs, image, audio = self.encode(
            pixel_values_videos,
            input_features,
            layers=self.decoder.layers,
            has_video=has_video,
            has_audio=has_audio,
            **kwargs,
        )
        windows, size = input_features.shape[:2], tuple(input_features.shape[-2:])
        logits = self.decoder(
            audio,
            None if image is None else image[-1],
            (size[0] // self.config.patch_size, size[1] // self.config.patch_size),
            size,
            None if has_video is None else has_video.bool().repeat_interleave(windows[1]),
        ).unflatten(0, windows)
        loss = targets = None
        if labels is not None:
            targets = separation_mask(input_features, labels, other_features, self.config.separation_target)
            counted = None if has_audio is None else has_audio.bool()[:, None, None, None].expand_as(logits)
            loss = separation_loss(logits, targets, input_features, self.config.separation_weighting, counted)
        return DeepAVFusionSeparationOutput(loss=loss, logits=logits, mask_targets=targets, **side_outputs(outputs))


__all__ = ["DeepAVFusionForSoundSourceSeparation", "DeepAVFusionSeparationDecoder"]
