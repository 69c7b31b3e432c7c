# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion for three dense tasks: segmentation, separation and localization, with the decoders and maps they need.

Section numbers are those of docs/deepavfusion_tasks.md.

Shapes: B clips, S windows a clip, N = B * S windows, D width, h x w patches, K classes, F mel bins, W time frames.
Spectrograms are log10 mel power.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from .configuration_deepavfusion import DeepAVFusionConfig
from .losses_deepavfusion import global_mean, separation_loss, separation_mask
from .modeling_deepavfusion import Clips, DeepAVFusionModel, DeepAVFusionPreTrainedModel
from .outputs_deepavfusion import (
    DeepAVFusionLocalizationOutput,
    DeepAVFusionModelOutput,
    DeepAVFusionSegmentationOutput,
    DeepAVFusionSeparationOutput,
    FusionAttentions,
    requested_outputs,
)


IGNORED_PIXEL = 255
SEGMENTATION_SCALES = 4
SEPARATION_SCALES = 5


# ---- maps


def spread_layers(num_layers: int, count: int) -> list[int]:
    """`count` layers from the first to the last, evenly spaced and rounded down: [0, 3, 7, 11] for 12 and 4."""
    return [index * (num_layers - 1) // (count - 1) for index in range(count)]


def as_map(states: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Patches `[N, h w, C]` to `[N, C, h, w]`."""
    return states.transpose(1, 2).unflatten(2, grid)


def append_vector(states: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """`[N, C, h, w]` with the vector `[N, C']` as further channels of every place: `[N, C + C', h, w]`."""
    return torch.cat([states, vector[:, :, None, None].expand(-1, -1, *states.shape[-2:])], dim=1)


def mean_state(states: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """`[N, P, C]` to the mean `[N, C]`, 0 where `present` (bool `[N]`) is false."""
    mean = states.mean(1)
    if present is None:
        return mean
    return mean * present[:, None].to(mean.dtype)


def per_window(mask: torch.Tensor | None, num_windows: int) -> torch.Tensor | None:
    """Bool `[B]` to bool `[N]`; None stays None."""
    if mask is None:
        return None
    return mask.bool().repeat_interleave(num_windows)


class DeepAVFusionDoubleConv(nn.Module):
    """Twice 3 x 3 convolution without bias, BatchNorm, ReLU: `[N, C, h, w]` to `[N, C', h, w]`."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = self.norm1(self.conv1(states)).relu()
        return self.norm2(self.conv2(states)).relu()


class DeepAVFusionUpsampling(nn.Module):
    """A transposed convolution that makes a map `scale` times as large with C // scale channels, then a double one.

    Args:
        in_channels: C.
        skip_channels: C_s, of the map that is appended after upsampling; 0 for none.
        out_channels: C', of the result.
        scale: kernel and stride of the transposed convolution.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, scale: int):
        super().__init__()
        self.upsample = nn.ConvTranspose2d(in_channels, in_channels // scale, scale, stride=scale)
        self.conv = DeepAVFusionDoubleConv(in_channels // scale + skip_channels, out_channels)

    def forward(self, states: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """`[N, C, h, w]`, and optionally `[N, C_s, scale h, scale w]`, to `[N, C', scale h, scale w]`."""
        states = self.upsample(states)
        if skip is not None:
            states = torch.cat([states, skip], dim=1)
        return self.conv(states)


class DeepAVFusionPyramid(nn.Module):
    """Decodes maps of several layers from coarse to fine. At every scale a vector of the other modality is appended.

    As in the reference implementation, the shallowest layer feeds the coarsest scale, and fusion tokens are not read.
    """

    def add_scales(self, width: int, channels: list[int]) -> None:
        """Makes the convolutions for scales of so many channels, the coarsest first."""
        self.top = DeepAVFusionDoubleConv(2 * width, width)
        scales = range(1, len(channels))
        self.lateral = nn.ModuleList([DeepAVFusionUpsampling(width, 0, channels[s], 2**s) for s in scales])
        self.up = nn.ModuleList(
            [DeepAVFusionUpsampling(channels[s - 1], 2 * channels[s], channels[s], 2) for s in scales]
        )

    def decode(self, maps: list[torch.Tensor], vectors: list[torch.Tensor]) -> torch.Tensor:
        """Maps `[N, D, h, w]` and vectors `[N, c_s]`, coarse to fine, to `[N, c, 2^(scales - 1) h, 2^(scales - 1) w]`."""
        states = self.top(append_vector(maps[0], vectors[0]))
        for up, lateral, patches, vector in zip(self.up, self.lateral, maps[1:], vectors[1:], strict=True):
            states = up(states, append_vector(lateral(patches), vector))
        return states


class DeepAVFusionMapModel(DeepAVFusionPreTrainedModel):
    """A model whose decoder turns the patches of some layers into a map."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """As in the encoder; the decoder's convolutions start Kaiming-normal by fan-out, as in the reference implementation."""
        super()._init_weights(module)
        is_convolution = isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
        if is_convolution and not hasattr(module, "xavier_bound"):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)

    def encode(
        self,
        clips: Clips,
        layers: list[int],
        output_hidden_states: bool | int | list[int] | None,
        output_attentions: bool | None,
        output_fusion_attentions: bool | None,
    ) -> tuple[DeepAVFusionModelOutput, list[torch.Tensor] | None, list[torch.Tensor] | None]:
        """The encoder's output, and what leaves `layers` before the final LayerNorms: patches of frame and spectrogram.

        Hidden states stay in the output only where `output_hidden_states` (or the configuration) asks for them: all.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        # state 0 enters the first layer
        indices = list(range(self.config.num_hidden_layers + 1))
        if not output_hidden_states:
            indices = sorted({layer + 1 for layer in layers})
        outputs = self.deepavfusion(
            **clips._asdict(),
            output_hidden_states=indices,
            output_attentions=output_attentions,
            output_fusion_attentions=output_fusion_attentions,
            return_dict=True,
        )

        positions = [indices.index(layer + 1) for layer in layers]
        image_states, audio_states = outputs.image_hidden_states, outputs.audio_hidden_states
        if image_states is not None:
            image_states = [image_states[position] for position in positions]
        if audio_states is not None:
            audio_states = [audio_states[position] for position in positions]
        if not output_hidden_states:
            for name in ("hidden_states", "image_hidden_states", "audio_hidden_states", "fusion_hidden_states"):
                outputs[name] = None
        return outputs, image_states, audio_states


# ---- segmentation (section 1)


class DeepAVFusionSegmentationDecoder(DeepAVFusionPyramid):
    """Patches of four layers, with the mean of the audio at every scale, to logits of every pixel."""

    def __init__(self, config: DeepAVFusionConfig):
        super().__init__()
        width, min_channels = config.hidden_size, config.segmentation_min_channels
        channels = [width] + [max(width // 2**scale, min_channels) for scale in range(1, SEGMENTATION_SCALES)]
        self.layers = spread_layers(config.num_hidden_layers, SEGMENTATION_SCALES)
        self.image_norms = nn.ModuleList([nn.LayerNorm(width, eps=config.layer_norm_eps) for _ in channels])
        self.audio_projections = nn.ModuleList([nn.Linear(width, size) for size in channels])
        self.audio_norms = nn.ModuleList([nn.LayerNorm(size, eps=config.layer_norm_eps) for size in channels])
        self.add_scales(width, channels)
        self.conv = nn.Conv2d(channels[-1], min_channels, 3, padding=1)
        self.classifier = nn.Conv2d(min_channels, config.num_labels, 3, padding=1)

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
            audio_state: `[N, N_a, D]`, of the last layer; None without audio, whose vectors are then 0.
            grid: (h, w).
            size: (H, W) of the frame.
            has_audio: bool `[N]`, false for windows whose audio means nothing.

        Returns:
            logits `[N, K, H, W]`.
        """
        maps, vectors = [], []
        for patches, image_norm, projection, audio_norm in zip(
            image_states, self.image_norms, self.audio_projections, self.audio_norms, strict=True
        ):
            maps.append(as_map(image_norm(patches), grid))  # (N, D, h, w)
            if audio_state is None:
                vector = patches.new_zeros(len(patches), projection.out_features)
            else:
                vector = mean_state(audio_norm(projection(audio_state)), has_audio)
            vectors.append(vector.to(patches.dtype))  # (N, c_s)
        states = self.conv(self.decode(maps, vectors))
        states = nn.functional.interpolate(states, size=size, mode="bilinear", align_corners=False)
        return self.classifier(states)


class DeepAVFusionForAudioVisualSegmentation(DeepAVFusionMapModel):
    """DeepAVFusion with a decoder for the sounding pixels: one map (S4, MS3: `num_labels=1`) or classes (AVSS: 71)."""

    def __init__(self, config: DeepAVFusionConfig):
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
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        output_fusion_attentions: bool | None = None,
        **kwargs,
    ) -> DeepAVFusionSegmentationOutput:
        """
        Args:
            pixel_values_videos: frames `[B, S, C, H, W]`.
            input_features, has_video, has_audio: as in [`DeepAVFusionModel.forward`]. A missing frame counts for no loss.
            labels: `[B, S, H, W]` (`[B, H, W]` for S = 1): 0 and 1 for `num_labels=1` (binary cross-entropy), else class
                indices (cross-entropy). 255 and -100 are ignored.
            output_hidden_states, output_attentions, output_fusion_attentions: as in [`DeepAVFusionModel.forward`].

        Raises:
            ValueError: no frames, or labels of another size; see also [`DeepAVFusionModel.forward`].
        """
        if pixel_values_videos is None:
            raise ValueError("Segmentation needs pixel_values_videos; give the frames that are to be segmented.")

        # Encoder
        clips = self.prepare_clips(pixel_values_videos, input_features, has_video, has_audio)
        outputs, image_states, audio_states = self.encode(
            clips, self.decoder.layers, output_hidden_states, output_attentions, output_fusion_attentions
        )
        audio_state = None
        if audio_states is not None:
            audio_state = audio_states[-1]

        # Decoder
        num_clips, num_windows, _, height, width = clips.pixel_values_videos.shape
        grid = (height // self.config.patch_size, width // self.config.patch_size)
        has_audio = per_window(clips.has_audio, num_windows)
        logits = self.decoder(image_states, audio_state, grid, (height, width), has_audio)  # (N, K, H, W)
        logits = logits.unflatten(0, (num_clips, num_windows))  # (B, S, K, H, W)

        # Loss
        loss = None
        if labels is not None:
            loss = self._loss(logits, labels, clips.has_video)
        return DeepAVFusionSegmentationOutput(loss=loss, logits=logits, **requested_outputs(outputs))

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, has_video: torch.Tensor | None) -> torch.Tensor:
        """Mean over the pixels of the global batch that count; 0 where there are none."""
        num_clips, num_windows, _, height, width = logits.shape
        shape = (num_clips, num_windows, height, width)
        fits_one_window = num_windows == 1 and labels.shape == (num_clips, height, width)
        if labels.shape != shape and not fits_one_window:
            raise ValueError(f"labels have shape {tuple(labels.shape)}, the frames {shape}; give one label a pixel.")

        # pixels that count
        labels = labels.reshape(shape).long()
        counted = (labels != IGNORED_PIXEL) & (labels != -100)  # (B, S, H, W)
        if has_video is not None:
            counted = counted & has_video.bool()[:, None, None, None]

        # one map or classes
        logits, labels = logits.float(), labels.masked_fill(~counted, 0)
        if self.num_labels == 1:
            losses = nn.functional.binary_cross_entropy_with_logits(
                logits.squeeze(2), labels.float(), reduction="none"
            )
        else:
            losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(0, 1), reduction="none")
            losses = losses.unflatten(0, (num_clips, num_windows))
        return global_mean(losses, counted)


