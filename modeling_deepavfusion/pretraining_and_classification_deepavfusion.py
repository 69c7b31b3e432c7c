# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The two models of the paper's recipe on top of the encoder: masked pre-training, then classification.

Section and equation numbers are those of docs/deepavfusion.md.

Shapes: B clips, S windows a clip, N = B * S windows, D width, P patches of side p (K of them visible), n fusion and
aggregation tokens, C classes.
"""

from typing import NamedTuple

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import can_return_tuple

from .configuration_deepavfusion import DeepAVFusionConfig
from .losses_deepavfusion import (
    check_classes,
    check_is_tensor,
    classification_loss,
    reconstruction_loss,
    smooth_labels,
)
from .modeling_deepavfusion import (
    Clips,
    DeepAVFusionModel,
    DeepAVFusionPreTrainedModel,
    DeepAVFusionViTBlock,
    num_visible,
    patch_order,
    resample_positions,
    sincos_positions,
    split_into_windows,
    take_tokens,
)
from .outputs_deepavfusion import (
    DeepAVFusionClassifierOutput,
    DeepAVFusionModelOutput,
    DeepAVFusionPreTrainingOutput,
    requested_outputs,
)


# the streams that have a class head: patches of the frame, patches of the spectrogram, all tokens
HEADS = ("image", "audio", "fusion")

# A loss that somebody computes from the logits, as Trainer's label_smoothing_factor does, trains the heads as one.
NO_LABELS = (
    'A training step without labels: a loss computed from the logits alone would not be classifier_loss="separate". Set '
    "model.config.label_smoothing in place of Trainer's label_smoothing_factor; for a loss of your own pass labels."
)


# ---- pre-training (section 4)


def patchify(images: torch.Tensor, patch: int) -> torch.Tensor:
    """`[N, C, H, W]` to `[N, P, patch * patch * C]`: row in the patch, column, channel, the last fastest."""
    rows, columns = images.shape[-2] // patch, images.shape[-1] // patch
    images = images[..., : rows * patch, : columns * patch]
    blocks = images.unflatten(-1, (columns, patch)).unflatten(-3, (rows, patch))  # (N, C, rows, p, columns, p)
    return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: torch.Tensor, patch: int, grid: tuple[int, int]) -> torch.Tensor:
    """The inverse of `patchify`: `[N, P, patch * patch * C]` to `[N, C, H, W]`."""
    blocks = patches.unflatten(1, grid).unflatten(-1, (patch, patch, -1))  # (N, rows, columns, p, p, C)
    return blocks.permute(0, 5, 1, 3, 2, 4).flatten(-2).flatten(2, 3)


class PatchMask(NamedTuple):
    """Which patches of one modality are hidden. All fields are None without its input."""

    ids_keep: torch.Tensor | None = None  # (N, K), the visible patches
    ids_restore: torch.Tensor | None = None  # (N, P), the rank of each patch by its noise
    mask: torch.Tensor | None = None  # (N, P), 1 for a hidden patch and 0 for a visible one
    grid: tuple[int, int] | None = None  # patches along height and width


class DeepAVFusionDecoderLayer(DeepAVFusionViTBlock, GradientCheckpointingLayer):
    """A plain ViT block without stochastic depth."""

    def __init__(self, config: DeepAVFusionConfig):
        super().__init__(
            config,
            config.decoder_hidden_size,
            config.decoder_num_attention_heads,
            config.decoder_intermediate_size,
            config.decoder_layer_norm_eps,
            drop_path_rate=0.0,
        )


class DeepAVFusionDecoder(nn.Module):
    """Visible patches, mask tokens and fusion tokens to the values of every patch. It never sees the other modality.

    Its positions start as sin-cos and are trained, as in the reference implementation.
    """

    def __init__(self, config: DeepAVFusionConfig, num_channels: int, grid: tuple[int, int]):
        super().__init__()
        width = config.decoder_hidden_size
        self.trained_grid = grid
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(sincos_positions(grid, width))
        self.layers = nn.ModuleList(
            [DeepAVFusionDecoderLayer(config) for _ in range(config.decoder_num_hidden_layers)]
        )
        self.layernorm = nn.LayerNorm(width, eps=config.decoder_layer_norm_eps)
        self.predictor = nn.Linear(width, config.patch_size**2 * num_channels)

    def forward(self, patches: torch.Tensor, fusion: torch.Tensor, mask: PatchMask) -> torch.Tensor:
        """Visible patches `[N, K, D]` and fusion tokens `[N, n, D]` to the values of all patches `[N, P, p * p * C]`."""
        # all patches in their order, mask tokens in place of hidden ones; E is the decoder's width
        dtype = self.mask_token.dtype
        visible, fusion = self.embed(patches).to(dtype), self.embed(fusion).to(dtype)  # (N, K, E), (N, n, E)
        num_hidden = mask.ids_restore.shape[1] - visible.shape[1]
        mask_tokens = self.mask_token.expand(len(visible), num_hidden, -1)
        tokens = take_tokens(torch.cat([visible, mask_tokens], dim=1), mask.ids_restore)  # (N, P, E)
        positions = resample_positions(self.position_embeddings, self.trained_grid, mask.grid)
        tokens = tokens + positions.to(tokens.dtype)

        # blocks over [fusion | patches]; nobody reads what the last block would make of the fusion tokens
        states = torch.cat([fusion, tokens], dim=1)  # (N, n + P, E)
        for layer in self.layers[:-1]:
            states, _ = layer(states)
        fusion, tokens = states.split([fusion.shape[1], tokens.shape[1]], dim=1)
        tokens, _ = self.layers[-1](tokens, fusion)
        return self.predictor(self.layernorm(tokens))


class DeepAVFusionForPreTraining(DeepAVFusionPreTrainedModel):
    """The encoder on visible patches, two decoders, and the loss over the hidden patches (equation 4)."""

    _no_split_modules = [*DeepAVFusionPreTrainedModel._no_split_modules, "DeepAVFusionDecoderLayer"]

    def __init__(self, config: DeepAVFusionConfig):
        super().__init__(config)
        self.deepavfusion = DeepAVFusionModel(config)
        self.image_decoder = DeepAVFusionDecoder(config, config.num_channels, config.image_grid)
        self.audio_decoder = DeepAVFusionDecoder(config, config.audio_num_channels, config.audio_grid)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, DeepAVFusionDecoder):
            init.normal_(module.mask_token, mean=0.0, std=self.config.initializer_range)
            init.copy_(module.position_embeddings, sincos_positions(module.trained_grid, module.embed.out_features))

    def _draw_mask(self, name: str, images: torch.Tensor | None, noise: torch.Tensor | None) -> PatchMask:
        """Hides the patches of `[N, C, H, W]` with the largest noise `[N, P]`, drawn uniformly where None."""
        if images is None:
            return PatchMask()
        grid = getattr(self.deepavfusion, f"{name}_embeddings").grid(images)
        shape = (len(images), grid[0] * grid[1])
        if noise is None:
            noise = torch.rand(shape, device=images.device)
        if tuple(noise.shape) != shape:
            raise ValueError(f"{name}_noise has shape {tuple(noise.shape)}; expected {shape}, one row a window.")
        num_kept = num_visible(shape[1], getattr(self.config, f"{name}_mask_ratio"))
        ids_shuffle, ids_restore = patch_order(noise)
        return PatchMask(ids_shuffle[:, :num_kept], ids_restore, (ids_restore >= num_kept).float(), grid)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        image_noise: torch.Tensor | None = None,
        audio_noise: torch.Tensor | None = None,
        has_video: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
        return_loss: bool = True,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        output_fusion_attentions: bool | None = None,
        **kwargs,
    ) -> DeepAVFusionPreTrainingOutput:
        """
        Args:
            pixel_values_videos, ..., output_fusion_attentions: as in [`DeepAVFusionModel.forward`]. A missing modality is neither
                read nor reconstructed. Uniform noise is drawn where `image_noise` or `audio_noise` is absent.
            return_loss: compute the losses.

        Raises:
            ValueError: noise of another shape; see also [`DeepAVFusionModel.forward`].
        """
        # Inputs, and what is hidden of them
        clips = self.prepare_clips(
            pixel_values_videos, input_features, has_video, has_audio, computes_loss=return_loss
        )
        windows = split_into_windows(clips, self.config.audio_num_channels)
        image_mask = self._draw_mask("image", windows.frames, image_noise)
        audio_mask = self._draw_mask("audio", windows.spectrograms, audio_noise)

        # Encoder on the visible patches
        outputs = self.deepavfusion(
            **clips._asdict(),
            image_ids_keep=image_mask.ids_keep,
            audio_ids_keep=audio_mask.ids_keep,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            output_fusion_attentions=output_fusion_attentions,
            return_dict=True,
        )

        # Decoders
        fusion = outputs.last_hidden_state
        image_logits = self._decode(self.image_decoder, outputs.image_last_hidden_state, fusion, image_mask)
        audio_logits = self._decode(self.audio_decoder, outputs.audio_last_hidden_state, fusion, audio_mask)

        # Losses over the hidden patches (equation 4)
        loss = image_loss = audio_loss = None
        if return_loss:
            image_loss = self._loss(image_logits, windows.frames, image_mask, windows.has_image)
            audio_loss = self._loss(audio_logits, windows.spectrograms, audio_mask, windows.has_audio)
            loss = self._weighted_sum(image_loss, audio_loss)
        return DeepAVFusionPreTrainingOutput(
            loss=loss,
            image_loss=image_loss,
            audio_loss=audio_loss,
            image_logits=image_logits,
            audio_logits=audio_logits,
            image_mask=image_mask.mask,
            audio_mask=audio_mask.mask,
            image_ids_restore=image_mask.ids_restore,
            audio_ids_restore=audio_mask.ids_restore,
            **requested_outputs(outputs),
        )

    @staticmethod
    def _decode(
        decoder: DeepAVFusionDecoder, patches: torch.Tensor | None, fusion: torch.Tensor, mask: PatchMask
    ) -> torch.Tensor | None:
        """The values of all patches of one modality, `[N, P, p * p * C]`; None without its input."""
        if patches is None:
            return None
        return decoder(patches, fusion, mask)

    def _loss(
        self,
        logits: torch.Tensor | None,
        images: torch.Tensor | None,
        mask: PatchMask,
        present: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """The loss over the hidden patches of the windows that have the modality; None without its input."""
        if images is None:
            return None
        hidden = mask.mask.bool()  # (N, P)
        if present is not None:
            hidden = hidden & present[:, None]
        target = patchify(images, self.config.patch_size)  # (N, P, p * p * C)
        return reconstruction_loss(logits, target, hidden, self.config.norm_pix_loss)

    def _weighted_sum(self, image_loss: torch.Tensor | None, audio_loss: torch.Tensor | None) -> torch.Tensor:
        """Equation 4, or one of its terms without the other modality."""
        loss = 0.0
        if image_loss is not None:
            loss = loss + self.config.image_loss_weight * image_loss
        if audio_loss is not None:
            loss = loss + self.config.audio_loss_weight * audio_loss
        return loss


# ---- classification (section 5)


class DeepAVFusionPooledNorm(nn.BatchNorm1d):
    """BatchNorm without weights on pooled states `[N, D]`. Its statistics come from the windows that have the modality."""

    def __init__(self, width: int):
        super().__init__(width, eps=1e-6, affine=False)

    def forward(self, pooled: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        """`[N, D]` to `[N, D]`. In training, rows where `present` (bool `[N]`) is false are 0, and so is a lone row.

        Every statistic is a masked sum: no branch depends on data, and nothing waits for the device.
        """
        if not self.training or present is None:
            return super().forward(pooled)

        # mean and variance of the rows that are there
        weights = present[:, None].float()  # (N, 1)
        count = weights.sum()
        states = pooled.float()
        mean = (states * weights).sum(0) / count.clamp(min=1)  # (D,)
        centered = (states - mean) * weights
        squares = centered.square().sum(0)
        variance = squares / count.clamp(min=1)

        # running statistics; one row has no variance and changes nothing
        enough = (count > 1).float()
        with torch.no_grad():
            step = self.momentum * enough
            self.num_batches_tracked += enough.long()
            self.running_mean += step * (mean - self.running_mean)
            self.running_var += step * (squares / (count - 1).clamp(min=1) - self.running_var)
        return (centered * enough / (variance + self.eps).sqrt()).to(pooled.dtype)


class DeepAVFusionForAudioVisualClassification(DeepAVFusionPreTrainedModel):
    """The mean of three linear classifiers, each on the mean of the final patches or tokens: frame, spectrogram, fusion."""

    _more_auto_classes = ("AutoModelForVideoClassification", "AutoModelForAudioClassification")

    def __init__(self, config: DeepAVFusionConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.deepavfusion = DeepAVFusionModel(config)
        for name in HEADS:
            if config.use_pooled_batchnorm:
                self.add_module(f"{name}_batchnorm", DeepAVFusionPooledNorm(config.hidden_size))
            self.add_module(f"{name}_classifier", nn.Linear(config.hidden_size, config.num_labels))
        self.post_init()

    def _custom_pipelines(self) -> dict[str, dict]:
        from .pipeline_deepavfusion import custom_pipelines  # lazily: transformers.pipelines is slow to import

        return custom_pipelines("pipeline_deepavfusion")

    @torch.no_grad()
    def set_class_frequencies(self, frequencies: torch.Tensor) -> None:
        """Starts the bias of every head at log((p + 1e-3) / (1 - p + 1e-3)) for the shares p of clips that have a class.

        Args:
            frequencies: `[C]`, from 0 to 1.

        Raises:
            ValueError: another shape, or values that are no shares.
        """
        shares = torch.as_tensor(frequencies, dtype=torch.float32)
        if shares.shape != (self.num_labels,) or not ((shares >= 0) & (shares <= 1)).all():
            raise ValueError(
                f"frequencies of shape {tuple(shares.shape)} must be {self.num_labels} numbers from 0 to 1."
            )
        log_odds = ((shares + 1e-3) / (1 - shares + 1e-3)).log()
        for name in HEADS:
            getattr(self, f"{name}_classifier").bias.copy_(log_odds)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        has_video: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        is_matched: torch.Tensor | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        output_fusion_attentions: bool | None = None,
        **kwargs,
    ) -> DeepAVFusionClassifierOutput:
        """
        Args:
            pixel_values_videos, ..., output_fusion_attentions: as in [`DeepAVFusionModel.forward`]. The head of a missing
                modality does not count in the mean.
            labels: class indices per clip `[B]` or per window `[B, S]`, or scores `[B, C]` or `[B, S, C]`: soft labels, or
                multi-hot when `config.problem_type` is `"multi_label_classification"`. -100 is ignored.
            is_matched: bool `[B]` or `[B, S]`, false for audio of another clip, which is not classified.

        Raises:
            ValueError: labels of another shape, or a training step without labels where each head has a loss of its own;
                see also [`DeepAVFusionModel.forward`].
        """
        check_is_tensor(labels)
        if labels is None and self.training and torch.is_grad_enabled() and self.config.classifier_loss == "separate":
            raise ValueError(NO_LABELS)
        # Encoder
        clips = self.prepare_clips(
            pixel_values_videos, input_features, has_video, has_audio, computes_loss=labels is not None
        )
        outputs = self.deepavfusion(
            **clips._asdict(),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            output_fusion_attentions=output_fusion_attentions,
            return_dict=True,
        )

        # Heads: the logits of every window, and their mean over the heads that a clip has
        head_logits, present = self._heads(clips, outputs)
        num_heads = sum(mask.to(torch.float32) for mask in present.values()).clamp(min=1)  # (B,)
        total = sum(logits for logits in head_logits.values() if logits is not None)
        window_logits = total / num_heads.to(total.dtype)[:, None, None]  # (B, S, C)

        # Loss, and the mean over a clip's windows
        loss = None
        if labels is not None:
            loss = self._loss(window_logits, head_logits, present, labels, is_matched)
        clip_logits = {name: mean_over_windows(logits) for name, logits in head_logits.items()}
        return DeepAVFusionClassifierOutput(
            loss=loss,
            logits=window_logits.mean(1),
            window_logits=window_logits,
            image_logits=clip_logits["image"],
            audio_logits=clip_logits["audio"],
            fusion_logits=clip_logits["fusion"],
            **requested_outputs(outputs),
        )

    def _heads(
        self, clips: Clips, outputs: DeepAVFusionModelOutput
    ) -> tuple[dict[str, torch.Tensor | None], dict[str, torch.Tensor]]:
        """Logits `[B, S, C]` of each head, 0 for clips without the modality and None if the batch lacks it; bool `[B]`."""
        states = {
            "image": outputs.image_last_hidden_state,
            "audio": outputs.audio_last_hidden_state,
            "fusion": outputs.last_hidden_state,
        }
        given = clips.input_features
        if given is None:
            given = clips.pixel_values_videos
        num_clips, num_windows = given.shape[:2]
        image_present = presence_mask(clips.pixel_values_videos, clips.has_video, num_clips, given.device)
        audio_present = presence_mask(clips.input_features, clips.has_audio, num_clips, given.device)
        present = {"image": image_present, "audio": audio_present, "fusion": image_present | audio_present}

        logits = dict.fromkeys(HEADS)
        for name in HEADS:
            if states[name] is None:
                continue
            pooled = states[name].mean(1)  # (N, D)
            if self.config.use_pooled_batchnorm:
                pooled = getattr(self, f"{name}_batchnorm")(pooled, present[name].repeat_interleave(num_windows))
            window_logits = getattr(self, f"{name}_classifier")(pooled).unflatten(0, (num_clips, num_windows))
            logits[name] = window_logits * present[name][:, None, None].to(window_logits.dtype)
        return logits, present

    def _loss(
        self,
        window_logits: torch.Tensor,
        head_logits: dict[str, torch.Tensor | None],
        present: dict[str, torch.Tensor],
        labels: torch.Tensor,
        is_matched: torch.Tensor | None,
    ) -> torch.Tensor:
        """The loss of the mean logits ("joint"), or the mean of the heads' losses ("separate"), per window or per clip."""
        # what counts: windows with the modality whose audio is the clip's
        logits = {"all": window_logits, **head_logits}
        logits = {name: values for name, values in logits.items() if values is not None}
        matched = torch.ones(window_logits.shape[:2], dtype=torch.bool, device=window_logits.device)  # (B, S)
        if is_matched is not None:
            matched = matched & is_matched.bool().view(len(matched), -1)
        counted = {name: matched & present[name][:, None] for name in HEADS}
        if not self._labels_are_per_window(labels, *window_logits.shape[:2]):
            logits = {name: values.mean(1) for name, values in logits.items()}  # (B, C)
            counted = {name: mask.all(1) for name, mask in counted.items()}  # (B,)

        problem_type = self.config.problem_type
        if self.training:
            labels = smooth_labels(labels, self.num_labels, self.config.label_smoothing, problem_type)
        if self.config.classifier_loss == "joint":
            return classification_loss(logits["all"], labels, counted["fusion"], problem_type)
        losses = [
            classification_loss(logits[name], labels, counted[name], problem_type) for name in HEADS if name in logits
        ]
        return sum(losses) / len(losses)

    def _labels_are_per_window(self, labels: torch.Tensor, num_clips: int, num_windows: int) -> bool:
        """Whether there is a label for every window, and not one for every clip. Raises ValueError for other shapes."""
        per_clip, per_window = (num_clips,), (num_clips, num_windows)
        if torch.is_floating_point(labels) or self.config.problem_type == "multi_label_classification":
            # a score for every class
            per_clip, per_window = (*per_clip, self.num_labels), (*per_window, self.num_labels)
        else:
            check_classes(labels, self.num_labels)
        if tuple(labels.shape) not in (per_clip, per_window):
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}; expected {per_clip} (per clip) or {per_window} (per window)."
            )
        return tuple(labels.shape) == per_window


def presence_mask(
    features: torch.Tensor | None, mask: torch.Tensor | None, num_clips: int, device: torch.device
) -> torch.Tensor:
    """Bool `[B]`: which clips have a modality. Without its features: none. Without a mask: all."""
    if features is None:
        return torch.zeros(num_clips, dtype=torch.bool, device=device)
    if mask is None:
        return torch.ones(num_clips, dtype=torch.bool, device=device)
    return mask.bool()


def mean_over_windows(logits: torch.Tensor | None) -> torch.Tensor | None:
    """`[B, S, C]` to `[B, C]`; None stays None."""
    if logits is None:
        return None
    return logits.mean(1)


__all__ = ["DeepAVFusionForAudioVisualClassification", "DeepAVFusionForPreTraining"]
