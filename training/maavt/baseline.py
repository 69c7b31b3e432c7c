# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The baseline to beat: a logistic regression on the features of the same frozen backbone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader

from modeling_maavt import MAAVTModel
from processing.data.clip_dataset import ClipDataset
from processing.data.collators import AudioVisualCollator
from training.common.regression import fit_regression, regression_probabilities

from .arguments import Recipe, condition_level
from .data import RunData
from .evaluation import INPUTS, Predictions, described_pairs, score, shown_condition, table_cells


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
    features: dict[str, list] = {"video": [], "audio": [], "labels": []}
    segments = None
    if dataset.targets.kind == "segments":
        segments = dataset.targets.num_segments

    def rows(states: torch.Tensor) -> torch.Tensor:  # (B, S, D) to (B, D), or (B * S, D) where segments have labels
        if segments is None:
            states = states.mean(1)
        return states.reshape(-1, states.shape[-1]).float().cpu()

    # The class states of every clip, batch by batch.
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=AudioVisualCollator())
    for batch in loader:
        labels = batch["labels"]
        if segments is not None:
            labels = labels.flatten()
        features["labels"].append(labels)
        if "pixel_values_videos" in batch:
            pixels = batch["pixel_values_videos"].to(model.device)
            features["video"].append(rows(model(pixel_values_videos=pixels, num_segments=segments).video_class_state))
        if "input_features" in batch:
            spectrograms = batch["input_features"].to(model.device)
            features["audio"].append(rows(model(input_features=spectrograms).audio_class_state))
    return {name: torch.cat(parts).numpy() for name, parts in features.items() if parts}


def baseline_rows(recipe: Recipe, data: RunData, num_classes: int) -> list[dict]:
    """Rows of the table for the logistic regression, trained and tested on the very clips of the model.

    The regression sees the training audio with the noise of training; its penalty is chosen on the validation clips.
    """
    run = recipe.run
    backbone = untouched_backbone(recipe.model.model_name_or_path, recipe.model.revision).to(run.device)

    def features(split: str, noise, streams: Sequence[str]) -> dict:
        dataset = data.clips(split, noise_db=noise, modalities=tuple(streams))
        return frozen_features(backbone, dataset, run.per_device_eval_batch_size, run.dataloader_num_workers)

    # One regression for each input.
    modalities = recipe.data.modalities
    train, validation = (features(split, recipe.train_noise, modalities) for split in ("train", "validation"))
    fitted = {}
    for name, streams in INPUTS.items():
        if set(streams) <= set(modalities):
            fitted[name] = fit_regression(
                _join(train, streams), train["labels"], _join(validation, streams), validation["labels"]
            )

    # Its rows; the features of the frames are the same under every noise and computed once.
    pairs = described_pairs(data.clips("test"))
    rows, test, last_condition = [], {}, None
    for condition, name, streams in table_cells(recipe):
        if condition != last_condition:
            noisy = [stream for stream in modalities if stream == "audio" or stream not in test]
            if noisy:
                test |= features("test", condition_level(condition), noisy)
            last_condition = condition
        probabilities = regression_probabilities(fitted[name], _join(test, streams), num_classes)
        row = {"model": "logistic regression", "input": name, "noise": shown_condition(name, condition)}
        predictions = Predictions(probabilities, None, pairs)
        rows.append(row | score(predictions, None, recipe.evaluation.bootstrap_samples, run.seed))
    return rows


def _join(features: dict, streams: tuple[str, ...]) -> np.ndarray:
    return np.concatenate([features[stream] for stream in streams], axis=1)
