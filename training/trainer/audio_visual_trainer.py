# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A Trainer that logs the parts of the loss and measures what the audio-visual task asks for."""

from collections import defaultdict

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, Trainer

from processing.data.mixup import PairMixUp
from processing.metrics.classification import ClassificationScore, CombinedScore, MatchScore, TopKScore, best_threshold
from processing.metrics.multilabel import MultiLabelScore

from .checkpoint_trainer import CheckpointTrainer
from .even_batches import EvenBatchTrainer
from .stream_training import stream_batches


class AudioVisualTrainer(EvenBatchTrainer, CheckpointTrainer):
    """`Trainer` that averages every scalar output ending in `_loss` into the log, for training and evaluation alike.

    Args:
        mixup: a `PairMixUp` for the training batches, or None. It is given the optimizer step and the micro-batch within
            it, so that a resumed run mixes what the uninterrupted one would have.
    """

    def __init__(self, *args, mixup: PairMixUp | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self._parts: dict[str, list[torch.Tensor]] = defaultdict(list)
        self.mixup, self._micro_batch = mixup, (-1, -1)

    def training_step(self, model: nn.Module, inputs: dict, *args, **kwargs) -> torch.Tensor:
        if self.mixup is not None:
            step, micro_batch = self._micro_batch
            same_step = step == self.state.global_step
            self._micro_batch = (self.state.global_step, micro_batch + 1 if same_step else 0)
            inputs = self.mixup(inputs, self._micro_batch, self.args.process_index)
        return super().training_step(model, inputs, *args, **kwargs)

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

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """As in `Trainer`, without the learned tokens: decay would pull them to zero, like a bias or a norm."""
        return [name for name in super().get_decay_parameter_names(model) if "prompt." not in name]

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


def best_checkpoint(trainer: Trainer) -> dict | None:
    """Epoch, metric and value of the checkpoint that was best on validation; None where none is chosen."""
    state, args = trainer.state, trainer.args
    if not (args.load_best_model_at_end and state.best_global_step and state.max_steps):
        return None
    epoch = next(entry["epoch"] for entry in state.log_history if entry["step"] >= state.best_global_step)
    return {"epoch": round(epoch, 2), "metric": args.metric_for_best_model, "value": round(state.best_metric, 4)}


def split_predictions(predictions: np.ndarray | tuple) -> tuple[np.ndarray, np.ndarray | None]:
    """Trainer predictions to (logits [n, C], match logits [n] or None)."""
    if isinstance(predictions, tuple):
        return predictions[0], predictions[1] if len(predictions) > 1 else None
    return predictions, None


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Validation metrics: top-1, macro F1, top-5 (C > 5) over matched pairs; match AUROC and combined where mined.

    Clips with several classes are measured by mAP instead. The threshold of the combined accuracy is chosen on the same
    (validation) pairs.
    """
    logits, match_logits = split_predictions(prediction.predictions)
    labels, is_matched = prediction.label_ids[0], prediction.label_ids[1].astype(bool)
    if logits.ndim == 3:  # [n, S, C]: a segment is judged like a clip
        logits, labels, is_matched = logits.reshape(-1, logits.shape[-1]), labels.ravel(), is_matched.ravel()
    several = labels.ndim == 2  # multi-hot
    metrics = multi_label_metrics(logits, labels) if several else class_metrics(logits, labels)
    if match_logits is None or is_matched.all():
        return metrics
    scores, classes = match_logits.reshape(len(labels)), logits.argmax(-1)
    threshold = best_threshold(scores, is_matched, None if several else classes == labels)
    matching = MatchScore().compute(predictions=scores, references=is_matched, threshold=threshold)
    metrics |= {"match_auroc": matching["auroc"], "match_accuracy": matching["accuracy"], "threshold": threshold}
    if not several:
        metrics["combined"] = CombinedScore().compute(
            predictions=classes, references=labels, match_scores=scores, is_matched=is_matched, threshold=threshold
        )["combined_accuracy"]
    return metrics


def class_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`top1`, `macro_f1`, and `top5` where there are more than five classes; labels `[n]`, -100 is left out."""
    metrics = ClassificationScore().compute(predictions=logits.argmax(-1), references=labels)
    metrics.pop("num_clips")
    if logits.shape[1] > 5:
        metrics["top5"] = TopKScore().compute(predictions=logits, references=labels, k=5)["top5"]
    return metrics


def multi_label_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`map` and `mauc`; labels `[n, C]`, rows of -100 are left out."""
    found = MultiLabelScore().compute(predictions=logits, references=labels.astype(np.int64))
    return {name: found[name] for name in ("map", "mauc") if name in found}
