# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""MA-AVT: one frozen ViT for picture and sound, joint unimodal and multimodal token learning (arXiv 2406.04930).

Shapes: B clips, T frames and S sound segments a clip (S divides T), D width, L blocks, P patches, C classes, n tokens.
"""

import hashlib
import math
from functools import partial

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from .configuration_maavt import MAAVTConfig
from .embeddings_maavt import MAAVTEmbeddings
from .encoder_maavt import MAAVTEncoder
from .heads_maavt import MATCH_HEAD_CLASSES, MAAVTClassifier, MAAVTContrastiveHead
from .lavish_maavt import MAAVTLavishAdapters
from .losses_maavt import classification_loss, contrastive_loss, matching_loss, num_processes
from .outputs_maavt import MAAVTClassifierOutput, MAAVTModelOutput
from .pretrained_maavt import TRAINED_MODULES, MAAVTPreTrainedModel
from .tokens_maavt import MAAVTPrompt, MAAVTTokenAttention


class MAAVTModel(MAAVTPreTrainedModel):
    """The trunk: embeddings, learned tokens and blocks, one ViT for picture and sound; states pooled over segments."""

    _keep_in_fp32_modules_strict = {"prompt", "token_attention", "lavish_adapters", "contrastive_head"}

    def __init__(self, config: MAAVTConfig):
        super().__init__(config)
        self.prompt = MAAVTPrompt(config)
        self.token_attention = MAAVTTokenAttention(config) if config.token_self_attention else None
        self.embeddings = MAAVTEmbeddings(
            config.vision_config, config.position_interpolation, own_class_token=config.prompt_start_layer > 0
        )
        self.encoder = MAAVTEncoder(config.vision_config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.vision_config.layer_norm_eps)
        self.lavish_adapters = MAAVTLavishAdapters(config) if config.lavish_adapters else None
        self.contrastive_head = MAAVTContrastiveHead(config) if config.contrastive is not None else None
        self.post_init()
        if config.freeze_backbone:
            self.freeze_backbone()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        has_video: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
        output_localization: bool | None = None,
        num_segments: int | None = None,
        output_last_hidden_state: bool = True,
        video_block_states: torch.Tensor | None = None,
        audio_block_states: torch.Tensor | None = None,
        **kwargs,
    ) -> MAAVTModelOutput:
        """
        Args:
            pixel_values_videos: frames `[B, T, 3, H, W]`, or None.
            input_features: log-spectrograms `[B, S, F, W]`, or None; S divides T.
            has_video, has_audio: bool `[B]`; False marks a zero-filled row, which LAVISH adapters keep away from the other
                stream. Nothing else in the trunk reads them.
            output_localization: return localization maps of both streams (docs/maavt.md, 6).
            num_segments: S where there is no sound to tell it; 1 when absent.
            output_last_hidden_state: False leaves the sequences out of the output, so that the last block is computed
                for the class, background and shared tokens alone.
            video_block_states, audio_block_states: `[B, T, 1 + P, D]` and `[B, S, 1 + P, D]`, what `block_states` gave for
                the clips, in place of frames and spectrograms.
            output_hidden_states, output_attentions: also the blocks' states and (eager) attention weights.

        Raises:
            ValueError: wrong ranks, batch sizes that differ, an S that does not divide T, no input at all, or block states
                of a model whose tokens enter at once, beside frames, or with localization maps.
        """
        start, mining = self.config.prompt_start_layer, self.config.background_mining
        cached = video_block_states is not None or audio_block_states is not None
        if cached:
            self._check_block_states(pixel_values_videos, input_features, output_localization)
            pixel_values_videos, input_features = video_block_states, audio_block_states
        num_clips, num_frames, num_segments = self._check_inputs(
            pixel_values_videos, input_features, num_segments, cached
        )
        frames = None if pixel_values_videos is None else pixel_values_videos.flatten(0, 1)
        spectrograms = None if input_features is None else input_features.flatten(0, 1)
        tokens = self.prompt(self.prompt.dtype)
        if self.token_attention is not None:
            tokens = self.token_attention(tokens)
        if cached:
            dtype = next(self.encoder.parameters()).dtype
            inputs = [None if states is None else states.to(dtype) for states in (frames, spectrograms)]
            num_patches = [0 if states is None else states.shape[1] - 1 for states in inputs]
            grids = [None, None]
        else:
            spectrograms = None if spectrograms is None else spectrograms.unsqueeze(1)
            background = tokens.background if start == 0 else None
            inputs = [
                None if images is None else self.embeddings(images, tokens.class_token, background)
                for images in (frames, spectrograms)
            ]
            grids = [None if images is None else self.embeddings.grid(images) for images in (frames, spectrograms)]
            num_patches = [0 if grid is None else grid[0] * grid[1] for grid in grids]

        wanted = kwargs.get("output_hidden_states", getattr(self.config, "output_hidden_states", False))
        if wanted is not None and wanted is not False:
            kwargs["output_hidden_states"] = wanted
            kwargs["output_audio_hidden_states"] = spectrograms is not None
        if kwargs.get("output_attentions", getattr(self.config, "output_attentions", False)):
            kwargs["output_attentions"] = True
            kwargs["output_audio_attentions"] = spectrograms is not None
        if self.lavish_adapters is not None and frames is not None and spectrograms is not None:
            lengths = tuple(states.shape[1] for states in inputs)
            kwargs["meet"] = partial(self.lavish_adapters, lengths=lengths, has_video=has_video, has_audio=has_audio)
        backgrounds = [1 + patches for patches in num_patches]
        whole = output_last_hidden_state or not self._may_leave_rows_out(kwargs)
        if not whole:
            kwargs["read"] = tuple([0, position] if mining else [0] for position in backgrounds)
            backgrounds = [1, 1]
        encoded = self.encoder(
            *inputs,
            tokens=tokens,
            num_patches=tuple(num_patches),
            output_localization=bool(output_localization),
            start=start,
            first=start if cached else 0,
            **{**kwargs, "return_dict": True},
        )
        video = None if encoded.video_state is None else self.layernorm(encoded.video_state)
        audio = None if encoded.audio_state is None else self.layernorm(encoded.audio_state)

        def pooled(states: torch.Tensor | None) -> torch.Tensor | None:
            """`[N, ..., D]` to `[B, S, ..., D]`: frames of a segment are averaged, never each other's negatives."""
            return None if states is None else states.unflatten(0, (num_clips, num_segments, -1)).mean(2)

        def token_at(states: torch.Tensor | None, position: int) -> torch.Tensor | None:
            return None if states is None else pooled(states[:, position])

        def picture(maps: torch.Tensor | None, grid: tuple[int, int] | None) -> torch.Tensor | None:
            return None if maps is None else maps.unflatten(0, (num_clips, -1)).unflatten(2, grid)

        return MAAVTModelOutput(
            last_hidden_state=video if output_last_hidden_state else None,
            audio_last_hidden_state=audio if output_last_hidden_state else None,
            video_class_state=token_at(video, 0),
            audio_class_state=token_at(audio, 0),
            video_background_state=token_at(video, backgrounds[0]) if mining else None,
            audio_background_state=token_at(audio, backgrounds[1]) if mining else None,
            video_shared_states=pooled(encoded.video_shared_states),
            audio_shared_states=pooled(encoded.audio_shared_states),
            video_localization=picture(encoded.video_localization, grids[0]),
            audio_localization=picture(encoded.audio_localization, grids[1]),
            hidden_states=encoded.hidden_states or None,
            audio_hidden_states=self._audio_hidden_states(encoded, inputs[1], tokens),
            attentions=encoded.attentions or None,
            audio_attentions=encoded.audio_attentions or None,
        )

    def _may_leave_rows_out(self, kwargs: dict) -> bool:
        """Whether nothing but its own rows is read of the last block: no recorder, no other stream, no kernel in between."""
        recorded = kwargs.get("output_hidden_states") or kwargs.get("output_attentions")
        implementation = self.config.vision_config._attn_implementation
        known = implementation in ("sdpa", "eager") or str(implementation).startswith("flash_attention")
        return known and not recorded and "meet" not in kwargs

    def _audio_hidden_states(self, encoded, initial, tokens) -> tuple[torch.Tensor, ...] | None:
        """The recorder puts the first stream's initial state in front; the sound's is put there here."""
        if not encoded.audio_hidden_states:
            return None
        if self.config.prompt_start_layer:  # no token has entered yet
            return (initial, *encoded.audio_hidden_states)
        own = torch.cat([tokens.audio[0], tokens.shared[0]]).to(initial.dtype).expand(initial.shape[0], -1, -1)
        return (torch.cat([initial, own], dim=1), *encoded.audio_hidden_states)

    @torch.no_grad()
    def block_states(
        self, pixel_values_videos: torch.Tensor | None = None, input_features: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """
        What enters block `config.prompt_start_layer`: the same in every epoch, so that it can be kept (docs/maavt.md, 2).

        Args:
            pixel_values_videos, input_features: as in `forward`.

        Returns:
            `video_block_states` `[B, T, 1 + P, D]` and `audio_block_states` `[B, S, 1 + P, D]`, None without the input.

        Raises:
            ValueError: the tokens enter before the first block, or bad inputs as in `forward`.
        """
        self._check_block_states(None, None, None)
        self._check_inputs(pixel_values_videos, input_features, None)
        streams = [
            None if images is None else self.embeddings(images, None, None)
            for images in (
                None if pixel_values_videos is None else pixel_values_videos.flatten(0, 1),
                None if input_features is None else input_features.flatten(0, 1).unsqueeze(1),
            )
        ]
        for layer in self.encoder.layers[: self.config.prompt_start_layer]:
            streams = layer(*streams)[:2]
        return tuple(
            None if states is None else states.unflatten(0, tuple(images.shape[:2]))
            for states, images in zip(streams, (pixel_values_videos, input_features), strict=True)
        )

    def block_states_fingerprint(self) -> str:
        """20 hexadecimal digits of the weights that `block_states` reads: states kept under it stay those of this model."""
        digest = hashlib.sha256(str(self.config.position_interpolation).encode())
        for module in (self.embeddings, *self.encoder.layers[: self.config.prompt_start_layer]):
            for name, value in module.state_dict().items():
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:20]

    def _check_block_states(self, frames: torch.Tensor | None, spectrograms: torch.Tensor | None, maps: bool | None):
        if self.config.prompt_start_layer == 0:
            raise ValueError(
                "block states need config.prompt_start_layer above 0: at 0 the first block already sees trained tokens."
            )
        if frames is not None or spectrograms is not None:
            raise ValueError("Give block states or frames and spectrograms; both name the same clips.")
        if maps:
            raise ValueError("Localization maps need frames and spectrograms: block states do not tell their grid.")

    @staticmethod
    def _check_inputs(
        frames: torch.Tensor | None,
        spectrograms: torch.Tensor | None,
        num_segments: int | None,
        cached: bool = False,
    ) -> tuple[int, int, int]:
        if frames is None and spectrograms is None:
            raise ValueError("Give pixel_values_videos, input_features or both.")
        for name, states in (("video", frames), ("audio", spectrograms)):
            if cached and states is not None and states.ndim != 4:
                raise ValueError(f"{name}_block_states must be [B, T, 1 + P, D], got shape {tuple(states.shape)}.")
        if frames is not None and frames.ndim != 5 and not cached:
            raise ValueError(f"pixel_values_videos must be [B, T, C, H, W], got shape {tuple(frames.shape)}.")
        if spectrograms is not None and spectrograms.ndim != 4:
            raise ValueError(f"input_features must be [B, S, F, W], got shape {tuple(spectrograms.shape)}.")
        if frames is None:
            return spectrograms.shape[0], 0, spectrograms.shape[1]
        segments = (num_segments or 1) if spectrograms is None else spectrograms.shape[1]
        if spectrograms is not None and frames.shape[0] != spectrograms.shape[0]:
            raise ValueError(
                f"pixel_values_videos holds {frames.shape[0]} clips, input_features {spectrograms.shape[0]}; "
                "give both for the same clips, zero-filled with has_video / has_audio where one is missing."
            )
        if frames.shape[1] % segments:
            raise ValueError(
                f"S = {segments} sound segments must divide T = {frames.shape[1]} frames: frame t belongs "
                "to segment t * S // T."
            )
        return frames.shape[0], frames.shape[1], segments

    @can_return_tuple
    def get_video_features(self, pixel_values_videos: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """
        Features of the picture for retrieval against [`~MAAVTModel.get_audio_features`].

        Args:
            pixel_values_videos: `[B, T, 3, H, W]`.

        Returns:
            `pooler_output` `[B, d]`, unit vectors: the last contrastive projection of the shared tokens, averaged over
            frames; without a contrastive head (an exported adapter) the class token's state, which is not aligned
            across modalities. `last_hidden_state` `[B, T, len, D]`.
        """
        outputs = self(pixel_values_videos=pixel_values_videos, **{**kwargs, "return_dict": True})
        return self._features("video", pixel_values_videos, outputs)

    @can_return_tuple
    def get_audio_features(self, input_features: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """The same for the sound: `input_features` `[B, S, F, W]`, `last_hidden_state` `[B, S, len, D]`."""
        outputs = self(input_features=input_features, **{**kwargs, "return_dict": True})
        return self._features("audio", input_features, outputs)

    def _features(self, stream: str, inputs: torch.Tensor, outputs: MAAVTModelOutput) -> BaseModelOutputWithPooling:
        video = stream == "video"
        states = outputs.video_shared_states if video else outputs.audio_shared_states
        if self.contrastive_head is not None:
            head = self.contrastive_head
            features = head.project(head.video if video else head.audio, states.mean(1))[:, -1]
        else:
            features = (outputs.video_class_state if video else outputs.audio_class_state).mean(1)
        last = outputs.last_hidden_state if video else outputs.audio_last_hidden_state
        return BaseModelOutputWithPooling(
            last_hidden_state=last.unflatten(0, tuple(inputs.shape[:2])),
            pooler_output=nn.functional.normalize(features.float(), dim=-1),
            hidden_states=outputs.hidden_states if video else outputs.audio_hidden_states,
            attentions=outputs.attentions if video else outputs.audio_attentions,
        )


class MAAVTForAudioVisualClassification(MAAVTPreTrainedModel):
    """MA-AVT with its class head, its match head and its three losses (docs/maavt.md, 4 and 5)."""

    has_head = True
    _keep_in_fp32_modules_strict = set(TRAINED_MODULES)

    def __init__(self, config: MAAVTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.maavt = MAAVTModel(config)
        self.classifier = MAAVTClassifier(config.hidden_size, config.num_labels)
        self.match_head = MATCH_HEAD_CLASSES[config.match_head](config) if config.background_mining else None
        self.register_buffer("class_weights", None, persistent=False)
        self.post_init()

    def set_class_weights(self, weights: torch.Tensor | None) -> None:
        """
        Weigh the classes in the classification loss, against imbalance (docs/maavt.md, 5); None weighs them alike.

        The weights belong to a training set, not to the model: no checkpoint holds them.

        Args:
            weights: `[C]`, not negative, one above 0.

        Raises:
            ValueError: another shape, or such values.
        """
        if weights is not None:
            weights = torch.as_tensor(weights, dtype=torch.float32)
            if weights.shape != (self.num_labels,) or not (weights >= 0).all() or not (0 < weights.sum() < math.inf):
                raise ValueError(
                    f"class_weights of shape {tuple(weights.shape)} must be {self.num_labels} finite numbers, one a class, "
                    "none below 0 and one above."
                )
            weights = weights.to(self.classifier.weight.device)
        self.class_weights = weights

    def get_video_features(self, pixel_values_videos: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """See [`MAAVTModel.get_video_features`]."""
        return self.maavt.get_video_features(pixel_values_videos, **kwargs)

    def get_audio_features(self, input_features: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """See [`MAAVTModel.get_audio_features`]."""
        return self.maavt.get_audio_features(input_features, **kwargs)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        has_video: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        is_matched: torch.Tensor | None = None,
        video_labels: torch.Tensor | None = None,
        audio_labels: torch.Tensor | None = None,
        output_localization: bool | None = None,
        num_segments: int | None = None,
        video_block_states: torch.Tensor | None = None,
        audio_block_states: torch.Tensor | None = None,
        **kwargs,
    ) -> MAAVTClassifierOutput:
        """
        Args:
            pixel_values_videos: frames `[B, T, 3, H, W]`, or None.
            input_features: log-spectrograms `[B, S, F, W]`, or None; S divides T.
            has_video, has_audio: bool `[B]`; False marks a zero-filled row. Such a clip is classified by the other
                modality alone and takes no part in contrast and matching. Without an input its mask is not read.
            labels: class indices per clip `[B]` or per segment `[B, S]`, or scores `[B, C]` or `[B, S, C]`: soft labels, or
                multi-hot when `config.problem_type` is `"multi_label_classification"`. -100 is ignored.
            is_matched: bool `[B]` or `[B, S]`, False for a mismatched pair, which is neither classified nor contrasted;
                all matched when absent.
            video_labels, audio_labels: of the picture and of the sound alone, in the shape of `labels`: what either half
                is taught where `config.unimodal_loss_weight` is above 0, in mismatched pairs too. Absent: `labels`, in
                matched pairs only.
            output_localization: return localization maps of both streams (docs/maavt.md, 6).
            num_segments: S where there is no sound to tell it; absent: as many as class indices `[B, S]` name, or 1.
            video_block_states, audio_block_states: in place of frames and spectrograms, see [`MAAVTModel.forward`].

        Raises:
            ValueError: labels or is_matched of another shape, labels that are no class indices with
                `contrastive_positives="label"` or class weights; see also [`MAAVTModel.forward`].
        """
        if num_segments is None and labels is not None and labels.ndim == 2 and not self._are_scores(labels):
            num_segments = labels.shape[1]
        outputs = self.maavt(
            pixel_values_videos,
            input_features,
            has_video,
            has_audio,
            output_localization=output_localization,
            num_segments=num_segments,
            output_last_hidden_state=False,
            video_block_states=video_block_states,
            audio_block_states=audio_block_states,
            **{**kwargs, "return_dict": True},
        )
        video, audio = outputs.video_class_state, outputs.audio_class_state
        present = video if video is not None else audio
        num_clips, num_segments = present.shape[:2]
        everywhere = torch.ones(num_clips, dtype=torch.bool, device=present.device)
        has_video = torch.zeros_like(everywhere) if video is None else everywhere if has_video is None else has_video
        has_audio = torch.zeros_like(everywhere) if audio is None else everywhere if has_audio is None else has_audio
        both = (has_video & has_audio)[:, None].expand(num_clips, num_segments)

        logits = self.classifier(video, audio, *self._drop_modalities(has_video, has_audio))
        if self._labels_per_clip(labels, logits):
            logits = logits.mean(1)
        matched = self._segment_mask(is_matched, both)
        shifted = self._batch_mismatches(both & matched, labels)
        match_logits, shifted_logits = self._match(outputs, both, len(shifted))
        if match_logits is not None and (num_segments == 1 if is_matched is None else is_matched.ndim == 1):
            match_logits, shifted_logits = match_logits.mean(1), shifted_logits.mean(2)
            shifted = shifted.all(2)

        losses = {}
        if labels is not None or is_matched is not None:
            if labels is not None:
                counted = (has_video | has_audio)[:, None] & matched
                counted = counted.all(1) if logits.ndim == 2 else counted
                losses["classification_loss"] = classification_loss(
                    logits, labels, counted, self.config.problem_type, self.class_weights
                )
                if self.config.unimodal_loss_weight and video is not None and audio is not None:
                    paired = both[:, 0] if logits.ndim == 2 else both
                    own = [
                        (labels, counted & paired) if one is None else (one, paired)
                        for one in (video_labels, audio_labels)
                    ]
                    losses["unimodal_loss"] = self._unimodal_loss(video, audio, own)
            if match_logits is not None:
                targets = matched if match_logits.ndim == 2 else matched.all(1)
                paired = both if match_logits.ndim == 2 else both[:, 0]
                losses["matching_loss"] = matching_loss(
                    torch.cat([match_logits.flatten(), shifted_logits.flatten()]),
                    torch.cat([targets.flatten(), torch.zeros_like(shifted).flatten()]),
                    torch.cat([paired.flatten(), shifted.flatten()]),
                )
            per_block = self._contrastive_losses(outputs, both & matched, labels)
            if per_block is not None:
                losses["contrastive_loss"] = per_block.mean()
        loss = (
            sum(value * getattr(self.config, f"{name}_weight") for name, value in losses.items()) if losses else None
        )

        return MAAVTClassifierOutput(
            loss=loss,
            logits=logits,
            match_logits=match_logits,
            **losses,
            contrastive_loss_per_block=per_block.detach() if "contrastive_loss" in losses else None,
            video_localization=outputs.video_localization,
            audio_localization=outputs.audio_localization,
            hidden_states=outputs.hidden_states,
            audio_hidden_states=outputs.audio_hidden_states,
            attentions=outputs.attentions,
            audio_attentions=outputs.audio_attentions,
        )

    def _unimodal_loss(
        self, video: torch.Tensor, audio: torch.Tensor, own: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        """Cross-entropy of either half's logits with its own labels and mask, summed (docs/maavt.md, equation 7)."""
        loss = 0.0
        for logits, (labels, counted) in zip(self.classifier.halves(video, audio), own, strict=True):
            logits = logits.mean(1) if counted.ndim == 1 else logits
            loss = loss + classification_loss(logits, labels, counted, self.config.problem_type, self.class_weights)
        return loss

    def _drop_modalities(self, has_video: torch.Tensor, has_audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the classifier sees of training clips: one half is hidden with probability `modality_dropout`, either as often.

        Matching and contrast go on with both halves.
        """
        chance = self.config.modality_dropout
        if not self.training or not chance:
            return has_video, has_audio
        draw = torch.rand(len(has_video), device=has_video.device)
        hide_video, hide_audio = draw < chance / 2, (draw >= chance / 2) & (draw < chance)
        return has_video & ~(has_audio & hide_video), has_audio & ~(has_video & hide_audio)

    def _are_scores(self, labels: torch.Tensor) -> bool:
        """Whether labels hold a value per class, not a class index."""
        return torch.is_floating_point(labels) or self.config.problem_type == "multi_label_classification"

    def _labels_per_clip(self, labels: torch.Tensor | None, logits: torch.Tensor) -> bool:
        """Whether the logits `[B, S, C]` are averaged over segments: what the shape of `labels` asks for."""
        num_clips, num_segments, num_labels = logits.shape
        if labels is None:
            return num_segments == 1
        scores = self._are_scores(labels)
        per_clip = (num_clips, num_labels) if scores else (num_clips,)
        per_segment = (num_clips, num_segments, num_labels) if scores else (num_clips, num_segments)
        if tuple(labels.shape) not in (per_clip, per_segment):
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}; expected {per_clip} (per clip) or {per_segment} (per segment)."
            )
        return tuple(labels.shape) == per_clip

    @staticmethod
    def _segment_mask(is_matched: torch.Tensor | None, both: torch.Tensor) -> torch.Tensor:
        if is_matched is None:
            return torch.ones_like(both)
        if tuple(is_matched.shape) not in (tuple(both.shape), tuple(both.shape[:1])):
            raise ValueError(
                f"is_matched has shape {tuple(is_matched.shape)}; expected {tuple(both.shape[:1])} or {tuple(both.shape)}."
            )
        return (is_matched if is_matched.ndim == 2 else is_matched[:, None]).bool().expand_as(both)

    def _batch_mismatches(self, usable: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """Which pairs of a picture and the sound k clips before it training adds as mismatched: `[K, B, S]`.

        The streams do not meet before the match head, so that such a pair costs nothing but the head. Both clips are
        `usable`, and their classes differ as far as labels tell.
        """
        wanted = self.config.in_batch_mismatches if self.training and self.match_head is not None else 0
        shifts = range(1, 1 + min(wanted, len(usable) - 1))
        pairs = [usable & usable.roll(k, 0) & self._classes_differ(labels, k, usable) for k in shifts]
        return torch.stack(pairs) if pairs else usable.new_zeros((0, *usable.shape))

    def _classes_differ(self, labels: torch.Tensor | None, shift: int, usable: torch.Tensor) -> torch.Tensor:
        """Bool `[B, S]` or `[B, 1]`: the classes of a clip and of the one `shift` before it are known and differ."""
        if labels is None:
            return torch.ones_like(usable)
        other = labels.roll(shift, 0)
        if self._are_scores(labels):
            differ = (labels.clamp(min=0) * other.clamp(min=0)).sum(-1) == 0
            differ &= ((labels != -100) & (other != -100)).all(-1)
        else:
            differ = (labels != other) & (labels != -100) & (other != -100)
        return differ if differ.ndim == 2 else differ[:, None]

    def _match(
        self, outputs: MAAVTModelOutput, both: torch.Tensor, num_shifts: int = 0
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Match logits `[B, S]`, 0 where a modality is missing, and those with the sound of earlier clips `[K, B, S]`.

        None without match head or without a stream.
        """
        video, audio = outputs.video_background_state, outputs.audio_background_state
        one_missing = video is None or audio is None
        if self.match_head is None or (one_missing and num_processes() == 1):
            return None, None
        if one_missing:  # another process may hold both streams: its collectives must find this process
            filler = torch.zeros_like(video if audio is None else audio)
            video, audio = (filler if states is None else states for states in (video, audio))
        shifts = range(1, 1 + num_shifts)
        logits = self.match_head(
            torch.stack([video] * (1 + num_shifts)),
            torch.stack([audio, *(audio.roll(k, 0) for k in shifts)]),
            torch.stack([both, *(both & both.roll(k, 0) for k in shifts)]),
        )
        return logits[0] * both, logits[1:]

    def _contrastive_losses(
        self, outputs: MAAVTModelOutput, mask: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Blockwise contrast over all pairs of the batch: `[L]`, or None where there is nothing to contrast."""
        head = self.maavt.contrastive_head
        video, audio = outputs.video_shared_states, outputs.audio_shared_states
        one_missing = video is None or audio is None
        if head is None or (one_missing and num_processes() == 1):
            return None
        if one_missing:  # as above: the gather of the other processes must find this one
            filler = torch.zeros_like(video if audio is None else audio)
            video, audio = (filler if states is None else states for states in (video, audio))
        video, audio = head(video.flatten(0, 1), audio.flatten(0, 1))
        positives = self._positive_labels(labels, mask)
        return contrastive_loss(video, audio, mask.flatten(), self.config.temperature, positives)

    def _positive_labels(self, labels: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor | None:
        """Class index of every pair, `[B*S]`, for contrast by label; None for contrast by pair."""
        if self.config.contrastive_positives == "pair":
            return None
        if labels is None:
            return torch.full_like(mask, -100, dtype=torch.long).flatten()
        if torch.is_floating_point(labels) or self.config.problem_type == "multi_label_classification":
            raise ValueError(
                'contrastive_positives="label" needs one class index a clip or segment; soft labels (MixUp) and '
                'multi-label targets name several classes. Use contrastive_positives="pair".'
            )
        return (labels if labels.ndim == 2 else labels[:, None]).expand_as(mask).flatten()


__all__ = ["MAAVTForAudioVisualClassification", "MAAVTModel", "MAAVTPreTrainedModel"]
