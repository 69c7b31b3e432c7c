# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion for localization: where its fusion tokens look (docs/deepavfusion_tasks.md, 3).

Ours: the paper claims localization and publishes no method. The map is the attention that the encoder has anyway, so the
model has no weights of its own. Shapes: B clips, S windows a clip, N = B*S, H heads, h x w patches of a frame.
"""

import torch
from torch import nn
from transformers.utils.generic import can_return_tuple

from .losses_deepavfusion import global_mean
from .maps_deepavfusion import side_outputs
from .modeling_deepavfusion import DeepAVFusionModel, DeepAVFusionPreTrainedModel
from .outputs_deepavfusion import FusionAttentions
from .task_outputs_deepavfusion import DeepAVFusionLocalizationOutput


def fusion_attention_map(attentions: FusionAttentions) -> torch.Tensor:
    """`[N, N_v]`: how much the fusion tokens of one layer read of each patch, mean over heads and tokens.

    Factorized fusion reads aggregation tokens, which read patches: alpha @ A_v, exact because a pair's attention is the
    product of its halves' (docs/deepavfusion.md). Dense and token fusion read patches themselves.
    """
    weights = attentions.image
    if attentions.image_aggregation is not None:
        weights = weights @ attentions.image_aggregation
    return weights.float().mean((1, 2))


def scaled(maps: torch.Tensor) -> torch.Tensor:
    """`[..., h, w]` scaled to 0..1 each; a constant map becomes zeros."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)


class DeepAVFusionForSoundSourceLocalization(DeepAVFusionPreTrainedModel):
    """The attention of the last `config.localization_layers` fused layers over the frame, as a map.

    Loads the weights of any DeepAVFusion checkpoint. With `labels` it is trained to look at marked pixels; without, what
    it shows was learned by another task (classification, pre-training).
    """

    def __init__(self, config):
        super().__init__(config)
        self.deepavfusion = DeepAVFusionModel(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.deepavfusion.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        has_video: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_fusion_attentions: bool | None = None,
        **kwargs,
    ) -> DeepAVFusionLocalizationOutput:
        """
        Args:
            pixel_values_videos: frames `[B, S, C, H, W]`.
            input_features: log-mel spectrograms `[B, S, F, W]`, or None: then the map shows what stands out in the frame.
            has_video, has_audio: bool `[B]`; False marks a zero-filled row, which counts for no loss without its frame.
            labels: consensus maps `[B, S, H, W]` in 0..1 (`[B, H, W]` for S = 1); frames without a source count for nothing.
                The loss is the cross-entropy of the attention against the marked area.
            output_fusion_attentions: also the attention of every fused layer.
            output_hidden_states, output_attentions: as in [`DeepAVFusionModel`].

        Raises:
            ValueError: no frames, no fused layer to look at, or labels of another size.
        """
        if pixel_values_videos is None:
            raise ValueError("Localization needs pixel_values_videos; give the frames in which to look.")
        if not self.config.fused_layers:
            raise ValueError(
                "fusion_layers=[]: without fusion there is no attention to show; load another checkpoint."
            )
        outputs = self.deepavfusion(
            pixel_values_videos,
            input_features,
            has_video=has_video,
            has_audio=has_audio,
            output_fusion_attentions=True,
            **{**kwargs, "return_dict": True},
        )
        attentions = outputs.fusion_attentions
        size, patch = pixel_values_videos.shape[-2:], self.config.patch_size
        maps = torch.stack([fusion_attention_map(layer) for layer in attentions[-self.config.localization_layers :]])
        maps = maps.mean(0).unflatten(-1, (size[0] // patch, size[1] // patch))
        enlarged = nn.functional.interpolate(scaled(maps)[:, None], size=size, mode="bilinear", align_corners=False)
        windows = pixel_values_videos.shape[:2]
        maps = maps.unflatten(0, windows)
        sides = side_outputs(outputs)
        if not (output_fusion_attentions or kwargs.get("output_attentions") or self.config.output_attentions):
            sides["fusion_attentions"] = None
        return DeepAVFusionLocalizationOutput(
            loss=None if labels is None else self._loss(maps, labels, has_video),
            logits=enlarged.squeeze(1).unflatten(0, windows),
            attention_map=maps,
            **sides,
        )

    def _loss(self, maps: torch.Tensor, labels: torch.Tensor, has_video: torch.Tensor | None) -> torch.Tensor:
        """Cross-entropy of the attention against the marked area, mean over frames with a source.

        The target is spread over the whole area: attention that hides in one patch of it would be no map of the source.
        """
        windows, patch = maps.shape[:2], self.config.patch_size
        if labels.ndim == 3 and windows[1] == 1:
            labels = labels[:, None]
        shape = (*windows, maps.shape[2] * patch, maps.shape[3] * patch)
        if tuple(labels.shape) != shape:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}; give consensus maps {shape}, as large as the frames."
            )
        shares = nn.functional.avg_pool2d(labels.float(), patch)
        counted = shares.flatten(2).amax(-1) > 0
        if has_video is not None:
            counted = counted & has_video.bool()[:, None]
        tiny = torch.finfo(maps.dtype).tiny
        wanted = shares / shares.sum((-2, -1), keepdim=True).clamp_min(tiny)
        looked = maps / maps.sum((-2, -1), keepdim=True).clamp_min(tiny)
        losses = -(wanted * looked.clamp_min(1e-6).log()).sum((-2, -1))
        return global_mean(losses, counted)


__all__ = ["DeepAVFusionForSoundSourceLocalization", "fusion_attention_map", "scaled"]
