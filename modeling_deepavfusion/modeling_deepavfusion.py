# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion's encoder: a ViT for frames and a ViT for spectrograms, fused in every layer by learned tokens (arXiv 2312.01017).

The file follows the data: clips to windows, patches, masking, ViT block, fusion block, layer, encoder. Section and equation
numbers are those of docs/deepavfusion.md.

Shapes: B clips, S windows a clip (one frame and one spectrogram each), N = B * S windows, D width, r the fusion attention's
ratio of it, L layers, H heads, N_v and N_a patches of frame and spectrogram, n = n_f + g_v + g_a fusion, visual aggregation
and audio aggregation tokens.
"""

import math
import os
import shutil
import sys
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from .configuration_deepavfusion import DeepAVFusionConfig
from .losses_deepavfusion import num_processes
from .outputs_deepavfusion import DeepAVFusionModelOutput, FusionAttentions


logger = logging.get_logger(__name__)


# ---- clips and windows (section 1)


class Clips(NamedTuple):
    """The inputs of every model: B clips of S windows each."""

    pixel_values_videos: torch.Tensor | None  # (B, S, C, H, W)
    input_features: torch.Tensor | None  # (B, S, F, W)
    has_video: torch.Tensor | None  # (B,) bool, None: all
    has_audio: torch.Tensor | None  # (B,) bool, None: all


class Windows(NamedTuple):
    """The encoder's batch: N = B * S windows. The masks are None without an input or without a mask."""

    frames: torch.Tensor | None  # (N, C, H, W)
    spectrograms: torch.Tensor | None  # (N, C, F, W)
    has_image: torch.Tensor | None  # (N,) bool
    has_audio: torch.Tensor | None  # (N,) bool


def check_clips(clips: Clips) -> None:
    """Raises ValueError unless the shapes are those of [`Clips`], with as many frames as spectrograms."""
    frames, spectrograms = clips.pixel_values_videos, clips.input_features
    if frames is None and spectrograms is None:
        raise ValueError("Give pixel_values_videos, input_features or both.")
    if frames is not None and frames.ndim != 5:
        raise ValueError(f"pixel_values_videos must be [B, S, C, H, W], got shape {tuple(frames.shape)}.")
    if spectrograms is not None and spectrograms.ndim != 4:
        raise ValueError(f"input_features must be [B, S, F, W], got shape {tuple(spectrograms.shape)}.")
    if frames is not None and spectrograms is not None and frames.shape[:2] != spectrograms.shape[:2]:
        raise ValueError(
            f"pixel_values_videos holds {frames.shape[0]} clips of {frames.shape[1]} frames, input_features "
            f"{spectrograms.shape[0]} clips of {spectrograms.shape[1]} spectrograms. A window is one frame and one "
            "spectrogram: give as many of both, zero-filled with has_video / has_audio where one is missing."
        )


def fill_absent_modality(config: DeepAVFusionConfig, clips: Clips) -> Clips:
    """Zeros, marked as missing, in place of the modality that the whole batch lacks."""
    if clips.pixel_values_videos is None:
        spectrograms = clips.input_features
        height, width = (side * config.patch_size for side in config.image_grid)
        zeros = spectrograms.new_zeros(*spectrograms.shape[:2], config.num_channels, height, width)
        missing = torch.zeros(len(zeros), dtype=torch.bool, device=zeros.device)
        return clips._replace(pixel_values_videos=zeros, has_video=missing)
    if clips.input_features is None:
        frames = clips.pixel_values_videos
        zeros = frames.new_zeros(*frames.shape[:2], config.num_mel_bins, config.audio_num_frames)
        missing = torch.zeros(len(zeros), dtype=torch.bool, device=zeros.device)
        return clips._replace(input_features=zeros, has_audio=missing)
    return clips


def split_into_windows(clips: Clips, audio_num_channels: int) -> Windows:
    """Flattens clips and windows into one batch axis."""
    frames = spectrograms = has_image = has_audio = None
    if clips.pixel_values_videos is not None:
        num_windows = clips.pixel_values_videos.shape[1]
        frames = clips.pixel_values_videos.flatten(0, 1)  # (N, C, H, W)
        if clips.has_video is not None:
            has_image = clips.has_video.bool().repeat_interleave(num_windows)  # (N,)
    if clips.input_features is not None:
        num_windows = clips.input_features.shape[1]
        # a ViT of several channels sees the one channel of a spectrogram in each
        spectrograms = clips.input_features.flatten(0, 1)[:, None].expand(-1, audio_num_channels, -1, -1)
        if clips.has_audio is not None:
            has_audio = clips.has_audio.bool().repeat_interleave(num_windows)  # (N,)
    return Windows(frames, spectrograms, has_image, has_audio)


# ---- patches and tokens (section 1)


def sincos_positions(grid: tuple[int, int], width: int) -> torch.Tensor:
    """2-D sin-cos table `[1, rows * columns, D]`: the first half of D encodes the column, the second half the row.

    Each half is `[sin(p w_k) | cos(p w_k)]` with w_k = 10000^(-k / (D / 4)), k = 0 .. D / 4 - 1.
    """
    frequencies = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    waves = []
    for positions in (columns, rows):
        angles = positions.reshape(-1, 1) * frequencies  # (rows * columns, D / 4)
        waves += [angles.sin(), angles.cos()]
    return torch.cat(waves, dim=1).float()[None]


