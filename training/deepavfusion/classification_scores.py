# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of clips for DeepAVFusion's classification, of the model and of what it has to beat, and their figures."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from processing.data.clip_dataset import ClipDataset
from processing.metrics.classification import ClassReport
from training.common.regression import fit_regression, regression_probabilities
from training.trainer.audio_visual_trainer import class_metrics, multi_label_metrics

from .neighbors import STREAMS, pooled_states
from .task_runs import predict


def clip_scores(
    model: PreTrainedModel, dataset: torch.utils.data.Dataset, batch_size: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Logits `[n, C]`, of the mean (`logits`) and of each head, averaged over a clip's windows; and the labels.

    Every clip counts once, whatever the batches.
    """
    names = ("logits", *(f"{stream}_logits" for stream in STREAMS))
    found: dict[str, list] = {name: [] for name in names}
    labels = []
    for _, example, output in predict(model, dataset, batch_size):
        labels.append(np.asarray(example["labels"]))
        for name in names:
            found[name].append(output[name].float().numpy())
    return {name: np.stack(values) for name, values in found.items()}, np.stack(labels)


def measured(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`top1` and `macro_f1` for class indices `[n]`, `map` and `mauc` for multi-hot labels `[n, C]`."""
    if labels.ndim == 2:
        return multi_label_metrics(scores, labels)
    figures = class_metrics(scores, labels)
    return {name: figures[name] for name in ("top1", "macro_f1")}


def class_shares(table, num_classes: int) -> torch.Tensor:
    """Share `[C]` of the clips that have each class."""
    labels = table["label"]
    counts = torch.zeros(num_classes)
    for label in labels:
        counts[torch.as_tensor(label)] += 1
    return counts / max(len(labels), 1)


def regression_scores(
    model: PreTrainedModel, sides: list[ClipDataset], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities `[n, C]` and labels of the last of three sides by a logistic regression on the encoder's pooled states.

    Args:
        model: its encoder as it stands; the mean states of picture, sound and fusion tokens are joined.
        sides: to fit on, to choose the penalty on, to score.
    """
    found = []
    for side in sides:
        states, labels = pooled_states(model, side, batch_size)
        found.append((torch.cat([states[name] for name in STREAMS], 1).numpy(), labels.numpy()))
    regression = fit_regression(*found[0], *found[1])
    return regression_probabilities(regression, found[2][0], model.num_labels), found[2][1]


def save_confusion(path: Path, scores: np.ndarray, labels: np.ndarray, classes: list[str]) -> None:
    """The confusion matrix as a picture, where matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        print('confusion.png: matplotlib is not installed, not drawn; pip install "maavt[plots]"', flush=True)
        return
    from training.common.plots import confusion_figure, save_figure

    report = ClassReport().compute(predictions=scores.argmax(-1), references=labels, label_names=classes)
    os.makedirs(path.parent, exist_ok=True)
    save_figure(confusion_figure({"input": "both", "noise": "clean", **report}), path)
