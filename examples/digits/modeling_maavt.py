# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""MA-AVT: one frozen ViT for video and audio, joint unimodal and multimodal token learning (arXiv 2406.04930).

The file follows the data: embeddings, learned tokens, blocks, encoder, trunk, heads, classification. Equation and section
numbers are those of docs/maavt.md.

Shapes: B clips, T frames and S audio segments per clip (S divides T), N sequences (B*T or B*S), P patches, D width,
L blocks, L' contrasted blocks, n tokens of a kind, K sets of tokens (in the match head: added pairs), R positions
computed in the last block, d head or projection width, C classes.
"""

import hashlib
import importlib
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, ViTConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple, maybe_autocast
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .backbone_maavt import (
    HUB_ARGUMENTS,
    adapter_config,
    check_one_device,
    check_whole_trunk,
    find_checkpoint,
    of_backbone,
    quiet_loading,
    trunk_from_backbone,
)
from .configuration_maavt import MAAVTConfig
from .lavish_maavt import MAAVTGroupedPointwise, MAAVTLavishAdapter, MAAVTLavishAdapters
from .losses_maavt import (
    check_classes,
    check_is_tensor,
    classification_loss,
    contrastive_loss,
    matching_loss,
    num_processes,
    smooth_labels,
)
from .outputs_maavt import MAAVTClassifierOutput, MAAVTEncoderOutput, MAAVTModelOutput


logger = logging.get_logger(__name__)

# Trained beside a frozen backbone. No name is a suffix of another, because PEFT matches modules_to_save by suffix.
TRAINED_MODULES = ("prompt", "token_attention", "lavish_adapters", "contrastive_head", "classifier", "match_head")


# A loss that somebody computes from the logits, as Trainer's label_smoothing_factor does, drops the model's other losses.
NO_LABELS = (
    "A training step without labels: a loss computed from the logits alone would drop the matching and contrastive losses. "
    "Set model.config.label_smoothing in place of Trainer's label_smoothing_factor; for a loss of your own pass labels or is_matched."
)


# ---- Embeddings: frames and spectrograms to patches with positions (section 1)


def as_pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return tuple(size)


class MAAVTPatchConvolution(nn.Conv2d):
    """ViT's patch convolution, for frames of three channels and spectrograms of one.

    The kernel is read in this forward alone: FSDP and Accelerate's offloading bring it in for this forward only.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[N, 3 or 1, H, W]` to `[N, D, rows, columns]`; what exceeds a multiple of the patch size is dropped."""
        kernel = self.weight
        if images.shape[1] == 1:
            # Equal to repeating the one channel of a spectrogram, at a third of the cost.
            kernel = kernel.sum(1, keepdim=True)
        return nn.functional.conv2d(images.to(kernel.dtype), kernel, self.bias, stride=self.stride)


class MAAVTPatchEmbeddings(nn.Module):
    """Frames or spectrograms to patches."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.num_channels = config.num_channels
        size = as_pair(config.patch_size)
        self.projection = MAAVTPatchConvolution(config.num_channels, config.hidden_size, kernel_size=size, stride=size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[N, 3 or 1, H, W]` to `[N, P, D]`."""
        if type(self.projection) is not MAAVTPatchConvolution:
            # PEFT has wrapped the convolution. Some of its wrappers read the kernel themselves: give them every channel.
            images = images.expand(-1, self.num_channels, -1, -1)
        return self.projection(images).flatten(2).transpose(1, 2)  # (N, P, D)


