# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion model configuration."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


FUSION_TYPES = ("factorized", "dense", "token")
FUSION_RESIDUALS = ("normalized", "prenorm")
FUSION_SCALES = ("hidden", "head")
PAIR_ACTIVATIONS = (None, "gelu")
SEPARATION_TARGETS = ("ratio", "binary", "reference_ratio", "reference_binary")
OLD_TARGETS = {"published_ratio": "reference_ratio", "published_binary": "reference_binary"}  # names of version 0.1.0


@strict
class DeepAVFusionConfig(PreTrainedConfig):
    r"""
    Configuration of [`DeepAVFusionModel`] and the models on top of it: a ViT for frames, a ViT for log-mel spectrograms, and
    fusion tokens that read both in every layer (DeepAVFusion, arXiv 2312.01017). The defaults are ViT-B/16 and the paper's
    encoder for VGGSound. The one for AudioSet has `fusion_attention_ratio=1.0, fusion_mlp_ratio=4.0`.

    Args:
        hidden_size (`int`, *optional*, defaults to 768): Width D of both ViTs and of the fusion tokens.
        num_hidden_layers (`int`, *optional*, defaults to 12): Layers of each ViT.
        num_attention_heads (`int`, *optional*, defaults to 12): Heads, everywhere in the encoder.
        intermediate_size (`int`, *optional*, defaults to 3072): Hidden width of the ViTs' MLPs.
        hidden_act (`str`, *optional*, defaults to `"gelu"`): Activation of all MLPs.
        layer_norm_eps (`float`, *optional*, defaults to 1e-6): Of the ViTs' LayerNorms.
        pre_norm (`bool`, *optional*, defaults to `False`): A LayerNorm before the ViTs' blocks, as in CLIP.
        fusion_layer_norm_eps (`float`, *optional*, defaults to 1e-5): Of the fusion blocks' LayerNorms.
        image_size (`int` or `list[int]`, *optional*, defaults to 224): Height and width of the frame.
        num_channels (`int`, *optional*, defaults to 3): Channels of the frame.
        patch_size (`int`, *optional*, defaults to 16): Side of the patches of both ViTs.
        num_mel_bins (`int`, *optional*, defaults to 128): Height of the spectrogram.
        audio_num_frames (`int`, *optional*, defaults to 192): Width of the spectrogram: 3 s at 64 time frames a second.
        audio_num_channels (`int`, *optional*, defaults to 1): Channels of the audio ViT. Each sees the same spectrogram.
        fusion_type (`str`, *optional*, defaults to `"factorized"`):
            `"factorized"`: visual and audio aggregation tokens read their modality, the other tokens read pairs of them.
            `"dense"`: all tokens read pairs of a patch of the frame and a patch of the spectrogram. `"token"`: all tokens
            read all patches.
        fusion_layers (`list[int]`, *optional*): Layers with a fusion block, from 0. All when absent, `[]` for none.
        num_fusion_tokens, num_visual_aggregation_tokens, num_audio_aggregation_tokens (`int`, defaults to 16, 8, 8):
            Learned tokens, in this order in the sequence.
        fusion_attention_ratio (`float`, *optional*, defaults to 0.25): Width of the fusion attention over D.
        fusion_mlp_ratio (`float`, *optional*, defaults to 1.0): Width of the fusion blocks' MLPs over D.
        fusion_residual (`str`, *optional*, defaults to `"normalized"`):
            `"normalized"`: the normalized tokens replace the tokens before the residual is added, as in the reference implementation.
            `"prenorm"`: the residual is added to the tokens themselves.
        fusion_scale (`str`, *optional*, defaults to `"hidden"`):
            Scale of the attention over pairs: the root of D / heads, as in the reference implementation, or of the width of its heads
            (`"head"`).
        fusion_pair_activation (`str`, *optional*):
            `"gelu"` passes the key and the value of every pair through a GELU, which makes a pair more than the sum of its
            halves. Without it (the reference implementation) pairs are never formed. Pairs need memory (docs/deepavfusion.md, 3).
        drop_path_rate (`float`, *optional*, defaults to 0.0): Stochastic depth, the same in every layer.
        image_mask_ratio, audio_mask_ratio (`float`, *optional*, defaults to 0.75 and 0.8): Shares hidden in pre-training.
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads, decoder_intermediate_size (`int`,
            *optional*, defaults to 512, 8, 16, 2048): Of each decoder of pre-training.
        decoder_layer_norm_eps (`float`, *optional*, defaults to 1e-5): Of the decoders' LayerNorms.
        norm_pix_loss (`bool`, *optional*, defaults to `True`): Standardize each patch that has to be reconstructed.
        image_loss_weight, audio_loss_weight (`float`, *optional*, defaults to 1.0): Weights of the two reconstructions.
        classifier_loss (`str`, *optional*, defaults to `"joint"`):
            `"joint"`: the loss of the mean of the three logits. `"separate"`: the mean of the three losses.
        use_pooled_batchnorm (`bool`, *optional*, defaults to `False`):
            BatchNorm without weights on the pooled states before the class heads: the paper's linear probe.
        label_smoothing (`float`, *optional*, defaults to 0.0): Of class indices and soft labels in training.
        segmentation_min_channels (`int`, *optional*, defaults to 128): Least width of the segmentation decoder's scales.
        separation_target (`str`, *optional*, defaults to `"ratio"`):
            Mask that separation learns. `"ratio"`: the source's share of source and rest. `"binary"`: where the source is
            the louder. `"reference_ratio"` and `"reference_binary"`: as in the reference implementation, which compares the source with
            the mixture (docs/deepavfusion_tasks.md, 2).
        separation_weighting (`bool`, *optional*, defaults to `True`): Weigh loud points of the mixture more.
        localization_layers (`int`, *optional*, defaults to 4): Last fused layers whose attention is the localization map.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of new learned tokens.

    Raises:
        ValueError (wrapped by the strict dataclass): an unknown mode, sizes that patches do not divide, widths that heads do
            not divide, a layer that does not exist, no tokens where the fusion type needs some, a ratio out of range.
    """

    model_type = "deepavfusion"
    # all outputs but `logits`: a Trainer gathers what is not listed here
    keys_to_ignore_at_inference = [
        "last_hidden_state",
        "pooler_output",
        "image_last_hidden_state",
        "audio_last_hidden_state",
        "fusion_last_hidden_state",
        "hidden_states",
        "image_hidden_states",
        "audio_hidden_states",
        "fusion_hidden_states",
        "attentions",
        "audio_attentions",
        "fusion_attentions",
        "window_logits",
        "image_logits",
        "audio_logits",
        "fusion_logits",
        "image_loss",
        "audio_loss",
        "image_mask",
        "audio_mask",
        "image_ids_restore",
        "audio_ids_restore",
        "mask_targets",
        "attention_map",
    ]

    # both ViTs
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    pre_norm: bool = False
    fusion_layer_norm_eps: float = 1e-5
    # inputs
    image_size: int | list[int] | tuple[int, int] = 224
    num_channels: int = 3
    patch_size: int = 16
    num_mel_bins: int = 128
    audio_num_frames: int = 192
    audio_num_channels: int = 1
    # fusion
    fusion_type: str = "factorized"
    fusion_layers: list[int] | tuple[int, ...] | None = None
    num_fusion_tokens: int = 16
    num_visual_aggregation_tokens: int = 8
    num_audio_aggregation_tokens: int = 8
    fusion_attention_ratio: float | int = 0.25
    fusion_mlp_ratio: float | int = 1.0
    fusion_residual: str = "normalized"
    fusion_scale: str = "hidden"
    fusion_pair_activation: str | None = None
    drop_path_rate: float | int = 0.0
    # pre-training
    image_mask_ratio: float | int = 0.75
    audio_mask_ratio: float | int = 0.8
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    decoder_layer_norm_eps: float = 1e-5
    norm_pix_loss: bool = True
    image_loss_weight: float | int = 1.0
    audio_loss_weight: float | int = 1.0
    # classification
    classifier_loss: str = "joint"
    use_pooled_batchnorm: bool = False
    label_smoothing: float | int = 0.0
    # segmentation, separation, localization
    segmentation_min_channels: int = 128
    separation_target: str = "ratio"
    separation_weighting: bool = True
    localization_layers: int = 4
    # start
    initializer_range: float = 0.02

    # ---- what follows from the fields

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As in transformers, which would ignore the weights of another kind of model and start from random ones.

        Raises:
            ValueError: another kind of model.
        """
        fields, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        kind = fields.get("model_type")
        if fields and kind != cls.model_type:
            raise ValueError(
                f"{pretrained_model_name_or_path}: is a checkpoint of type {kind}. deepavfusion_from_vit starts both branches of a "
                "new DeepAVFusion from a plain vision transformer; other kinds cannot be read."
            )
        return fields, kwargs

    def __post_init__(self, **kwargs):
        self.separation_target = OLD_TARGETS.get(self.separation_target, self.separation_target)
        super().__post_init__(**kwargs)

    @property
    def image_sides(self) -> tuple[int, ...]:
        """Height and width of the frame."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        return tuple(self.image_size)

    @property
    def image_grid(self) -> tuple[int, int]:
        """Patches along height and width of the frame."""
        height, width = self.image_sides
        return height // self.patch_size, width // self.patch_size

    @property
    def audio_grid(self) -> tuple[int, int]:
        """Patches along frequency and time of the spectrogram."""
        return self.num_mel_bins // self.patch_size, self.audio_num_frames // self.patch_size

    @property
    def token_counts(self) -> tuple[int, int, int]:
        """Fusion, visual aggregation and audio aggregation tokens."""
        return self.num_fusion_tokens, self.num_visual_aggregation_tokens, self.num_audio_aggregation_tokens

    @property
    def fused_layers(self) -> list[int]:
        """Layers with a fusion block."""
        if self.fusion_layers is None:
            return list(range(self.num_hidden_layers))
        return sorted(set(self.fusion_layers))

    @property
    def fusion_width(self) -> int:
        """rD: width of queries and keys of the fusion attention."""
        return int(self.fusion_attention_ratio * self.hidden_size)

    # ---- checks: the strict dataclass calls every method whose name starts with `validate_`

    def validate_modes(self):
        for name, allowed in (
            ("fusion_type", FUSION_TYPES),
            ("fusion_residual", FUSION_RESIDUALS),
            ("fusion_scale", FUSION_SCALES),
            ("fusion_pair_activation", PAIR_ACTIVATIONS),
            ("classifier_loss", ("joint", "separate")),
            ("separation_target", SEPARATION_TARGETS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {allowed}.")
        # modes that contradict each other
        if self.fusion_pair_activation is not None and self.fusion_type == "token":
            raise ValueError(
                f"fusion_pair_activation={self.fusion_pair_activation!r} acts on pairs, and fusion_type='token' forms none; "
                "choose fusion_type 'dense' or 'factorized', or leave the activation out."
            )

    def validate_tasks(self):
        for name in ("segmentation_min_channels", "localization_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")

    def validate_sizes(self):
        if len(self.image_sides) != 2:
            raise ValueError(f"image_size={self.image_size} must be one number or [height, width].")
        for name, sizes in (
            ("image_size", self.image_sides),
            ("num_mel_bins", (self.num_mel_bins,)),
            ("audio_num_frames", (self.audio_num_frames,)),
        ):
            if any(size <= 0 or size % self.patch_size for size in sizes):
                raise ValueError(
                    f"{name}={getattr(self, name)} is no multiple of patch_size={self.patch_size}; choose one."
                )

    def validate_widths(self):
        # heads share a width evenly
        for width, heads, what in (
            (self.hidden_size, self.num_attention_heads, "hidden_size"),
            (self.fusion_width, self.num_attention_heads, "fusion_attention_ratio * hidden_size"),
            (self.decoder_hidden_size, self.decoder_num_attention_heads, "decoder_hidden_size"),
        ):
            if width <= 0 or width % heads:
                raise ValueError(f"{what} = {width} is not divisible by {heads} attention heads; change either.")
        # a sine and a cosine for each of two axes
        for name in ("hidden_size", "decoder_hidden_size"):
            if getattr(self, name) % 4:
                raise ValueError(f"{name}={getattr(self, name)} must be divisible by 4 for 2-D sin-cos positions.")

    def validate_fusion(self):
        # layers that do not exist
        wrong = [layer for layer in self.fused_layers if not 0 <= layer < self.num_hidden_layers]
        if wrong:
            raise ValueError(
                f"fusion_layers={self.fusion_layers} names {wrong}; layers run from 0 to {self.num_hidden_layers - 1}."
            )
        # token types without a token; only factorized fusion needs aggregation tokens
        names = ("num_fusion_tokens", "num_visual_aggregation_tokens", "num_audio_aggregation_tokens")
        for name, count in zip(names, self.token_counts, strict=True):
            least = int(name == "num_fusion_tokens" or self.fusion_type == "factorized")
            if count < least:
                raise ValueError(f"{name}={count}: fusion_type={self.fusion_type!r} needs at least {least}.")

    def validate_ratios(self):
        for name in ("image_mask_ratio", "audio_mask_ratio", "drop_path_rate", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0 and below 1.")
        # the encoder needs a visible patch
        for name, grid in (("image_mask_ratio", self.image_grid), ("audio_mask_ratio", self.audio_grid)):
            if int(grid[0] * grid[1] * (1 - getattr(self, name))) < 1:
                raise ValueError(f"{name}={getattr(self, name)} hides all {grid[0] * grid[1]} patches; lower it.")


__all__ = ["DeepAVFusionConfig"]
