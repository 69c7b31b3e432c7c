# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion for audio-visual segmentation: which pixels make the sound (docs/deepavfusion_tasks.md, 1).

Shapes: B clips, S windows a clip (one frame and one spectrogram each), N = B*S, D width, K classes.
"""

import torch
from torch import nn
from transformers.utils.generic import can_return_tuple

from .losses_deepavfusion import global_mean
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
from .task_outputs_deepavfusion import DeepAVFusionSegmentationOutput
from .windows_deepavfusion import complete_streams


IGNORED_PIXEL = 255
NUM_SCALES = 4


class DeepAVFusionSegmentationDecoder(nn.Module):
    """Patches of four layers and the sound's mean to logits of every pixel.

    As published, the shallowest layer feeds the coarsest scale; fusion tokens are not read.
    """

    def __init__(self, config):
        super().__init__()
        width, floor = config.hidden_size, config.segmentation_min_channels
        channels = [width] + [max(width // 2**scale, floor) for scale in range(1, NUM_SCALES)]
        self.layers = spread_layers(config.num_hidden_layers, NUM_SCALES)
        self.image_norms = nn.ModuleList([nn.LayerNorm(width, eps=config.layer_norm_eps) for _ in channels])
        self.audio_projections = nn.ModuleList([nn.Linear(width, size) for size in channels])
        self.audio_norms = nn.ModuleList([nn.LayerNorm(size, eps=config.layer_norm_eps) for size in channels])
        self.top = DeepAVFusionDoubleConv(2 * width, width)
        scales = range(1, NUM_SCALES)
        self.lateral = nn.ModuleList([DeepAVFusionUpsampling(width, 0, channels[s], 2**s) for s in scales])
        self.up = nn.ModuleList(
            [DeepAVFusionUpsampling(channels[s - 1], 2 * channels[s], channels[s], 2) for s in scales]
        )
        self.conv = nn.Conv2d(channels[-1], floor, 3, padding=1)
        self.classifier = nn.Conv2d(floor, config.num_labels, 3, padding=1)

    def forward(
        self,
        image_states: list[torch.Tensor],
        audio_state: torch.Tensor | None,
        grid: tuple[int, int],
        size: tuple[int, int],
        has_audio: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            image_states: four times `[N, h w, D]`, shallow first, before the final LayerNorm.
            audio_state: `[N, N_a, D]`, of the last layer; without sound its place is zeros.
            grid: (h, w).
            size: of the frame.
            has_audio: bool `[N]`, False for rows whose sound means nothing.

        Returns:
            logits `[N, K, *size]`.
        """
        states = None
        for scale, patches in enumerate(image_states):
            picture = as_map(self.image_norms[scale](patches), grid)
            sound = self.sound(scale, audio_state, len(patches), has_audio).to(patches.dtype)
            if scale == 0:
                states = self.top(beside(picture, sound))
            else:
                picture = beside(self.lateral[scale - 1](picture), sound)
                states = self.up[scale - 1](states, picture)
        states = nn.functional.interpolate(self.conv(states), size=size, mode="bilinear", align_corners=False)
        return self.classifier(states)

    def sound(
        self, scale: int, audio_state: torch.Tensor | None, num_windows: int, has_audio: torch.Tensor | None
    ) -> torch.Tensor:
        """`[N, c_s]`: the sound's patches projected, normalized and averaged over time and frequency."""
        projection = self.audio_projections[scale]
        if audio_state is None:
            return projection.weight.new_zeros(num_windows, projection.out_features)
        mean = self.audio_norms[scale](projection(audio_state)).mean(1)
        return mean if has_audio is None else mean * has_audio[:, None].to(mean.dtype)


class DeepAVFusionForAudioVisualSegmentation(DeepAVFusionMapModel):
    """DeepAVFusion with a decoder for the pixels that sound: one map (S4, MS3: `num_labels=1`) or classes (AVSS: 71)."""

    def __init__(self, config):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.deepavfusion = DeepAVFusionModel(config)
        self.decoder = DeepAVFusionSegmentationDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        has_video: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> DeepAVFusionSegmentationOutput:
        """
        Args:
            pixel_values_videos: frames `[B, S, C, H, W]`.
            input_features: log-mel spectrograms `[B, S, F, W]`, or None.
            has_video, has_audio: bool `[B]`; False marks a zero-filled row. Frames without a picture count for no loss.
            labels: `[B, S, H, W]` (`[B, H, W]` for S = 1): 0 and 1 for `num_labels=1` (BCE), else class indices (cross
                entropy). 255 and -100 are ignored.
            output_hidden_states, output_attentions: as in [`DeepAVFusionModel`].

        Raises:
            ValueError: no frames, or labels of another size; see also [`DeepAVFusionModel.forward`].
        """
        if pixel_values_videos is None:
            raise ValueError("Segmentation needs pixel_values_videos; give the frames that are to be segmented.")
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
        windows, size = pixel_values_videos.shape[:2], tuple(pixel_values_videos.shape[-2:])
        logits = self.decoder(
            image,
            None if audio is None else audio[-1],
            (size[0] // self.config.patch_size, size[1] // self.config.patch_size),
            size,
            None if has_audio is None else has_audio.bool().repeat_interleave(windows[1]),
        ).unflatten(0, windows)
        loss = None if labels is None else self._loss(logits, labels, has_video)
        return DeepAVFusionSegmentationOutput(loss=loss, logits=logits, **side_outputs(outputs))

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, has_video: torch.Tensor | None) -> torch.Tensor:
        """Mean over the pixels of the global batch that count; 0 where there are none."""
        shape = (*logits.shape[:2], *logits.shape[-2:])
        if labels.shape not in (shape, (shape[0], *shape[2:])) or labels.numel() != logits[:, :, 0].numel():
            raise ValueError(f"labels have shape {tuple(labels.shape)}, the frames {shape}; give one label a pixel.")
        labels = labels.reshape(shape).long()
        counted = (labels != IGNORED_PIXEL) & (labels != -100)
        if has_video is not None:
            counted = counted & has_video.bool()[:, None, None, None]
        logits, labels = logits.float(), labels.masked_fill(~counted, 0)
        if self.num_labels == 1:
            losses = nn.functional.binary_cross_entropy_with_logits(
                logits.squeeze(2), labels.float(), reduction="none"
            )
        else:
            losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(0, 1), reduction="none")
            losses = losses.unflatten(0, shape[:2])
        return global_mean(losses, counted)


__all__ = ["DeepAVFusionForAudioVisualSegmentation", "DeepAVFusionSegmentationDecoder"]
