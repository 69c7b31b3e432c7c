# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The baseline to beat: a logistic regression on the features of the same frozen backbone."""

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import DataLoader

from modeling_maavt import MAAVTModel
from processing.data.clip_dataset import ClipDataset
from processing.data.collators import AudioVisualCollator
from training.common.regression import fit_regression, regression_probabilities

from .arguments import condition_level
from .evaluation import INPUTS, Predictions, described_pairs, score


def untouched_backbone(name: str, revision: str | None = None) -> MAAVTModel:
    """The backbone as it was before training: no learned tokens, nothing adapted."""
    tokens = {"num_audio_tokens": 0, "num_visual_tokens": 0, "num_shared_tokens": 0}
    model = MAAVTModel.from_pretrained(
        name,
        revision=revision or "main",
        **tokens,
        token_self_attention=False,
        background_mining=False,
        contrastive=None,
    )
    return model.eval()


@torch.inference_mode()
def frozen_features(model: MAAVTModel, dataset: ClipDataset, batch_size: int, num_workers: int) -> dict:
    """Class token after the final LayerNorm, averaged over frames: `video` and `audio` [n, D], `labels` [n].

    Clips whose segments have labels give a row for each segment.
    """
    found: dict[str, list] = {"video": [], "audio": [], "labels": []}

    segments = dataset.targets.num_segments if dataset.targets.kind == "segments" else None

    def rows(states: torch.Tensor) -> torch.Tensor:
        return (states.mean(1) if segments is None else states.flatten(0, 1)).float().cpu()

    loader = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=AudioVisualCollator())
    for batch in loader:
        labels = batch["labels"]
        found["labels"].append(labels.flatten() if dataset.targets.kind == "segments" else labels)
        if "pixel_values_videos" in batch:
            pixels = batch["pixel_values_videos"].to(model.device)
            found["video"].append(rows(model(pixel_values_videos=pixels, num_segments=segments).video_class_state))
        if "input_features" in batch:
            sound = batch["input_features"].to(model.device)
            found["audio"].append(rows(model(input_features=sound).audio_class_state))
    return {name: torch.cat(parts).numpy() for name, parts in found.items() if parts}


def baseline_rows(
    model: MAAVTModel,
    make_dataset: Callable[..., ClipDataset],
    num_classes: int,
    *,
    conditions: list[str],
    train_noise: tuple[float, ...] | float | None,
    modalities: list[str],
    batch_size: int,
    num_workers: int,
    bootstrap_samples: int,
    seed: int,
) -> list[dict]:
    """Rows of the table for the logistic regression, trained and tested on the very clips of the model.

    `make_dataset(split, noise_db=..., modalities=...)` gives matched pairs without augmentation. The regression sees the
    training sound with the noise of training; its penalty is chosen on the validation clips.
    """

    def features(split: str, noise, streams=tuple(modalities)) -> dict:
        return frozen_features(model, make_dataset(split, noise_db=noise, modalities=streams), batch_size, num_workers)

    train, validation = (features("train", train_noise), features("validation", train_noise))
    fitted = {}
    for name, streams in INPUTS.items():
        if set(streams) <= set(modalities):
            fitted[name] = fit_regression(
                _join(train, streams), train["labels"], _join(validation, streams), validation["labels"]
            )
    tested = make_dataset("test")
    pairs = described_pairs(tested)
    rows, clean = [], None
    for condition in conditions:
        test = features(
            "test", condition_level(condition), ("audio",) if clean and "audio" in modalities else modalities
        )
        clean = clean or test
        test = {**clean, **test}  # the pictures are the same under every noise
        for name, regression in fitted.items():
            if name == "video" and condition != conditions[0]:
                continue
            probabilities = regression_probabilities(regression, _join(test, INPUTS[name]), num_classes)
            found = Predictions(probabilities, None, pairs)
            shown = "any" if name == "video" else condition
            row = {"model": "logistic regression", "input": name, "noise": shown}
            rows.append(row | score(found, None, bootstrap_samples, seed))
    return rows


def _join(features: dict, streams: tuple[str, ...]) -> np.ndarray:
    return np.concatenate([features[stream] for stream in streams], axis=1)
