# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion with three class heads: picture, sound and fusion tokens (docs/deepavfusion.md, 5)."""

import torch
from torch import nn
from transformers.utils.generic import can_return_tuple

from .configuration_deepavfusion import DeepAVFusionConfig
from .losses_deepavfusion import classification_loss, smooth_labels
from .modeling_deepavfusion import DeepAVFusionModel, DeepAVFusionPreTrainedModel
from .outputs_deepavfusion import DeepAVFusionClassifierOutput
from .windows_deepavfusion import complete_streams


STREAMS = ("image", "audio", "fusion")


class DeepAVFusionPooledNorm(nn.BatchNorm1d):
    """BatchNorm without weights on pooled states `[N, D]`, whose statistics come from the windows that have the modality."""

    def __init__(self, width: int):
        super().__init__(width, eps=1e-6, affine=False)

    def forward(self, pooled: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        if not self.training or present is None or bool(present.all()):
            return super().forward(pooled)
        normed = torch.zeros_like(pooled)
        if present.sum() > 1:  # one row has no variance
            normed[present] = super().forward(pooled[present])
        return normed


class DeepAVFusionForAudioVisualClassification(DeepAVFusionPreTrainedModel):
    """The mean of three linear classifiers, each on the mean of one stream's final tokens."""

    def __init__(self, config: DeepAVFusionConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.deepavfusion = DeepAVFusionModel(config)
        for name in STREAMS:
            if config.use_pooled_batchnorm:
                self.add_module(f"{name}_batchnorm", DeepAVFusionPooledNorm(config.hidden_size))
            self.add_module(f"{name}_classifier", nn.Linear(config.hidden_size, config.num_labels))
        self.post_init()

    def freeze_encoder(self) -> None:
        """Train the class heads alone. Call it on the loaded model: loading makes all parameters trainable again."""
        self.deepavfusion.requires_grad_(False)

    @torch.no_grad()
    def set_class_frequencies(self, frequencies: torch.Tensor) -> None:
        """Start all heads at log((p + 1e-3) / (1 - p + 1e-3)) for the shares p of clips that have a class.

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
        for name in STREAMS:
            bias = getattr(self, f"{name}_classifier").bias
            bias.copy_(((shares + 1e-3) / (1 - shares + 1e-3)).log())

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        has_video: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        is_matched: torch.Tensor | None = None,
        **kwargs,
    ) -> DeepAVFusionClassifierOutput:
        """
        Args:
            pixel_values_videos: frames `[B, S, C, H, W]`, one a window, or None.
            input_features: log-mel spectrograms `[B, S, F, W]`, or None.
            has_video, has_audio: bool `[B]`; False marks a zero-filled row, whose head is left out of the mean.
            labels: class indices per clip `[B]` or per window `[B, S]`, or scores `[B, C]` or `[B, S, C]`: soft labels, or
                multi-hot when `config.problem_type` is `"multi_label_classification"`. -100 is ignored.
            is_matched: bool `[B]` or `[B, S]`, False for a sound of another clip, which is not classified.

        Raises:
            ValueError: labels of another shape; see also [`DeepAVFusionModel.forward`].
        """
        streams = (pixel_values_videos, input_features, has_video, has_audio)
        if self.training:
            streams = complete_streams(self.config, *streams)
        pixel_values_videos, input_features, has_video, has_audio = streams
        outputs = self.deepavfusion(
            pixel_values_videos,
            input_features,
            has_video=has_video,
            has_audio=has_audio,
            **{**kwargs, "return_dict": True},
        )
        num_clips, num_windows = (input_features if pixel_values_videos is None else pixel_values_videos).shape[:2]
        everywhere = torch.ones(num_clips, dtype=torch.bool, device=outputs.last_hidden_state.device)
        given = {
            name: torch.zeros_like(everywhere) if states is None else everywhere if there is None else there.bool()
            for name, states, there in (
                ("image", outputs.image_last_hidden_state, has_video),
                ("audio", outputs.audio_last_hidden_state, has_audio),
                ("fusion", outputs.last_hidden_state, None),
            )
        }
        given["fusion"] = given["image"] | given["audio"]
        logits = {
            name: self._head(name, getattr(outputs, f"{name}_last_hidden_state"), there, num_windows)
            for name, there in given.items()
        }
        if not self._labels_per_window(labels, num_clips, num_windows):
            logits = {name: None if values is None else values.mean(1) for name, values in logits.items()}
        axes = (num_clips, *[1] * (logits["fusion"].ndim - 1))
        counts = sum(there.to(logits["fusion"].dtype) for there in given.values()).clamp(min=1)
        mean = sum(values for values in logits.values() if values is not None) / counts.view(axes)
        loss = None if labels is None else self._loss(mean, logits, given, labels, is_matched)
        return DeepAVFusionClassifierOutput(
            loss=loss,
            logits=mean,
            image_logits=logits["image"],
            audio_logits=logits["audio"],
            fusion_logits=logits["fusion"],
            hidden_states=outputs.hidden_states,
            image_hidden_states=outputs.image_hidden_states,
            audio_hidden_states=outputs.audio_hidden_states,
            fusion_hidden_states=outputs.fusion_hidden_states,
            attentions=outputs.attentions,
            audio_attentions=outputs.audio_attentions,
            fusion_attentions=outputs.fusion_attentions,
        )

    def _head(
        self, name: str, states: torch.Tensor | None, there: torch.Tensor, num_windows: int
    ) -> torch.Tensor | None:
        """Logits of one stream, `[B, S, C]`, 0 where a clip lacks it; None where the whole batch does."""
        if states is None:
            return None
        pooled = states.mean(1)
        if self.config.use_pooled_batchnorm:
            pooled = getattr(self, f"{name}_batchnorm")(pooled, there.repeat_interleave(num_windows))
        logits = getattr(self, f"{name}_classifier")(pooled).unflatten(0, (-1, num_windows))
        return logits * there[:, None, None].to(logits.dtype)

    def _loss(
        self,
        mean: torch.Tensor,
        logits: dict[str, torch.Tensor | None],
        given: dict[str, torch.Tensor],
        labels: torch.Tensor,
        is_matched: torch.Tensor | None,
    ) -> torch.Tensor:
        """The loss of the mean of the logits (joint), or the mean of the losses of each (separate)."""
        problem_type = self.config.problem_type
        if self.training:
            labels = smooth_labels(labels, self.num_labels, self.config.label_smoothing, problem_type)
        counted = mean.new_ones(mean.shape[:-1], dtype=torch.bool)
        if is_matched is not None:
            is_matched = is_matched.bool()
            if mean.ndim == 2 and is_matched.ndim == 2:
                is_matched = is_matched.all(1)
            counted = counted & (is_matched if is_matched.ndim == counted.ndim else is_matched[:, None])

        def loss_of(values: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
            present = there if values.ndim == 2 else there[:, None]
            return classification_loss(values, labels, counted & present, problem_type)

        if self.config.classifier_loss == "joint":
            return loss_of(mean, given["fusion"])
        losses = [loss_of(values, given[name]) for name, values in logits.items() if values is not None]
        return sum(losses) / len(losses)

    def _labels_per_window(self, labels: torch.Tensor | None, num_clips: int, num_windows: int) -> bool:
        """Whether `labels` judge every window; windows of a clip are averaged otherwise."""
        if labels is None:
            return False
        scores = torch.is_floating_point(labels) or self.config.problem_type == "multi_label_classification"
        per_clip = (num_clips, self.num_labels) if scores else (num_clips,)
        per_window = (num_clips, num_windows, self.num_labels) if scores else (num_clips, num_windows)
        if tuple(labels.shape) not in (per_clip, per_window):
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}; expected {per_clip} (per clip) or {per_window} (per window)."
            )
        return tuple(labels.shape) == per_window


__all__ = ["DeepAVFusionForAudioVisualClassification"]