class MAAVTEmbeddings(nn.Module):
    """Patches, class token, background token and positions: `[cls | patches | background?]`.

    Where the learned tokens enter a later block, `own_class_token` keeps the class token here, with the backbone.
    """

    def __init__(self, config: ViTConfig, position_interpolation: str, own_class_token: bool = False):
        super().__init__()
        self.patch_size = as_pair(config.patch_size)
        height, width = as_pair(config.image_size)
        self.trained_grid = (height // self.patch_size[0], width // self.patch_size[1])
        self.position_interpolation = position_interpolation

        class_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if own_class_token else None
        self.register_parameter("cls_token", class_token)
        self.patch_embeddings = MAAVTPatchEmbeddings(config)
        num_positions = 1 + self.trained_grid[0] * self.trained_grid[1]
        self.position_embeddings = nn.Parameter(torch.zeros(1, num_positions, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        # CLIP's vision transformer has one more LayerNorm, before the blocks.
        self.pre_layernorm = None
        if getattr(config, "pre_norm", False):
            self.pre_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def grid(self, images: torch.Tensor) -> tuple[int, int]:
        """Patches along height and width."""
        return images.shape[-2] // self.patch_size[0], images.shape[-1] // self.patch_size[1]

    def forward(
        self, images: torch.Tensor, class_token: torch.Tensor | None, background: torch.Tensor | None
    ) -> torch.Tensor:
        """`[N, 3 or 1, H, W]` to `[N, 1 + P (+ 1), D]`."""
        self._check(images)
        # The weights' precision, as in ViT: under autocast the residual stream stays in float32.
        dtype = self.position_embeddings.dtype
        patches = self.patch_embeddings(images).to(dtype)  # (N, P, D)
        if class_token is None:
            class_token = self.cls_token
        pieces = [class_token.to(dtype).expand(patches.shape[0], -1, -1), patches]
        if background is not None:
            pieces.append(background.to(dtype).expand(patches.shape[0], 1, -1))
        sequence = torch.cat(pieces, dim=1)  # (N, 1 + P (+ 1), D)

        positions = self.positions(self.grid(images), background is not None).to(dtype)
        if positions.shape[1] < sequence.shape[1]:
            # On a grid the background token has no position.
            positions = nn.functional.pad(positions, (0, 0, 0, 1))
        sequence = self.dropout(sequence + positions)
        if self.pre_layernorm is None:
            return sequence
        # The background token enters as the other learned tokens do, without a norm.
        length = 1 + patches.shape[1]
        return torch.cat([self.pre_layernorm(sequence[:, :length]), sequence[:, length:]], dim=1)

    def positions(self, grid: tuple[int, int], with_background: bool) -> torch.Tensor:
        """Position table for a patch grid: `[1, 1 + P, D]`, or `[1, 1 + P + 1, D]` for `"sequence"` with background."""
        table = self.position_embeddings
        # The paper's way: one-dimensional, over the class token's row as well.
        if self.position_interpolation == "sequence":
            length = 1 + grid[0] * grid[1] + int(with_background)
            if length == table.shape[1]:
                return table
            return nn.functional.interpolate(table.float().transpose(1, 2), length, mode="linear").transpose(1, 2)
        # Two-dimensional, over the patches alone.
        if grid == self.trained_grid:
            return table
        patches = table[:, 1:].float().unflatten(1, self.trained_grid).permute(0, 3, 1, 2)  # (1, D, rows, columns)
        patches = nn.functional.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)

    def _check(self, images: torch.Tensor) -> None:
        channels = self.patch_embeddings.num_channels
        if images.shape[1] not in (1, channels):
            raise ValueError(f"Inputs have {images.shape[1]} channels; give 1 or {channels}.")
        if min(self.grid(images)) < 1:
            raise ValueError(
                f"Inputs of {images.shape[-2]}x{images.shape[-1]} are smaller than one patch of "
                f"{self.patch_size[0]}x{self.patch_size[1]}; give larger frames or spectrograms."
            )


# ---- Learned tokens and the self-attention among them (section 2)


@dataclass
class MAAVTTokens:
    """The learned tokens of one step; K is 1, or the number of blocks that see them when tokens are layerwise.

    Attributes:
        class_token: `[1, 1, D]`, or None where tokens enter a later block and the backbone keeps its own.
        background: `[1, D]`, or None without background mining.
        audio, visual, shared: `[K, n, D]`, n may be 0.
    """

    class_token: torch.Tensor | None
    background: torch.Tensor | None
    audio: torch.Tensor
    visual: torch.Tensor
    shared: torch.Tensor


class MAAVTPrompt(nn.Module):
    """Every learned token: class token (section 8), background, audio, visual and shared tokens.

    Where tokens enter a later block (`config.prompt_start_layer`) the class token is not among them.

    The buffer `needs_self_attention` travels with the tokens, so that tokens into which token self-attention has been
    folded are refused by a model that would apply it again, and vice versa.
    """

    def __init__(self, config: MAAVTConfig):
        super().__init__()
        self.width = config.hidden_size
        self.token_self_attention = config.token_self_attention
        # Layerwise tokens: "common" ones are one set, handed out to every block; "unique" ones are one set per block.
        self.num_sets = 1 if config.layerwise_tokens is None else config.num_prompted_layers
        sets = (self.num_sets,) if config.layerwise_tokens == "unique" else ()
        self._add("cls_token", (1, 1, self.width), config.prompt_start_layer == 0)
        self._add("background_token", (1, self.width), config.background_mining)
        for kind in ("audio", "visual", "shared"):
            count = getattr(config, f"num_{kind}_tokens")
            self._add(f"{kind}_tokens", (*sets, count, self.width), count > 0)
        flag = torch.tensor([config.token_self_attention], dtype=torch.uint8)
        self.register_buffer("needs_self_attention", flag)

    def _add(self, name: str, shape: tuple[int, ...], wanted: bool) -> None:
        # An empty tensor would have to be stored, sharded and optimized: what is not wanted is None.
        parameter = nn.Parameter(torch.zeros(shape, dtype=torch.float32)) if wanted else None
        self.register_parameter(name, parameter)

    def forward(self) -> MAAVTTokens:
        """Hand out copies, never the parameters themselves: a sharded prompt frees those after its forward."""
        class_token, background = self.cls_token, self.background_token
        if class_token is not None:
            class_token = class_token.clone()
        if background is not None:
            background = background.clone()
        return MAAVTTokens(
            class_token=class_token,
            background=background,
            audio=self._sets(self.audio_tokens),
            visual=self._sets(self.visual_tokens),
            shared=self._sets(self.shared_tokens),
        )

    def _sets(self, tokens: torch.Tensor | None) -> torch.Tensor:
        # Of a kind without tokens there are K empty sets: the blocks see as many of each kind.
        if tokens is None:
            return torch.zeros((self.num_sets, 0, self.width), device=self.needs_self_attention.device)
        return tokens.clone().expand(self.num_sets, -1, -1)  # (K, n, D)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        stored = state_dict.get(prefix + "needs_self_attention")
        if stored is not None and not stored.is_meta and bool(stored) != self.token_self_attention:
            state = "need token self-attention" if stored else "hold a folded token self-attention"
            raise ValueError(
                f"These tokens {state}, but this model has config.token_self_attention={self.token_self_attention}. "
                "Build the base model from the config.json beside the adapter: "
                "config = AutoConfig.from_pretrained(adapter); "
                "MAAVTForAudioVisualClassification.from_pretrained(backbone, config=config)."
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class MAAVTTokenSelfAttention(nn.Module):
    """Multi-head self-attention among the tokens of one kind: no residual, no norm, no dropout (equation 1)."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, dtype=torch.float32)
        self.proj = nn.Linear(width, width, dtype=torch.float32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`[K, n, D]` to `[K, n, D]`; softmax(q k^T / sqrt(D / heads)) v."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))  # (K, n, 3, heads, d)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (K, heads, n, d) each
        states = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.proj(states.transpose(1, 2).flatten(2))


class MAAVTTokenAttention(nn.Module):
    """One self-attention per kind of token, on `[K, n, D]` and never on a copy per clip."""

    def __init__(self, config: MAAVTConfig):
        super().__init__()
        for kind in ("audio", "visual", "shared"):
            attention = None
            if getattr(config, f"num_{kind}_tokens") > 0:
                attention = MAAVTTokenSelfAttention(config.hidden_size, config.token_attention_heads)
            self.register_module(kind, attention)

    def forward(self, tokens: MAAVTTokens) -> MAAVTTokens:
        attended = {}
        for kind in ("audio", "visual", "shared"):
            attention, attended[kind] = getattr(self, kind), getattr(tokens, kind)
            if attention is not None:
                attended[kind] = attention(attended[kind])
        return MAAVTTokens(class_token=tokens.class_token, background=tokens.background, **attended)


# ---- A ViT block, with ViT's parameter names, for both streams (section 3)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # always None: sequences are not padded
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention that returns its weights: `[N, R, heads, d]` and `[N, heads, R, len]`."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling  # (N, heads, R, len)
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class MAAVTAttention(nn.Module):
    """ViT's self-attention, for all positions of a sequence or only for those that are read afterwards."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.head_dim = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        width = config.num_attention_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, query_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries from `query_states` `[N, R, D]` attend to `hidden_states` `[N, len, D]`.

        Returns `[N, R, D]` and the attention weights.
        """
        query = self.split_heads(self.q_proj(query_states))  # (N, heads, R, d)
        key = self.split_heads(self.k_proj(hidden_states))  # (N, heads, len, d)
        value = self.split_heads(self.v_proj(hidden_states))
        implementation = self.config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        attended, weights = attend(self, query, key, value, None, dropout=dropout, scaling=self.scaling)
        return self.o_proj(attended.flatten(2)), weights

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """`[N, n, heads * d]` to `[N, heads, n, d]`."""
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def class_map(self, hidden_states: torch.Tensor, num_patches: int) -> torch.Tensor:
        """Localization map `[N, P]` (section 6): logits of the class query over the patches, mean over heads, softmax."""
        query = self.split_heads(self.q_proj(hidden_states[:, :1]))  # (N, heads, 1, d)
        key = self.split_heads(self.k_proj(hidden_states[:, 1 : 1 + num_patches]))  # (N, heads, P, d)
        logits = (query.float() * key.float()).sum(-1) * self.scaling  # (N, heads, P)
        return logits.mean(1).softmax(-1)


class MAAVTMLP(nn.Module):
    def __init__(self, config: ViTConfig):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class MAAVTLayer(GradientCheckpointingLayer):
    """A pre-norm ViT block through which both streams pass without attending to each other.

    Only LAVISH adapters let them meet: `lavish(site, video, audio)` gives what they add to both (section 9).
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.attention = MAAVTAttention(config)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MAAVTMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        video: torch.Tensor | None,
        audio: torch.Tensor | None,
        video_queries: torch.Tensor | None = None,
        audio_queries: torch.Tensor | None = None,
        lavish: Callable | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """`[N, len, D]` per stream to `(video, audio, video_attentions, audio_attentions)`.

        With `video_queries` and `audio_queries`, `[N, R, D]`, only these positions of the streams are computed.
        """
        if lavish is None:
            return self.for_both(self.block, video, audio, video_queries, audio_queries)
        # Equation 11: each pair of adapters reads the streams as they enter its half of the block.
        video_delta, audio_delta = lavish(0, video, audio)
        video, audio, *weights = self.for_both(self.attend, video, audio)
        video, audio = video + video_delta, audio + audio_delta
        video_delta, audio_delta = lavish(1, video, audio)
        video, audio, *_ = self.for_both(self.feed_forward, video, audio)
        return video + video_delta, audio + audio_delta, *weights

    def for_both(
        self,
        part: Callable,
        video: torch.Tensor | None,
        audio: torch.Tensor | None,
        video_queries: torch.Tensor | None = None,
        audio_queries: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """`part` of the block for both streams: the states of each, then the attention weights of each."""
        # One pass over both where their lengths agree. Eager attention returns weights, which are recorded per stream.
        eager = self.attention.config._attn_implementation == "eager"
        if not eager and video is not None and audio is not None and video.shape[1:] == audio.shape[1:]:
            queries = None
            if video_queries is not None:
                queries = torch.cat([video_queries, audio_queries])  # (Nv + Na, R, D)
            states, _ = part(torch.cat([video, audio]), queries)  # (Nv + Na, len or R, D)
            video, audio = states.split([video.shape[0], audio.shape[0]])
            return video, audio, None, None
        # Otherwise one stream after the other.
        video_weights = audio_weights = None
        if video is not None:
            video, video_weights = part(video, video_queries)
        if audio is not None:
            audio, audio_weights = part(audio, audio_queries)
        return video, audio, video_weights, audio_weights

    def block(
        self, states: torch.Tensor, queries: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        states, weights = self.attend(states, queries)
        states, _ = self.feed_forward(states)
        return states, weights

    def attend(
        self, states: torch.Tensor, queries: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x + Attention(LN(x)), of all states or of the `queries` alone."""
        normalized = self.layernorm_before(states)
        if queries is None:
            attended, weights = self.attention(normalized, normalized)
            return states + self.dropout(attended), weights
        attended, weights = self.attention(normalized, self.layernorm_before(queries))
        return queries + self.dropout(attended), weights

    def feed_forward(self, states: torch.Tensor, _queries: None = None) -> tuple[torch.Tensor, None]:
        """x + MLP(LN(x))."""
        # `for_both` passes the second argument to every part of a block; here it is not used.
        return states + self.dropout(self.mlp(self.layernorm_after(states))), None

    def class_map(self, states: torch.Tensor | None, num_patches: int) -> torch.Tensor | None:
        """The localization map `[N, P]` of the states that enter this block (section 6); None stays None."""
        if states is None:
            return None
        return self.attention.class_map(self.layernorm_before(states), num_patches)


# ---- What all models share: loading, saving, initial weights, what is frozen and trained


class MAAVTPreTrainedModel(PreTrainedModel):
    config: MAAVTConfig
    base_model_prefix = "maavt"
    new_modules: tuple[str, ...] = ()  # those that the loaded checkpoint lacks, or has for other classes
    main_input_name = "pixel_values_videos"
    input_modalities = ("video", "audio")
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _no_split_modules = ["MAAVTEmbeddings", "MAAVTLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """
        Load a tuned MA-AVT checkpoint, a vision transformer (a new MA-AVT on top of it), or an exported adapter.

        Any [`MAAVTConfig`] field may be given beside the arguments of Transformers: with a backbone they describe the
        new model, e.g. `from_pretrained("google/vit-base-patch16-224-in21k", num_labels=28, contrastive="last")`. The
        backbone is frozen as `config.freeze_backbone` says; what is trained stays in float32 whatever the `dtype`. Which
        vision transformers can be backbones: docs/maavt.md, 10.

        Raises:
            ValueError: a checkpoint that is neither MA-AVT nor a backbone or lacks weights, an adapter without a readable
                `config.json`, a `config` whose `vision_config` does not fit the checkpoint, or a `device_map` that spreads
                the model over several GPUs.
        """
        # Where the weights are: the checkpoint, and perhaps an adapter on top of it.
        hub_kwargs = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        adapter_kwargs = dict(kwargs.pop("adapter_kwargs", None) or {})
        adapter = adapter_kwargs.pop("_adapter_model_path", None)  # where the Auto classes have found one
        checkpoint, is_backbone = pretrained_model_name_or_path, False
        if checkpoint is not None and kwargs.get("state_dict") is None:
            config_is_given = isinstance(kwargs.get("config"), PreTrainedConfig)
            checkpoint, named_adapter, is_backbone = find_checkpoint(
                checkpoint, hub_kwargs, config_is_given=config_is_given
            )
            adapter = named_adapter or adapter
            if named_adapter is not None:
                if not config_is_given:
                    kwargs["config"] = adapter_config(named_adapter, hub_kwargs)
                adapter_kwargs = {**hub_kwargs, **adapter_kwargs}
                kwargs, hub_kwargs = of_backbone(kwargs), of_backbone(hub_kwargs)

        # The model: a backbone becomes the trunk of a new one, anything else is loaded as it is.
        with_report = kwargs.pop("output_loading_info", False)
        if is_backbone:
            kwargs = trunk_from_backbone(checkpoint, kwargs, hub_kwargs)
            with quiet_loading():  # the new modules are missing on purpose
                model, report = super().from_pretrained(None, *model_args, output_loading_info=True, **kwargs)
            check_whole_trunk(checkpoint, report)
            model.name_or_path = model.config._name_or_path = str(checkpoint)  # PEFT records it as the base model
        else:
            model, report = super().from_pretrained(checkpoint, *model_args, output_loading_info=True, **kwargs)
            # A head for other classes than those of the checkpoint, with `ignore_mismatched_sizes`.
            new = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
            parts = {part for name in new for part in name.split(".")}
            model.new_modules = tuple(name for name in model.trainable_modules() if name in parts)
        check_one_device(checkpoint, model)
        if is_backbone and adapter is None:
            model.new_modules = find_new_modules(model)
            if new := ", ".join(model.new_modules):
                logger.warning(f"{checkpoint} is a backbone; new and untrained on top of it: {new}. Train before use.")

        # Loading makes all weights trainable: freeze the backbone again.
        if model.config.freeze_backbone:
            model.freeze_backbone()
        # Of a folder with both a model and an adapter, Transformers has loaded the two.
        if adapter is not None and not model._hf_peft_config_loaded:
            model.load_adapter(adapter, adapter_kwargs={**hub_kwargs, **adapter_kwargs})
        if with_report:
            return model, report
        return model

    @classmethod
    def is_remote_code(cls) -> bool:
        """As in Transformers, but False for the class that `fully_shard` derives: it has no file that could be copied."""
        return super().is_remote_code() and not cls.__name__.startswith("FSDP")

    def save_pretrained(self, save_directory, *args, is_main_process: bool = True, **kwargs):
        """As in Transformers, with the code of all Auto classes and of the pipeline for `trust_remote_code=True`."""
        if self._auto_class is not None:
            self.name_code(self.config)
            if is_main_process and not self.is_remote_code():
                os.makedirs(save_directory, exist_ok=True)
                for file in (__file__, *get_relative_import_files(__file__)):
                    shutil.copy(file, save_directory)
        if is_main_process and self._hf_peft_config_loaded:
            # Transformers saves the adapter alone; loading it needs the configuration of this model.
            self.config.save_pretrained(save_directory)
        return super().save_pretrained(save_directory, *args, is_main_process=is_main_process, **kwargs)

    def active_adapters(self) -> list[str]:
        """As in transformers, also of an adapter without layers of its own (LoRA of rank 0), and with PEFT before 0.22."""
        adapted = [module for module in self.modules() if hasattr(module, "active_adapter")]
        if not self._hf_peft_config_loaded or not adapted:
            return super().active_adapters()
        names = adapted[0].active_adapter
        return [names] if isinstance(names, str) else list(names)

    def get_adapter_state_dict(
        self, adapter_name: str | None = None, state_dict: dict[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """As in transformers, also with PEFT before 0.22."""
        peft = importlib.import_module("peft")  # an import statement would make every user of remote code install it
        name = adapter_name or self.active_adapters()[0]
        return peft.get_peft_model_state_dict(self, state_dict=state_dict, adapter_name=name)

    @staticmethod
    def name_code(config: MAAVTConfig) -> None:
        """Name the classes that load a saved folder in its config: `auto_map` and `custom_pipelines`."""
        from .pipeline_maavt import custom_pipelines  # lazily: transformers.pipelines is slow to import

        classifier = "modeling_maavt.MAAVTForAudioVisualClassification"
        config.auto_map = {
            **(getattr(config, "auto_map", None) or {}),
            "AutoModel": "modeling_maavt.MAAVTModel",
            "AutoModelForVideoClassification": classifier,
            "AutoModelForAudioClassification": classifier,
        }
        config.custom_pipelines = custom_pipelines("pipeline_maavt")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # Linear, convolution and LayerNorm layers.
        super()._init_weights(module)
        std = self.config.initializer_range
        # Learned tokens and positions.
        if isinstance(module, MAAVTPrompt):
            self._init_prompt(module)
        elif isinstance(module, MAAVTEmbeddings):
            init.trunc_normal_(module.position_embeddings, mean=0.0, std=std)
            if module.cls_token is not None:
                init.trunc_normal_(module.cls_token, mean=0.0, std=std)
        # LAVISH adapters: gated adapters start as the identity (section 9).
        elif isinstance(module, MAAVTLavishAdapter):
            init.normal_(module.latents, mean=0.0, std=std)
            init.ones_(module.gate_latents)
            init.zeros_(module.gate_states)
            if module.gate is not None:
                init.zeros_(module.gate)
        elif isinstance(module, MAAVTGroupedPointwise):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))  # PyTorch's default for convolutions
        # Heads.
        elif isinstance(module, (MAAVTProjection, MAAVTPairLinear)):
            init.normal_(module.weight, mean=0.0, std=std)
            init.zeros_(module.bias)
        elif isinstance(module, MAAVTBilinearMatchHead) and module.agreement_weight is not None:
            init.ones_(module.agreement_weight)
        elif isinstance(module, MAAVTRunningNorm):
            init.zeros_(module.mean)
            init.ones_(module.square)
            init.zeros_(module.num_updates)

    def _init_prompt(self, prompt: "MAAVTPrompt") -> None:
        std = self.config.initializer_range
        if prompt.cls_token is not None:
            init.trunc_normal_(prompt.cls_token, mean=0.0, std=std)
        if prompt.background_token is not None:
            # Small whatever token_init_std: a large token dominates its own state, and the match head sees nothing of
            # the clip.
            init.normal_(prompt.background_token, mean=0.0, std=std)
        for tokens in (prompt.audio_tokens, prompt.visual_tokens, prompt.shared_tokens):
            if tokens is not None:
                init.normal_(tokens, mean=0.0, std=self.config.token_init_std)
        init.copy_(prompt.needs_self_attention, torch.tensor([prompt.token_self_attention], dtype=torch.uint8))

    def post_init(self):
        # Names of modules that this configuration leaves out would be reported as unknown.
        leaves = {name.rpartition(".")[2] for name, _ in self.named_modules()}
        self._keep_in_fp32_modules_strict = set(self._keep_in_fp32_modules_strict or ()) & leaves
        # Quantizers read this one: they leave the linear layers inside what is trained alone.
        self._keep_in_fp32_modules = {
            name
            for name, module in self.named_modules()
            if isinstance(module, nn.Linear) and set(name.split(".")) & set(TRAINED_MODULES)
        }
        super().post_init()
        self.prepare_inputs_for_generation = generates_no_text

    @property
    def dtype(self) -> torch.dtype:
        """That of the backbone; learned tokens and heads stay in float32 regardless of it."""
        return self.trunk.layernorm.weight.dtype

    @property
    def trunk(self) -> "MAAVTPreTrainedModel":
        return getattr(self, self.base_model_prefix, self)

    def freeze_backbone(self) -> None:
        """Freeze positions, patch convolution, LayerNorms and blocks of the ViT; its class token is a token (section 8)."""
        for module in (self.trunk.embeddings, self.trunk.encoder, self.trunk.layernorm):
            module.requires_grad_(False)

    def trainable_modules(self) -> dict[str, nn.Module]:
        """The modules that are trained beside a frozen backbone, by the names that PEFT's `modules_to_save` takes."""
        modules = {}
        for name, module in self.named_modules():
            leaf = name.rpartition(".")[2]
            if leaf in TRAINED_MODULES:
                modules[leaf] = module
        return modules

    def warn_of_lost_modules(self) -> None:
        """Name the new modules that the PEFT adapter around this model does not save, once."""
        if not getattr(self, "peft_config", None):
            return
        modules = self.trainable_modules()
        lost = [name for name in self.new_modules if name in modules and not hasattr(modules[name], "modules_to_save")]
        if lost:
            logger.warning_once(
                f"New weights of {lost} are not saved with this adapter: they will be random at every load. Name them in "
                "modules_to_save (see maavt_peft_config), or save the model first and load it from there."
            )

    def state_dict(self, *args, **kwargs):
        """As in PyTorch; an adapter that is saved without new modules gets a warning."""
        self.warn_of_lost_modules()
        return super().state_dict(*args, **kwargs)

    @torch.no_grad()
    def fold_token_attention(self) -> None:
        """Apply token self-attention once, keep its output and remove that module; outputs stay equal (section 2)."""
        trunk = self.trunk
        if trunk.token_attention is None:
            return
        tokens = trunk.token_attention(trunk.prompt())
        for kind in ("audio", "visual", "shared"):
            parameter, folded = getattr(trunk.prompt, f"{kind}_tokens"), getattr(tokens, kind)
            if parameter is not None:
                parameter.copy_(folded if parameter.ndim == 3 else folded[0])
        trunk.prompt.needs_self_attention.fill_(False)
        trunk.token_attention = None
        trunk.prompt.token_self_attention = False
        self.config.token_self_attention = False


def warn_without_weights(attention: str | None) -> None:
    """Name the attention implementation that returns no weights, once."""
    if attention != "eager" and not torch.compiler.is_compiling():
        logger.warning_once(
            f"output_attentions: {attention} attention returns no weights; load the model with "
            'attn_implementation="eager".'
        )


def generates_no_text(*args, **kwargs):
    """PEFT takes hold of such a method where `task_type` is `"CAUSAL_LM"` or `"SEQ_2_SEQ_LM"`, and trains without it."""
    raise TypeError("This model classifies clips and generates no text.")


def find_new_modules(model: MAAVTPreTrainedModel) -> tuple[str, ...]:
    """Trainable modules with weights that a plain ViT does not have: of the learned tokens it has the class token."""
    names = []
    for name, module in model.trainable_modules().items():
        if any(not weight.endswith("cls_token") for weight, _ in module.named_parameters()):
            names.append(name)
    return tuple(names)


# ---- Encoder: the frozen blocks, with the learned tokens among their inputs (sections 2 and 3)


class MAAVTEncoder(MAAVTPreTrainedModel):
    """The blocks of the shared ViT; appends the learned tokens and reads the shared ones after every block."""

    config: ViTConfig
    _can_record_outputs = {
        "hidden_states": OutputRecorder(MAAVTLayer, index=0),
        "audio_hidden_states": OutputRecorder(MAAVTLayer, index=1),
        "attentions": OutputRecorder(MAAVTLayer, index=2),
        "audio_attentions": OutputRecorder(MAAVTLayer, index=3),
    }

    def __init__(self, config: ViTConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([MAAVTLayer(config) for _ in range(config.num_hidden_layers)])
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        video: torch.Tensor | None,
        audio: torch.Tensor | None,
        tokens: MAAVTTokens,
        prompt_start: int = 0,
        first_block: int = 0,
        all_positions: bool = True,
        output_localization: bool = False,
        lavish: Callable | None = None,
        **kwargs,
    ) -> MAAVTEncoderOutput:
        """
        Args:
            video, audio: the states that enter block `first_block`, `[N, 1 + P (+ 1), D]`, without the learned tokens.
            tokens: they enter before block `prompt_start`; where that is above 0, the background token with them.
            all_positions: False leaves `[cls | background? | shared]` in the final states; the last block
                computes only these.
            lavish: `lavish(block, site, video, audio)` gives what the LAVISH adapters add to both streams.
            kwargs: `output_hidden_states` and its like, which `capture_outputs` reads.
        """
        num_shared, last = tokens.shared.shape[1], len(self.layers) - 1
        background_embedded = tokens.background is not None and prompt_start == 0
        video_patches = count_patches(video, background_embedded)
        audio_patches = count_patches(audio, background_embedded)
        video_shared, audio_shared = [], []
        video_map = audio_map = None

        for index, layer in enumerate(self.layers[first_block:], first_block):
            # The learned tokens enter.
            if index >= prompt_start:
                video = append_tokens(video, tokens, tokens.visual, index - prompt_start, background_embedded)
                audio = append_tokens(audio, tokens, tokens.audio, index - prompt_start, background_embedded)

            # The last block gives the localization maps, and may skip positions that nobody reads.
            video_queries = audio_queries = None
            if index == last and output_localization:
                video_map = layer.class_map(video, video_patches)  # (N, P)
                audio_map = layer.class_map(audio, audio_patches)
            if index == last and not all_positions:
                video_queries = select_positions(video, tokens, video_patches)  # (N, R, D)
                audio_queries = select_positions(audio, tokens, audio_patches)

            # Both streams pass through the block; the mean of the shared tokens is what contrast reads.
            lavish_of_block = None
            if lavish is not None:
                lavish_of_block = partial(lavish, index)
            video, audio, *_ = layer(video, audio, video_queries, audio_queries, lavish_of_block)
            if index >= prompt_start:
                video_shared.append(shared_mean(video, num_shared))  # (N, D)
                audio_shared.append(shared_mean(audio, num_shared))

        return MAAVTEncoderOutput(
            video_state=video,
            audio_state=audio,
            video_shared_states=stack_blocks(video_shared),
            audio_shared_states=stack_blocks(audio_shared),
            video_localization=video_map,
            audio_localization=audio_map,
        )


def count_patches(states: torch.Tensor | None, background_embedded: bool) -> int:
    """P of the states `[N, 1 + P (+ 1), D]` that enter the encoder; 0 without a stream."""
    if states is None:
        return 0
    return states.shape[1] - 1 - int(background_embedded)


def append_tokens(
    states: torch.Tensor | None, tokens: MAAVTTokens, unimodal: torch.Tensor, step: int, background_embedded: bool
) -> torch.Tensor | None:
    """The states of a stream with its learned tokens `[unimodal | shared]` at the end.

    Args:
        states: `[N, len, D]`, or None.
        unimodal: the tokens that only this stream sees, `[K, n, D]`.
        step: blocks since the tokens first entered. At 0 they are appended, from 1 on layerwise tokens replace those of
            the block before; others stay and evolve.
        background_embedded: whether the background token is among the states already.
    """
    layerwise = tokens.shared.shape[0] > 1
    if states is None or (step > 0 and not layerwise):
        return states
    # One set for all blocks, or one set per block.
    index = min(step, unimodal.shape[0] - 1)
    entering = [unimodal[index], tokens.shared[index]]  # (n, D) each
    if step > 0:
        states = states[:, : states.shape[1] - sum(len(part) for part in entering)]
    elif tokens.background is not None and not background_embedded:
        entering.insert(0, tokens.background)
    entering = torch.cat(entering).to(states.dtype)  # (n, D)
    return torch.cat([states, entering.expand(states.shape[0], -1, -1)], dim=1)


def select_positions(states: torch.Tensor | None, tokens: MAAVTTokens, num_patches: int) -> torch.Tensor | None:
    """`[cls | background? | shared]` of `[N, len, D]`: the positions that the heads and the contrastive loss read."""
    if states is None:
        return None
    selected = [states[:, :1]]
    if tokens.background is not None:
        selected.append(states[:, 1 + num_patches : 2 + num_patches])
    selected.append(states[:, states.shape[1] - tokens.shared.shape[1] :])
    return torch.cat(selected, dim=1)  # (N, R, D)


def shared_mean(states: torch.Tensor | None, num_shared: int) -> torch.Tensor | None:
    """The mean `[N, D]` of the shared tokens, which end a sequence; None without stream or tokens."""
    if states is None or num_shared == 0:
        return None
    return states[:, -num_shared:].mean(1)


def stack_blocks(means: list[torch.Tensor | None]) -> torch.Tensor | None:
    """`[N, L, D]` of one `[N, D]` per block; None where there are none."""
    if not means or means[0] is None:
        return None
    return torch.stack(means, dim=1)


# ---- The trunk: from clips to pooled states


@dataclass
class MAAVTStreams:
    """What enters the blocks.

    Attributes:
        video, audio: `[B*T, 1 + P (+ 1), D]` and `[B*S, 1 + P (+ 1), D]`, without learned tokens; None without the modality.
        num_clips, num_segments: B and S.
        first_block: the block that the states enter.
        video_grid, audio_grid: patches along height and width; None for kept block states, which do not tell them.
    """

    video: torch.Tensor | None
    audio: torch.Tensor | None
    num_clips: int
    num_segments: int
    first_block: int = 0
    video_grid: tuple[int, int] | None = None
    audio_grid: tuple[int, int] | None = None


class MAAVTModel(MAAVTPreTrainedModel):
    """The trunk: embeddings, learned tokens and blocks, one ViT for video and audio; states pooled over segments."""

    _keep_in_fp32_modules_strict = {"prompt", "token_attention", "lavish_adapters", "contrastive_head"}
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^match_head\."]  # heads are left out on purpose

    def __init__(self, config: MAAVTConfig):
        super().__init__(config)
        vision_config = config.vision_config
        self.prompt = MAAVTPrompt(config)
        self.token_attention = MAAVTTokenAttention(config) if config.token_self_attention else None
        self.embeddings = MAAVTEmbeddings(
            vision_config, config.position_interpolation, own_class_token=config.prompt_start_layer > 0
        )
        self.encoder = MAAVTEncoder(vision_config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=vision_config.layer_norm_eps)
        self.lavish_adapters = MAAVTLavishAdapters(config) if config.lavish is not None else None
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
        video_block_states: torch.Tensor | None = None,
        audio_block_states: torch.Tensor | None = None,
        num_segments: int | None = None,
        output_localization: bool | None = None,
        output_last_hidden_state: bool = True,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> MAAVTModelOutput:
        """
        Args:
            pixel_values_videos, input_features: frames `[B, T, 3, H, W]` and log-spectrograms `[B, S, F, W]`, or None.
            has_video, has_audio: bool `[B]`; False marks a zero-filled row: pooler_output leaves it out, and LAVISH adapters
                do not pass it to the other stream.
            video_block_states, audio_block_states: `[B, T, 1 + P, D]` and `[B, S, 1 + P, D]`, what `block_states` gave
                for the clips, in place of frames and spectrograms.
            num_segments: S, needed only without audio; 1 when absent.
            output_localization: return localization maps of both streams (section 6).
            output_last_hidden_state: False leaves the sequences out; the last block then computes few positions.
            output_hidden_states, output_attentions: also the blocks' states and (eager) attention weights.

        Raises:
            ValueError: inputs whose shapes do not fit, or block states where `block_states` cannot have given them.
        """
        # Learned tokens, after self-attention among those of a kind (equation 1).
        tokens = self.prompt()
        if self.token_attention is not None:
            tokens = self.token_attention(tokens)

        # Embeddings `[cls | patches | background?]`, or the block states that were kept in their place.
        if video_block_states is None and audio_block_states is None:
            streams = self._embed(pixel_values_videos, input_features, tokens, num_segments)
        else:
            self._check_block_states(pixel_values_videos, input_features, output_localization)
            streams = self._from_block_states(video_block_states, audio_block_states, num_segments)
        lavish = self._lavish(streams, has_video, has_audio)
        recorded = self._recorded(streams, output_hidden_states, output_attentions)

        # Blocks. The last one computes all positions only where somebody reads them.
        all_positions = output_last_hidden_state or any(recorded.values()) or not self._can_skip_positions(lavish)
        encoded = self.encoder(
            streams.video,
            streams.audio,
            tokens,
            prompt_start=self.config.prompt_start_layer,
            first_block=streams.first_block,
            all_positions=all_positions,
            output_localization=bool(output_localization),
            lavish=lavish,
            return_dict=True,
            **recorded,
        )

        # Final LayerNorm and one state per segment.
        outputs = self._pool_outputs(
            encoded, streams, tokens, all_positions=all_positions, with_sequences=output_last_hidden_state
        )
        outputs.pooler_output = pooled_clips(outputs, has_video, has_audio)
        return outputs

    def _embed(
        self,
        frames: torch.Tensor | None,
        spectrograms: torch.Tensor | None,
        tokens: MAAVTTokens,
        num_segments: int | None,
    ) -> MAAVTStreams:
        """Frames `[B, T, C, H, W]` and spectrograms `[B, S, F, W]` to what enters the first block."""
        if frames is None and spectrograms is None:
            raise ValueError("Give pixel_values_videos, input_features or both.")
        if frames is not None and frames.ndim != 5:
            raise ValueError(f"pixel_values_videos must be [B, T, C, H, W], got shape {tuple(frames.shape)}.")
        if spectrograms is not None and spectrograms.ndim != 4:
            raise ValueError(f"input_features must be [B, S, F, W], got shape {tuple(spectrograms.shape)}.")
        streams = MAAVTStreams(None, None, *count_clips(frames, spectrograms, num_segments))
        # The background token enters here, or with the other tokens at a later block.
        background = None
        if self.config.prompt_start_layer == 0:
            background = tokens.background
        if frames is not None:
            frames = frames.flatten(0, 1)  # (B*T, C, H, W)
            streams.video = self.embeddings(frames, tokens.class_token, background)
            streams.video_grid = self.embeddings.grid(frames)
        if spectrograms is not None:
            spectrograms = spectrograms.flatten(0, 1).unsqueeze(1)  # (B*S, 1, F, W)
            streams.audio = self.embeddings(spectrograms, tokens.class_token, background)
            streams.audio_grid = self.embeddings.grid(spectrograms)
        return streams

    def _from_block_states(
        self, video: torch.Tensor | None, audio: torch.Tensor | None, num_segments: int | None
    ) -> MAAVTStreams:
        """Block states `[B, T or S, 1 + P, D]` to what enters block `config.prompt_start_layer`."""
        for stream, states in (("video", video), ("audio", audio)):
            if states is not None and states.ndim != 4:
                raise ValueError(f"{stream}_block_states must be [B, T, 1 + P, D], got shape {tuple(states.shape)}.")
        streams = MAAVTStreams(None, None, *count_clips(video, audio, num_segments))
        streams.first_block = self.config.prompt_start_layer
        dtype = self.layernorm.weight.dtype  # read from a module that quantization never replaces
        if video is not None:
            streams.video = video.flatten(0, 1).to(dtype)  # (B*T, 1 + P, D)
        if audio is not None:
            streams.audio = audio.flatten(0, 1).to(dtype)  # (B*S, 1 + P, D)
        return streams

    def _lavish(
        self, streams: MAAVTStreams, has_video: torch.Tensor | None, has_audio: torch.Tensor | None
    ) -> Callable | None:
        """The adapters between both streams, or None where there is nothing that they could join."""
        if self.lavish_adapters is None or streams.video is None or streams.audio is None:
            return None
        lengths = (streams.video.shape[1], streams.audio.shape[1])
        return partial(self.lavish_adapters, lengths=lengths, has_video=has_video, has_audio=has_audio)

    def _recorded(
        self, streams: MAAVTStreams, output_hidden_states: bool | None, output_attentions: bool | None
    ) -> dict[str, bool]:
        """What the encoder records of the streams that are there, as the caller or else the config says."""
        if output_hidden_states is None:
            output_hidden_states = getattr(self.config, "output_hidden_states", False)
        if output_attentions is None:
            output_attentions = getattr(self.config, "output_attentions", False)
        if output_attentions:
            warn_without_weights(self.config.vision_config._attn_implementation)
        return {
            "output_hidden_states": streams.video is not None and output_hidden_states,
            "output_audio_hidden_states": streams.audio is not None and output_hidden_states,
            "output_attentions": streams.video is not None and bool(output_attentions),
            "output_audio_attentions": streams.audio is not None and bool(output_attentions),
        }

    def _can_skip_positions(self, lavish: Callable | None) -> bool:
        """Whether the last block may compute only the positions that are read: no adapters, and a kernel that allows it."""
        implementation = str(self.config.vision_config._attn_implementation)
        known = implementation in ("sdpa", "eager") or implementation.startswith("flash_attention")
        return known and lavish is None

    def _pool_outputs(
        self,
        encoded: MAAVTEncoderOutput,
        streams: MAAVTStreams,
        tokens: MAAVTTokens,
        *,
        all_positions: bool,
        with_sequences: bool,
    ) -> MAAVTModelOutput:
        """Final LayerNorm, class and background tokens averaged over the frames of a segment, maps on their grid."""
        pool = partial(pool_segments, num_clips=streams.num_clips, num_segments=streams.num_segments)
        video, audio = encoded.video_state, encoded.audio_state  # (B*T or B*S, len or R, D)
        if video is not None:
            video = self.layernorm(video)
        if audio is not None:
            audio = self.layernorm(audio)
        sequences = (None, None)
        if with_sequences:
            sequences = (video, audio)

        # With all positions the background token follows the patches; with the selected ones it follows the class token.
        video_background = audio_background = None
        if self.config.background_mining:
            video_position = audio_position = 1
            if all_positions:
                background_embedded = self.config.prompt_start_layer == 0
                video_position += count_patches(streams.video, background_embedded)
                audio_position += count_patches(streams.audio, background_embedded)
            video_background = state_at(video, video_position)  # (B*T, D)
            audio_background = state_at(audio, audio_position)  # (B*S, D)

        return MAAVTModelOutput(
            last_hidden_state=sequences[0],
            audio_last_hidden_state=sequences[1],
            video_class_state=pool(state_at(video, 0)),
            audio_class_state=pool(state_at(audio, 0)),
            video_background_state=pool(video_background),
            audio_background_state=pool(audio_background),
            video_patch_states=pool(self._match_patches(streams.video, streams.video_grid)),
            audio_patch_states=pool(self._match_patches(streams.audio, streams.audio_grid)),
            video_shared_states=pool(encoded.video_shared_states),
            audio_shared_states=pool(encoded.audio_shared_states),
            video_localization=on_grid(encoded.video_localization, streams.num_clips, streams.video_grid),
            audio_localization=on_grid(encoded.audio_localization, streams.num_clips, streams.audio_grid),
            hidden_states=encoded.hidden_states or None,
            audio_hidden_states=self._audio_hidden_states(encoded, streams, tokens),
            attentions=encoded.attentions or None,
            audio_attentions=encoded.audio_attentions or None,
        )

    def _match_patches(self, embedded: torch.Tensor | None, grid: tuple[int, int] | None) -> torch.Tensor | None:
        """The patches that enter the first block, averaged to `config.match_grid`: `[N, P', D]`. None for other match heads.

        Without gradient: they are those of the frozen backbone.
        """
        if embedded is None or not self.config.background_mining or self.config.match_head != "patches":
            return None
        patches = embedded[:, 1 : 1 + math.prod(grid)].detach().unflatten(1, grid).movedim(3, 1)  # (N, D, h, w)
        patches = nn.functional.adaptive_avg_pool2d(patches, tuple(self.config.match_grid))
        return patches.flatten(2).transpose(1, 2)

    def _audio_hidden_states(
        self, encoded: MAAVTEncoderOutput, streams: MAAVTStreams, tokens: MAAVTTokens
    ) -> tuple[torch.Tensor, ...] | None:
        """The recorder puts the video's initial state in front of the others; the audio's is put there here."""
        if not encoded.audio_hidden_states:
            return None
        initial = append_tokens(streams.audio, tokens, tokens.audio, 0, True)
        if self.config.prompt_start_layer > 0:  # no token has entered yet
            initial = streams.audio
        return (initial, *encoded.audio_hidden_states)

    @torch.no_grad()
    def block_states(
        self, pixel_values_videos: torch.Tensor | None = None, input_features: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """
        What enters block `config.prompt_start_layer`: the same in every epoch, so that it can be kept (section 2).

        Args:
            pixel_values_videos, input_features: as in `forward`.

        Returns:
            `video_block_states` `[B, T, 1 + P, D]` and `audio_block_states` `[B, S, 1 + P, D]`, None for an input that
            is not given.

        Raises:
            ValueError: the tokens enter before the first block, or bad inputs as in `forward`.
        """
        self._check_block_states(None, None, None)
        streams = self._embed(pixel_values_videos, input_features, self.prompt(), None)
        video, audio = streams.video, streams.audio
        for layer in self.encoder.layers[: self.config.prompt_start_layer]:
            video, audio, *_ = layer(video, audio)
        if video is not None:
            video = video.unflatten(0, (streams.num_clips, -1))  # (B, T, 1 + P, D)
        if audio is not None:
            audio = audio.unflatten(0, (streams.num_clips, -1))
        return video, audio

    def block_states_fingerprint(self) -> str:
        """20 hexadecimal digits, hashed from the weights that `block_states` reads.

        A cache keyed by it is valid for this model.
        """
        digest = hashlib.sha256(str(self.config.position_interpolation).encode())
        for module in (self.embeddings, *self.encoder.layers[: self.config.prompt_start_layer]):
            for name, value in module.state_dict().items():
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:20]

    def _check_block_states(
        self, frames: torch.Tensor | None, spectrograms: torch.Tensor | None, output_localization: bool | None
    ) -> None:
        if self.config.background_mining and self.config.match_head == "patches":
            raise ValueError(
                'Block states do not hold the patches before the first block, which match_head="patches" reads; give '
                'frames and spectrograms, or take match_head="bilinear".'
            )
        if self.config.prompt_start_layer == 0:
            raise ValueError(
                "block states need config.prompt_start_layer above 0: at 0 the first block already sees trained tokens."
            )
        if frames is not None or spectrograms is not None:
            raise ValueError("Give block states or frames and spectrograms; both name the same clips.")
        if output_localization:
            raise ValueError("Localization maps need frames and spectrograms: block states do not tell their grid.")

    @can_return_tuple
    def get_video_features(self, pixel_values_videos: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """
        Features of the video for retrieval against [`~MAAVTModel.get_audio_features`].

        Args:
            pixel_values_videos: `[B, T, 3, H, W]`.

        Returns:
            `pooler_output` `[B, d]`, unit vectors: the last contrastive projection of the shared tokens, averaged over
            frames; without a contrastive head (an exported adapter) the class token's state, which is not aligned
            across modalities. `last_hidden_state` `[B, T, len, D]`.
        """
        outputs = self(pixel_values_videos=pixel_values_videos, return_dict=True, **kwargs)
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state.unflatten(0, tuple(pixel_values_videos.shape[:2])),
            pooler_output=self._retrieval_features("video", outputs),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @can_return_tuple
    def get_audio_features(self, input_features: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """The same for the audio: `input_features` `[B, S, F, W]`, `last_hidden_state` `[B, S, len, D]`."""
        outputs = self(input_features=input_features, return_dict=True, **kwargs)
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.audio_last_hidden_state.unflatten(0, tuple(input_features.shape[:2])),
            pooler_output=self._retrieval_features("audio", outputs),
            hidden_states=outputs.audio_hidden_states,
            attentions=outputs.audio_attentions,
        )

    def _retrieval_features(self, stream: str, outputs: MAAVTModelOutput) -> torch.Tensor:
        """Unit vectors `[B, d]`, or `[B, D]` without a contrastive head."""
        if self.contrastive_head is None:
            features = outputs[f"{stream}_class_state"].mean(1)
        else:
            projection = getattr(self.contrastive_head, stream)
            shared = outputs[f"{stream}_shared_states"].mean(1)  # (B, L, D)
            features = self.contrastive_head.project(projection, shared)[:, -1]
        return nn.functional.normalize(features.float(), dim=-1)


def count_clips(video: torch.Tensor | None, audio: torch.Tensor | None, num_segments: int | None) -> tuple[int, int]:
    """B and S of inputs `[B, T, ...]` and `[B, S, ...]`; without audio S is `num_segments`, or 1."""
    if audio is not None:
        num_segments = audio.shape[1]
    elif num_segments is None:
        num_segments = 1
    if video is None:
        return audio.shape[0], num_segments
    if audio is not None and video.shape[0] != audio.shape[0]:
        raise ValueError(
            f"pixel_values_videos holds {video.shape[0]} clips, input_features {audio.shape[0]}; "
            "give both for the same clips, zero-filled with has_video / has_audio where one is missing."
        )
    if video.shape[1] % num_segments:
        raise ValueError(
            f"S = {num_segments} audio segments must divide T = {video.shape[1]} frames: frame t belongs to segment "
            "t * S // T."
        )
    return video.shape[0], num_segments


def pool_segments(states: torch.Tensor | None, num_clips: int, num_segments: int) -> torch.Tensor | None:
    """`[N, ..., D]` to `[B, S, ..., D]`: frames of a segment are averaged, and never each other's negatives."""
    if states is None:
        return None
    return states.unflatten(0, (num_clips, num_segments, -1)).mean(2)


def pooled_clips(
    outputs: MAAVTModelOutput, has_video: torch.Tensor | None, has_audio: torch.Tensor | None
) -> torch.Tensor:
    """One vector per clip, `[B, D]`: the mean of the unit class states of its modalities, as a unit vector."""
    total = 0.0
    for states, mask in ((outputs.video_class_state, has_video), (outputs.audio_class_state, has_audio)):
        if states is None:
            continue
        state = nn.functional.normalize(states.mean(1).float(), dim=-1)  # (B, D)
        if mask is not None:
            state = state * mask[:, None]
        total = total + state
    return nn.functional.normalize(total, dim=-1)


def state_at(states: torch.Tensor | None, position: int) -> torch.Tensor | None:
    """`[N, len, D]` to `[N, D]`; None stays None."""
    if states is None:
        return None
    return states[:, position]


def on_grid(maps: torch.Tensor | None, num_clips: int, grid: tuple[int, int] | None) -> torch.Tensor | None:
    """`[N, P]` to `[B, T, rows, columns]`; None stays None."""
    if maps is None:
        return None
    return maps.unflatten(0, (num_clips, -1)).unflatten(2, grid)


# ---- Heads: contrastive projections, class head, match heads (sections 4 and 5)


class MAAVTProjection(nn.Module):
    """One linear projection with bias per block: `[N, L, D]` to `[N, L, d]` in a single batched product."""

    def __init__(self, num_blocks: int, width: int, projection_width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_blocks, projection_width, width, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(num_blocks, projection_width, dtype=torch.float32))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = states.to(self.weight.dtype).transpose(0, 1)  # (L, N, D)
        return torch.baddbmm(self.bias[:, None], states, self.weight.transpose(1, 2)).transpose(0, 1)


class MAAVTContrastiveHead(nn.Module):
    """Projections of the shared-token means; needed in training only (section 4).

    `"blockwise"` keeps a pair per block, `"blockwise_shared"` one pair for all blocks, `"last"` one for the last block.
    """

    def __init__(self, config: MAAVTConfig):
        super().__init__()
        self.mode = config.contrastive
        num_projections = 1
        if self.mode == "blockwise":
            num_projections = config.num_prompted_layers
        self.video = MAAVTProjection(num_projections, config.hidden_size, config.contrastive_dim)
        self.audio = MAAVTProjection(num_projections, config.hidden_size, config.contrastive_dim)

    def forward(self, video: torch.Tensor, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Project the shared-token means of every block, `[N, L, D]`, to `[N, L', d]`; L' is 1 in mode `"last"`."""
        return self.project(self.video, video), self.project(self.audio, audio)

    def project(self, projection: MAAVTProjection, states: torch.Tensor) -> torch.Tensor:
        if self.mode == "last":
            states = states[:, -1:]  # (N, 1, D)
        if self.mode == "blockwise_shared":
            return projection(states.flatten(0, 1)[:, None]).unflatten(0, states.shape[:2]).squeeze(2)
        return projection(states)


class MAAVTPairLinear(nn.Module):
    """Linear(2D to out) of [video ; audio], of which each modality adds its half of the weights and half of the bias.

    Not an `nn.Linear`: LoRA and quantization would replace it by a layer that cannot be applied to one half.
    """

    def __init__(self, width: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_features, 2 * width, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(out_features, dtype=torch.float32))

    def halves(
        self, video: torch.Tensor | None, audio: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """`[..., D]` each to `[..., out]` each: W_v video + b / 2 and W_a audio + b / 2; None stays None."""
        video_weight, audio_weight = self.weight.chunk(2, dim=1)
        if video is not None:
            video = nn.functional.linear(video.to(self.weight.dtype), video_weight, self.bias / 2)
        if audio is not None:
            audio = nn.functional.linear(audio.to(self.weight.dtype), audio_weight, self.bias / 2)
        return video, audio


class MAAVTClassifier(MAAVTPairLinear):
    """Class logits of [v_cls ; a_cls] (equation 3); with one modality missing, only the other's half counts (section 5)."""

    def forward(
        self,
        video: torch.Tensor | None,
        audio: torch.Tensor | None,
        has_video: torch.Tensor,
        has_audio: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """`[B, S, D]` each, or None; `has_*` bool `[B]`. Returns the logits and what either half adds, `[B, S, C]` each."""
        video_logits, audio_logits = self.halves(video, audio)
        logits = 0.0
        if video is not None:
            logits = logits + video_logits * has_video[:, None, None]
        if audio is not None:
            logits = logits + audio_logits * has_audio[:, None, None]
        return logits, video_logits, audio_logits


class MAAVTLinearMatchHead(MAAVTPairLinear):
    """The paper's head, Linear(2D to 1) of [v_bg ; a_bg]: f(v) + g(a), which cannot tell shuffled pairs apart.

    `[..., D]` each to `[...]`, as in every match head; `present` belongs to those with statistics.
    """

    def __init__(self, config: MAAVTConfig):
        super().__init__(config.hidden_size, 1)

    def forward(self, video: torch.Tensor, audio: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        video_logits, audio_logits = self.halves(video, audio)
        return (video_logits + audio_logits).squeeze(-1)


class MAAVTMLPMatchHead(nn.Module):
    """An MLP on [v_bg ; a_bg]: `[..., D]` each to `[...]`."""

    def __init__(self, config: MAAVTConfig):
        super().__init__()
        self.fc1 = nn.Linear(2 * config.hidden_size, config.match_dim, dtype=torch.float32)
        self.fc2 = nn.Linear(config.match_dim, 1, dtype=torch.float32)

    def forward(self, video: torch.Tensor, audio: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        states = torch.cat([video, audio], dim=-1)
        return self.fc2(nn.functional.gelu(self.fc1(states))).squeeze(-1)


class MAAVTRunningNorm(nn.Module):
    """Centers and scales features by running statistics of the global batch, which take no gradient.

    Background tokens of different clips are nearly parallel, so that normalized projections of them start out equal. The
    statistics are constants of a step: unlike those of a batch norm they leave the gradient independent of how a batch is
    split, and a batch of one is as good as any.
    """

    momentum = 0.1

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float32))
        self.register_buffer("square", torch.ones(width, dtype=torch.float32))  # running mean of x^2, not the variance
        self.register_buffer("num_updates", torch.zeros(1, dtype=torch.float32))

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        """Moves the statistics, but keeps them in float32: the variance is a small difference of large numbers."""
        kept = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            if getattr(self, name).dtype != torch.float32:
                setattr(self, name, buffer.to(getattr(self, name).device))
        return self

    def forward(self, states: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        """`[..., D]` to `[..., D]`; rows that are not `present` (bool `[...]`) do not enter the statistics."""
        if present is None:
            present = torch.ones_like(states[..., 0], dtype=torch.bool)
        if self.training:
            self.update(states.detach().flatten(0, -2), present.flatten())
        deviation = self.variance().clamp(min=1e-6).sqrt()
        return ((states.float() - self.mean.float()) / deviation).to(states.dtype)

    def variance(self) -> torch.Tensor:
        return self.square.float() - self.mean.float().square()  # (D,)

    @torch.no_grad()
    def update(self, rows: torch.Tensor, present: torch.Tensor) -> None:
        """Move the statistics towards those of `rows` `[N, D]`, of all processes, where `present` is true.

        Moments are taken around the running mean: parallel states have a mean far larger than their deviation, and the
        difference of two large moments would be rounding errors. A row that overflowed does not count: GradScaler skips
        the step of such a batch.
        """
        rows, mean = rows.float(), self.mean.float()
        counted = present & rows.isfinite().all(-1)  # (N,)
        shifted = torch.where(counted[:, None], rows - mean, 0.0)  # (N, D)
        moments = torch.cat([shifted.sum(0), shifted.square().sum(0), counted.sum()[None]])
        if num_processes() > 1:
            torch.distributed.all_reduce(moments)
        count = moments[-1]
        change, spread = (moments[:-1] / count.clamp(min=1)).chunk(2)  # (D,) each
        # An average over the first updates, then an exponential one.
        rate = torch.clamp(1 / (self.num_updates.float() + 1), min=self.momentum) * (count > 0)
        variance = self.variance().lerp(spread, rate) - (rate * change).square()
        mean = mean + rate * change
        self.mean.copy_(mean)
        self.square.copy_(variance + mean.square())
        self.num_updates += count > 0


class MAAVTBilinearMatchHead(nn.Module):
    """Product of normalized low-rank projections of v_bg and a_bg, then a small MLP: a function of the pair (equation 6)."""

    def __init__(self, config: MAAVTConfig):
        super().__init__()
        self.video_norm = MAAVTRunningNorm(config.hidden_size)
        self.audio_norm = MAAVTRunningNorm(config.hidden_size)
        self.video_proj = nn.Linear(config.hidden_size, config.match_dim, dtype=torch.float32)
        self.audio_proj = nn.Linear(config.hidden_size, config.match_dim, dtype=torch.float32)
        self.fc1 = nn.Linear(config.match_dim, config.match_dim, dtype=torch.float32)
        self.fc2 = nn.Linear(config.match_dim, 1, dtype=torch.float32)
        weight = nn.Parameter(torch.ones(1, dtype=torch.float32)) if config.match_class_agreement else None
        self.register_parameter("agreement_weight", weight)

    def forward(
        self,
        video: torch.Tensor,
        audio: torch.Tensor,
        present: torch.Tensor | None = None,
        agreement: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`[..., D]` each, `agreement` `[...]` the logarithm of the class agreement, or None.

        Returns `[...]`, positive where video and audio match.
        """
        video = self.video_proj(self.video_norm(video, present))  # (..., r)
        audio = self.audio_proj(self.audio_norm(audio, present))
        return self.score(video, audio, agreement)

    def score(self, video: torch.Tensor, audio: torch.Tensor, agreement: torch.Tensor | None = None) -> torch.Tensor:
        """Logits `[...]` of projections `[..., r]`."""
        # Unit vectors have entries near 1/sqrt(r): times r the products are of order 1 whatever the rank.
        products = nn.functional.normalize(video, dim=-1) * nn.functional.normalize(audio, dim=-1) * video.shape[-1]
        logits = self.fc2(nn.functional.gelu(self.fc1(products))).squeeze(-1)
        if agreement is not None:
            logits = logits + self.agreement_weight * agreement
        return logits


class MAAVTPatchMatchHead(MAAVTBilinearMatchHead):
    """Our addition: the bilinear head on the patches before the first block, with weights for each position (equation 6a).

    Class and background tokens say what is seen and heard; positions also say when and where.
    """

    patch_width = 16
    dropout = 0.5
    largest = 5.0  # deviations: a place that never changed in training, such as a black bar, may change later

    def __init__(self, config: MAAVTConfig):
        super().__init__(config)
        positions = math.prod(config.match_grid)
        self.video_norm = MAAVTRunningNorm(positions * config.hidden_size)
        self.audio_norm = MAAVTRunningNorm(positions * config.hidden_size)
        self.video_patch_proj = nn.Linear(config.hidden_size, self.patch_width, dtype=torch.float32)
        self.audio_patch_proj = nn.Linear(config.hidden_size, self.patch_width, dtype=torch.float32)
        self.video_proj = nn.Linear(positions * self.patch_width, config.match_dim, dtype=torch.float32)
        self.audio_proj = nn.Linear(positions * self.patch_width, config.match_dim, dtype=torch.float32)
        self.register_parameter("agreement_weight", None)  # the agreement is added to the logits that are given out

    def forward(
        self, video: torch.Tensor, audio: torch.Tensor, present: torch.Tensor, num_added: int = 0
    ) -> torch.Tensor:
        """`[B, S, P', D]` each.

        Returns `[1 + K, B, S]`: the logits of every video with the audio of the clip 0, 1, ... K = `num_added` earlier.
        """
        video = self.project(video, present, self.video_norm, self.video_patch_proj, self.video_proj)  # (B, S, r)
        audio = self.project(audio, present, self.audio_norm, self.audio_patch_proj, self.audio_proj)
        audio = torch.stack([audio.roll(shift, 0) for shift in range(1 + num_added)])  # (1 + K, B, S, r)
        return self.score(video, audio)

    def project(
        self,
        states: torch.Tensor,
        present: torch.Tensor,
        norm: MAAVTRunningNorm,
        patch_proj: nn.Linear,
        proj: nn.Linear,
    ) -> torch.Tensor:
        patches = norm(states.flatten(2), present).clamp(-self.largest, self.largest).view_as(states)  # (B, S, P', D)
        patches = nn.functional.dropout(patch_proj(patches), self.dropout, self.training)
        return proj(patches.flatten(2))  # (B, S, r)


MATCH_HEAD_CLASSES = {
    "bilinear": MAAVTBilinearMatchHead,
    "patches": MAAVTPatchMatchHead,
    "mlp": MAAVTMLPMatchHead,
    "linear": MAAVTLinearMatchHead,
}


def log_agreement(video: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
    """log sum_c p_v(c) p_a(c) of class logits `[..., C]` of video alone and of audio alone (equation 8): `[...]`."""
    return (video.float().log_softmax(-1) + audio.float().log_softmax(-1)).logsumexp(-1)


# ---- Classification: class head, match head and the losses (sections 4 and 5)


def presence_mask(
    features: torch.Tensor | None, mask: torch.Tensor | None, num_clips: int, device: torch.device
) -> torch.Tensor:
    """Bool `[B]`: which clips have this modality. Without features: none. Without a mask: all."""
    if features is None:
        return torch.zeros(num_clips, dtype=torch.bool, device=device)
    if mask is None:
        return torch.ones(num_clips, dtype=torch.bool, device=device)
    return mask.bool()


def matched_mask(is_matched: torch.Tensor | None, both: torch.Tensor) -> torch.Tensor:
    """Bool `[B, S]` of `is_matched` `[B]` or `[B, S]`, whose shape is checked against that of `both`; absent: all."""
    if is_matched is None:
        return torch.ones_like(both)
    if tuple(is_matched.shape) not in (tuple(both.shape), tuple(both.shape[:1])):
        raise ValueError(
            f"is_matched has shape {tuple(is_matched.shape)}; expected {tuple(both.shape[:1])} or {tuple(both.shape)}."
        )
    if is_matched.ndim == 1:
        is_matched = is_matched[:, None]
    return is_matched.bool().expand_as(both)


def zero_fill_missing_stream(
    video: torch.Tensor | None, audio: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Both streams, or None if one is missing.

    With several processes the missing one is zeros, because all processes must take part in the collectives.
    """
    if video is not None and audio is not None:
        return video, audio
    if num_processes() == 1 or (video is None and audio is None):
        return None
    if video is None:
        return torch.zeros_like(audio), audio
    return video, torch.zeros_like(video)


@dataclass
class MAAVTPairs:
    """What is known of the pairs of a batch.

    Attributes:
        has_video, has_audio: bool `[B]`.
        both: bool `[B, S]`, the pairs that have both modalities.
        matched: bool `[B, S]`, the pairs whose audio is that of the video.
        judged: bool `[B, S]`, the pairs with both modalities that the matching loss counts.
    """

    has_video: torch.Tensor
    has_audio: torch.Tensor
    both: torch.Tensor
    matched: torch.Tensor
    judged: torch.Tensor


class MAAVTForAudioVisualClassification(MAAVTPreTrainedModel):
    """MA-AVT with its class head, its match head and its losses (sections 4 and 5)."""

    _keep_in_fp32_modules_strict = set(TRAINED_MODULES)

    def __init__(self, config: MAAVTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.maavt = MAAVTModel(config)
        self.classifier = MAAVTClassifier(config.hidden_size, config.num_labels)
        self.match_head = MATCH_HEAD_CLASSES[config.match_head](config) if config.background_mining else None
        self.register_buffer("class_weights", None, persistent=False)
        if "video" not in config.modalities:
            self.main_input_name = "input_features"
        self.post_init()

    def set_class_weights(self, weights: torch.Tensor | None) -> None:
        """
        Weigh the classes in the classification loss, against imbalance (section 5). None: equal weights.

        The weights belong to a training set, not to the model: no checkpoint holds them.

        Args:
            weights: `[C]`, non-negative, at least one positive.

        Raises:
            ValueError: another shape, or such values.
        """
        if weights is not None:
            weights = torch.as_tensor(weights, dtype=torch.float32)
            if weights.shape != (self.num_labels,) or not (weights >= 0).all() or not (0 < weights.sum() < math.inf):
                raise ValueError(
                    f"class_weights of shape {tuple(weights.shape)} must be {self.num_labels} finite numbers, one per class, "
                    "non-negative, at least one positive."
                )
            weights = weights.to(self.device)
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
        video_targets: torch.Tensor | None = None,
        audio_targets: torch.Tensor | None = None,
        match_mask: torch.Tensor | None = None,
        num_segments: int | None = None,
        **kwargs,
    ) -> MAAVTClassifierOutput:
        """
        Args:
            pixel_values_videos, input_features: frames `[B, T, 3, H, W]` and log-spectrograms `[B, S, F, W]`, or None.
            has_video, has_audio: bool `[B]`; False marks a zero-filled row. Such a clip is classified by the other
                modality alone and takes no part in contrast and matching. The mask of an input that is not given is
                ignored.
            labels: class indices `[B]` or `[B, S]`, or scores `[B, C]` or `[B, S, C]`: soft labels, or multi-hot when
                `config.problem_type` is `"multi_label_classification"`. -100 is ignored.
            is_matched: bool `[B]` or `[B, S]`, False for a mismatched pair, which is neither classified nor contrasted.
            video_targets, audio_targets: classes of the video and of the audio alone, in the shape of `labels`, for
                `unimodal_loss`, in mismatched pairs too. Absent: `labels`, in matched pairs only.
            match_mask: bool `[B]`, False for a clip that the matching loss leaves out, such as one whose audio is drowned
                in noise. Absent: none.
            num_segments: S, needed only without audio; absent: as many as class indices `[B, S]` name, or 1.
            kwargs: passed on to [`MAAVTModel.forward`]: `video_block_states`, `audio_block_states`, `output_localization`,
                `output_hidden_states` and `output_attentions`. `output_last_hidden_state` is forced off.

        Raises:
            ValueError: labels, is_matched or match_mask of another shape, labels that a loss of this config cannot use,
                or a training step without labels (NO_LABELS).
        """
        check_is_tensor(labels)
        if num_segments is None and labels is not None and labels.ndim == 2 and not self._are_scores(labels):
            num_segments = labels.shape[1]
        kwargs = {**kwargs, "num_segments": num_segments, "output_last_hidden_state": False, "return_dict": True}
        if labels is None:
            self._check_unlabeled(is_matched)
        # A modality that the class head was not trained on says nothing.
        if "video" not in self.config.modalities:
            pixel_values_videos = has_video = kwargs["video_block_states"] = None
        if "audio" not in self.config.modalities:
            input_features = has_audio = kwargs["audio_block_states"] = None
        inputs = [pixel_values_videos, input_features]
        inputs += [kwargs.get(f"{name}_block_states") for name in ("video", "audio")]
        if len(self.config.modalities) == 1 and all(values is None for values in inputs):
            raise ValueError(f"no input: this model reads {self.config.modalities[0]} alone; give clips that have it.")
        outputs = self.maavt(pixel_values_videos, input_features, has_video, has_audio, **kwargs)
        pairs = self._pairs(outputs, has_video, has_audio, is_matched, match_mask)

        # Heads and losses are small and sensitive to rounding: autocast leaves them in float32.
        with maybe_autocast(pairs.both.device.type, enabled=False):
            # Class logits (equation 3), and match logits (equation 4) of the pairs and of those that training adds.
            video, audio = outputs.video_class_state, outputs.audio_class_state
            segment_logits, *halves = self.classifier(video, audio, *self._drop_modalities(pairs))  # (B, S, C) each
            agreement = self._class_agreement(halves, pairs)  # (B,)
            added = self._added_mismatches(pairs, labels)  # (K, B, S)
            matched = self._match(outputs, halves, pairs, len(added))
            segment_match_logits, added_logits = matched  # (B, S) and (K, B, S)

            # Losses (equation 5).
            losses, per_block = {}, None
            if labels is not None:
                targets = (video_targets, audio_targets)
                losses |= self._classification_losses(segment_logits, halves, labels, targets, pairs)
            if labels is not None or is_matched is not None:
                if segment_match_logits is not None:
                    losses["matching_loss"] = self._matching_loss(
                        segment_match_logits, added_logits, added, pairs, is_matched
                    )
                per_block = self._contrastive_losses(outputs, pairs, labels)
                if per_block is not None:
                    losses["contrastive_loss"], per_block = per_block.mean(), per_block.detach()
            if self._adds_agreement and segment_match_logits is not None:
                segment_match_logits = segment_match_logits + self._log_agreement(halves, range(1))[0] * pairs.both
            return self._build_output(outputs, segment_logits, segment_match_logits, losses, per_block, agreement)

    def _check_unlabeled(self, is_matched: torch.Tensor | None) -> None:
        """Raises ValueError for a training step whose matching and contrastive losses nobody would see.

        With `is_matched` the output holds them: clips without labels can be trained on. There it is a warning.
        """
        more_losses = self.match_head is not None or self.maavt.contrastive_head is not None
        if not (self.training and torch.is_grad_enabled() and more_losses):
            return
        if is_matched is None:
            raise ValueError(NO_LABELS)
        if not torch.compiler.is_compiling():
            logger.warning_once(NO_LABELS)

    def _build_output(
        self,
        outputs: MAAVTModelOutput,
        segment_logits: torch.Tensor,
        segment_match_logits: torch.Tensor | None,
        losses: dict[str, torch.Tensor],
        per_block: torch.Tensor | None,
        agreement: torch.Tensor | None,
    ) -> MAAVTClassifierOutput:
        """The weighted sum of the losses (section 5), and the logits `[B, S, C]` and `[B, S]` averaged over segments."""
        loss = match_logits = None
        if losses:
            loss = sum(value * getattr(self.config, f"{name}_weight") for name, value in losses.items())
        if segment_match_logits is not None:
            match_logits = segment_match_logits.mean(1)  # (B,)
        return MAAVTClassifierOutput(
            loss=loss,
            logits=segment_logits.mean(1),  # (B, C)
            match_logits=match_logits,
            segment_logits=segment_logits,
            segment_match_logits=segment_match_logits,
            **losses,
            contrastive_loss_per_block=per_block,
            class_agreement=agreement,
            video_localization=outputs.video_localization,
            audio_localization=outputs.audio_localization,
            hidden_states=outputs.hidden_states,
            audio_hidden_states=outputs.audio_hidden_states,
            attentions=outputs.attentions,
            audio_attentions=outputs.audio_attentions,
        )

    # Which pairs there are, and what is known of their labels

    def _pairs(
        self,
        outputs: MAAVTModelOutput,
        has_video: torch.Tensor | None,
        has_audio: torch.Tensor | None,
        is_matched: torch.Tensor | None,
        match_mask: torch.Tensor | None,
    ) -> MAAVTPairs:
        """Masks `[B, S]` from those of the caller (`[B]` or `[B, S]`; None: all)."""
        video, audio = outputs.video_class_state, outputs.audio_class_state
        features = audio if video is None else video
        num_clips, num_segments = features.shape[:2]
        has_video = presence_mask(video, has_video, num_clips, features.device)
        has_audio = presence_mask(audio, has_audio, num_clips, features.device)
        both = (has_video & has_audio)[:, None].expand(num_clips, num_segments)  # (B, S)
        judged = both
        if match_mask is not None:
            if tuple(match_mask.shape) != (num_clips,):
                raise ValueError(f"match_mask has shape {tuple(match_mask.shape)}; expected {(num_clips,)}.")
            judged = both & match_mask.bool()[:, None]
        return MAAVTPairs(has_video, has_audio, both, matched_mask(is_matched, both), judged)

    def _drop_modalities(self, pairs: MAAVTPairs) -> tuple[torch.Tensor, torch.Tensor]:
        """What the class head sees of training clips: one modality is hidden with probability `modality_dropout`.

        Both are equally likely to be hidden. Matching and contrast go on with both.
        """
        chance = self.config.modality_dropout
        if not self.training or not chance:
            return pairs.has_video, pairs.has_audio
        # One draw per clip: below chance / 2 the video is hidden, below chance the audio.
        # A clip's only modality is never hidden.
        draw = torch.rand(len(pairs.has_video), device=pairs.has_video.device)
        hide_video = pairs.has_audio & (draw < chance / 2)
        hide_audio = pairs.has_video & (draw >= chance / 2) & (draw < chance)
        return pairs.has_video & ~hide_video, pairs.has_audio & ~hide_audio

    def _are_scores(self, labels: torch.Tensor) -> bool:
        """Whether labels hold a value per class, not a class index."""
        return torch.is_floating_point(labels) or self.config.problem_type == "multi_label_classification"

    def _labels_per_clip(self, labels: torch.Tensor, segment_logits: torch.Tensor) -> bool:
        """Whether `labels` are those of clips, not of segments, by their shape; another shape is refused."""
        num_clips, num_segments, num_labels = segment_logits.shape
        per_clip, per_segment = (num_clips,), (num_clips, num_segments)
        if self._are_scores(labels):
            per_clip, per_segment = (*per_clip, num_labels), (*per_segment, num_labels)
        if tuple(labels.shape) not in (per_clip, per_segment):
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}; expected {per_clip} (per clip) or {per_segment} (per segment)."
            )
        return tuple(labels.shape) == per_clip

    # Classification (equations 3 and 7)

    def _classification_losses(
        self,
        logits: torch.Tensor,
        halves: list[torch.Tensor | None],
        labels: torch.Tensor,
        targets: tuple[torch.Tensor | None, torch.Tensor | None],
        pairs: MAAVTPairs,
    ) -> dict[str, torch.Tensor]:
        """`classification_loss` of the logits `[B, S, C]`, and `unimodal_loss` of both halves where it has a weight."""
        counted = (pairs.has_video | pairs.has_audio)[:, None] & pairs.matched  # (B, S)
        both = pairs.both
        if self._labels_per_clip(labels, logits):
            logits, counted, both = logits.mean(1), counted.all(1), both[:, 0]  # (B, C), (B,), (B,)
        problem_type, smoothing = self.config.problem_type, 0.0
        if self.training:
            smoothing = self.config.label_smoothing

        def loss_of(scores: torch.Tensor, classes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            if not self._are_scores(classes):
                check_classes(classes, self.num_labels)
            classes = smooth_labels(classes, self.num_labels, smoothing, problem_type)
            return classification_loss(scores, classes, mask, problem_type, self.class_weights)

        losses = {"classification_loss": loss_of(logits, labels, counted)}

        # The class from either half of the head alone.
        halves = zero_fill_missing_stream(*halves)
        if self.config.unimodal_loss_weight and halves is not None:
            loss_per_modality = []
            for half, classes in zip(halves, targets, strict=True):
                mask = both
                if classes is None:
                    classes, mask = labels, counted & both
                if mask.ndim == 1:
                    half = half.mean(1)  # (B, C)
                loss_per_modality.append(loss_of(half, classes, mask))
            losses["unimodal_loss"] = sum(loss_per_modality)
        return losses

    # Matching (equations 4 and 8)

    def _class_agreement(self, halves: list[torch.Tensor | None], pairs: MAAVTPairs) -> torch.Tensor | None:
        """sum_c p_v(c) p_a(c) of the two halves of the class head, `[B, S, C]` each; `[B]`, without gradient."""
        if any(half is None for half in halves) or self.config.problem_type == "multi_label_classification":
            return None
        video, audio = (half.detach().mean(1) for half in halves)  # (B, C)
        return log_agreement(video, audio).exp() * pairs.both[:, 0]

    def _added_mismatches(self, pairs: MAAVTPairs, labels: torch.Tensor | None) -> torch.Tensor:
        """Pairs of a video with the audio k clips earlier that training adds as mismatched: `[K, B, S]`.

        Both clips are matched pairs, and their classes differ as far as labels tell; the head "patches" tells clips apart,
        whatever their classes. The streams do not meet before the match head. Such a pair costs only one pass of the head.
        """
        usable = pairs.judged & pairs.matched  # (B, S)
        wanted = 0
        if self.training and self.match_head is not None:
            wanted = min(self.config.in_batch_mismatches, len(usable) - 1)
        added = usable.new_zeros((wanted, *usable.shape))
        for shift in range(1, 1 + wanted):
            added[shift - 1] = usable & usable.roll(shift, 0)
            if self.config.match_head != "patches":
                added[shift - 1] &= self._classes_differ(labels, shift, usable)
        return added

    def _classes_differ(self, labels: torch.Tensor | None, shift: int, usable: torch.Tensor) -> torch.Tensor:
        """Bool `[B, S]` or `[B, 1]`: the classes of a clip and of the one `shift` before it differ.

        Without labels all are taken to differ; a label of -100 is taken not to.
        """
        if labels is None:
            return torch.ones_like(usable)
        other = labels.roll(shift, 0)
        # Scores share a class where both are above 0; class indices are compared.
        if self._are_scores(labels):
            differ = (labels.clamp(min=0) * other.clamp(min=0)).sum(-1) == 0
            differ &= ((labels != -100) & (other != -100)).all(-1)
        else:
            differ = (labels != other) & (labels != -100) & (other != -100)
        if differ.ndim == 1:
            differ = differ[:, None]
        return differ

    def _match(
        self, outputs: MAAVTModelOutput, halves: list[torch.Tensor | None], pairs: MAAVTPairs, num_added: int
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Match logits `[B, S]`, 0 where a modality is missing, and those with the audio of earlier clips `[K, B, S]`.

        None without match head or without a stream.
        """
        reads_patches = self.config.match_head == "patches"
        states = zero_fill_missing_stream(outputs.video_background_state, outputs.audio_background_state)
        if reads_patches:
            states = zero_fill_missing_stream(outputs.video_patch_states, outputs.audio_patch_states)
        if self.match_head is None or states is None:
            return None, None
        dtype = self.classifier.bias.dtype  # read from a module that quantization never replaces
        video, audio, judged = states[0].to(dtype), states[1].to(dtype), pairs.judged
        shifts = range(1 + num_added)
        if reads_patches:  # the streams are projected before they are paired
            logits = self.match_head(video, audio, judged, num_added)
        else:
            inputs = [
                torch.stack([video for _ in shifts]),  # (1 + K, B, S, D)
                torch.stack([audio.roll(shift, 0) for shift in shifts]),
                torch.stack([judged & judged.roll(shift, 0) for shift in shifts]),
            ]
            if self.config.match_class_agreement:
                inputs.append(self._log_agreement(halves, shifts))
            logits = self.match_head(*inputs)
        return logits[0] * pairs.both, logits[1:]

    @property
    def _adds_agreement(self) -> bool:
        """The head on patches learns without the class agreement, which on training clips leaves it little to learn."""
        return self.config.match_head == "patches" and self.config.match_class_agreement

    def _log_agreement(self, halves: list[torch.Tensor | None], shifts: range) -> torch.Tensor:
        """Logarithm of the class agreement of every video with the audio so many clips earlier: `[len(shifts), B, S]`.

        A constant of the step: classes are not learned to please the match head.
        """
        video, audio = (half.detach() for half in zero_fill_missing_stream(*halves))  # (B, S, C) each
        return torch.stack([log_agreement(video, audio.roll(shift, 0)) for shift in shifts])

    def _matching_loss(
        self,
        logits: torch.Tensor,
        added_logits: torch.Tensor,
        added: torch.Tensor,
        pairs: MAAVTPairs,
        is_matched: torch.Tensor | None,
    ) -> torch.Tensor:
        """Mean over the pairs `[B, S]` and those that are added within the batch `[K, B, S]` (bool `added`: which count)."""
        matched, judged = pairs.matched, pairs.judged
        if is_matched is not None and is_matched.ndim == 1:  # per clip: the mean logit of its segments
            logits, added_logits = logits.mean(1), added_logits.mean(2)
            matched, judged, added = matched.all(1), judged[:, 0], added.all(2)
        weights = None
        if self.config.match_head == "patches":
            # All that is added to a pair counts as much as the pair.
            weight = (1 / added.sum(0).clamp(min=1)).to(logits.dtype)  # (B, S) or (B,)
            weights = torch.cat([torch.ones_like(logits).flatten(), weight.expand_as(added_logits).flatten()])
        return matching_loss(
            torch.cat([logits.flatten(), added_logits.flatten()]),
            torch.cat([matched.flatten(), torch.zeros_like(added).flatten()]),
            torch.cat([judged.flatten(), added.flatten()]),
            weights,
        )

    # Contrast (equation 2)

    def _contrastive_losses(
        self, outputs: MAAVTModelOutput, pairs: MAAVTPairs, labels: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Blockwise contrast over all pairs of the batch: `[L']`, or None where there is nothing to contrast."""
        head = self.maavt.contrastive_head
        video, audio = outputs.video_shared_states, outputs.audio_shared_states  # (B, S, L, D) each
        states = zero_fill_missing_stream(video, audio)
        if head is None or states is None:
            return None
        video, audio = head(states[0].flatten(0, 1), states[1].flatten(0, 1))  # (B*S, L', d)
        mask = pairs.both & pairs.matched
        positives = self._positive_labels(labels, mask)
        return contrastive_loss(video, audio, mask.flatten(), self.config.temperature, positives)

    def _positive_labels(self, labels: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor | None:
        """Class index of every pair, `[B*S]`, for contrast by label (equation 2a); None for contrast by pair."""
        if self.config.contrastive_positives == "pair":
            return None
        if labels is None:
            return torch.full_like(mask, -100, dtype=torch.long).flatten()
        if self._are_scores(labels):
            raise ValueError(
                'contrastive_positives="label" needs one class index per clip or segment; soft labels (MixUp) and '
                'multi-label targets name several classes. Use contrastive_positives="pair".'
            )
        if labels.ndim == 1:
            labels = labels[:, None]
        return labels.expand_as(mask).flatten()


__all__ = ["MAAVTForAudioVisualClassification", "MAAVTModel", "MAAVTPreTrainedModel"]