def resample_positions(table: torch.Tensor, trained_grid: tuple[int, int], grid: tuple[int, int]) -> torch.Tensor:
    """A position table `[1, P, D]` of one patch grid, resampled (bicubic) to another; the same tensor for equal grids."""
    if grid == trained_grid:
        return table
    planes = table.float().unflatten(1, trained_grid).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    planes = nn.functional.interpolate(planes, size=grid, mode="bicubic", align_corners=False)
    return planes.flatten(2).transpose(1, 2).to(table.dtype)


def take_tokens(tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Rows `ids` `[N, K]` of `tokens` `[N, P, D]`: `[N, K, D]`."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def set_xavier_bound(module: nn.Module, num_inputs: int, num_outputs: int) -> None:
    """Lets a layer start Xavier-uniform as part of a larger matrix of these fans: see `_init_weights`."""
    module.xavier_bound = math.sqrt(6 / (num_inputs + num_outputs))


class DeepAVFusionEmbeddings(nn.Module):
    """Patch convolution of one ViT, and its fixed positions: a buffer that is saved with the model.

    With `pre_norm_eps` a LayerNorm precedes the blocks, as in CLIP's vision transformer.
    """

    def __init__(
        self, num_channels: int, patch_size: int, grid: tuple[int, int], width: int, pre_norm_eps: float | None = None
    ):
        super().__init__()
        self.trained_grid = grid
        self.patch_size = patch_size
        self.num_channels = num_channels
        self.projection = nn.Conv2d(num_channels, width, kernel_size=patch_size, stride=patch_size)
        set_xavier_bound(self.projection, num_channels * patch_size**2, width)
        self.register_buffer("position_embeddings", sincos_positions(grid, width))
        self.pre_layernorm = None
        if pre_norm_eps is not None:
            self.pre_layernorm = nn.LayerNorm(width, eps=pre_norm_eps)

    def grid(self, images: torch.Tensor) -> tuple[int, int]:
        """Patches along height and width. The stride drops what exceeds a multiple of the patch size."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def forward(self, images: torch.Tensor, ids_keep: torch.Tensor | None = None) -> torch.Tensor:
        """Frames or spectrograms `[N, C, H, W]` to patches `[N, P, D]`, or to the patches `ids_keep` `[N, K]`: `[N, K, D]`.

        Raises:
            ValueError: other channels, inputs smaller than a patch, or `ids_keep` for other inputs.
        """
        if images.shape[1] != self.num_channels:
            raise ValueError(f"Inputs of shape {tuple(images.shape)} need {self.num_channels} channels (second axis).")
        grid = self.grid(images)
        if min(grid) < 1:
            raise ValueError(
                f"Inputs of {images.shape[-2]}x{images.shape[-1]} are smaller than one patch of {self.patch_size}x"
                f"{self.patch_size}; give larger frames or spectrograms."
            )

        # The weights' precision, as in ViT: under autocast the residual stream stays in float32.
        dtype = self.projection.weight.dtype
        patches = self.projection(images.to(dtype)).flatten(2).transpose(1, 2)  # (N, P, D)
        positions = resample_positions(self.position_embeddings, self.trained_grid, grid)
        tokens = patches.to(dtype) + positions.to(dtype)
        if self.pre_layernorm is not None:
            tokens = self.pre_layernorm(tokens)
        if ids_keep is None:
            return tokens
        if ids_keep.ndim != 2 or len(ids_keep) != len(tokens):
            raise ValueError(
                f"ids_keep (or noise) has shape {tuple(ids_keep.shape)}; expected [{len(tokens)}, patches], one row a window."
            )
        return take_tokens(tokens, ids_keep)  # (N, K, D)


class DeepAVFusionTokens(nn.Module):
    """The learned tokens `[fusion | visual aggregation | audio aggregation]`, without positions."""

    def __init__(self, config: DeepAVFusionConfig):
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(1, sum(config.token_counts), config.hidden_size))

    def forward(self, num_windows: int) -> torch.Tensor:
        return self.tokens.expand(num_windows, -1, -1)  # (N, n, D)


# ---- masking (section 4)


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """int(P (1 - ratio)) patches stay visible."""
    return int(num_patches * (1 - mask_ratio))


def patch_order(noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`ids_shuffle` and its inverse `ids_restore`, `[N, P]` each, which sort the patches of a window by noise `[N, P]`."""
    ids_shuffle = noise.argsort(dim=1, stable=True)
    return ids_shuffle, ids_shuffle.argsort(dim=1)


def visible_ids(ids_keep: torch.Tensor | None, noise: torch.Tensor | None, mask_ratio: float) -> torch.Tensor | None:
    """`[N, K]`: the given ids, or those of the patches with the smallest noise `[N, P]`; None for all patches."""
    if ids_keep is not None or noise is None:
        return ids_keep
    return patch_order(noise)[0][:, : num_visible(noise.shape[1], mask_ratio)]


# ---- attention and the ViT block (section 2)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The attention interface's "eager" implementation, which returns its weights. There is no dropout."""
    weights = query @ key.transpose(2, 3) * scaling  # (N, H, q, k)
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    attended = weights @ value  # (N, H, q, V / H)
    return attended.transpose(1, 2).contiguous(), weights  # (N, q, H, V / H)


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    need_weights: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Multi-head attention through transformers' attention interface. Keys and values may differ in width.

    Args:
        module: has `num_attention_heads`, `scaling`, and `config`, whose `_attn_implementation` chooses the implementation.
        query, key, value: `[N, q, E]`, `[N, k, E]`, `[N, k, V]`.
        attention_mask: additive `[N, 1, 1, k]`.
        need_weights: use the eager implementation, which returns weights, whatever the configuration says.

    Returns:
        `[N, q, V]`, and weights `[N, H, q, k]` or None.
    """
    attention_interface = eager_attention_forward
    if not need_weights:
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            module.config._attn_implementation, eager_attention_forward
        )

    heads = (module.num_attention_heads, -1)
    query = query.unflatten(-1, heads).transpose(1, 2)  # (N, H, q, E / H)
    key = key.unflatten(-1, heads).transpose(1, 2)  # (N, H, k, E / H)
    value = value.unflatten(-1, heads).transpose(1, 2)  # (N, H, k, V / H)
    attended, weights = attention_interface(
        module, query, key, value, attention_mask, scaling=module.scaling, dropout=0.0
    )
    return attended.flatten(-2), weights


def drop_path(update: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """Stochastic depth: drops the whole update of a window with probability `rate` and scales the others up."""
    if not training or rate == 0:
        return update
    return update * nn.functional.dropout(update.new_ones(len(update), 1, 1), rate)


class DeepAVFusionAttention(nn.Module):
    """Attention of one sequence over itself or over another; all projections have full width.

    `num_fused` of the query, key and value projections are one matrix in the reference implementation, which sets how they start.
    """

    is_causal = False

    def __init__(self, config: DeepAVFusionConfig, width: int, num_attention_heads: int, num_fused: int):
        super().__init__()
        self.config = config
        self.num_attention_heads = num_attention_heads
        self.scaling = (width // num_attention_heads) ** -0.5
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        for projection in (self.q_proj, self.k_proj, self.v_proj)[-num_fused:]:
            set_xavier_bound(projection, width, num_fused * width)

    def forward(
        self, states: torch.Tensor, memory: torch.Tensor, need_weights: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries `[N, q, D]` and memory `[N, k, D]` to `[N, q, D]` and weights `[N, H, q, k]` or None."""
        query, key, value = self.q_proj(states), self.k_proj(memory), self.v_proj(memory)
        attended, weights = attend(self, query, key, value, need_weights=need_weights)
        return self.o_proj(attended), weights


class DeepAVFusionMLP(nn.Module):
    def __init__(self, width: int, intermediate_size: int, hidden_act: str):
        super().__init__()
        self.activation_fn = ACT2FN[hidden_act]
        self.fc1 = nn.Linear(width, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(states)))


