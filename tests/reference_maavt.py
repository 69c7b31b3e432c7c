# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""MA-AVT with LAVISH adapters written down once more, plainly and in the layout of the golden files, to compare the model with.

No module of the package is used. Golden files are made from it (one frame and one spectrogram a clip, positions
"sequence", linear match head, no token self-attention), with weights, hidden states, outputs and gradients, in float64:
the adapters' unscaled softmax makes rounding visible.
"""

import torch
from torch.nn import functional


WIDTH, HEADS, BLOCKS, CLASSES, PATCH = 64, 4, 3, 7, 8
LATENTS, REDUCTION = 32, 16


def random_weights(tokens: tuple[int, int, int], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Weights under the names of the golden files; adapters under `lavish.<stream>.<site>.<block>`."""

    def normal(*shape, std=0.2, mean=0.0):
        return mean + std * torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = {
        "vit.cls_token": normal(1, 1, WIDTH),
        "vit.pos_embed": normal(1, 17, WIDTH),
        "vit.patch_embed.proj.weight": normal(WIDTH, 3, PATCH, PATCH, std=0.1),
        "vit.patch_embed.proj.bias": normal(WIDTH),
        "vit.norm.weight": normal(WIDTH, mean=1.0),
        "vit.norm.bias": normal(WIDTH),
        "tokens.background": normal(1, WIDTH),
        "class_head.weight": normal(CLASSES, 2 * WIDTH),
        "class_head.bias": normal(CLASSES),
        "match_head.weight": normal(1, 2 * WIDTH),
        "match_head.bias": normal(1),
    }
    for kind, count in zip(("audio", "visual", "shared"), tokens, strict=True):
        weights[f"tokens.{kind}"] = normal(count, WIDTH)
    for i in range(BLOCKS):
        block = f"vit.blocks.{i}"
        for name, rows, columns in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 2 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 2 * WIDTH),
        ):
            weights[f"{block}.{name}.weight"] = normal(rows, columns, std=0.1)
            weights[f"{block}.{name}.bias"] = normal(rows)
        for norm in ("norm1", "norm2"):
            weights[f"{block}.{norm}.weight"] = normal(WIDTH, mean=1.0)
            weights[f"{block}.{norm}.bias"] = normal(WIDTH)
        for stream in ("audio", "visual"):
            weights[f"contrastive.{stream}.{i}.weight"] = normal(16, WIDTH)
            weights[f"contrastive.{stream}.{i}.bias"] = normal(16)
            for site in ("attention", "mlp"):
                adapter = f"lavish.{stream}.{site}.{i}"
                weights[f"{adapter}.latents"] = normal(LATENTS, WIDTH)
                weights[f"{adapter}.gate_tk"] = normal(1, mean=1.0)
                weights[f"{adapter}.gate_av"] = normal(1)
                if stream == "visual":
                    weights[f"{adapter}.gate"] = normal(1)
                for norm in ("ln_before", "ln_post"):
                    weights[f"{adapter}.{norm}.weight"] = normal(WIDTH, mean=1.0)
                    weights[f"{adapter}.{norm}.bias"] = normal(WIDTH)
                weights[f"{adapter}.down_sampler.weight"] = normal(WIDTH // REDUCTION, WIDTH // 2, 1, 1, std=0.5)
                weights[f"{adapter}.up_sampler.weight"] = normal(WIDTH, WIDTH // REDUCTION // 2, 1, 1, std=0.5)
    return weights


def norm(x, w, name, eps=1e-6):
    return functional.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], eps)


def adapter(own, other, w, name):
    """Spec of one adapter for one clip: own `[len, D]`, other `[len', D]`."""
    latents = w[f"{name}.latents"]
    latents = latents + w[f"{name}.gate_tk"] * (latents @ other.T).softmax(-1) @ other
    own = own + w[f"{name}.gate_av"] * (own @ latents.T).softmax(-1) @ latents
    image = norm(own, w, f"{name}.ln_before", 1e-5).T[None, :, :, None]  # [1, D, len, 1]
    image = functional.conv2d(image, w[f"{name}.down_sampler.weight"], groups=2).relu()
    image = functional.conv2d(image, w[f"{name}.up_sampler.weight"], groups=2)
    change = norm(image[0, :, :, 0].T, w, f"{name}.ln_post", 1e-5)
    return change * w[f"{name}.gate"] if f"{name}.gate" in w else change


