# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A run of the real recipe that takes seconds: a random two-block ViT and clips whose class shows in color and pitch."""

import csv
from pathlib import Path

import numpy as np
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from processing.generate.clip_writing import write_clip


CLASSES = {"blue": ((30, 30, 220), 300.0), "green": ((30, 200, 30), 700.0), "red": ((220, 30, 30), 1500.0)}
SPLITS = ["train"] * 5 + ["validation"] * 2 + ["test"] * 2


def write_backbone(folder: Path) -> Path:
    """A stock `ViTForImageClassification` with its image processor, random weights."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=16,
        num_labels=3,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_clips(folder: Path, seconds: float = 0.5, splits: list[str] = SPLITS) -> Path:
    """`folder/metadata.csv` and its clips: one group per clip, columns file_name, label, split, group."""
    (folder / "clips").mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows = []
    for label, (color, pitch) in CLASSES.items():
        for i, split in enumerate(splits):
            frames = np.clip(generator.normal(color, 12, (int(seconds * 10), 32, 32, 3)), 0, 255).astype(np.uint8)
            times = np.arange(int(seconds * 16000)) / 16000
            sound = 0.3 * np.sin(2 * np.pi * pitch * times) + generator.normal(0, 0.02, len(times))
            name = f"clips/{label}{i}.mp4"
            write_clip(folder / name, frames, sound.astype(np.float32), fps=10, sampling_rate=16000)
            rows.append({"file_name": name, "label": label, "split": split, "group": f"{label}{i}"})
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def write_config(path: Path, clips: Path, backbone: Path) -> Path:
    """The YAML of the toy run."""
    path.write_text(
        f"""
model_name_or_path: {backbone}
data: {clips}
split: split
group: group
num_frames: 2
mismatch_probability: 0.4
processor:
  feature_extractor: {{num_bins: 32, num_frames: 48}}
model_config: {{num_audio_tokens: 2, num_visual_tokens: 2, num_shared_tokens: 2, token_init_std: 2e-2, contrastive_dim: 16}}
output_dir: {path.parent / "run"}
num_train_epochs: 3
per_device_train_batch_size: 4
per_device_eval_batch_size: 6
learning_rate: 5e-3
logging_steps: 1
use_cpu: true
disable_tqdm: true
report_to: none
bootstrap_samples: 50
""",
        encoding="utf-8",
    )
    return path
