# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The plain port: MA-AVT as the paper's release computes it, on a stock `ViTModel`; the yardstick of every ratio.

Two passes, attention weights and a localization map in every block, token self-attention on every copy of the tokens,
the spectrogram repeated to three channels, one projection and one contrastive loss a block, in training and evaluation alike.
Its weights are copied from a MA-AVT model, so that outputs can be compared before times are.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers import ViTConfig, ViTModel

from modeling_maavt import MAAVTConfig, MAAVTForAudioVisualClassification


def paper_config(vision_config: dict | None = None, **overrides) -> MAAVTConfig:
    """The paper's options: one linear match head, and positions resampled along the sequence."""
    values = {"match_head": "linear", "position_interpolation": "sequence", "num_labels": 309, **overrides}
    return MAAVTConfig(vision_config=vision_config, **values)


class PlainTokenAttention(nn.Module):
    """Self-attention among the tokens of one kind, `[N, n, D]`."""

    def __init__(self, width: int, num_heads: int = 8):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        copies, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(copies, count, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) * (width // self.num_heads) ** -0.5).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(copies, count, width))


class PlainPort(nn.Module):
    """MA-AVT for clips of one frame and one spectrogram, frozen but for tokens, projections and heads.

    Args:
        model: whose weights are copied; its config has to be a `paper_config`.
    """

    def __init__(self, model: MAAVTForAudioVisualClassification):
        super().__init__()
        config, state = model.config, model.state_dict()
        width, blocks = config.hidden_size, config.num_hidden_layers
        vision = ViTConfig(**{**config.vision_config.to_dict(), "attn_implementation": "eager"})
        self.temperature = config.temperature
        self.vit = ViTModel(vision, add_pooling_layer=False).requires_grad_(False)
        self.tokens = nn.ParameterDict(
            {kind: state[f"maavt.prompt.{kind}_tokens"].clone() for kind in ("audio", "visual", "shared")}
        )
        self.background = nn.Parameter(state["maavt.prompt.background_token"].clone())
        self.token_attention = nn.ModuleDict({kind: PlainTokenAttention(width) for kind in self.tokens})
        self.projections = nn.ModuleDict(
            {
                stream: nn.ModuleList([nn.Linear(width, config.contrastive_dim) for _ in range(blocks)])
                for stream in ("video", "audio")
            }
        )
        self.class_head = nn.Linear(2 * width, config.num_labels)
        self.match_head = nn.Linear(2 * width, 1)
        self._copy(state)
        self.vit.embeddings.cls_token.requires_grad_(True)

    @torch.no_grad()
    def _copy(self, state: dict[str, torch.Tensor]) -> None:
        trunk = {name.removeprefix("maavt."): value for name, value in state.items() if name.startswith("maavt.")}
        backbone = {
            name.removeprefix("encoder."): value
            for name, value in trunk.items()
            if name.startswith(("encoder.", "embeddings.", "layernorm."))
        }
        self.vit.load_state_dict({**backbone, "embeddings.cls_token": trunk["prompt.cls_token"]})
        attention = {name.removeprefix("token_attention."): value for name, value in trunk.items()}
        self.token_attention.load_state_dict({name: attention[name] for name in self.token_attention.state_dict()})
        for stream, projections in self.projections.items():
            for index, projection in enumerate(projections):
                projection.weight.copy_(trunk[f"contrastive_head.{stream}.weight"][index])
                projection.bias.copy_(trunk[f"contrastive_head.{stream}.bias"][index])
        self.class_head.load_state_dict({name: state[f"classifier.{name}"] for name in ("weight", "bias")})
        # 1 means background in the reference implementation and matched in MAAVTForAudioVisualClassification
        self.match_head.load_state_dict({name: -state[f"match_head.{name}"] for name in ("weight", "bias")})

    def forward(
        self,
        frames: torch.Tensor,
        spectrograms: torch.Tensor,
        labels: torch.Tensor | None = None,
        is_matched: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Frames `[B, 1, 3, H, W]` and spectrograms `[B, 1, F, W]`; losses where labels `[B]` are given."""
        video, video_maps, video_features = self._stream(frames[:, 0], "visual", "video")
        audio, audio_maps, audio_features = self._stream(spectrograms.expand(-1, 3, -1, -1), "audio", "audio")
        count = 1 + self.num_patches(frames)
        outputs = {
            "logits": self.class_head(torch.cat([video[:, 0], audio[:, 0]], dim=-1)),
            "match_logits": -self.match_head(
                torch.cat([video[:, count], audio[:, 1 + self.num_patches(spectrograms)]], dim=-1)
            )[:, 0],
            "video_localization": video_maps[-1],
            "audio_localization": audio_maps[-1],
        }
        if labels is None:
            return outputs
        matched = torch.ones_like(labels, dtype=torch.bool) if is_matched is None else is_matched
        losses = [self._contrast(v[matched], a[matched]) for v, a in zip(video_features, audio_features, strict=True)]
        outputs["classification_loss"] = functional.cross_entropy(outputs["logits"][matched], labels[matched])
        outputs["matching_loss"] = functional.binary_cross_entropy_with_logits(
            -outputs["match_logits"], (~matched).float()
        )
        outputs["contrastive_loss"] = torch.stack(losses).mean()
        outputs["loss"] = sum(outputs[f"{name}_loss"] for name in ("classification", "matching", "contrastive"))
        return outputs

    def num_patches(self, images: torch.Tensor) -> int:
        patch_size = self.vit.config.patch_size
        return (images.shape[-2] // patch_size) * (images.shape[-1] // patch_size)

    def _contrast(self, video: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        scores = functional.normalize(video, dim=-1) @ functional.normalize(audio, dim=-1).T / self.temperature
        targets = torch.arange(len(scores))
        return (functional.cross_entropy(scores, targets) + functional.cross_entropy(scores.T, targets)) / 2

    def _stream(
        self, images: torch.Tensor, kind: str, stream: str
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """The final states `[N, len, D]`, a map `[N, P]` and a projected feature `[N, d]` a block."""
        count, patches = len(images), self.num_patches(images)
        states = self.vit.embeddings.patch_embeddings.projection(images).flatten(2).transpose(1, 2)
        class_token = self.vit.embeddings.cls_token.expand(count, -1, -1)
        states = torch.cat([class_token, states, self.background.expand(count, 1, -1)], dim=1)
        states = states + functional.interpolate(
            self.vit.embeddings.position_embeddings.transpose(1, 2), states.shape[1], mode="linear"
        ).transpose(1, 2)
        tokens = [self.token_attention[name](self.tokens[name].expand(count, -1, -1)) for name in (kind, "shared")]
        states = torch.cat([states, *tokens], dim=1)
        maps, features = [], []
        for layer, projection in zip(self.vit.layers, self.projections[stream], strict=True):
            attended, attention_map = self._attention(layer, layer.layernorm_before(states), patches)
            states = states + attended
            states = states + layer.mlp(layer.layernorm_after(states))
            maps.append(attention_map)
            features.append(projection(states[:, -len(self.tokens["shared"]) :].mean(1)))
        return self.vit.layernorm(states), maps, features

    def _attention(self, layer: nn.Module, states: torch.Tensor, patches: int) -> tuple[torch.Tensor, torch.Tensor]:
        attention = layer.attention
        shape = (*states.shape[:2], attention.num_attention_heads, attention.head_dim)
        query, key, value = (
            projection(states).view(shape).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        logits = query @ key.transpose(2, 3) * attention.scaling
        attended = (logits.softmax(-1) @ value).transpose(1, 2).reshape(states.shape)
        return attention.o_proj(attended), logits[:, :, 0, 1 : 1 + patches].mean(1).softmax(-1)
