# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""MA-AVT model configuration."""

from dataclasses import dataclass, fields

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig


# What the options of MAAVTConfig may be.
CONTRASTIVE_MODES = ("blockwise", "blockwise_shared", "last", None)
CONTRASTIVE_POSITIVES = ("pair", "label")
LAYERWISE_MODES = ("common", "unique", None)
MATCH_HEADS = ("bilinear", "patches", "mlp", "linear")
POSITION_MODES = ("grid", "sequence")


@strict
@dataclass(kw_only=True)
class MAAVTLavishConfig:
    """
    LAVISH adapters beside the blocks, through which the streams meet: a baseline (docs/maavt.md, 9).

    Args:
        num_latents (`int`, *optional*, defaults to 32): Latent tokens of an adapter.
        reduction (`int`, *optional*, defaults to 16): Width of the backbone over the width inside an adapter.
        groups (`int`, *optional*, defaults to 2): Groups of an adapter's pointwise convolutions.
        gate_audio (`bool`, *optional*, defaults to `False`):
            Gate the audio adapters as the video adapters are, so that training starts from the backbone's own states.
            Our addition; the paper has no such gate.
    """

    num_latents: int = 32
    reduction: int = 16
    groups: int = 2
    gate_audio: bool = False

    def validate_counts(self):
        for name in ("num_latents", "reduction", "groups"):
            if getattr(self, name) <= 0:
                raise ValueError(f"lavish_config: {name}={getattr(self, name)} must be above 0.")


# Their flat names in older configs are `lavish_{name}`.
LAVISH_FIELDS = tuple(field.name for field in fields(MAAVTLavishConfig))


