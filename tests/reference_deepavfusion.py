# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion read literally: all pairs are formed, and the ViT blocks update the fusion tokens and throw the update away.

Written from the description under the published names, so that its state dict is a published file. Slow on purpose.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


def attention(query, key, value, heads: int, scale: float) -> torch.Tensor:
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return scaled_dot_product_attention(query, key, value, scale=scale).transpose(1, 2).flatten(2)


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        return self.proj(attention(*self.qkv(x).chunk(3, -1), self.heads, self.scale))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, eps: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attn, self.mlp = SelfAttention(width, heads), MLP(width, hidden)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x, memory):
        return self.proj(attention(self.q(x), *self.kv(memory).chunk(2, -1), self.heads, self.scale))


def all_pairs(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """`[B, i, D]` and `[B, j, D]` to `[B, i * j, 2 D]`."""
    i, j = first.shape[1], second.shape[1]
    return torch.cat([first[:, :, None].expand(-1, -1, j, -1), second[:, None].expand(-1, i, -1, -1)], -1).flatten(
        1, 2
    )


class TokenAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, inner = config.hidden_size, config.fusion_width
        self.heads, self.scale = config.num_attention_heads, (inner // config.num_attention_heads) ** -0.5
        self.q, self.kv, self.proj = nn.Linear(width, inner), nn.Linear(width, 2 * inner), nn.Linear(inner, width)

    def forward(self, f, image, audio):
        memory = torch.cat([audio, image], 1)
        return self.proj(attention(self.q(f), *self.kv(memory).chunk(2, -1), self.heads, self.scale))


class DenseAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, inner = config.hidden_size, config.fusion_width
        self.heads, self.scale = config.num_attention_heads, (width // config.num_attention_heads) ** -0.5
        self.q, self.kv, self.proj = nn.Linear(width, inner), nn.Linear(2 * width, 2 * inner), nn.Linear(inner, width)

    def forward(self, f, image, audio):
        pairs = all_pairs(audio, image)
        return self.proj(attention(self.q(f), *self.kv(pairs).chunk(2, -1), self.heads, self.scale))


class FactorizedAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, inner, heads = config.hidden_size, config.fusion_width, config.num_attention_heads
        self.counts, self.heads, self.scale = config.token_counts, heads, (width // heads) ** -0.5
        self.attn_v, self.attn_a = CrossAttention(width, heads), CrossAttention(width, heads)
        self.q, self.k, self.v = nn.Linear(width, inner), nn.Linear(2 * width, inner), nn.Linear(2 * width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, f, image, audio):
        fusion, visual, auditory = f.split(self.counts, 1)
        visual, auditory = self.attn_v(visual, image), self.attn_a(auditory, audio)
        pairs = all_pairs(visual, auditory)
        read = attention(self.q(fusion), self.k(pairs), self.v(pairs), self.heads, self.scale)
        return torch.cat([self.proj(read), visual, auditory], 1)


ATTENTIONS = {"token": TokenAttention, "dense": DenseAttention, "factorized": FactorizedAttention}


class FusionBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, eps = config.hidden_size, config.fusion_layer_norm_eps
        self.norm1_mm, self.norm1_img = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.norm1_aud, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attn = ATTENTIONS[config.fusion_type](config)
        self.mlp = MLP(width, int(config.fusion_mlp_ratio * width))
        self.crosswise = config.fusion_type == "token"

    def forward(self, f, image, audio):
        f = self.norm1_mm(f)
        if self.crosswise:
            image, audio = self.norm1_aud(image), self.norm1_img(audio)
        else:
            image, audio = self.norm1_img(image), self.norm1_aud(audio)
        f = f + self.attn(f, image, audio)
        return f + self.mlp(self.norm2(f))


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    def __init__(self, config, channels: int, num_patches: int):
        super().__init__()
        width = config.hidden_size
        self.patch_embed = PatchEmbed(channels, width, config.patch_size)
        self.pos_embed = nn.Parameter(torch.randn(1, num_patches, width) / 4)
        sizes = (width, config.num_attention_heads, config.intermediate_size, config.layer_norm_eps)
        self.blocks = nn.ModuleList([Block(*sizes) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def patches(self, x, ids_keep):
        x = self.patch_embed(x) + self.pos_embed
        return x if ids_keep is None else torch.stack([row[ids] for row, ids in zip(x, ids_keep, strict=True)])


class Encoder(nn.Module):
    """The encoder. Weights are random throughout: no zero bias, no unit LayerNorm that would hide a mistake."""

    def __init__(self, config):
        super().__init__()
        self.image = ViT(config, config.num_channels, config.image_grid[0] * config.image_grid[1])
        self.audio = ViT(config, config.audio_num_channels, config.audio_grid[0] * config.audio_grid[1])
        self.fusion_tokens = nn.Parameter(torch.randn(1, sum(config.token_counts), config.hidden_size))
        blocks = {str(layer): FusionBlock(config) for layer in config.fused_layers}
        self.fusion_blocks = nn.ModuleDict(blocks)
        self.fusion_norm = nn.LayerNorm(config.hidden_size, eps=config.fusion_layer_norm_eps)
        randomize(self)

    def forward(self, image, audio, image_ids_keep=None, audio_ids_keep=None):
        image, audio = self.image.patches(image, image_ids_keep), self.audio.patches(audio, audio_ids_keep)
        f = self.fusion_tokens.expand(len(image), -1, -1)
        n = f.shape[1]
        for layer, (image_block, audio_block) in enumerate(zip(self.image.blocks, self.audio.blocks, strict=True)):
            if str(layer) in self.fusion_blocks:
                new_image = image_block(torch.cat([f, image], 1))[:, n:]
                new_audio = audio_block(torch.cat([f, audio], 1))[:, n:]
                f = self.fusion_blocks[str(layer)](f, image, audio)
                image, audio = new_image, new_audio
            else:
                image, audio = image_block(image), audio_block(audio)
        return self.image.norm(image), self.audio.norm(audio), self.fusion_norm(f)


class PreTraining(nn.Module):
    """Encoder and decoders: mask tokens in place of hidden patches, one decoder a modality."""

    def __init__(self, config):
        super().__init__()
        self.patch = config.patch_size
        self.encoder = Encoder(config)
        width, patch = config.decoder_hidden_size, config.patch_size**2
        sizes = (config.decoder_num_attention_heads, config.decoder_intermediate_size, config.decoder_layer_norm_eps)
        for name, channels, grid in (
            ("image", config.num_channels, config.image_grid),
            ("audio", config.audio_num_channels, config.audio_grid),
        ):
            parts = {
                "embed": nn.Linear(config.hidden_size, width),
                "blocks": nn.ModuleList([Block(width, *sizes) for _ in range(config.decoder_num_hidden_layers)]),
                "norm": nn.LayerNorm(width, eps=config.decoder_layer_norm_eps),
                "pred": nn.Linear(width, patch * channels),
                "mask_token": nn.Parameter(torch.zeros(1, 1, width)),
                "pos_embed": nn.Parameter(torch.zeros(1, grid[0] * grid[1], width)),
            }
            for part, module in parts.items():
                setattr(self, f"{name}_decoder_{part}", module)
        randomize(self)

    def forward(self, image, audio, image_noise, audio_noise, num_kept: tuple[int, int]):
        """Both losses and both reconstructions."""
        order = [noise.argsort(1) for noise in (image_noise, audio_noise)]
        keep = [ids[:, :kept] for ids, kept in zip(order, num_kept, strict=True)]
        *patches, fusion = self.encoder(image, audio, *keep)
        results = []
        for name, x, ids, source in zip(("image", "audio"), patches, order, (image, audio), strict=True):
            predicted = self.decode(name, x, fusion, ids)
            loss = []
            for row, permutation, picture in zip(predicted, ids, source, strict=True):
                for index in permutation[x.shape[1] :]:
                    columns = picture.shape[-1] // self.patch
                    r, c = int(index) // columns * self.patch, int(index) % columns * self.patch
                    target = picture[:, r : r + self.patch, c : c + self.patch].permute(1, 2, 0).flatten()
                    target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
                    loss.append((row[index] - target).square().mean())
            results += [torch.stack(loss).mean(), predicted]
        return results

    def decode(self, name, patches, fusion, ids):
        def part(key):
            return getattr(self, f"{name}_decoder_{key}")

        x = part("mask_token").repeat(len(patches), ids.shape[1], 1)
        for row, (ids_row, visible) in enumerate(zip(ids, part("embed")(patches), strict=True)):
            x[row, ids_row[: len(visible)]] = visible
        x = torch.cat([part("embed")(fusion), x + part("pos_embed")], 1)
        for block in part("blocks"):
            x = block(x)
        return part("pred")(part("norm")(x[:, fusion.shape[1] :]))


@torch.no_grad()
def randomize(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        parameter.add_(torch.randn_like(parameter) * (0.3 if "norm" in name or "mask" in name else 0.1))