class DeepAVFusionViTBlock(nn.Module):
    """The pre-norm block of a ViT or decoder. Context tokens are read as keys and values, and not updated.

    The reference implementation updates them too and drops the update: the result is the same.
    """

    def __init__(
        self,
        config: DeepAVFusionConfig,
        width: int,
        num_attention_heads: int,
        intermediate_size: int,
        layer_norm_eps: float,
        drop_path_rate: float,
    ):
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.layernorm_before = nn.LayerNorm(width, eps=layer_norm_eps)
        self.attention = DeepAVFusionAttention(config, width, num_attention_heads, num_fused=3)
        self.layernorm_after = nn.LayerNorm(width, eps=layer_norm_eps)
        self.mlp = DeepAVFusionMLP(width, intermediate_size, config.hidden_act)

    def forward(
        self, states: torch.Tensor, context: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Patches `[N, P, D]` and a context `[N, n, D]` to `[N, P, D]` and (eager) weights `[N, H, P, n + P]`."""
        # attention over [context | patches]
        queries = memory = self.layernorm_before(states)
        if context is not None:
            memory = torch.cat([self.layernorm_before(context), queries], dim=1)  # (N, n + P, D)
        update, weights = self.attention(queries, memory)
        states = states + drop_path(update, self.drop_path_rate, self.training)

        # MLP
        update = self.mlp(self.layernorm_after(states))
        return states + drop_path(update, self.drop_path_rate, self.training), weights


# ---- fusion (section 3)


def keep_where(states: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """`[N, P, D]` with zeros in the windows where `present` (bool `[N]`) is false; None keeps all."""
    if present is None:
        return states
    return states * present[:, None, None].to(states.dtype)


class DeepAVFusionPairAttention(nn.Module):
    """Attention over all pairs of a visual and an audio entry (equation 3).

    The key and the value of a pair are linear in its two halves. So the softmax over pairs is the product of two softmaxes,
    and two attentions with one query, summed, give the exact result without a pair. `config.fusion_pair_activation` makes
    keys and values non-linear: then the pairs are formed.

    The bias of a pair's key cancels in the softmax, and that of its value passes through once: both are kept with the
    visual half. A modality that a window lacks has zeros for entries: then every pair is its other half.
    """

    is_causal = False

    def __init__(self, config: DeepAVFusionConfig, value_width: int, fused: bool):
        super().__init__()
        width, key_width = config.hidden_size, config.fusion_width
        self.config = config
        self.num_attention_heads = config.num_attention_heads
        scaled_widths = {"hidden": width, "head": key_width}
        self.scaling = (scaled_widths[config.fusion_scale] // config.num_attention_heads) ** -0.5
        self.activation_fn = None
        if config.fusion_pair_activation is not None:
            self.activation_fn = ACT2FN[config.fusion_pair_activation]

        self.q_proj = nn.Linear(width, key_width)
        self.image_k_proj = nn.Linear(width, key_width)
        self.audio_k_proj = nn.Linear(width, key_width, bias=False)
        self.image_v_proj = nn.Linear(width, value_width)
        self.audio_v_proj = nn.Linear(width, value_width, bias=False)
        self.o_proj = nn.Linear(value_width, width)

        # start as parts of the matrices over whole pairs, with keys and values in one matrix where `fused`
        key_fan = value_fan = key_width + value_width
        if not fused:
            key_fan, value_fan = key_width, value_width
        for projection in (self.image_k_proj, self.audio_k_proj):
            set_xavier_bound(projection, 2 * width, key_fan)
        for projection in (self.image_v_proj, self.audio_v_proj):
            set_xavier_bound(projection, 2 * width, value_fan)

    def forward(
        self, queries: torch.Tensor, image: torch.Tensor, audio: torch.Tensor, need_weights: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """`[N, q, D]`, `[N, i, D]`, `[N, j, D]` to `[N, q, D]` and weights `[N, H, q, i]`, `[N, H, q, j]` or None."""
        query = self.q_proj(queries)  # (N, q, r D)
        image_key, image_value = self.image_k_proj(image), self.image_v_proj(image)  # (N, i, r D), (N, i, V)
        audio_key, audio_value = self.audio_k_proj(audio), self.audio_v_proj(audio)  # (N, j, r D), (N, j, V)

        if self.activation_fn is not None:
            # the pairs themselves
            key = self.form_pairs(image_key, audio_key)  # (N, i * j, r D)
            value = self.form_pairs(image_value, audio_value)  # (N, i * j, V)
            attended, weights = attend(self, query, key, value, need_weights=need_weights)
            image_weights = audio_weights = None
            if weights is not None:
                weights = weights.unflatten(-1, (image.shape[1], audio.shape[1]))  # (N, H, q, i, j)
                image_weights, audio_weights = weights.sum(-1), weights.sum(-2)
            return self.o_proj(attended), image_weights, audio_weights

        # equation 3: one query, two softmaxes
        image_read, image_weights = attend(self, query, image_key, image_value, need_weights=need_weights)
        audio_read, audio_weights = attend(self, query, audio_key, audio_value, need_weights=need_weights)
        return self.o_proj(image_read + audio_read), image_weights, audio_weights

    def form_pairs(self, image: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        """Keys or values `[N, i * j, E]` of all pairs of `[N, i, E]` and `[N, j, E]`."""
        return self.activation_fn(image[:, :, None] + audio[:, None]).flatten(1, 2)


class DeepAVFusionDenseAttention(nn.Module):
    """Fusion type "dense": all tokens read pairs of a patch of the frame and a patch of the spectrogram."""

    def __init__(self, config: DeepAVFusionConfig):
        super().__init__()
        self.pairs = DeepAVFusionPairAttention(config, value_width=config.fusion_width, fused=True)

    def forward(self, tokens, image, audio, has_image=None, has_audio=None, need_weights=False):
        """See [`DeepAVFusionFusionBlock`]. Tokens and patches are normalized."""
        image_entries = self.entries(tokens, image, has_image)  # (N, N_v, D)
        audio_entries = self.entries(tokens, audio, has_audio)  # (N, N_a, D)
        update, image_weights, audio_weights = self.pairs(tokens, image_entries, audio_entries, need_weights)
        return update, FusionAttentions(image=image_weights, audio=audio_weights)

    @staticmethod
    def entries(tokens: torch.Tensor, patches: torch.Tensor | None, present: torch.Tensor | None) -> torch.Tensor:
        """One half of the pairs: the patches, or zeros in windows without the modality."""
        if patches is None:
            return tokens.new_zeros(tokens.shape[0], 1, tokens.shape[-1])
        return keep_where(patches, present)


class DeepAVFusionFactorizedAttention(nn.Module):
    """Fusion type "factorized": aggregation tokens read their modality, fusion tokens read pairs of what those have read."""

    def __init__(self, config: DeepAVFusionConfig):
        super().__init__()
        self.token_counts = config.token_counts
        width, heads = config.hidden_size, config.num_attention_heads
        self.image_aggregation = DeepAVFusionAttention(config, width, heads, num_fused=2)
        self.audio_aggregation = DeepAVFusionAttention(config, width, heads, num_fused=2)
        self.pairs = DeepAVFusionPairAttention(config, value_width=width, fused=False)

    def forward(self, tokens, image, audio, has_image=None, has_audio=None, need_weights=False):
        """See [`DeepAVFusionFusionBlock`]. Tokens and patches are normalized."""
        # (N, n_f, D), (N, g_v, D), (N, g_a, D)
        fusion_tokens, image_tokens, audio_tokens = tokens.split(self.token_counts, dim=1)

        # aggregation: what stands for each modality in the pairs
        image_read, image_aggregation = self.aggregate(
            self.image_aggregation, image_tokens, image, has_image, need_weights
        )
        audio_read, audio_aggregation = self.aggregate(
            self.audio_aggregation, audio_tokens, audio, has_audio, need_weights
        )

        # pairs
        update, image_weights, audio_weights = self.pairs(fusion_tokens, image_read, audio_read, need_weights)
        update = torch.cat([update, image_read, audio_read], dim=1)  # (N, n, D)
        return update, FusionAttentions(image_aggregation, audio_aggregation, image_weights, audio_weights)

    @staticmethod
    def aggregate(
        attention: DeepAVFusionAttention,
        tokens: torch.Tensor,
        patches: torch.Tensor | None,
        present: torch.Tensor | None,
        need_weights: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the aggregation tokens `[N, g, D]` read, 0 in windows without the modality; and weights or None."""
        if patches is None:
            return torch.zeros_like(tokens), None
        read, weights = attention(tokens, patches, need_weights)
        return keep_where(read, present), weights


class DeepAVFusionTokenAttention(nn.Module):
    """Fusion type "token": all tokens read the patches of both modalities in one softmax."""

    is_causal = False

    def __init__(self, config: DeepAVFusionConfig):
        super().__init__()
        width, fusion_width = config.hidden_size, config.fusion_width
        self.config = config
        self.num_attention_heads = config.num_attention_heads
        self.scaling = (fusion_width // config.num_attention_heads) ** -0.5
        self.q_proj = nn.Linear(width, fusion_width)
        self.k_proj = nn.Linear(width, fusion_width)
        self.v_proj = nn.Linear(width, fusion_width)
        self.o_proj = nn.Linear(fusion_width, width)
        for projection in (self.k_proj, self.v_proj):
            set_xavier_bound(projection, width, 2 * fusion_width)

    def forward(self, tokens, image, audio, has_image=None, has_audio=None, need_weights=False):
        """See [`DeepAVFusionFusionBlock`]. Tokens and patches are normalized."""
        # an absent modality has no patches
        if image is None:
            image = audio[:, :0]
        if audio is None:
            audio = image[:, :0]
        memory = torch.cat([image, audio], dim=1)  # (N, N_v + N_a, D)

        # one softmax over all patches
        query, key, value = self.q_proj(tokens), self.k_proj(memory), self.v_proj(memory)  # (N, ., r D)
        attention_mask, has_any = self.patch_mask(image, audio, has_image, has_audio, query.dtype)
        read, weights = attend(self, query, key, value, attention_mask, need_weights)
        update = self.o_proj(keep_where(read, has_any))
        if weights is None:
            return update, FusionAttentions()
        image_weights, audio_weights = weights.split([image.shape[1], audio.shape[1]], dim=-1)
        return update, FusionAttentions(image=image_weights, audio=audio_weights)

    @staticmethod
    def patch_mask(
        image: torch.Tensor,
        audio: torch.Tensor,
        has_image: torch.Tensor | None,
        has_audio: torch.Tensor | None,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Additive mask `[N, 1, 1, N_v + N_a]` of the patches that windows lack, and bool `[N]`: which windows have any.

        Both are None without a mask of either modality.
        """
        if has_image is None and has_audio is None:
            return None, None
        visible = []
        for patches, present in ((image, has_image), (audio, has_audio)):
            if present is None:
                present = torch.ones(patches.shape[0], dtype=torch.bool, device=patches.device)
            visible.append(present[:, None].expand(patches.shape[:2]))
        visible = torch.cat(visible, dim=1)  # (N, N_v + N_a)
        has_any = visible.any(1)
        # a row that hides everything would be 0 / 0: nothing is hidden there, and its result is dropped
        hidden = ~visible & has_any[:, None]
        mask = torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
        return mask[:, None, None], has_any


FUSION_ATTENTION_CLASSES = {
    "factorized": DeepAVFusionFactorizedAttention,
    "dense": DeepAVFusionDenseAttention,
    "token": DeepAVFusionTokenAttention,
}


class DeepAVFusionFusionBlock(nn.Module):
    """u = LN(f) + A(LN(f), LN(x_v), LN(x_a)), then u + MLP(LN(u)) (equation 2).

    The normalized tokens replace the tokens before the residual is added, as in the reference implementation: `config.fusion_residual`.
    """

    def __init__(self, config: DeepAVFusionConfig):
        super().__init__()
        width, eps = config.hidden_size, config.fusion_layer_norm_eps
        self.drop_path_rate = config.drop_path_rate
        self.normalized_residual = config.fusion_residual == "normalized"
        self.layernorm_fusion = nn.LayerNorm(width, eps=eps)
        self.layernorm_image = nn.LayerNorm(width, eps=eps)
        self.layernorm_audio = nn.LayerNorm(width, eps=eps)
        self.attention = FUSION_ATTENTION_CLASSES[config.fusion_type](config)
        self.layernorm_after = nn.LayerNorm(width, eps=eps)
        self.mlp = DeepAVFusionMLP(width, int(config.fusion_mlp_ratio * width), config.hidden_act)

    def forward(
        self,
        fusion: torch.Tensor,
        image: torch.Tensor | None,
        audio: torch.Tensor | None,
        has_image: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
        need_weights: bool = False,
    ) -> tuple[torch.Tensor, FusionAttentions]:
        """
        Args:
            fusion: `[N, n, D]`.
            image, audio: patches `[N, N_v, D]` and `[N, N_a, D]`, or None for a modality that the whole batch lacks.
            has_image, has_audio: bool `[N]`. Patches are not read where false.
            need_weights: return the attention weights, whatever the attention implementation.

        Returns:
            `[N, n, D]`, and the attention weights; without `need_weights` each may be None.
        """
        # attention to both modalities
        tokens = self.layernorm_fusion(fusion)
        if image is not None:
            image = self.layernorm_image(image)
        if audio is not None:
            audio = self.layernorm_audio(audio)
        update, weights = self.attention(tokens, image, audio, has_image, has_audio, need_weights)
        # weights over the zeros in place of an absent modality say nothing
        if image is None:
            weights = weights._replace(image=None)
        if audio is None:
            weights = weights._replace(audio=None)
        if self.normalized_residual:
            fusion = tokens
        fusion = fusion + drop_path(update, self.drop_path_rate, self.training)

        # MLP
        update = self.mlp(self.layernorm_after(fusion))
        return fusion + drop_path(update, self.drop_path_rate, self.training), weights


# ---- layer (equation 1)


class DeepAVFusionLayer(GradientCheckpointingLayer):
    """One layer of both ViTs and, where the layer is fused, its fusion block. All three read what enters the layer."""

    def __init__(self, config: DeepAVFusionConfig, fused: bool):
        super().__init__()
        sizes = (config.hidden_size, config.num_attention_heads, config.intermediate_size)
        self.image = DeepAVFusionViTBlock(config, *sizes, config.layer_norm_eps, config.drop_path_rate)
        self.audio = DeepAVFusionViTBlock(config, *sizes, config.layer_norm_eps, config.drop_path_rate)
        self.fusion = None
        if fused:
            self.fusion = DeepAVFusionFusionBlock(config)

    def forward(
        self,
        image: torch.Tensor | None,
        audio: torch.Tensor | None,
        fusion: torch.Tensor,
        has_image: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
        need_fusion_weights: bool = False,
    ) -> tuple:
        """One step of all three: see [`DeepAVFusionFusionBlock`] for the arguments.

        Returns:
            nine values: image `[N, N_v, D]`, audio `[N, N_a, D]`, fusion `[N, n, D]`, the weights of both ViTs, and the
            four of [`FusionAttentions`]. They are flat because reentrant checkpointing finds gradients in no nested tensor.
        """
        # the ViTs read the tokens of a fused layer
        context = None
        if self.fusion is not None:
            context = fusion
        new_image = image_weights = new_audio = audio_weights = None
        if image is not None:
            new_image, image_weights = self.image(image, context)
        if audio is not None:
            new_audio, audio_weights = self.audio(audio, context)

        # the tokens read the patches
        fusion_weights = FusionAttentions()
        if self.fusion is not None:
            fusion, fusion_weights = self.fusion(fusion, image, audio, has_image, has_audio, need_fusion_weights)
        return new_image, new_audio, fusion, image_weights, audio_weights, *fusion_weights


# ---- base class


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
    new_weights: tuple[str, ...] = ()  # those that the loaded checkpoint lacks, or has for other classes
    _more_auto_classes = ()  # Auto classes that load this class from a saved folder, beside its registered one

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs):
        """
        As in transformers; an adapter that is saved without the new weights gets a warning.

        Raises:
            ValueError: a `device_map` that spreads the model over several GPUs.
        """
        model, report = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        check_one_device(model.name_or_path, model)
        model.new_weights = (*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"]))
        if output_loading_info:
            return model, report
        return model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Linear layers start Xavier-uniform as whole (fused) matrices, biases at 0, tokens normal (section 2)."""
        super()._init_weights(module)
        bound = getattr(module, "xavier_bound", None)
        if bound is not None:
            init.uniform_(module.weight, -bound, bound)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        if bound is not None and isinstance(module, nn.Conv2d):
            # PyTorch's default for the bias of a convolution
            bound = module.weight[0].numel() ** -0.5
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, DeepAVFusionEmbeddings):
            positions = sincos_positions(module.trained_grid, module.projection.out_channels)
            init.copy_(module.position_embeddings, positions)
        elif isinstance(module, DeepAVFusionTokens):
            init.normal_(module.tokens, mean=0.0, std=self.config.initializer_range)

    def post_init(self):
        super().post_init()
        self.prepare_inputs_for_generation = generates_no_text

    def get_input_embeddings(self) -> nn.Module:
        return self.base_model.image_embeddings.projection

    def freeze_encoder(self) -> None:
        """Trains the head or decoder alone. Call it on the loaded model: loading makes all parameters trainable again."""
        self.base_model.requires_grad_(False)

    def warn_of_lost_weights(self) -> None:
        """Names the modules of new weights that the PEFT adapter around this model does not save, once."""
        if not getattr(self, "peft_config", None):
            return
        lost = sorted({name.rpartition(".")[0] for name in self.new_weights if not is_saved_whole(self, name)})
        if lost:
            logger.warning_once(
                f"New weights of {lost} are not saved with this adapter: they will be random at every load. Name them in "
                "modules_to_save (see deepavfusion_peft_config), or save the model first and load it from there."
            )

    def state_dict(self, *args, **kwargs):
        """As in PyTorch; an adapter that is saved without new weights gets a warning."""
        self.warn_of_lost_weights()
        return super().state_dict(*args, **kwargs)

    def prepare_clips(
        self,
        pixel_values_videos: torch.Tensor | None,
        input_features: torch.Tensor | None,
        has_video: torch.Tensor | None,
        has_audio: torch.Tensor | None,
        computes_loss: bool = False,
    ) -> Clips:
        """The four inputs of every forward, checked. Raises ValueError for shapes that do not fit.

        With several processes, in training or with `computes_loss`, a missing input is zeros: all processes must use the
        same parameters and take part in the collectives of the same losses.
        """
        clips = Clips(pixel_values_videos, input_features, has_video, has_audio)
        check_clips(clips)
        if (self.training or computes_loss) and num_processes() > 1:
            clips = fill_absent_modality(self.config, clips)
        return clips

    @classmethod
    def is_remote_code(cls) -> bool:
        """As in transformers, but false for a class that `fully_shard` derives: it has no file that could be copied."""
        return super().is_remote_code() and not cls.__name__.startswith("FSDP")

    def _custom_pipelines(self) -> dict[str, dict]:
        """The pipelines of a saved folder; only classification has one."""
        return {}

    def save_pretrained(self, save_directory, *args, is_main_process: bool = True, **kwargs):
        """As in transformers, with the encoder and all Auto classes of this class in `auto_map`."""
        if self._auto_class is not None:
            model_class = next(base for base in type(self).__mro__ if not base.__name__.startswith("FSDP"))
            classes = dict.fromkeys((self._auto_class, *self._more_auto_classes), model_class)
            # a checkpoint of another task may have left its entries, whose code is not saved here
            auto_map = getattr(self.config, "auto_map", None) or {}
            auto_map = {name: code for name, code in auto_map.items() if name == "AutoConfig"}
            for name, code_class in ({"AutoModel": DeepAVFusionModel} | classes).items():
                auto_map[name] = f"{code_class.__module__.rpartition('.')[2]}.{code_class.__name__}"
            self.config.auto_map = auto_map
            self.config.custom_pipelines = self._custom_pipelines()
            if is_main_process and not self.is_remote_code():
                os.makedirs(save_directory, exist_ok=True)
                source = sys.modules[model_class.__module__].__file__
                for file in (source, *get_relative_import_files(source)):
                    shutil.copy(file, save_directory)
        return super().save_pretrained(save_directory, *args, is_main_process=is_main_process, **kwargs)


def is_saved_whole(model: nn.Module, weight: str) -> bool:
    """Whether PEFT's `modules_to_save` has wrapped a module that holds the weight."""
    module = model
    for part in weight.split(".")[:-1]:
        module = getattr(module, part)
        if hasattr(module, "modules_to_save"):
            return True
    return False


# Copied from modeling_maavt.backbone_maavt.check_one_device
def check_one_device(checkpoint: str | os.PathLike | None, model: torch.nn.Module) -> None:
    """Raises ValueError where `device_map` has put a model on several GPUs: its streams meet on one."""
    devices = {str(device) for device in getattr(model, "hf_device_map", {}).values()} - {"cpu", "disk"}
    if len(devices) > 1:
        raise ValueError(
            f"{checkpoint}: device_map spreads the model over the devices {', '.join(sorted(devices))}; it fits one, give "
            'device_map="cuda"'
        )


# Copied from modeling_maavt.modeling_maavt.warn_without_weights
def warn_without_weights(attention: str | None) -> None:
    """Name the attention implementation that returns no weights, once."""
    if attention != "eager" and not torch.compiler.is_compiling():
        logger.warning_once(
            f"output_attentions: {attention} attention returns no weights; load the model with "
            'attn_implementation="eager".'
        )


# Copied from modeling_maavt.modeling_maavt.generates_no_text
def generates_no_text(*args, **kwargs):
    """PEFT takes hold of such a method where `task_type` is `"CAUSAL_LM"` or `"SEQ_2_SEQ_LM"`, and trains without it."""
    raise TypeError("This model classifies clips and generates no text.")


# ---- encoder


class DeepAVFusionModel(DeepAVFusionPreTrainedModel):
    """The encoder: patches, fusion tokens, layers and their final LayerNorms."""

    _keys_to_ignore_on_load_unexpected = [r"_(classifier|batchnorm)\.", r"decoder\."]  # heads are left out on purpose

    def __init__(self, config: DeepAVFusionConfig):
        super().__init__(config)
        width, patch = config.hidden_size, config.patch_size
        eps = None
        if config.pre_norm:
            eps = config.layer_norm_eps
        self.image_embeddings = DeepAVFusionEmbeddings(config.num_channels, patch, config.image_grid, width, eps)
        self.audio_embeddings = DeepAVFusionEmbeddings(config.audio_num_channels, patch, config.audio_grid, width, eps)
        self.fusion_tokens = DeepAVFusionTokens(config)
        fused = set(config.fused_layers)
        self.layers = nn.ModuleList(
            [DeepAVFusionLayer(config, index in fused) for index in range(config.num_hidden_layers)]
        )
        self.image_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.audio_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fusion_layernorm = nn.LayerNorm(width, eps=config.fusion_layer_norm_eps)
        self.post_init()

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
            image_noise, audio_noise: `[N, N_v]` and `[N, N_a]`. The patches with the smallest values stay visible, as many
                as `config.image_mask_ratio` and `config.audio_mask_ratio` leave. Without noise nothing is masked.
            image_ids_keep, audio_ids_keep: `[N, K]`, indices of the visible patches, in place of noise.
            has_video, has_audio: bool `[B]`. False marks a zero-filled row, which no fusion token reads. The outputs for its
                patches mean nothing.
            output_hidden_states: return the states before and after all layers, or those of the given indices alone.
            output_attentions: return the attention weights of the ViTs (eager attention only) and of the fusion blocks.
            output_fusion_attentions: return the attention weights of the fusion blocks, with any attention implementation.
            kwargs: ignored.

        Raises:
            ValueError: wrong ranks or channels, frames and spectrograms that differ in number, or no input at all.
        """
        # Inputs: the windows of all clips are the batch
        clips = self.prepare_clips(pixel_values_videos, input_features, has_video, has_audio)
        windows = split_into_windows(clips, self.config.audio_num_channels)
        if not self.training:
            self._warn_of_missing_modality(windows)

        # Embeddings: visible patches of both modalities, and the learned tokens
        image_ids_keep = visible_ids(image_ids_keep, image_noise, self.config.image_mask_ratio)
        audio_ids_keep = visible_ids(audio_ids_keep, audio_noise, self.config.audio_mask_ratio)
        states = self._embed(windows, image_ids_keep, audio_ids_keep)

        # Layers and their final LayerNorms
        states, requested = self._run_layers(
            *states, windows, output_hidden_states, output_attentions, output_fusion_attentions
        )
        image, audio, fusion = self._normalize(*states)
        return DeepAVFusionModelOutput(
            last_hidden_state=fusion,
            pooler_output=fusion.mean(1),
            image_last_hidden_state=image,
            audio_last_hidden_state=audio,
            fusion_last_hidden_state=fusion,
            **requested,
        )

    def _embed(
        self, windows: Windows, image_ids_keep: torch.Tensor | None, audio_ids_keep: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor]:
        """Visible patches of frame and spectrogram, None without the input, and the learned tokens."""
        image = audio = None
        if windows.frames is not None:
            image = patches = self.image_embeddings(windows.frames, image_ids_keep)  # (N, N_v, D)
        if windows.spectrograms is not None:
            audio = patches = self.audio_embeddings(windows.spectrograms, audio_ids_keep)  # (N, N_a, D)
        fusion = self.fusion_tokens(patches.shape[0]).to(patches.dtype)  # (N, n, D)
        return image, audio, fusion

    def _run_layers(
        self,
        image: torch.Tensor | None,
        audio: torch.Tensor | None,
        fusion: torch.Tensor,
        windows: Windows,
        output_hidden_states: bool | int | list[int] | None,
        output_attentions: bool | None,
        output_fusion_attentions: bool | None,
    ) -> tuple[tuple, dict[str, tuple | None]]:
        """Patches and tokens after all layers (equation 1), and the fields of the output that were asked for."""
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_attentions:
            warn_without_weights(self.config._attn_implementation)
        need_fusion_weights = bool(output_attentions or output_fusion_attentions)
        wanted = wanted_states(output_hidden_states, len(self.layers) + 1)

        states, attentions, fusion_attentions = [], [], []
        for index, layer in enumerate(self.layers):
            if index in wanted:
                states.append((image, audio, fusion))
            image, audio, fusion, image_weights, audio_weights, *fusion_weights = layer(
                image, audio, fusion, windows.has_image, windows.has_audio, need_fusion_weights=need_fusion_weights
            )
            if output_attentions:
                attentions.append((image_weights, audio_weights))
            if need_fusion_weights and layer.fusion is not None:
                fusion_attentions.append(FusionAttentions(*fusion_weights))
        if len(self.layers) in wanted:
            states.append((image, audio, fusion))

        image_states, audio_states, fusion_states = by_modality(states, 3)
        image_attentions, audio_attentions = by_modality(attentions, 2)
        requested = {
            "hidden_states": fusion_states,
            "image_hidden_states": image_states,
            "audio_hidden_states": audio_states,
            "fusion_hidden_states": fusion_states,
            "attentions": image_attentions,
            "audio_attentions": audio_attentions,
            "fusion_attentions": tuple(fusion_attentions) or None,
        }
        return (image, audio, fusion), requested

    def _normalize(self, image, audio, fusion):
        """The final LayerNorm of each modality and of the tokens."""
        if image is not None:
            image = self.image_layernorm(image)  # (N, N_v, D)
        if audio is not None:
            audio = self.audio_layernorm(audio)  # (N, N_a, D)
        return image, audio, self.fusion_layernorm(fusion)  # (N, n, D)

    @staticmethod
    def _warn_of_missing_modality(windows: Windows) -> None:
        """Warns once that inference lacks a modality, but not while the model is compiled or traced."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        masks = [mask for mask in (windows.has_image, windows.has_audio) if mask is not None and not mask.is_meta]
        is_missing = windows.frames is None or windows.spectrograms is None
        # the only place that waits for the device: once for all masks
        if is_missing or (masks and not torch.stack(masks).all()):
            logger.warning_once(
                "A clip has no video or no audio. DeepAVFusion is trained with both modalities: do not rely on its outputs "
                "for one alone, unless modalities were dropped in training."
            )


def wanted_states(output_hidden_states: bool | int | list[int] | None, num_states: int) -> set[int]:
    """Indices of the states to return: 0 enters the first layer, negative ones count from the last."""
    if output_hidden_states is None or output_hidden_states is False:
        return set()
    if output_hidden_states is True:
        return set(range(num_states))
    if isinstance(output_hidden_states, int):
        output_hidden_states = [output_hidden_states]
    return {index % num_states for index in output_hidden_states if -num_states <= index < num_states}


def by_modality(collected: list[tuple], count: int) -> list[tuple | None]:
    """The `count` values of each layer as one tuple each over the layers; None for values that do not exist."""
    if not collected:
        return [None] * count
    return [None if values[0] is None else values for values in zip(*collected, strict=True)]


__all__ = ["DeepAVFusionLayer", "DeepAVFusionModel", "DeepAVFusionPreTrainedModel"]