def attention(x, w, name):
    q, k, v = (
        part.view(len(x), HEADS, WIDTH // HEADS).transpose(0, 1)
        for part in (x @ w[f"{name}.qkv.weight"].T + w[f"{name}.qkv.bias"]).chunk(3, -1)
    )
    mixed = ((q @ k.transpose(1, 2)) * (WIDTH // HEADS) ** -0.5).softmax(-1) @ v
    return mixed.transpose(0, 1).reshape(len(x), WIDTH) @ w[f"{name}.proj.weight"].T + w[f"{name}.proj.bias"]


def mlp(x, w, name):
    hidden = functional.gelu(x @ w[f"{name}.fc1.weight"].T + w[f"{name}.fc1.bias"])
    return hidden @ w[f"{name}.fc2.weight"].T + w[f"{name}.fc2.bias"]


def embed(image, background, w):
    """`[3, H, W]` to `[cls | patches | bg?]`, positions resampled along the sequence."""
    patches = functional.conv2d(image[None], w["vit.patch_embed.proj.weight"], w["vit.patch_embed.proj.bias"], PATCH)
    pieces = [w["vit.cls_token"][0], patches[0].flatten(1).T, *([w["tokens.background"]] if background else [])]
    sequence = torch.cat(pieces)
    table = functional.interpolate(w["vit.pos_embed"].transpose(1, 2), len(sequence), mode="linear")
    return sequence + table[0].T


def clip_states(frame, sound, background, w):
    """One clip through all blocks: the two sequences entering every block, and after the last; unnormalized."""
    streams = [embed(frame, background, w), embed(sound.expand(3, -1, -1), background, w)]
    fixed = [len(stream) for stream in streams]
    streams = [
        torch.cat([stream, w[f"tokens.{kind}"], w["tokens.shared"]])
        for stream, kind in zip(streams, ("visual", "audio"), strict=True)
    ]
    states = [streams]
    for i in range(BLOCKS):
        for site, normalization, part in (("attention", "norm1", attention), ("mlp", "norm2", mlp)):
            video, audio = (stream[:length] for stream, length in zip(streams, fixed, strict=True))
            changes = [
                adapter(video, audio, w, f"lavish.visual.{site}.{i}"),
                adapter(audio, video, w, f"lavish.audio.{site}.{i}"),
            ]
            weights = f"vit.blocks.{i}.{'attn' if part is attention else 'mlp'}"
            after = []
            for stream, change in zip(streams, changes, strict=True):
                new = stream + part(norm(stream, w, f"vit.blocks.{i}.{normalization}"), w, weights)
                after.append(torch.cat([new[: len(change)] + change, new[len(change) :]]))
            streams = after
        states.append(streams)
    return states, fixed


def golden_tensors(
    tokens: tuple[int, int, int], sound_size: tuple[int, int], background: bool, seed: int = 0
) -> tuple[dict, dict[str, torch.Tensor]]:
    """Settings and tensors of a golden file."""
    generator = torch.Generator().manual_seed(seed)
    w = {name: value.requires_grad_() for name, value in random_weights(tokens, generator).items()}
    if not background:
        for name in ("tokens.background", "match_head.weight", "match_head.bias"):
            del w[name]
    frames = torch.randn(4, 1, 3, 32, 32, generator=generator, dtype=torch.float64)
    sounds = torch.randn(4, 1, *sound_size, generator=generator, dtype=torch.float64)
    labels = torch.tensor([3, -1, 0, 6]) if background else torch.tensor([3, 2, 0, 6])
    matched = labels >= 0

    clips = [clip_states(frames[n, 0], sounds[n, 0], background, w) for n in range(4)]
    fixed = clips[0][1]
    layers = [[torch.stack([states[i][s] for states, _ in clips]) for s in (0, 1)] for i in range(BLOCKS + 1)]
    final = [norm(stream, w, "vit.norm") for stream in layers[-1]]
    logits = torch.cat([stream[:, 0] for stream in final], -1) @ w["class_head.weight"].T + w["class_head.bias"]
    losses = {"fg_loss": functional.cross_entropy(logits[matched], labels[matched])}
    if background:
        ends = torch.cat([stream[:, length - 1] for stream, length in zip(final, fixed, strict=True)], -1)
        match = (ends @ w["match_head.weight"].T + w["match_head.bias"])[:, 0]
        losses["bg_loss"] = functional.binary_cross_entropy_with_logits(match, (~matched).double())
    per_layer = []
    for i in range(BLOCKS):
        z = [
            functional.normalize(
                stream[matched, -tokens[2] :].mean(1) @ w[f"contrastive.{kind}.{i}.weight"].T
                + w[f"contrastive.{kind}.{i}.bias"],
                dim=-1,
            )
            for stream, kind in zip(layers[i + 1], ("visual", "audio"), strict=True)
        ]
        scores, target = z[0] @ z[1].T / 0.07, torch.arange(int(matched.sum()))
        per_layer.append((functional.cross_entropy(scores, target) + functional.cross_entropy(scores.T, target)) / 2)
    losses["cnt_loss"] = torch.stack(per_layer).mean()
    loss = sum(losses.values())
    loss.backward()

    tensors = {"i.frames": frames, "i.audio": sounds, "i.labels": labels, "o.loss": loss, "o.p_fg": logits}
    tensors |= {f"o.{name}": value for name, value in losses.items()} | {"o.cnt_per_layer": torch.stack(per_layer)}
    tensors |= {"o.p_bg": match} if background else {}
    tensors |= {f"w.{name}": value for name, value in w.items()}
    for i, streams in enumerate(layers[:-1]):
        tensors |= {f"h.{i}.vis": streams[0], f"h.{i}.aud": streams[1]}
    tensors |= {"h.final_norm.vis": final[0], "h.final_norm.aud": final[1]}
    trained = [name for name in w if not name.startswith("vit.")] + ["vit.cls_token"]
    tensors |= {f"g.{name}": w[name].grad for name in trained}
    config = {
        "hidden_size": WIDTH,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": HEADS,
        "intermediate_size": 2 * WIDTH,
        "image_size": 32,
        "patch_size": PATCH,
        "layer_norm_eps": 1e-6,
        "num_labels": CLASSES,
        "num_audio_tokens": tokens[0],
        "num_visual_tokens": tokens[1],
        "num_shared_tokens": tokens[2],
        "token_self_attention": False,
        "background_mining": background,
        "background_label": -1 if background else None,
        "contrastive": "blockwise",
        "projection_dim": 16,
        "temperature": 0.07,
        "position_interpolation": "sequence",
        "lavish_adapters": True,
    }
    settings = {"config": config, "tolerance": {"atol": 1e-5, "rtol": 1e-4}}
    return settings, {name: value.detach().clone() for name, value in tensors.items()}
