# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A Trainer that logs the parts of the loss and measures what the audio-visual task asks for."""

from collections import defaultdict

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, Trainer

from processing.metrics import ClassificationScore, CombinedScore, MatchScore, best_threshold

from .streams import stream_batches


class AudioVisualTrainer(Trainer):
    """`Trainer` that averages every scalar output ending in `_loss` into the log, for training and evaluation alike."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._parts: dict[str, list[torch.Tensor]] = defaultdict(list)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        if not isinstance(self.train_dataset, torch.utils.data.IterableDataset):
            return super().get_train_dataloader()
        # not prepared by Accelerate, which would share out the clips once more
        return stream_batches(self.train_dataset, self.data_collator, self.args).loader()

    def compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        prefix = "" if model.training else "eval_"
        for name, value in outputs.items():
            if name.endswith("_loss") and isinstance(value, torch.Tensor) and value.ndim == 0:
                # A batch of mismatched pairs alone says nothing about classes and contrast. It is marked, not left
                # out: every process has to gather the same.
                counts = inputs["is_matched"].any() if name != "matching_loss" else torch.ones_like(value)
                self._parts[prefix + name].append(torch.stack([value.detach(), counts.to(value.dtype)]).float())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        # "loss" marks a training record, "eval_loss" an evaluation record; each takes its own parts.
        prefix = "eval_" if "eval_loss" in logs else "" if "loss" in logs else None
        if prefix is not None:
            for name in [n for n in self._parts if n.startswith("eval_") == bool(prefix)]:
                values, counts = self.accelerator.gather(torch.stack(self._parts.pop(name))[None]).unbind(-1)
                counts = counts.amax(0) > 0  # a process without matched pairs holds its share, 0, of the global loss
                if counts.any():
                    logs[name] = round(values.mean(0)[counts].mean().item(), 4)
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args, **kwargs):
        # A prediction run in between must not leave its losses to the next evaluation's record.
        for name in [n for n in self._parts if n.startswith("eval_")]:
            del self._parts[name]
        return super().evaluation_loop(*args, **kwargs)


def split_predictions(predictions: np.ndarray | tuple) -> tuple[np.ndarray, np.ndarray | None]:
    """Trainer predictions to (logits [n, C], match logits [n] or None)."""
    if isinstance(predictions, tuple):
        return predictions[0], predictions[1] if len(predictions) > 1 else None
    return predictions, None


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Validation metrics: top-1 and macro F1 over matched pairs; match AUROC and combined accuracy where mined.

    The threshold of the combined accuracy is chosen on the same (validation) pairs.
    """
    logits, match_logits = split_predictions(prediction.predictions)
    labels, is_matched = prediction.label_ids[0], prediction.label_ids[1].astype(bool)
    classes = logits.argmax(-1)
    metrics = ClassificationScore().compute(predictions=classes, references=labels)
    metrics.pop("num_clips")
    if match_logits is None or is_matched.all():
        return metrics
    scores = match_logits.reshape(len(labels))
    threshold = best_threshold(scores, is_matched, classes == labels)
    matching = MatchScore().compute(predictions=scores, references=is_matched, threshold=threshold)
    metrics |= {"match_auroc": matching["auroc"], "match_accuracy": matching["accuracy"], "threshold": threshold}
    metrics["combined"] = CombinedScore().compute(
        predictions=classes, references=labels, match_scores=scores, is_matched=is_matched, threshold=threshold
    )["combined_accuracy"]
    return metrics
