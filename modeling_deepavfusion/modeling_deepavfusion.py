# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion: two ViTs, one for frames and one for spectrograms, fused in every layer by tokens (arXiv 2312.01017).

Shapes: B clips, S windows a clip (one frame and one spectrogram each), N = B*S, D width, L layers, N_v and N_a patches,
n fusion and aggregation tokens, H heads.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from .configuration_deepavfusion import DeepAVFusionConfig
from .embeddings_deepavfusion import DeepAVFusionEmbeddings, DeepAVFusionTokens, sincos_positions
from .fusion_deepavfusion import DeepAVFusionFusionBlock
from .layers_deepavfusion import DeepAVFusionViTBlock
from .masking_deepavfusion import num_kept, patch_order
from .outputs_deepavfusion import DeepAVFusionModelOutput, FusionAttentions
from .windows_deepavfusion import as_windows, complete_streams


logger = logging.get_logger(__name__)


class DeepAVFusionLayer(GradientCheckpointingLayer):
    """One layer of both ViTs and, where the layer is fused, its fusion block: all three read what enters the layer."""

    def __init__(self, config, fused: bool):
        super().__init__()
        sizes = (config.hidden_size, config.num_attention_heads, config.intermediate_size)
        self.image = DeepAVFusionViTBlock(config, *sizes, config.layer_norm_eps, config.drop_path_rate)
        self.audio = DeepAVFusionViTBlock(config, *sizes, config.layer_norm_eps, config.drop_path_rate)
        self.fusion = DeepAVFusionFusionBlock(config) if fused else None

    def forward(
        self,
        image: torch.Tensor | None,
        audio: torch.Tensor | None,
        fusion: torch.Tensor,
        has_image: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
        need_fusion_weights: bool = False,
    ) -> tuple:
        """`[N, N_v, D]`, `[N, N_a, D]`, `[N, n, D]` to the same three, then the weights of image and audio, and the four of
        `FusionAttentions` one by one: reentrant checkpointing follows the gradient of no tensor that lies deeper."""
        context = None if self.fusion is None else fusion
        new_image, image_weights = (None, None) if image is None else self.image(image, context)
        new_audio, audio_weights = (None, None) if audio is None else self.audio(audio, context)
        fusion_weights = None
        if self.fusion is not None:
            fusion, fusion_weights = self.fusion(fusion, image, audio, has_image, has_audio, need_fusion_weights)
        return new_image, new_audio, fusion, image_weights, audio_weights, *(fusion_weights or (None,) * 4)


class DeepAVFusionPreTrainedModel(PreTrainedModel):
    config: DeepAVFusionConfig
    base_model_prefix = "deepavfusion"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video", "audio")
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _no_split_modules = ["DeepAVFusionEmbeddings", "DeepAVFusionLayer"]
    _supports_sdpa = True
    _supports_attention_backend = False  # keys and values of the fusion attention differ in width
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Linear layers Xavier-uniform as whole (fused) matrices, biases 0; tokens normal (docs/deepavfusion.md, 2)."""
        super()._init_weights(module)
        bound = getattr(module, "xavier_bound", None)
        if bound is not None:
            init.uniform_(module.weight, -bound, bound)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        if bound is not None and isinstance(module, nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5  # PyTorch's own for a convolution's bias
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, DeepAVFusionEmbeddings):
            positions = sincos_positions(module.trained_grid, module.projection.out_channels)
            init.copy_(module.position_embeddings, positions)
        elif isinstance(module, DeepAVFusionTokens):
            init.normal_(module.tokens, mean=0.0, std=self.config.initializer_range)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in Transformers, with the code of the encoder named in `auto_map` beside that of this class."""
        if self._auto_class is not None:
            # a checkpoint of another task may have left its entries, whose code is not saved here
            known = getattr(self.config, "auto_map", None) or {}
            kept = {name: code for name, code in known.items() if name == "AutoConfig"}
            module = DeepAVFusionPreTrainedModel.__module__.rpartition(".")[2]
            self.config.auto_map = {**kept, "AutoModel": f"{module}.DeepAVFusionModel"}
        own = type(self)
        if any(base.__name__ == "FSDPModule" for base in own.__mro__):
            # `fully_shard` made a class of its own, whose name and code do not belong in a checkpoint
            self.__class__ = own.__mro__[2]
        try:
            return super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.__class__ = own


