# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The nearest-neighbor probe of DeepAVFusion's pre-training: does a clip's nearest other clip have its class?"""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, TrainerCallback

from processing.data.collators import AudioVisualCollator
from processing.metrics.multilabel import MultiLabelScore


STREAMS = ("image", "audio", "fusion")


@torch.no_grad()
def pooled_states(
    model: PreTrainedModel, dataset: Dataset, batch_size: int, num_workers: int = 0
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Unit vectors `[n, D]` of every stream, the mean of its final tokens over patches and windows, and the labels.

    Args:
        model: with an encoder `deepavfusion`; nothing is masked.
        dataset: clips with both modalities.
    """
    encoder, training = model.deepavfusion, model.training
    device = next(model.parameters()).device
    found, labels = {name: [] for name in STREAMS}, []
    model.eval()
    for batch in DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=AudioVisualCollator()):
        frames, sound = batch["pixel_values_videos"].to(device), batch["input_features"].to(device)
        outputs = encoder(frames, sound, return_dict=True)
        for name in STREAMS:
            pooled = outputs[f"{name}_last_hidden_state"].float().mean(1).unflatten(0, (len(frames), -1)).mean(1)
            found[name].append(nn.functional.normalize(pooled, dim=-1).cpu())
        labels.append(batch["labels"])
    model.train(training)
    return {name: torch.cat(parts) for name, parts in found.items()}, torch.cat(labels)


def neighbor_scores(features: dict[str, torch.Tensor], labels: torch.Tensor) -> dict[str, float]:
    """Share of clips whose nearest other clip by cosine has their class, by stream and for the sum of similarities (`all`).

    With several labels a clip it is the mAP of the neighbor's labels, weighed by its similarity.

    Args:
        features: unit vectors `[n, D]` by stream.
        labels: `[n]` class indices, or multi-hot `[n, C]`.
    """
    similarities = {name: vectors @ vectors.T for name, vectors in features.items()}
    similarities["all"] = sum(similarities.values())
    scores = {}
    for name, similarity in similarities.items():
        nearest = similarity.clone().fill_diagonal_(-torch.inf).max(1)
        if labels.ndim == 1:
            scores[name] = (labels[nearest.indices] == labels).float().mean().item()
        else:
            predictions = labels[nearest.indices].float() * nearest.values[:, None]
            scores[name] = MultiLabelScore().compute(predictions=predictions.numpy(), references=labels.numpy())["map"]
    return scores


class NeighborProbe(TrainerCallback):
    """Runs the probe every `epochs` epochs and at the end; `history` holds the scores by epoch.

    Args:
        dataset: the test clips, compared with themselves.
        epochs: 0 for the end alone.
    """

    def __init__(self, dataset: Dataset, epochs: int, batch_size: int, num_workers: int = 0):
        self.dataset, self.epochs = dataset, epochs
        self.batch_size, self.num_workers = batch_size, num_workers
        self.history: dict[int, dict[str, float]] = {}

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        epoch = round(state.epoch)
        if self.epochs and epoch % self.epochs == 0:
            self.run(model, epoch)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if round(state.epoch) not in self.history:
            self.run(model, round(state.epoch))

    def run(self, model: PreTrainedModel, epoch: int) -> None:
        scores = neighbor_scores(*pooled_states(model, self.dataset, self.batch_size, self.num_workers))
        self.history[epoch] = scores
        print(f"epoch {epoch}: nearest neighbor {', '.join(f'{k} {v:.3f}' for k, v in scores.items())}", flush=True)