@strict
class MAAVTConfig(PreTrainedConfig):
    r"""
    Configuration of [`MAAVTModel`] and [`MAAVTForAudioVisualClassification`]: one ViT shared by video and audio, with
    trainable audio, visual, shared and background tokens (MA-AVT, arXiv 2406.04930). The defaults are ViT-B/16 with
    LayerNorm eps 1e-6, five tokens of each kind, token self-attention, foreground mining and blockwise contrast.

    Args:
        vision_config (`dict` or `ViTConfig`, *optional*):
            The backbone, any ViT config; ViT-B/16 when absent. With `pre_norm=True` there is a LayerNorm before the
            blocks, as in CLIP's vision transformer.
        num_audio_tokens (`int`, *optional*, defaults to 5): Learned tokens that only the audio stream sees.
        num_visual_tokens (`int`, *optional*, defaults to 5): Learned tokens that only the video stream sees.
        num_shared_tokens (`int`, *optional*, defaults to 5):
            Learned tokens that start equal in both streams; their states are what the contrastive loss aligns.
        token_self_attention (`bool`, *optional*, defaults to `True`):
            Pass each kind of token through a self-attention of its own before use; foldable after training.
        token_attention_heads (`int`, *optional*, defaults to 8): Heads of that self-attention.
        token_init_std (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial audio, visual and shared tokens. The paper's is 1.0.
        layerwise_tokens (`str`, *optional*):
            `None`: tokens enter once and evolve. `"common"`: the same tokens are appended anew before every block.
            `"unique"`: every block has a set of its own.
        prompt_start_layer (`int`, *optional*, defaults to 0):
            Block before which background, audio, visual and shared tokens enter. Values above 0 are our addition. The
            blocks below it then see nothing that is trained: the class token stays the backbone's own.
        background_mining (`bool`, *optional*, defaults to `True`):
            Append a background token to both streams and learn to tell matched pairs from mismatched ones.
        match_head (`str`, *optional*, defaults to `"bilinear"`):
            `"bilinear"`: product of normalized projections of the background tokens, then an MLP. `"patches"`: our
            addition, the same on the patches before the first block, position by position; it can tell two clips of one
            class apart. `"mlp"`: an MLP on the concatenation. `"linear"`: the paper's head, additive in the modalities
            and therefore at chance (see the docs).
        match_dim (`int`, *optional*, defaults to 64): Width of the match head's projections.
        match_grid (`list[int]`, *optional*, defaults to `[8, 8]`):
            Rows and columns of the grid to which the head `"patches"` averages (or repeats) the patches of both streams.
        match_class_agreement (`bool`, *optional*, defaults to `False`):
            Our addition: the logit of the head `"bilinear"` also has the logarithm of the class agreement (equation 8),
            times a learned weight. To that of the head `"patches"`, which is trained without, it is added as it is. It
            needs one class a clip or segment.
        in_batch_mismatches (`int`, *optional*, defaults to 0):
            Our addition: training also shows the match head every video with the audio of this many earlier clips of
            the batch, where their classes differ (with the head `"patches"`: of every class). No input has to be mismatched
            for it, so that all are classified.
        contrastive (`str`, *optional*, defaults to `"blockwise"`):
            `"blockwise"`: projections per block. `"blockwise_shared"`: one pair of projections for all blocks.
            `"last"`: the last block only. `None`: no contrastive loss.
        contrastive_dim (`int`, *optional*, defaults to 512): Width of the contrastive projections.
        contrastive_positives (`str`, *optional*, defaults to `"pair"`):
            `"pair"`: the audio of a video is its one positive. `"label"`: so is the audio of all clips of its class
            (SupCon); it needs class indices as labels.
        temperature (`float`, *optional*, defaults to 0.07): Temperature of the contrastive loss.
        lavish_config (`dict`, *optional*):
            Fields of [`MAAVTLavishConfig`]; an empty dict takes its defaults. `None`: no LAVISH adapters.
        position_interpolation (`str`, *optional*, defaults to `"grid"`):
            `"grid"` resamples the patch grid in 2-D and leaves the class token's row alone; `"sequence"` is the paper's
            1-D resampling of the whole table.
        classification_loss_weight, matching_loss_weight, contrastive_loss_weight (`float`, *optional*, defaults to 1.0):
            Weights of the three losses.
        unimodal_loss_weight (`float`, *optional*, defaults to 0.0):
            Our addition: weight of a fourth loss, the class from either half of the class head alone.
        label_smoothing (`float`, *optional*, defaults to 0.0): Of class indices and soft labels in training.
        freeze_backbone (`bool`, *optional*, defaults to `True`):
            Keep positions, patch convolution, LayerNorms and blocks of the ViT fixed. The class token stays trainable.
        modality_dropout (`float`, *optional*, defaults to 0.0):
            Probability that a training clip is classified by its video or its audio alone (half each).
        modalities (`list[str]`, *optional*, defaults to `["video", "audio"]`):
            What the classifier was trained on. It ignores the input of another modality, whose half of the class head is
            still random.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of new weight matrices.

    Raises:
        ValueError (wrapped by the strict dataclass): an unknown mode, a contrastive loss without shared tokens, a
            negative token count, a width that the attention heads or the adapters' groups do not divide, a
            `vision_config` that is not a ViT's.
    """

    model_type = "maavt"
    sub_configs = {"vision_config": AutoConfig}  # transformers 5.20 has `sub_configs_defaults` for it, 5.18 has not
    # The Trainer's predictions are `logits` alone: an array, as `compute_metrics` of every tutorial expects.
    keys_to_ignore_at_inference = [
        "match_logits",
        "segment_logits",
        "segment_match_logits",
        "classification_loss",
        "matching_loss",
        "contrastive_loss",
        "unimodal_loss",
        "contrastive_loss_per_block",
        "class_agreement",
        "video_localization",
        "audio_localization",
        "hidden_states",
        "audio_hidden_states",
        "attentions",
        "audio_attentions",
    ]

    vision_config: dict | PreTrainedConfig | None = None
    # learned tokens
    num_audio_tokens: int = 5
    num_visual_tokens: int = 5
    num_shared_tokens: int = 5
    token_self_attention: bool = True
    token_attention_heads: int = 8
    token_init_std: float | int = 0.02
    layerwise_tokens: str | None = None
    prompt_start_layer: int = 0
    # foreground mining
    background_mining: bool = True
    match_head: str = "bilinear"
    match_dim: int = 64
    match_grid: list[int] | tuple[int, ...] = (8, 8)
    match_class_agreement: bool = False
    in_batch_mismatches: int = 0
    # blockwise contrast
    contrastive: str | None = "blockwise"
    contrastive_dim: int = 512
    contrastive_positives: str = "pair"
    temperature: float | int = 0.07
    # a baseline
    lavish_config: dict | None = None
    # backbone, losses, training
    position_interpolation: str = "grid"
    classification_loss_weight: float | int = 1.0
    matching_loss_weight: float | int = 1.0
    contrastive_loss_weight: float | int = 1.0
    unimodal_loss_weight: float | int = 0.0
    label_smoothing: float | int = 0.0
    freeze_backbone: bool = True
    modality_dropout: float | int = 0.0
    modalities: list[str] | tuple[str, ...] = ("video", "audio")
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        # Checkpoints of version 0.1.0 hold the fields of `lavish_config` as `lavish_adapters`, `lavish_num_latents`, ...
        flat = {name: kwargs.pop(f"lavish_{name}") for name in LAVISH_FIELDS if f"lavish_{name}" in kwargs}
        if kwargs.pop("lavish_adapters", False) and self.lavish_config is None:
            self.lavish_config = flat
        # Without a vision_config the backbone is ViT-B/16, with the eps of its checkpoints instead of ViTConfig's.
        if not isinstance(self.vision_config, PreTrainedConfig):
            vision_config = {"layer_norm_eps": 1e-6} if self.vision_config is None else self.vision_config
            self.vision_config = AutoConfig.for_model(**{"model_type": "vit", **vision_config})
        super().__post_init__(**kwargs)

    @classmethod
    def default_config_fields(cls) -> dict:
        """With a dict for `vision_config`, of which transformers then saves only what differs from the defaults."""
        return {**super().default_config_fields(), "vision_config": {}}

    # ---- What other code reads of the backbone and the adapters

    @property
    def lavish(self) -> MAAVTLavishConfig | None:
        """The fields of `lavish_config`, with defaults filled in; None without adapters."""
        if self.lavish_config is None:
            return None
        return MAAVTLavishConfig(**self.lavish_config)

    @property
    def hidden_size(self) -> int:
        return self.vision_config.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        return self.vision_config.num_hidden_layers

    @property
    def num_prompted_layers(self) -> int:
        """Blocks that see the learned tokens."""
        return self.num_hidden_layers - self.prompt_start_layer

    @property
    def num_attention_heads(self) -> int:
        return self.vision_config.num_attention_heads

    # ---- Checks: the strict dataclass runs every `validate_*` at construction and in `save_pretrained`

    def validate_backbone(self):
        if self.vision_config.model_type != "vit":
            raise ValueError(
                f"vision_config.model_type is {self.vision_config.model_type!r}; MA-AVT's shared backbone is a plain ViT: "
                'give a config whose model_type is "vit" (from_pretrained rewrites other families).'
            )

    def validate_modes(self):
        for name, allowed in (
            ("contrastive", CONTRASTIVE_MODES),
            ("contrastive_positives", CONTRASTIVE_POSITIVES),
            ("layerwise_tokens", LAYERWISE_MODES),
            ("match_head", MATCH_HEADS),
            ("position_interpolation", POSITION_MODES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {allowed}.")

    def validate_tokens(self):
        for name in ("num_audio_tokens", "num_visual_tokens", "num_shared_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is negative; give 0 or more tokens.")
        if self.contrastive is not None and self.num_shared_tokens == 0:
            raise ValueError(
                f"contrastive={self.contrastive!r} aligns the shared tokens, but num_shared_tokens=0; "
                "set num_shared_tokens=5 (the paper's) or contrastive=None."
            )
        if self.token_self_attention and self.hidden_size % self.token_attention_heads:
            raise ValueError(
                f"token_attention_heads={self.token_attention_heads} does not divide hidden_size={self.hidden_size}; "
                "choose a divisor or set token_self_attention=False."
            )

    def validate_prompt_start(self):
        if not 0 <= self.prompt_start_layer < self.num_hidden_layers:
            raise ValueError(
                f"prompt_start_layer={self.prompt_start_layer} is no block of {self.num_hidden_layers}; give a number "
                f"from 0 to {self.num_hidden_layers - 1}."
            )
        if self.prompt_start_layer and self.lavish is not None:
            raise ValueError(
                f"prompt_start_layer={self.prompt_start_layer} leaves the blocks below it untrained, but lavish_config "
                "puts trained adapters there; set prompt_start_layer=0 or lavish_config=None."
            )

    def validate_mismatches(self):
        if self.in_batch_mismatches < 0:
            raise ValueError(f"in_batch_mismatches={self.in_batch_mismatches} is negative; give 0 or more clips.")
        if self.in_batch_mismatches and self.lavish is not None:
            raise ValueError(
                f"in_batch_mismatches={self.in_batch_mismatches} pairs the streams at the match head, but with "
                "lavish_config they meet before; set in_batch_mismatches=0 or lavish_config=None."
            )

    def validate_match_grid(self):
        if len(self.match_grid) != 2 or min(self.match_grid) < 1:
            raise ValueError(f"match_grid={list(self.match_grid)!r}; give rows and columns, such as [8, 8].")

    def validate_match_class_agreement(self):
        if not self.match_class_agreement:
            return
        if self.match_head not in ("bilinear", "patches"):
            raise ValueError(
                f'match_class_agreement=True needs match_head="bilinear" or "patches", not {self.match_head!r}.'
            )
        if self.problem_type == "multi_label_classification":
            raise ValueError(
                "match_class_agreement=True needs one class a clip; set it to False for multi-label clips."
            )

    def validate_adapters(self):
        lavish = self.lavish
        if lavish is not None and self.hidden_size % (lavish.reduction * lavish.groups):
            raise ValueError(
                f"lavish_config: reduction={lavish.reduction} times groups={lavish.groups} does not divide "
                f"hidden_size={self.hidden_size}; choose a smaller reduction or fewer groups."
            )

    def validate_modalities(self):
        if not self.modalities or set(self.modalities) - {"video", "audio"}:
            raise ValueError(f'modalities={self.modalities!r}; give one or both of "video" and "audio".')

    def validate_numbers(self):
        for name in ("temperature", "contrastive_dim", "match_dim", "token_attention_heads"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0.")
        if not 0 <= self.modality_dropout <= 1:
            raise ValueError(f"modality_dropout={self.modality_dropout} is a probability; give a value from 0 to 1.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} must be at least 0 and below 1.")


__all__ = ["MAAVTConfig", "MAAVTLavishConfig"]
