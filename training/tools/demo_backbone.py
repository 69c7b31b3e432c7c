# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The demo's backbone: a tiny ViT of transformers, trained on frames of the training clips and saved like any other.

python -m training.tools.demo_backbone --data DIR --out DIR
"""

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from processing.clips import ClipRequest, load_clip
from processing.data.atomic_writing import atomic_folder, file_digest
from processing.data.clip_tables import build_clip_table
from training.common.commands import run_command


VERSION = 1  # raise it when the recipe changes, so that older backbones are trained again
RECORD = "demo_backbone.json"


@dataclass(frozen=True)
class BackboneSettings:
    """Size and recipe of the tiny ViT; frames are `image_size` pixels square."""

    image_size: int = 32
    patch_size: int = 8
    hidden_size: int = 96
    num_layers: int = 4
    num_heads: int = 4
    num_steps: int = 800
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    extra_noise: float = 0.15
    frames_per_clip: int = 8
    seed: int = 0


def train_backbone(
    data: str | os.PathLike, folder: str | os.PathLike, settings: BackboneSettings | None = None
) -> dict[str, Any]:
    """Train on the training clips' frames and save model and image processor, unless they are there and current.

    Args:
        data: the demo's folder (or any folder of clips with a split).
        folder: for the backbone alone.
        settings: default `BackboneSettings()`.

    Returns:
        what was measured: `train_accuracy` and `validation_accuracy` of single frames, `num_parameters`.

    Raises:
        ValueError: the folder holds something else, or there is no such data.
    """
    # A backbone of the same clips and the same recipe is used again.
    folder, settings = Path(folder), settings or BackboneSettings()
    key = _key(Path(data), settings)
    record = read_record(folder)
    if record is not None and record["key"] == key:
        return record["measured"]
    if folder.exists() and any(folder.iterdir()) and not (folder / RECORD).exists():
        raise ValueError(f"{folder}: holds something that is not the demo's backbone; give an empty or a new folder")
    # Frames, a model from nothing, training, accuracy of single frames.
    table, _ = build_clip_table(data, check="none")
    processor = ViTImageProcessor(size={"height": settings.image_size, "width": settings.image_size})
    frames, labels = {}, {}
    for split in ("train", "validation"):
        frames[split] = _frames(table[split], processor, settings.frames_per_clip)
        labels[split] = torch.tensor(table[split]["label"])
    names = table["train"].features["label"].names
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = _tiny_vit(names, settings)
        _train(model, frames["train"], labels["train"], settings)
    measured = {f"{split}_accuracy": _accuracy(model, frames[split], labels[split]) for split in frames}
    measured["num_parameters"] = model.num_parameters()
    _save(folder, model, processor, {"key": key, "settings": asdict(settings), "measured": measured})
    return measured


def read_record(folder: str | os.PathLike) -> dict[str, Any] | None:
    """What the backbone's folder says of itself, or None where a file is missing or has other bytes."""
    folder = Path(folder)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        whole = all(file_digest(folder / name) == digest for name, digest in record["files"].items())
        return record if whole and record["files"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def sine_positions(grid: int, width: int) -> torch.Tensor:
    """Sines and cosines of row and column at geometric wavelengths -> `[grid * grid, width]` (Vaswani et al. 2017)."""
    frequencies = 100 ** -(torch.arange(width // 4) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (rows, columns)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


def _tiny_vit(names: Sequence[str], settings: BackboneSettings) -> ViTForImageClassification:
    # A configuration that any ViT of transformers could have.
    config = ViTConfig(
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        intermediate_size=4 * settings.hidden_size,
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        layer_norm_eps=1e-6,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    model = ViTForImageClassification(config)
    grid = settings.image_size // settings.patch_size
    # A thousand frames are too few to learn a table of positions from nothing (accuracy 0.34 against 0.67).
    model.vit.embeddings.position_embeddings.data[0, 1:] = sine_positions(grid, settings.hidden_size)
    return model


def _train(model: torch.nn.Module, frames: torch.Tensor, labels: torch.Tensor, settings: BackboneSettings) -> None:
    """Random frames `[N, T, 3, H, W]` with added noise, AdamW, one learning rate cycle."""
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.num_steps, pct_start=0.15
    )
    model.train()
    for _ in tqdm(range(settings.num_steps), desc="training the demo's backbone", disable=None):
        clips = torch.randint(len(frames), (settings.batch_size,))
        batch = frames[clips, torch.randint(frames.shape[1], clips.shape)]  # (B, 3, H, W)
        cells = torch.randn(len(batch), 1, 8, 8)  # the digits have 8 x 8 points
        noise = torch.nn.functional.interpolate(cells, size=batch.shape[-2:])
        logits = model(batch + settings.extra_noise * noise).logits
        loss = torch.nn.functional.cross_entropy(logits, labels[clips], label_smoothing=settings.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def _accuracy(model: torch.nn.Module, frames: torch.Tensor, labels: torch.Tensor) -> float:
    guesses = [model(part.flatten(0, 1)).logits.argmax(-1).view(len(part), -1) for part in frames.split(64)]
    return (torch.cat(guesses) == labels[:, None]).float().mean().item()


def _frames(table: Any, processor: ViTImageProcessor, count: int) -> torch.Tensor:
    """`[N, T, 3, H, W]`, processed as a ViT's input is."""
    clips = []
    for row in tqdm(table, desc="reading the demo's frames", disable=None):
        request = ClipRequest(row["start"], row["end"], num_frames=count, streams=("video",))
        frames = load_clip(row["video"], request).frames
        clips.append(processor(list(frames), return_tensors="pt")["pixel_values"])
    return torch.stack(clips)


def _save(folder: Path, model: ViTForImageClassification, processor: ViTImageProcessor, record: dict) -> None:
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        record["files"] = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
        (temporary / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _key(data: Path, settings: BackboneSettings) -> str:
    """Changes with the clips, the recipe and its settings."""
    listing = next((data / name for name in ("manifest.json", "metadata.csv") if (data / name).is_file()), None)
    if listing is None:
        raise ValueError(
            f"{data}: no metadata.csv; make the demo first: python -m processing.generate.demo_clips --out {data}"
        )
    return hashlib.sha256(f"{VERSION} {asdict(settings)} {file_digest(listing)}".encode()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the backbone and say how good it is."""
    parser = argparse.ArgumentParser(
        prog="python -m training.tools.demo_backbone", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", required=True, help="folder of the demo")
    parser.add_argument("--out", required=True, help="folder of the backbone")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    measured = train_backbone(options.data, options.out, BackboneSettings(seed=options.seed))
    print(f"{options.out}: " + ", ".join(f"{name} {value:.3g}" for name, value in measured.items()))


if __name__ == "__main__":
    run_command(main)
