# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A Trainer that logs the parts of the loss and measures what the audio-visual task asks for."""

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, Trainer

from processing.data.mixup import PairMixUp
from processing.metrics import IGNORED_LABEL
from processing.metrics.classification import ClassificationScore, CombinedScore, MatchScore, TopKScore, best_threshold
from processing.metrics.finite_logits import check_finite
from processing.metrics.multilabel import MultiLabelScore

from .callbacks import tell_progress
from .checkpoint_trainer import CheckpointTrainer
from .even_batches import EvenBatchTrainer
from .modality_validation import ModalityTrainer
from .stream_training import stream_batches


class AudioVisualTrainer(ModalityTrainer, EvenBatchTrainer, CheckpointTrainer):
    """`Trainer` that averages every scalar output ending in `_loss` into the log, for training and evaluation alike.

    Args:
        mixup: a `PairMixUp` for the training batches, or None. It is given the optimizer step and the micro-batch within
            it, so that a resumed run mixes what the uninterrupted one would have.
    """

    def __init__(self, *args, mixup: PairMixUp | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        # Of every batch since the last record: by name, (value, count).
        self._training_parts: list[dict[str, torch.Tensor]] = []
        self._evaluation_parts: list[dict[str, torch.Tensor]] = []
        self.mixup, self._micro_batch = mixup, (-1, -1)
        tell_progress(self)

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
        parts = {name: value for name, value in outputs.items() if is_part(name, value)}
        record = self._training_parts
        if not model.training:
            record = self._evaluation_parts
            parts["loss"] = loss
        counted = {}
        for name, value in parts.items():
            # A batch of mismatched pairs alone says nothing about classes and contrast. It is recorded with the count 0,
            # not dropped: every process has to gather the same.
            count = part_count(name, inputs).to(value.device)
            counted[name] = torch.stack([value.detach().float(), count.float()])
        record.append(counted)
        if return_outputs:
            return loss, outputs
        return loss

    def prediction_step(
        self, model: nn.Module, inputs: dict, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ):
        """As in `Trainer`; predictions are the class and match logits of clips, or of segments where those have labels.

        The match logits of a clip that lacks a modality are NaN.
        """
        if ignore_keys is not None:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        config = self.model.config
        ignored = {"logits", *getattr(config, "keys_to_ignore_at_inference", [])}
        wanted = {"logits", "match_logits"}
        if inputs["is_matched"].ndim == 2 and "segment_logits" in ignored:
            wanted = {"segment_logits", "segment_match_logits"}
        ignore_keys = sorted(ignored - wanted)
        loss, predictions, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if predictions is not None and getattr(config, "background_mining", False) and "has_video" in inputs:
            predictions = with_match_logits(predictions, inputs["has_video"] & inputs["has_audio"])
        return loss, predictions, labels

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """As in `Trainer`, without the learned tokens: decay would pull them to zero, like a bias or a norm."""
        return [name for name in super().get_decay_parameter_names(model) if "prompt." not in name]

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:  # a training record
            for name, (values, counts) in self._gathered(self._training_parts).items():
                if counts.any():
                    logs[name] = round(values[counts > 0].mean().item(), 4)
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        """As in `Trainer`, with each part of the loss over its own count, and their weighted sum as the loss.

        A mean over batches would weigh a batch of two matched pairs like one of fifty.
        """
        self._evaluation_parts.clear()  # a run that was interrupted leaves some
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        gathered = self._gathered(self._evaluation_parts)
        batch_losses, _ = gathered.pop("loss", (None, None))
        means = {name: weighted_mean(values, counts) for name, (values, counts) in gathered.items()}
        for name, mean in means.items():
            if mean is not None:
                output.metrics[f"{metric_key_prefix}_{name}"] = round(mean, 4)
        weights = self._part_weights(gathered, batch_losses)
        if weights is not None:
            total = sum(weights[name] * mean for name, mean in means.items() if mean is not None)
            output.metrics[f"{metric_key_prefix}_loss"] = total
        return output

    def _gathered(self, record: list[dict[str, torch.Tensor]]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """By name, values and counts of every global batch; empties the record.

        A process holds its share of the global batch's loss, times the number of processes: their mean is the loss.
        """
        gathered = {}
        for name in dict.fromkeys(name for parts in record for name in parts):
            # A batch that lacks a modality altogether has no part of it: the count is 0.
            absent = torch.zeros_like(next(parts[name] for parts in record if name in parts))
            batches = torch.stack([parts.get(name, absent) for parts in record])  # (batches, 2)
            shares = self.accelerator.gather(batches[None])  # (processes, batches, 2)
            gathered[name] = shares[..., 0].mean(0), shares[..., 1].sum(0)
        record.clear()
        return gathered

    def _part_weights(self, gathered: dict, batch_losses: torch.Tensor | None) -> dict[str, float] | None:
        """The weight of each part in the loss, as the model's config has it; None where the parts are not all of it."""
        if not gathered or batch_losses is None:
            return None
        config = self.accelerator.unwrap_model(self.model).config
        weights = {name: getattr(config, f"{name}_weight", 1.0) for name in gathered}
        total = sum(weights[name] * values for name, (values, _) in gathered.items())
        if total.shape != batch_losses.shape or not torch.allclose(total, batch_losses, rtol=1e-2, atol=1e-3):
            return None
        return weights


def is_part(name: str, value: object) -> bool:
    """Whether a model output is a part of the loss."""
    return name.endswith("_loss") and isinstance(value, torch.Tensor) and value.ndim == 0


def part_count(name: str, inputs: dict) -> torch.Tensor:
    """How many pairs (or segments) of a batch a part of the loss is the mean of."""
    matched = inputs["is_matched"].bool()  # (B,) or (B, S)
    if "has_video" not in inputs:  # pre-training reconstructs every clip of a batch
        return torch.tensor(matched.numel())
    complete = inputs["has_video"] & inputs["has_audio"]
    if name == "matching_loss" and "match_mask" in inputs:
        complete = complete & inputs["match_mask"]
    complete = complete.reshape(-1, *[1] * (matched.ndim - 1)).expand_as(matched)
    if name == "matching_loss":
        return complete.sum()
    if name == "contrastive_loss":
        return (complete & matched).sum()
    labeled = inputs["labels"] != -100
    if labeled.ndim > matched.ndim:  # a score for each class
        labeled = labeled.any(-1)
    counted = labeled & matched
    if name == "unimodal_loss":
        counted = counted & complete
    return counted.sum()


def weighted_mean(values: torch.Tensor, counts: torch.Tensor) -> float | None:
    if not counts.any():
        return None
    return ((values * counts).sum() / counts.sum()).item()


def best_checkpoint(trainer: Trainer) -> dict | None:
    """Epoch, metric and value of the checkpoint that was best on validation; None where none is chosen."""
    state, args = trainer.state, trainer.args
    # A resumed run forgets a best checkpoint that has been moved, and keeps its last weights.
    if not (args.load_best_model_at_end and state.best_model_checkpoint and state.max_steps):
        return None
    epoch = next(entry["epoch"] for entry in state.log_history if entry["step"] >= state.best_global_step)
    return {"epoch": round(epoch, 2), "metric": args.metric_for_best_model, "value": round(state.best_metric, 4)}


def split_predictions(predictions: np.ndarray | tuple) -> tuple[np.ndarray, np.ndarray | None]:
    """Trainer predictions to (logits [n, C], match logits [n] or None): NaN where a clip lacks a modality."""
    if not isinstance(predictions, tuple):
        return predictions, None
    logits, *others = predictions
    match_logits = [other for other in others if other.ndim < logits.ndim]
    return logits, match_logits[0] if match_logits else None


def with_match_logits(
    predictions: torch.Tensor | tuple[torch.Tensor, ...], complete: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The predictions of a batch, with match logits also where the whole batch lacks a modality.

    Args:
        predictions: class logits `[B, C]` or `[B, S, C]`, alone or in a tuple with match logits `[B]` or `[B, S]` and
            others.
        complete: bool `[B]`, whether a clip has both modalities. The match logits of the other clips are NaN.
    """
    if not isinstance(predictions, tuple):
        predictions = (predictions,)
    logits, *others = predictions
    _, match_logits = split_predictions(predictions)
    if match_logits is None:
        match_logits = torch.zeros_like(logits[..., 0])
    # NaN is left to clips that lack a modality; that of a diverged model becomes infinite, which `check_finite` refuses.
    match_logits = match_logits.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    complete = complete.to(logits.device).reshape(-1, *[1] * (match_logits.ndim - 1))
    halves = [other for other in others if other.ndim == logits.ndim]
    return logits, match_logits.masked_fill(~complete, float("nan")), *halves


def modality_predictions(predictions: np.ndarray | tuple) -> dict[str, np.ndarray]:
    """`{"video": [n, C], "audio": [n, C]}` of `ModalityTrainer`, zeros where a clip lacks it; or nothing."""
    if not isinstance(predictions, tuple):
        return {}
    logits, *others = predictions
    halves = [other for other in others if other.ndim == logits.ndim]
    return dict(zip(("video", "audio"), halves, strict=False))


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Validation metrics: top-1, macro F1, top-5 (C > 5) over matched pairs; match AUROC and combined where mined.

    `top1_video` and `top1_audio` are those of one modality alone, over the clips that have it (`ModalityTrainer`). Clips
    with several classes are measured by mAP instead. Match figures are those of clips with both modalities; the threshold
    of the combined accuracy is chosen on the same (validation) pairs.

    Raises:
        ValueError: logits that are NaN or infinite.
    """
    logits, match_logits = split_predictions(prediction.predictions)
    alone = modality_predictions(prediction.predictions)
    labels, is_matched = prediction.label_ids[0], prediction.label_ids[1].astype(bool)
    if logits.ndim == 3:  # [n, S, C]: a segment is judged like a clip
        logits, labels, is_matched = logits.reshape(-1, logits.shape[-1]), labels.ravel(), is_matched.ravel()
    several = labels.ndim == 2  # multi-hot
    measure = multi_label_metrics if several else class_metrics
    metrics = measure(logits, labels)
    # One modality alone, over the clips that have it, where the clips have both.
    alone = {name: rows.reshape(logits.shape) for name, rows in alone.items()}
    if all(rows.any() for rows in alone.values()):
        for name, rows in alone.items():
            present = rows.any(-1)
            figures = measure(rows[present], labels[present])
            metrics |= {f"{key}_{name}": figures[key] for key in ("top1", "map") if key in figures}
    if match_logits is None:
        return metrics
    scores, classes = match_logits.reshape(len(labels)), logits.argmax(-1)
    # A clip that lacks a modality has no match score.
    complete = ~np.isnan(scores)
    scores, classes, labels, is_matched = (array[complete] for array in (scores, classes, labels, is_matched))
    check_finite(scores)
    if is_matched.all() or not is_matched.any():
        return metrics
    # The threshold serves class and match together: a matched clip without a label has no right answer.
    if several:
        threshold = best_threshold(scores, is_matched)
    else:
        known = ~is_matched | (labels != IGNORED_LABEL)
        threshold = best_threshold(scores[known], is_matched[known], (classes == labels)[known])
    matching = MatchScore().compute(predictions=scores, references=is_matched, threshold=threshold)
    metrics |= {"match_auroc": matching["auroc"], "match_accuracy": matching["accuracy"], "threshold": threshold}
    if not several:
        metrics["combined"] = CombinedScore().compute(
            predictions=classes[known],
            references=labels[known],
            match_scores=scores[known],
            is_matched=is_matched[known],
            threshold=threshold,
        )["combined_accuracy"]
    return metrics


def class_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`top1`, `macro_f1`, and `top5` where there are more than five classes; labels `[n]`, those of -100 are skipped.

    Raises:
        ValueError: logits that are NaN or infinite.
    """
    check_finite(logits)
    metrics = ClassificationScore().compute(predictions=logits.argmax(-1), references=labels)
    metrics.pop("num_clips")
    if logits.shape[1] > 5:
        metrics["top5"] = TopKScore().compute(predictions=logits, references=labels, k=5)["top5"]
    return metrics


def multi_label_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`map` and `mauc`; labels `[n, C]`, rows of -100 are skipped.

    Raises:
        ValueError: logits that are NaN or infinite.
    """
    check_finite(logits)
    found = MultiLabelScore().compute(predictions=logits, references=labels.astype(np.int64))
    return {name: found[name] for name in ("map", "mauc") if name in found}