# ---- separation (section 2)


class DeepAVFusionSeparationDecoder(DeepAVFusionPyramid):
    """Audio patches of five layers, with the mean of the frame at every scale, to logits of every point of a spectrogram."""

    def __init__(self, config: DeepAVFusionConfig):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        channels = [max(width // 2**scale, 1) for scale in range(SEPARATION_SCALES)]
        self.layers = spread_layers(config.num_hidden_layers, SEPARATION_SCALES)
        self.image_norm = nn.LayerNorm(width, eps=eps)
        self.audio_norms = nn.ModuleList([nn.LayerNorm(width, eps=eps) for _ in channels])
        self.conditions = nn.ModuleList([nn.Linear(width, size) for size in channels])
        self.add_scales(width, channels)
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
            image_state: `[N, N_v, D]`, of the last layer; None without a frame, whose mean is then 0.
            grid: (h, w) of the spectrogram.
            size: (F, W).
            has_video: bool `[N]`, false for windows whose frame means nothing.

        Returns:
            logits `[N, F, W]`.
        """
        # the mean of the frame
        if image_state is None:
            frame = torch.zeros_like(audio_states[0][:, 0])  # (N, D)
        else:
            frame = mean_state(self.image_norm(image_state), has_video)

        maps = [
            as_map(norm(patches), grid) for norm, patches in zip(self.audio_norms, audio_states, strict=True)
        ]  # (N, D, h, w) each
        vectors = [condition(frame) for condition in self.conditions]  # (N, c_s) each
        logits = self.predictor(self.decode(maps, vectors))  # (N, 1, 16 h, 16 w)
        if tuple(logits.shape[-2:]) != size:
            # patches of another side than 16
            logits = nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits.squeeze(1)


class DeepAVFusionForSoundSourceSeparation(DeepAVFusionMapModel):
    """DeepAVFusion with a decoder for the share of a mixture's mel power that belongs to the source in the frame."""

    def __init__(self, config: DeepAVFusionConfig):
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
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        output_fusion_attentions: bool | None = None,
        **kwargs,
    ) -> DeepAVFusionSeparationOutput:
        """
        Args:
            pixel_values_videos: frames of the wanted source `[B, S, C, H, W]`, or None.
            input_features: log-mel spectrograms of the mixture `[B, S, F, W]`.
            has_video, has_audio: as in [`DeepAVFusionModel.forward`]. Windows without audio count for no loss.
            labels: log-mel spectrograms of the wanted source `[B, S, F, W]`.
            other_features: those of the rest of the mixture. `config.separation_target` "ratio" and "binary" need them.
            output_hidden_states, output_attentions, output_fusion_attentions: as in [`DeepAVFusionModel.forward`].

        Raises:
            ValueError: no mixture, labels of another shape, or no rest where the target needs one; see also
                [`DeepAVFusionModel.forward`].
        """
        if input_features is None:
            raise ValueError("Separation needs input_features; give the spectrograms of the mixtures.")

        # Encoder
        clips = self.prepare_clips(pixel_values_videos, input_features, has_video, has_audio)
        outputs, image_states, audio_states = self.encode(
            clips, self.decoder.layers, output_hidden_states, output_attentions, output_fusion_attentions
        )
        image_state = None
        if image_states is not None:
            image_state = image_states[-1]

        # Decoder
        num_clips, num_windows, height, width = input_features.shape
        grid = (height // self.config.patch_size, width // self.config.patch_size)
        has_video = per_window(clips.has_video, num_windows)
        logits = self.decoder(audio_states, image_state, grid, (height, width), has_video)  # (N, F, W)
        logits = logits.unflatten(0, (num_clips, num_windows))  # (B, S, F, W)

        # Loss
        loss = targets = None
        if labels is not None:
            targets = separation_mask(input_features, labels, other_features, self.config.separation_target)
            loss = self._loss(logits, targets, input_features, clips.has_audio)
        return DeepAVFusionSeparationOutput(
            loss=loss, logits=logits, mask_targets=targets, **requested_outputs(outputs)
        )

    def _loss(
        self, logits: torch.Tensor, targets: torch.Tensor, mixture: torch.Tensor, has_audio: torch.Tensor | None
    ) -> torch.Tensor:
        """Mean over the points `[B, S, F, W]` of windows with audio."""
        counted = None
        if has_audio is not None:
            counted = has_audio.bool()[:, None, None, None].expand_as(logits)
        return separation_loss(logits, targets, mixture, self.config.separation_weighting, counted)


# ---- localization (section 3): our addition, as the paper claims localization and publishes no method


def fusion_attention_map(attentions: FusionAttentions) -> torch.Tensor:
    """`[N, N_v]`: how much the fusion tokens of one layer read of each patch, mean over heads and tokens.

    Factorized fusion reads aggregation tokens, which read patches: alpha @ A_v, which is exact because the attention of a
    pair is the product of its halves' (docs/deepavfusion.md, equation 3). Dense and token fusion read the patches.
    """
    weights = attentions.image
    if attentions.image_aggregation is not None:
        weights = weights @ attentions.image_aggregation  # (N, H, n_f, N_v)
    return weights.float().mean((1, 2))


def scaled(maps: torch.Tensor) -> torch.Tensor:
    """Each of the maps `[..., h, w]` scaled to 0..1; a constant map becomes zeros."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)


class DeepAVFusionForSoundSourceLocalization(DeepAVFusionPreTrainedModel):
    """The attention of the last `config.localization_layers` fused layers over the frame, as a map.

    The model has no weights beside the encoder's and loads any DeepAVFusion checkpoint. With `labels` it is trained to look
    at marked pixels. Without, what it shows was learned by another task (classification, pre-training).
    """

    def __init__(self, config: DeepAVFusionConfig):
        super().__init__(config)
        self.deepavfusion = DeepAVFusionModel(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        has_video: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        output_fusion_attentions: bool | None = None,
        **kwargs,
    ) -> DeepAVFusionLocalizationOutput:
        """
        Args:
            pixel_values_videos: frames `[B, S, C, H, W]`.
            input_features: log-mel spectrograms `[B, S, F, W]`. Without, the map shows what stands out in the frame.
            has_video, has_audio: as in [`DeepAVFusionModel.forward`]. A missing frame counts for no loss.
            labels: consensus maps `[B, S, H, W]` in 0..1 (`[B, H, W]` for S = 1). Frames without a source count for nothing.
                The loss is the cross-entropy of the attention against the marked area.
            output_hidden_states, output_attentions, output_fusion_attentions: as in [`DeepAVFusionModel.forward`].

        Raises:
            ValueError: no frames, no fused layer to look at, or labels of another size.
        """
        if pixel_values_videos is None:
            raise ValueError("Localization needs pixel_values_videos; give the frames in which to look.")
        if not self.config.fused_layers:
            raise ValueError(
                "fusion_layers=[]: without fusion there is no attention to show; load another checkpoint."
            )

        # Encoder, with the attention of its fusion blocks
        clips = self.prepare_clips(pixel_values_videos, input_features, has_video, has_audio)
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        outputs = self.deepavfusion(
            **clips._asdict(),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            output_fusion_attentions=True,
            return_dict=True,
        )

        # Map: mean over the last fused layers, scaled within its frame and enlarged to it
        num_clips, num_windows, _, height, width = clips.pixel_values_videos.shape
        grid = (height // self.config.patch_size, width // self.config.patch_size)
        last_layers = outputs.fusion_attentions[-self.config.localization_layers :]
        maps = torch.stack([fusion_attention_map(layer) for layer in last_layers]).mean(0)  # (N, h w)
        maps = maps.unflatten(-1, grid)  # (N, h, w)
        logits = nn.functional.interpolate(scaled(maps)[:, None], size=(height, width), mode="bilinear")
        logits = logits.squeeze(1).unflatten(0, (num_clips, num_windows))  # (B, S, H, W)
        maps = maps.unflatten(0, (num_clips, num_windows))  # (B, S, h, w)

        # Loss
        loss = None
        if labels is not None:
            loss = self._loss(maps, labels, clips.has_video)
        requested = requested_outputs(outputs)
        if not (output_fusion_attentions or output_attentions):
            requested["fusion_attentions"] = None
        return DeepAVFusionLocalizationOutput(loss=loss, logits=logits, attention_map=maps, **requested)

    def _loss(self, maps: torch.Tensor, labels: torch.Tensor, has_video: torch.Tensor | None) -> torch.Tensor:
        """Cross-entropy of the attention `[B, S, h, w]` against the marked area, mean over frames with a source.

        The target is spread over the whole area: attention that hides in one patch of it would be no map of the source.
        """
        num_clips, num_windows, rows, columns = maps.shape
        patch = self.config.patch_size
        if labels.ndim == 3 and num_windows == 1:
            labels = labels[:, None]
        shape = (num_clips, num_windows, rows * patch, columns * patch)
        if tuple(labels.shape) != shape:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}; give consensus maps {shape}, as large as the frames."
            )

        # frames that count: those with a source
        shares = nn.functional.avg_pool2d(labels.float(), patch)  # (B, S, h, w)
        counted = shares.flatten(2).amax(-1) > 0  # (B, S)
        if has_video is not None:
            counted = counted & has_video.bool()[:, None]

        # both as distributions over patches
        tiny = torch.finfo(maps.dtype).tiny
        target = shares / shares.sum((-2, -1), keepdim=True).clamp_min(tiny)
        attention = maps / maps.sum((-2, -1), keepdim=True).clamp_min(tiny)
        losses = -(target * attention.clamp_min(1e-6).log()).sum((-2, -1))  # (B, S)
        return global_mean(losses, counted)


__all__ = [
    "DeepAVFusionForAudioVisualSegmentation",
    "DeepAVFusionForSoundSourceLocalization",
    "DeepAVFusionForSoundSourceSeparation",
]
