# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The names and layouts of the reference implementation's weights in the golden files, and those of the package."""

import torch


BLOCK_NAMES = {
    "attn.proj": "attention.o_proj",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
# lavish.{stream}.{site}.{block}.{name} of a golden file
LAVISH_SITES = {"attention": 0, "mlp": 1}
LAVISH_NAMES = {
    "latents": "latents",
    "gate_tk": "gate_latents",
    "gate_av": "gate_states",
    "gate": "gate",
    "ln_before.weight": "norm_before.weight",
    "ln_before.bias": "norm_before.bias",
    "ln_post.weight": "norm_after.weight",
    "ln_post.bias": "norm_after.bias",
    "down_sampler.weight": "down.weight",
    "down_sampler": "down.weight",
    "up_sampler.weight": "up.weight",
    "up_sampler": "up.weight",
}


def adapter_weight(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """A weight of a LAVISH adapter under the package's name; empty for the unused gate of an audio adapter."""
    _, stream, site, block, weight = name.split(".", 4)
    ours = LAVISH_NAMES[weight]
    if ours == "gate" and stream == "audio":
        return {}
    if ours.startswith(("down", "up")):
        value = value.flatten(1)  # a 1x1 convolution has one or two trailing dimensions of size 1
    if ours.startswith("gate"):
        value = value.reshape(1)
    return {f"maavt.lavish_adapters.blocks.{block}.{stream}.{LAVISH_SITES[site]}.{ours}": value}


def to_ours(golden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names and layouts of a golden file (fused qkv, one projection per block, background-positive match head) to ours.

    Works for weights and for gradients alike: every step is linear.
    """
    ours = {}
    projections = {"audio": {}, "visual": {}}
    for name, value in golden.items():
        parts = name.split(".")
        rest = ".".join(parts[3:-1])
        if parts[0] == "tokens":
            ours[f"maavt.prompt.{parts[1]}_token{'' if parts[1] == 'background' else 's'}"] = value
        elif parts[0] == "lsa":
            ours[f"maavt.token_attention.{'.'.join(parts[1:])}"] = value
        elif parts[0] == "class_head":
            ours[f"classifier.{parts[1]}"] = value
        elif parts[0] == "match_head":
            ours[f"match_head.{parts[1]}"] = -value  # there positive is background, here matched
        elif parts[0] == "contrastive":
            index = int(parts[2]) if len(parts) == 4 else 0
            projections[parts[1]].setdefault(parts[-1], {})[index] = value
        elif name == "vit.cls_token":
            ours["maavt.prompt.cls_token"] = value
        elif name == "vit.pos_embed":
            ours["maavt.embeddings.position_embeddings"] = value
        elif parts[:2] == ["vit", "patch_embed"]:
            ours[f"maavt.embeddings.patch_embeddings.projection.{parts[-1]}"] = value
        elif parts[:2] == ["vit", "norm"]:
            ours[f"maavt.layernorm.{parts[-1]}"] = value
        elif parts[:2] == ["vit", "blocks"] and rest == "attn.qkv":
            for letter, third in zip("qkv", value.chunk(3), strict=True):
                ours[f"maavt.encoder.layers.{parts[2]}.attention.{letter}_proj.{parts[-1]}"] = third
        elif parts[:2] == ["vit", "blocks"] and rest in BLOCK_NAMES:
            ours[f"maavt.encoder.layers.{parts[2]}.{BLOCK_NAMES[rest]}.{parts[-1]}"] = value
        elif parts[0] == "lavish":
            ours |= adapter_weight(name, value)
        else:
            raise KeyError(f"unknown name {name!r} in a golden file")
    for stream, kinds in projections.items():
        for kind, by_block in kinds.items():
            stacked = torch.stack([by_block[index] for index in sorted(by_block)])
            ours[f"maavt.contrastive_head.{'video' if stream == 'visual' else 'audio'}.{kind}"] = stacked
    return ours