class DeepAVFusionModel(DeepAVFusionPreTrainedModel):
    """The encoder: patches, fusion tokens, layers and their final LayerNorms."""

    def __init__(self, config: DeepAVFusionConfig):
        super().__init__(config)
        width, patch = config.hidden_size, config.patch_size
        self.image_embeddings = DeepAVFusionEmbeddings(config.num_channels, patch, config.image_grid, width)
        self.audio_embeddings = DeepAVFusionEmbeddings(config.audio_num_channels, patch, config.audio_grid, width)
        self.fusion_tokens = DeepAVFusionTokens(config)
        fused = set(config.fused_layers)
        self.layers = nn.ModuleList(
            [DeepAVFusionLayer(config, index in fused) for index in range(config.num_hidden_layers)]
        )
        self.image_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.audio_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fusion_layernorm = nn.LayerNorm(width, eps=config.fusion_layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.image_embeddings.projection

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        image_noise: torch.Tensor | None = None,
        audio_noise: torch.Tensor | None = None,
        image_ids_keep: torch.Tensor | None = None,
        audio_ids_keep: torch.Tensor | None = None,
        has_video: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        output_fusion_attentions: bool | None = None,
        **kwargs,
    ) -> DeepAVFusionModelOutput:
        """
        Args:
            pixel_values_videos: frames `[B, S, C, H, W]`, one a window, or None.
            input_features: log-mel spectrograms `[B, S, F, W]`, or None.
            image_noise, audio_noise: `[N, N_v]` and `[N, N_a]`; the patches with the smallest values are kept, as many as
                `config.image_mask_ratio` and `config.audio_mask_ratio` leave. Nothing is masked without.
            image_ids_keep, audio_ids_keep: `[N, K]`, indices of the patches that are kept, in place of noise.
            has_video, has_audio: bool `[B]`; False marks a zero-filled row, which no fusion token reads. Its own patches
                come out all the same and mean nothing.
            output_hidden_states: also what enters and leaves the layers, all of them or those of the given indices.
            output_attentions: also attention weights (eager); of the fusion blocks too.
            output_fusion_attentions: attention weights of the fusion blocks, whatever the attention implementation.

        Raises:
            ValueError: wrong ranks or channels, frames and spectrograms that are not as many, or no input at all.
        """
        config = self.config
        streams = (pixel_values_videos, input_features, has_video, has_audio)
        if self.training:
            streams = complete_streams(config, *streams)
        image, audio, has_image, has_audio = as_windows(*streams, config.audio_num_channels)
        if not self.training:
            self._warn_of_missing((image, audio), (has_image, has_audio))
        image_ids_keep = self._ids_keep(image_ids_keep, image_noise, config.image_mask_ratio)
        audio_ids_keep = self._ids_keep(audio_ids_keep, audio_noise, config.audio_mask_ratio)
        num_windows = len(audio if image is None else image)
        image = None if image is None else self.image_embeddings(image, image_ids_keep)
        audio = None if audio is None else self.audio_embeddings(audio, audio_ids_keep)
        fusion = self.fusion_tokens(num_windows).to((audio if image is None else image).dtype)

        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        if output_attentions is None:
            output_attentions = config.output_attentions
        wanted = self._wanted_states(output_hidden_states)
        need_weights = bool(output_attentions or output_fusion_attentions)
        states = {name: [] for name in ("image", "audio", "fusion")}
        attentions = {name: [] for name in ("image", "audio", "fusion")}
        for index in range(len(self.layers) + 1):
            if index in wanted:
                for name, stream in (("image", image), ("audio", audio), ("fusion", fusion)):
                    states[name].append(stream)
            if index < len(self.layers):
                image, audio, fusion, *weights = self.layers[index](
                    image, audio, fusion, has_image, has_audio, need_fusion_weights=need_weights
                )
                of_fusion = FusionAttentions(*weights[2:])
                weights[2:] = [of_fusion if any(weight is not None for weight in of_fusion) else None]
                for name, weight in zip(attentions, weights, strict=True):
                    if weight is not None:
                        attentions[name].append(weight)

        def collected(values: list) -> tuple | None:
            return tuple(values) if values and values[0] is not None else None

        fusion_states = collected(states["fusion"])
        fusion = self.fusion_layernorm(fusion)
        return DeepAVFusionModelOutput(
            last_hidden_state=fusion,
            pooler_output=fusion.mean(1),
            image_last_hidden_state=None if image is None else self.image_layernorm(image),
            audio_last_hidden_state=None if audio is None else self.audio_layernorm(audio),
            fusion_last_hidden_state=fusion,
            hidden_states=fusion_states,
            image_hidden_states=collected(states["image"]),
            audio_hidden_states=collected(states["audio"]),
            fusion_hidden_states=fusion_states,
            attentions=collected(attentions["image"]) if output_attentions else None,
            audio_attentions=collected(attentions["audio"]) if output_attentions else None,
            fusion_attentions=collected(attentions["fusion"]) if need_weights else None,
        )

    @staticmethod
    def _warn_of_missing(inputs: tuple, present: tuple) -> None:
        """Say once that inference goes without a modality; not while the model is being compiled or traced."""
        masks = [mask for mask in present if mask is not None and not mask.is_meta]
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        if any(stream is None for stream in inputs) or any(not bool(mask.all()) for mask in masks):
            logger.warning_once(
                "A clip has no picture or no sound. DeepAVFusion is trained with both modalities: what it says of one alone "
                "is not to be relied on, unless modalities were dropped in training."
            )

    @staticmethod
    def _ids_keep(ids_keep: torch.Tensor | None, noise: torch.Tensor | None, mask_ratio: float) -> torch.Tensor | None:
        if ids_keep is not None or noise is None:
            return ids_keep
        return patch_order(noise)[0][:, : num_kept(noise.shape[1], mask_ratio)]

    def _wanted_states(self, output_hidden_states: bool | int | list[int] | None) -> set[int]:
        """Indices of the wanted states, 0 for what enters the first layer."""
        total = len(self.layers) + 1
        if output_hidden_states is None or isinstance(output_hidden_states, bool):
            return set(range(total)) if output_hidden_states else set()
        chosen = [output_hidden_states] if isinstance(output_hidden_states, int) else output_hidden_states
        return {index % total for index in chosen if -total <= index < total}


__all__ = ["DeepAVFusionLayer", "DeepAVFusionModel", "DeepAVFusionPreTrainedModel"]
