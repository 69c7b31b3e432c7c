# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Probes of a frozen DeepAVFusion encoder: logistic regression and nearest neighbors on its averaged final tokens."""

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn

from modeling_deepavfusion import DeepAVFusionModel
from training.common.regression import fit_regression

from .neighbors import STREAMS, neighbor_scores


INPUTS = {"both": ("pixel_values_videos", "input_features"), "video": ("pixel_values_videos",)}
INPUTS |= {"audio": ("input_features",)}
Clips = dict[
    str, torch.Tensor
]  # `pixel_values_videos` [n, S, 3, H, W], `input_features` [n, S, F, W], `labels` [n(, S)]


@torch.no_grad()
def averaged_states(
    encoder: DeepAVFusionModel, clips: Clips, inputs: tuple[str, ...], batch_size: int
) -> dict[str, torch.Tensor]:
    """The mean of each stream's final tokens, `[n, D]` of clips or `[n S, D]` of labeled windows; nothing is masked.

    Args:
        inputs: what the encoder is given; the stream of the other modality is absent.
    """
    found: dict[str, list[torch.Tensor]] = {}
    training, device = encoder.training, next(encoder.parameters()).device
    encoder.eval()
    for begin in range(0, len(clips["labels"]), batch_size):
        batch = {name: clips[name][begin : begin + batch_size].to(device) for name in inputs}
        windows = batch[inputs[0]].shape[:2]
        outputs = encoder(**batch, return_dict=True)
        for name in STREAMS:
            if (states := outputs.get(f"{name}_last_hidden_state")) is not None:
                found.setdefault(name, []).append(states.float().mean(1).unflatten(0, windows).cpu())
    encoder.train(training)
    return {name: by_label(torch.cat(parts), clips["labels"]) for name, parts in found.items()}


def by_label(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`[n, S, D]`: a row for each labeled window, or the mean over the windows of a labeled clip."""
    return values.flatten(0, 1) if labels.ndim == 2 else values.mean(1)


def probe_encoder(encoder: DeepAVFusionModel, sides: dict[str, Clips], batch_size: int) -> dict[str, float]:
    """Test accuracy of the linear probe by what the encoder is given, and `neighbor`: of the nearest other test example.

    Args:
        sides: clips of `train`, `validation` (which chooses the penalty) and `test`.
    """
    scores = {}
    for name, inputs in INPUTS.items():
        states = {side: averaged_states(encoder, clips, inputs, batch_size) for side, clips in sides.items()}
        rows = {side: torch.cat(list(found.values()), 1).numpy() for side, found in states.items()}
        scores[name] = probe_accuracy(rows, sides)
        if name == "both":
            units = {stream: nn.functional.normalize(values, dim=-1) for stream, values in states["test"].items()}
            scores["neighbor"] = neighbor_scores(units, sides["test"]["labels"].flatten())["all"]
    return scores


def probe_inputs(sides: dict[str, Clips], width: int) -> dict[str, float]:
    """The same of the inputs themselves, pixels and spectrograms as they are: their first `width` principal components."""
    scores = {}
    for name, inputs in INPUTS.items():
        plain = {
            side: torch.cat([by_label(clips[stream].flatten(2), clips["labels"]) for stream in inputs], 1).numpy()
            for side, clips in sides.items()
        }
        pca = PCA(min(width, *plain["train"].shape), svd_solver="randomized", random_state=0).fit(plain["train"])
        scores[name] = probe_accuracy({side: pca.transform(rows) for side, rows in plain.items()}, sides)
    return scores


def probe_accuracy(rows: dict[str, np.ndarray], sides: dict[str, Clips]) -> float:
    """Share of the test rows that a logistic regression gets right; its penalty is chosen on validation."""
    labels = {side: clips["labels"].flatten().numpy() for side, clips in sides.items()}
    probe = fit_regression(rows["train"], labels["train"], rows["validation"], labels["validation"])
    return float(probe.score(rows["test"], labels["test"]))


def most_frequent_class(sides: dict[str, Clips]) -> float:
    """Test accuracy of always naming the most frequent class of the training clips."""
    return (sides["test"]["labels"] == sides["train"]["labels"].flatten().mode().values).float().mean().item()
