# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What all of MA-AVT's models share: initial weights, what is frozen and trained, folding of the tokens, saving."""

import math

import torch
from torch import nn
from transformers import initialization as init

from .configuration_maavt import MAAVTConfig
from .embeddings_maavt import MAAVTEmbeddings
from .heads_maavt import MAAVTProjection, MAAVTRunningNorm
from .lavish_maavt import MAAVTGroupedPointwise, MAAVTLavishAdapter
from .loading_maavt import MAAVTCheckpointLoading
from .tokens_maavt import MAAVTPrompt


# trained beside a frozen backbone; no name ends another, because PEFT matches modules_to_save by ending
TRAINED_MODULES = ("prompt", "token_attention", "lavish_adapters", "contrastive_head", "classifier", "match_head")


class MAAVTPreTrainedModel(MAAVTCheckpointLoading):
    config: MAAVTConfig
    base_model_prefix = "maavt"
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

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, MAAVTPrompt):
            if module.cls_token is not None:
                init.trunc_normal_(module.cls_token, mean=0.0, std=std)
            if module.background_token is not None:
                # small whatever token_init_std: a large token drowns what it reads, and the match head sees only itself
                init.normal_(module.background_token, mean=0.0, std=std)
            for tokens in (module.audio_tokens, module.visual_tokens, module.shared_tokens):
                if tokens is not None:
                    init.normal_(tokens, mean=0.0, std=self.config.token_init_std)
            init.copy_(module.needs_self_attention, torch.tensor([module.token_self_attention], dtype=torch.uint8))
        elif isinstance(module, MAAVTEmbeddings):
            init.trunc_normal_(module.position_embeddings, mean=0.0, std=std)
            if module.cls_token is not None:
                init.trunc_normal_(module.cls_token, mean=0.0, std=std)
        elif isinstance(module, MAAVTLavishAdapter):
            init.normal_(module.latents, mean=0.0, std=std)
            init.ones_(module.gate_latents)
            init.zeros_(module.gate_states)
            if module.gate is not None:
                init.zeros_(module.gate)
        elif isinstance(module, MAAVTGroupedPointwise):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))  # as a convolution of PyTorch starts
        elif isinstance(module, MAAVTProjection):
            init.normal_(module.weight, mean=0.0, std=std)
            init.zeros_(module.bias)
        elif isinstance(module, MAAVTRunningNorm):
            init.zeros_(module.mean)
            init.ones_(module.square)
            init.zeros_(module.num_updates)

    def post_init(self):
        # names of modules that this configuration leaves out would be reported as unknown
        leaves = {name.rpartition(".")[2] for name, _ in self.named_modules()}
        self._keep_in_fp32_modules_strict = set(self._keep_in_fp32_modules_strict or ()) & leaves
        super().post_init()

    @property
    def trunk(self) -> "MAAVTPreTrainedModel":
        return getattr(self, self.base_model_prefix, self)

    def freeze_backbone(self) -> None:
        """Fix positions, patch convolution, LayerNorms and blocks of the ViT; its class token is a token (docs/maavt.md, 8)."""
        for module in (self.trunk.embeddings, self.trunk.encoder, self.trunk.layernorm):
            module.requires_grad_(False)

    def trainable_modules(self) -> dict[str, nn.Module]:
        """The modules that are trained beside a frozen backbone, by the names that PEFT's `modules_to_save` takes."""
        found = {}
        for name, module in self.named_modules():
            leaf = name.rpartition(".")[2]
            if leaf in TRAINED_MODULES:
                found[leaf] = module
        return found

    def fold_token_attention(self) -> None:
        """Replace the tokens by what token self-attention makes of them and drop it; outputs stay equal (docs/maavt.md, 2)."""
        trunk = self.trunk
        if trunk.token_attention is None:
            return
        with torch.no_grad():
            tokens = trunk.token_attention(trunk.prompt(torch.float32))
            for kind in ("audio", "visual", "shared"):
                parameter = getattr(trunk.prompt, f"{kind}_tokens")
                if parameter is not None:
                    folded = getattr(tokens, kind)
                    parameter.copy_(folded if parameter.ndim == 3 else folded[0])
            trunk.prompt.needs_self_attention.fill_(False)
        trunk.token_attention = None
        trunk.prompt.token_self_attention = False
        self.config.token_self_attention = False

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in Transformers, with the code of both Auto classes named in `auto_map` for `trust_remote_code=True`."""
        if self._auto_class is not None:
            self.config.auto_map = {
                **(getattr(self.config, "auto_map", None) or {}),
                "AutoModel": "modeling_maavt.MAAVTModel",
                "AutoModelForVideoClassification": "modeling_maavt.MAAVTForAudioVisualClassification",
            }
        own = type(self)
        if any(base.__name__ == "FSDPModule" for base in own.__mro__):
            # `fully_shard` made a class of its own, whose name and code do not belong in a checkpoint
            self.__class__ = own.__mro__[2]
        try:
            return super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.__class__ = own


__all__ = ["TRAINED_MODULES", "MAAVTPreTrainedModel"]
