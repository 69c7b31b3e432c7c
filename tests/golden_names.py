# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The names and layouts of the published weights, and ours."""

import re

import torch

from modeling_maavt import MAAVTConfig


STREAM_WORDS = {"audio": "audio", "aud": "audio", "a": "audio"} | dict.fromkeys(
    ("visual", "vis", "video", "image", "v"), "visual"
)
SITE_WORDS = dict.fromkeys(("attention", "attn", "msa", "first"), 0) | dict.fromkeys(("mlp", "ffn", "second"), 1)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", text.lower())


def adapter_role(name: str, value: torch.Tensor, config: MAAVTConfig) -> str:
    """Which tensor of a LAVISH adapter this is: by its shape, and where shapes are equal by its own name."""
    width, narrow = config.hidden_size, config.hidden_size // config.lavish_reduction
    parts = name.split(".")
    own = words(parts[-2] if parts[-1] in ("weight", "bias") else parts[-1])
    shape = tuple(value.shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    if value.numel() == 1:
        if any(word.startswith(("tk", "tok", "lat")) for word in own):
            return "gate_latents"
        return "gate_states" if any(word in ("av", "va", "cross", "states", "own", "seq") for word in own) else "gate"
    if shape == (narrow, width // config.lavish_groups):
        return "down.weight"
    if shape == (width, narrow // config.lavish_groups):
        return "up.weight"
    if shape[-2:] == (config.lavish_num_latents, width):
        return "latents"
    if shape == (width,):
        before = any(word.startswith(("bef", "pre", "in", "down")) or word == "1" for word in own)
        after = any(word.startswith(("aft", "post", "out", "up")) or word == "2" for word in own)
        if before != after:
            return f"norm_{'before' if before else 'after'}.{parts[-1]}"
    raise KeyError(f"unknown published name {name!r} of shape {tuple(value.shape)}")


def adapter_names(published: dict[str, torch.Tensor], config: MAAVTConfig) -> dict[str, str]:
    """Published names of LAVISH adapter weights to ours.

    No published file names them for us, so as little as possible is assumed: a name says the stream in a word (`audio`,
    `aud`, `visual`, `vis`, `video`), the block in a number, and the site in another number (in ascending order) or in a
    word (`attn`, `attention`, `first`; `mlp`, `ffn`, `second`). The tensor is known by `adapter_role`.
    """
    found = {}
    for name, value in published.items():
        depth = -2 if name.endswith((".weight", ".bias")) else -1
        where = words(".".join(name.split(".")[:depth]))
        stream = next((STREAM_WORDS[word] for word in reversed(where) if word in STREAM_WORDS), None)
        if stream is None:
            raise KeyError(f"unknown published name {name!r}")
        site = tuple(SITE_WORDS[word] for word in where if word in SITE_WORDS)
        numbers = tuple(int(word) for word in where if word.isdigit())
        found[name] = (stream, site, numbers, adapter_role(name, value, config))
    if not found:
        return {}
    columns = [sorted(set(column)) for column in zip(*(numbers for _, _, numbers, _ in found.values()), strict=True)]
    block = next((i for i, column in enumerate(columns) if len(column) == config.num_hidden_layers), None)
    names = {}
    for name, (stream, site, numbers, role) in found.items():
        rest = [columns[i].index(number) for i, number in enumerate(numbers) if i != block and len(columns[i]) == 2]
        if block is None or not (*site, *rest):
            raise KeyError(f"{name!r}: the name does not tell the block, or not which of its two adapters this is")
        index = (*site, *rest)[0]
        names[name] = f"maavt.lavish_adapters.blocks.{columns[block].index(numbers[block])}.{stream}.{index}.{role}"
    if len(set(names.values())) != len(names):
        raise KeyError(f"two published names for one tensor among {sorted(names)}")
    return names


def to_ours(published: dict[str, torch.Tensor], config: MAAVTConfig) -> dict[str, torch.Tensor]:
    """Published names and layouts (fused qkv, one projection per block, background-positive match head) to ours.

    Works for weights and for gradients alike: every step is linear. Adapter weights of another rank (1x1 convolutions,
    scalars) are reshaped to ours.
    """
    ours, others = {}, {}
    projections = {"audio": {}, "visual": {}}
    block_parts = {
        "attn.proj": "attention.o_proj",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for name, value in published.items():
        parts = name.split(".")
        rest = ".".join(parts[3:-1])
        if parts[0] == "tokens":
            ours[f"maavt.prompt.{parts[1]}_token{'' if parts[1] == 'background' else 's'}"] = value
        elif parts[0] == "lsa":
            ours[f"maavt.token_attention.{'.'.join(parts[1:])}"] = value
        elif parts[0] == "class_head":
            ours[f"classifier.{parts[1]}"] = value
        elif parts[0] == "match_head":
            ours[f"match_head.{parts[1]}"] = -value  # published: positive is background; ours: positive is matched
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
        elif parts[:2] == ["vit", "blocks"] and rest in block_parts:
            ours[f"maavt.encoder.layers.{parts[2]}.{block_parts[rest]}.{parts[-1]}"] = value
        elif config.lavish_adapters:
            others[name] = value
        else:
            raise KeyError(f"unknown published name {name!r}")
    for side, kinds in projections.items():
        for kind, by_block in kinds.items():
            stacked = torch.stack([by_block[index] for index in sorted(by_block)])
            ours[f"maavt.contrastive_head.{'video' if side == 'visual' else 'audio'}.{kind}"] = stacked
    for name, target in adapter_names(others, config).items():
        value = others[name]
        if value.numel() == 1:
            value = value.reshape(1)
        elif target.endswith("latents"):
            value = value.reshape(-1, config.hidden_size)
        elif value.ndim > 1:
            value = value.flatten(1)
        if not (target.endswith(".gate") and ".audio." in target):  # stored by some, used by none
            ours[target] = value
    return ours
