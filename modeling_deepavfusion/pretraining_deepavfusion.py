# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion's pre-training: masked reconstruction of frame and spectrogram, each by a decoder of its own."""

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from .configuration_deepavfusion import DeepAVFusionConfig
from .decoder_deepavfusion import DeepAVFusionDecoder, patchify
from .embeddings_deepavfusion import sincos_positions
from .losses_deepavfusion import reconstruction_loss
from .masking_deepavfusion import num_kept, patch_order
from .modeling_deepavfusion import DeepAVFusionModel, DeepAVFusionPreTrainedModel
from .outputs_deepavfusion import DeepAVFusionPreTrainingOutput
from .windows_deepavfusion import as_windows, complete_streams


class DeepAVFusionForPreTraining(DeepAVFusionPreTrainedModel):
    """The encoder on visible patches, two decoders, and the loss over the hidden patches (docs/deepavfusion.md, 4)."""

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
        **kwargs,
    ) -> DeepAVFusionPreTrainingOutput:
        """
        Args:
            pixel_values_videos: frames `[B, S, C, H, W]`, one a window, or None.
            input_features: log-mel spectrograms `[B, S, F, W]`, or None.
            image_noise, audio_noise: `[N, N_v]` and `[N, N_a]`; in each window the patches with the smallest values are
                kept. Uniform noise is drawn where absent.
            has_video, has_audio: bool `[B]`; a missing modality is neither read nor reconstructed.
            return_loss: compute the losses.

        Raises:
            ValueError: noise of another shape; see also [`DeepAVFusionModel.forward`].
        """
        streams = (pixel_values_videos, input_features, has_video, has_audio)
        if self.training:
            streams = complete_streams(self.config, *streams)
        windows = as_windows(*streams, self.config.audio_num_channels)
        inputs, present = dict(zip(("image", "audio"), windows[:2], strict=True)), windows[2:]
        noise = {"image": image_noise, "audio": audio_noise}
        ratios = {"image": self.config.image_mask_ratio, "audio": self.config.audio_mask_ratio}
        grids, ids_keep, ids_restore, hidden = {}, {}, {}, {}
        for name, images in inputs.items():
            if images is None:
                continue
            grids[name] = getattr(self.deepavfusion, f"{name}_embeddings").grid(images)
            shape = (len(images), grids[name][0] * grids[name][1])
            if noise[name] is None:
                noise[name] = torch.rand(shape, device=images.device)
            if tuple(noise[name].shape) != shape:
                raise ValueError(
                    f"{name}_noise has shape {tuple(noise[name].shape)}; expected {shape}, one row a window."
                )
            kept = num_kept(shape[1], ratios[name])
            ids_shuffle, ids_restore[name] = patch_order(noise[name])
            ids_keep[name] = ids_shuffle[:, :kept]
            hidden[name] = ids_restore[name] >= kept

        outputs = self.deepavfusion(
            pixel_values_videos=streams[0],
            input_features=streams[1],
            image_ids_keep=ids_keep.get("image"),
            audio_ids_keep=ids_keep.get("audio"),
            has_video=streams[2],
            has_audio=streams[3],
            **{**kwargs, "return_dict": True},
        )
        logits, losses = {}, {}
        for (name, images), there in zip(inputs.items(), present, strict=True):
            if images is None:
                continue
            logits[name] = getattr(self, f"{name}_decoder")(
                outputs[f"{name}_last_hidden_state"], outputs.last_hidden_state, ids_restore[name], grids[name]
            )
            if return_loss:
                counted = hidden[name] if there is None else hidden[name] & there[:, None]
                target = patchify(images, self.config.patch_size)
                losses[name] = reconstruction_loss(logits[name], target, counted, self.config.norm_pix_loss)
        masks = {name: patches.float() for name, patches in hidden.items()}
        loss = None
        if return_loss:
            loss = sum(value * getattr(self.config, f"{name}_loss_weight") for name, value in losses.items())
        return DeepAVFusionPreTrainingOutput(
            loss=loss,
            image_loss=losses.get("image"),
            audio_loss=losses.get("audio"),
            image_logits=logits.get("image"),
            audio_logits=logits.get("audio"),
            image_mask=masks.get("image"),
            audio_mask=masks.get("audio"),
            image_ids_restore=ids_restore.get("image"),
            audio_ids_restore=ids_restore.get("audio"),
            hidden_states=outputs.hidden_states,
            image_hidden_states=outputs.image_hidden_states,
            audio_hidden_states=outputs.audio_hidden_states,
            fusion_hidden_states=outputs.fusion_hidden_states,
            attentions=outputs.attentions,
            audio_attentions=outputs.audio_attentions,
            fusion_attentions=outputs.fusion_attentions,
        )


__all__ = ["DeepAVFusionForPreTraining"]
