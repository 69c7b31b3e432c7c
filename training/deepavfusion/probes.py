# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Probes of a DeepAVFusion encoder on the averages of its final tokens: logistic regression and nearest neighbors."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, TrainerCallback, TrainerState

from modeling_deepavfusion import DeepAVFusionModel
from processing.data.collators import AudioVisualCollator
from processing.metrics import IGNORED_LABEL
from processing.metrics.multilabel import MultiLabelScore
from training.common.regression import fit_regression


STREAMS = ("image", "audio", "fusion")
DRAWS = 5  # of the few training examples
INPUTS = {
    "both": ("pixel_values_videos", "input_features"),
    "video": ("pixel_values_videos",),
    "audio": ("input_features",),
}
# `pixel_values_videos` [n, S, 3, H, W], `input_features` [n, S, F, W], `labels` [n] of clips or [n, S] of segments
Clips = dict[str, torch.Tensor]


@torch.no_grad()
def stream_means(encoder: DeepAVFusionModel, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Mean of each stream's final tokens `[B, S, D]`; nothing is masked. The stream of an absent modality is absent."""
    device = next(encoder.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    windows = next(iter(inputs.values())).shape[:2]
    training = encoder.training
    outputs = encoder.eval()(**inputs, return_dict=True)
    encoder.train(training)
    # The mean over tokens, for every window.
    means = {}
    for stream in STREAMS:
        states = outputs.get(f"{stream}_last_hidden_state")  # (B S, P, D)
        if states is not None:
            means[stream] = states.float().mean(1).unflatten(0, windows).cpu()  # (B, S, D)
    return means


def joined(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The batches' tensors, one after the other, by stream."""
    return {stream: torch.cat([part[stream] for part in parts]) for stream in parts[0]}


# A data set of clips: unit vectors


def pooled_states(
    model: PreTrainedModel, dataset: Dataset, batch_size: int, num_workers: int = 0
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Unit vectors `[n, D]` of every stream, the mean over tokens and windows, and the labels.

    Args:
        model: with an encoder `deepavfusion`.
        dataset: clips with both modalities.
    """
    parts, labels = [], []
    for batch in DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=AudioVisualCollator()):
        means = stream_means(model.deepavfusion, {name: batch[name] for name in INPUTS["both"]})
        parts.append({stream: nn.functional.normalize(states.mean(1), dim=-1) for stream, states in means.items()})
        labels.append(batch["labels"])
    return joined(parts), torch.cat(labels)


def neighbor_scores(features: dict[str, torch.Tensor], labels: torch.Tensor) -> dict[str, float]:
    """Share of clips whose nearest other clip by cosine has their class: by stream, and by the sum of the streams (`all`).

    With several labels a clip it is the mAP of the neighbor's labels, weighed by its similarity.

    Args:
        features: unit vectors `[n, D]` by stream.
        labels: `[n]` class indices (rows of -100 are not used), or multi-hot `[n, C]`.
    """
    if labels.ndim == 1:
        features = {name: vectors[labels != IGNORED_LABEL] for name, vectors in features.items()}
        labels = known_labels(labels)
    # Cosines of all pairs, (n, n); a clip is not its own neighbor.
    similarities = {name: vectors @ vectors.T for name, vectors in features.items()}
    similarities["all"] = sum(similarities.values())
    scores = {}
    for name, similarity in similarities.items():
        nearest = similarity.clone().fill_diagonal_(-torch.inf).max(1)
        if labels.ndim == 1:
            scores[name] = (labels[nearest.indices] == labels).float().mean().item()
        else:
            # Several labels a clip: the neighbor's labels are the prediction.
            predictions = labels[nearest.indices].float() * nearest.values[:, None]
            scores[name] = MultiLabelScore().compute(predictions=predictions.numpy(), references=labels.numpy())["map"]
    return scores


class NeighborProbe(TrainerCallback):
    """Runs the nearest-neighbor probe every `epochs` epochs and at the end; `history` holds the scores by epoch.

    Args:
        dataset: the test clips, compared with each other.
        epochs: 0 for the end alone.
    """

    def __init__(self, dataset: Dataset, epochs: int, batch_size: int, num_workers: int = 0):
        self.dataset, self.epochs = dataset, epochs
        self.batch_size, self.num_workers = batch_size, num_workers
        self.history: dict[int, dict[str, float]] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        # A resumed run goes on with what the checkpoint's log has.
        self.history = {
            round(entry["epoch"]): entry["neighbors"] for entry in state.log_history if "neighbors" in entry
        }

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        epoch = round(state.epoch)
        if self.epochs and epoch % self.epochs == 0:
            self.run(model, state)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if round(state.epoch) not in self.history:
            self.run(model, state)

    def run(self, model: PreTrainedModel, state: TrainerState) -> None:
        epoch = round(state.epoch)
        scores = neighbor_scores(*pooled_states(model, self.dataset, self.batch_size, self.num_workers))
        self.history[epoch] = scores
        state.log_history.append({"epoch": state.epoch, "step": state.global_step, "neighbors": scores})
        shown = ", ".join(f"{stream} {score:.3f}" for stream, score in scores.items())
        print(f"epoch {epoch}: nearest neighbor {shown}", flush=True)


# Clips in memory: the linear probe


def averaged_states(
    encoder: DeepAVFusionModel, clips: Clips, inputs: tuple[str, ...], batch_size: int
) -> dict[str, torch.Tensor]:
    """The mean of each stream's final tokens, `[n, D]` of clips or of labeled segments; those of -100 are not among them.

    Args:
        inputs: what the encoder is given; the stream of the other modality is absent.
    """
    parts = []
    for begin in range(0, len(clips["labels"]), batch_size):
        parts.append(stream_means(encoder, {name: clips[name][begin : begin + batch_size] for name in inputs}))
    return {stream: by_label(states, clips["labels"]) for stream, states in joined(parts).items()}


def by_label(states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`[n, S, D]` to a row for each labeled segment, or to the mean over the windows of a labeled clip.

    The rows are in the order of `known_labels`.
    """
    rows = states.mean(1)  # (n, D)
    if labels.ndim == 2:
        rows = states.flatten(0, 1)  # (n S, D)
    return rows[labels.flatten() != IGNORED_LABEL]


def known_labels(labels: torch.Tensor) -> torch.Tensor:
    """The class indices of `[n]` clips or `[n, S]` segments in one row, without -100."""
    return labels[labels != IGNORED_LABEL]


def probe_encoder(
    encoder: DeepAVFusionModel, splits: dict[str, Clips], batch_size: int, few: Sequence[int] = ()
) -> dict[str, float]:
    """Test accuracy of the linear probe by what the encoder is given, and `neighbor`: of the nearest other test example.

    Args:
        splits: clips of `train`, `validation` (which chooses the penalty) and `test`.
        few: numbers of training examples a class, for further probes.
    """
    scores = {}
    for name, inputs in INPUTS.items():
        states = {split: averaged_states(encoder, clips, inputs, batch_size) for split, clips in splits.items()}
        # The streams of one example side by side.
        rows = {split: torch.cat(list(by_stream.values()), 1).numpy() for split, by_stream in states.items()}
        scores |= probe_accuracies(name, rows, splits, few)
        if name == "both":
            # The nearest neighbor is looked up among the test examples, by all streams.
            units = {stream: nn.functional.normalize(means, dim=-1) for stream, means in states["test"].items()}
            scores["neighbor"] = neighbor_scores(units, known_labels(splits["test"]["labels"]))["all"]
    return scores


def probe_inputs(splits: dict[str, Clips], width: int, few: Sequence[int] = ()) -> dict[str, float]:
    """The same probe on pixels and spectrograms as they are: on their first `width` principal components."""
    scores = {}
    for name, inputs in INPUTS.items():
        rows = {}
        for split, clips in splits.items():
            flat = [by_label(clips[stream].flatten(2), clips["labels"]) for stream in inputs]
            rows[split] = torch.cat(flat, 1).numpy()
        # Fitted on the training rows alone.
        components = min(width, *rows["train"].shape)
        pca = PCA(components, svd_solver="randomized", random_state=0).fit(rows["train"])
        scores |= probe_accuracies(name, {split: pca.transform(each) for split, each in rows.items()}, splits, few)
    return scores


def probe_accuracies(
    name: str, rows: dict[str, np.ndarray], splits: dict[str, Clips], few: Sequence[int]
) -> dict[str, float]:
    """`name`: the accuracy with all training rows; `<name>_<k>`: with k of each class, the mean over `DRAWS` draws."""
    scores = {name: probe_accuracy(rows, splits)}
    labels = known_labels(splits["train"]["labels"])
    for count in few:
        found = []
        for draw in range(DRAWS):
            chosen = few_rows(labels.numpy(), count, draw)
            of_train = {"labels": labels[chosen]}
            found.append(probe_accuracy(rows | {"train": rows["train"][chosen]}, splits | {"train": of_train}))
        scores[f"{name}_{count}"] = float(np.mean(found))
    return scores


def few_rows(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of `count` rows of each class, drawn with a seed; of all rows of a class that has fewer."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.concatenate([order[labels[order] == label][:count] for label in np.unique(labels)])


def probe_accuracy(rows: dict[str, np.ndarray], splits: dict[str, Clips]) -> float:
    """Share of the test rows that a logistic regression gets right; its penalty is chosen on validation."""
    labels = {split: known_labels(clips["labels"]).numpy() for split, clips in splits.items()}
    probe = fit_regression(rows["train"], labels["train"], rows["validation"], labels["validation"])
    return float(probe.score(rows["test"], labels["test"]))


def most_frequent_class(splits: dict[str, Clips]) -> float:
    """Test accuracy of always naming the most frequent class of the training clips."""
    most_frequent = known_labels(splits["train"]["labels"]).mode().values
    return (known_labels(splits["test"]["labels"]) == most_frequent).float().mean().item()
