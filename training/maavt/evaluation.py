# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The evaluation table: what a finished model does with audio only, video only and both, on clips it never saw."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, softmax
from sklearn.metrics import roc_auc_score

from processing.data.clip_dataset import ClipDataset
from processing.metrics import IGNORED_LABEL
from processing.metrics.classification import CombinedScore, best_threshold, bootstrap_interval
from processing.metrics.finite_logits import check_finite
from processing.metrics.multilabel import MultiLabelScore
from training.trainer.audio_visual_trainer import AudioVisualTrainer, class_metrics, split_predictions

from .arguments import Recipe, condition_level
from .data import RunData


INPUTS = {"audio": ("audio",), "video": ("video",), "both": ("video", "audio")}


@dataclass
class Predictions:
    """What a model says about `n` pairs of video and audio; `pairs` says what each of them is."""

    logits: np.ndarray  # [n, C]
    match_logits: np.ndarray | None  # [n], positive: matched; NaN where a modality is missing
    pairs: list[dict]  # n times `ClipDataset.describe`: clip_id, group, label (-100: mismatched), is_matched, ...

    @property
    def classes(self) -> np.ndarray:
        return self.logits.argmax(-1)

    @property
    def multi_label(self) -> bool:
        return isinstance(self.pairs[0]["label"], list)

    @property
    def probabilities(self) -> np.ndarray:
        """`[n, C]`; where a clip has several classes, of each class by itself."""
        return expit(self.logits) if self.multi_label else softmax(self.logits, axis=-1)

    @property
    def labels(self) -> np.ndarray:
        """`[n]` classes; multi-label: `[n, C]` of 0 and 1, -100 in the rows of mismatched pairs."""
        if not self.multi_label:
            return np.array([pair["label"] for pair in self.pairs])
        labels = np.zeros(self.logits.shape, dtype=np.int64)
        for row, pair in zip(labels, self.pairs, strict=True):
            row[pair["label"]] = 1
            if not pair["is_matched"]:
                row[:] = IGNORED_LABEL
        return labels

    @property
    def correct(self) -> np.ndarray | None:
        """bool `[n]`, whether the class is right; None where a clip has several."""
        if self.multi_label:
            return None
        return self.classes == self.labels

    @property
    def has_answer(self) -> np.ndarray:
        """bool `[n]`: mismatched pairs, and matched ones whose class is known; all where a clip has several classes."""
        if self.multi_label:
            return np.ones(len(self.pairs), dtype=bool)
        return ~self.is_matched | (self.labels != IGNORED_LABEL)

    @property
    def judged(self) -> np.ndarray:
        """bool `[n]`, whether the pair has a match score."""
        return np.isfinite(self.match_logits)

    def subset(self, rows: np.ndarray) -> "Predictions":
        """The pairs of a bool mask `[n]`."""
        match_logits = None
        if self.match_logits is not None:
            match_logits = self.match_logits[rows]
        return Predictions(self.logits[rows], match_logits, [self.pairs[row] for row in np.flatnonzero(rows)])

    @property
    def is_matched(self) -> np.ndarray:
        return np.array([pair["is_matched"] for pair in self.pairs])

    @property
    def groups(self) -> np.ndarray:
        return np.array([pair["group"] for pair in self.pairs])

    @property
    def rows_by_clip(self) -> dict[tuple, int]:
        """The row of every clip, or segment of a clip, that is shown as it is."""
        shown = ((row, pair) for row, pair in enumerate(self.pairs) if not is_copy(pair))
        return {part_of(pair, "clip_id"): row for row, pair in shown}


def is_copy(pair: dict) -> bool:
    """Whether a pair's video and audio come from two clips."""
    return pair.get("video", pair["clip_id"]) != pair.get("audio", pair["clip_id"])


def part_of(pair: dict, key: str) -> tuple:
    """The clip that `key` (`clip_id`, `video`, `audio`) names, and the pair's segment."""
    return pair.get(key, pair["clip_id"]), pair.get("segment")


def described_pairs(dataset: ClipDataset) -> list[dict]:
    """`ClipDataset.describe` of every item; where segments have labels, of every segment, which is judged like a clip."""
    pairs = [dataset.describe(index) for index in range(len(dataset))]
    if dataset.targets.kind != "segments":
        return pairs
    return [
        pair | {"segment": segment} | {key: pair[key][segment] for key in ("label", "is_matched", "same_class")}
        for pair in pairs
        for segment in range(dataset.targets.num_segments)
    ]


def predict(trainer: AudioVisualTrainer, dataset: ClipDataset) -> Predictions:
    """Runs the trainer's model over a data set. Under several processes every process gets the whole result.

    Raises:
        ValueError: logits that are NaN or infinite, naming the clips.
    """
    logits, match_logits = split_predictions(trainer.predict(dataset).predictions)
    pairs = described_pairs(dataset)
    clips = [pair["clip_id"] for pair in pairs]
    logits = np.asarray(logits, dtype=np.float32).reshape(len(pairs), -1)
    check_finite(logits, clips)
    if match_logits is not None:
        match_logits = np.asarray(match_logits, dtype=np.float32).reshape(len(logits))
        # Of a clip that lacks a modality the score is a constant that says nothing, or NaN.
        complete = np.array([dataset.has_both(index) for index in range(len(dataset))])
        complete = complete.repeat(len(pairs) // len(dataset))
        match_logits = np.where(complete, match_logits, np.float32(np.nan))
        check_finite(np.where(np.isnan(match_logits), 0, match_logits), clips)
    return Predictions(logits, match_logits, pairs)


def score(predictions: Predictions, threshold: float | None, num_samples: int = 1000, seed: int = 0) -> dict:
    """One row of the table. Accuracy over matched pairs; the match columns only where mismatched pairs were shown."""
    matched, groups = predictions.is_matched, predictions.groups
    options = {"num_samples": num_samples, "seed": seed}  # of the bootstrap
    if predictions.multi_label:
        row = multi_label_score(predictions)
    else:
        row = class_score(predictions, options)
    row["clips"] = len({pair["clip_id"] for pair in predictions.pairs if pair["is_matched"]})
    row["groups"] = len(set(groups[matched]))
    other_class = ~matched & ~same_class(predictions.pairs)
    if not other_class.any():
        return row
    if not predictions.multi_label:
        row |= followed_modality(predictions, other_class)
    if predictions.match_logits is None:
        return row
    # Is the audio that of the video?
    row |= pair_scores("match", predictions.match_logits, predictions.pairs, options)
    row["mismatched_pairs"] = int(other_class.sum())
    if threshold is not None and not predictions.multi_label:
        row["combined"] = combined_accuracy(
            predictions.subset(predictions.judged & predictions.has_answer & (matched | other_class)), threshold
        )
    return row


def same_class(pairs: list[dict]) -> np.ndarray:
    """bool `[n]`: mismatched pairs of two clips of one class."""
    return np.array([bool(pair.get("same_class")) and not pair["is_matched"] for pair in pairs])


def pair_scores(name: str, scores: np.ndarray, pairs: list[dict], options: dict) -> dict:
    """How well a score `[n]` tells matched pairs from mismatched ones: AUROC and its interval.

    `<name>_auroc` is against audio of another class, `<name>_auroc_same_class` against another clip of the same class. A
    pair without a score (NaN), which lacks a modality, is not asked.
    """
    figures = {}
    matched, alike = np.array([pair["is_matched"] for pair in pairs]), same_class(pairs)
    # A mismatched pair hangs on the groups of its video and of its audio.
    group_of = {pair["clip_id"]: pair["group"] for pair in pairs}
    video, audio = (
        np.array([group_of.get(part_of(pair, key)[0], pair["group"]) for pair in pairs]) for key in ("video", "audio")
    )
    for suffix, mismatched in (("", ~matched & ~alike), ("_same_class", alike)):
        asked = np.isfinite(scores) & (matched | mismatched)
        if not (asked & matched).any() or not (asked & mismatched).any():
            continue
        key, values = f"{name}_auroc{suffix}", (matched[asked], scores[asked])
        figures[key] = float(roc_auc_score(*values))
        interval = bootstrap_interval(values, video[asked], roc_auc_score, other_groups=audio[asked], **options)
        figures[f"{key}_interval"] = list(interval)
    return figures


def class_agreement(pairs: list[dict], video: tuple[dict, np.ndarray], audio: tuple[dict, np.ndarray]) -> np.ndarray:
    """sum_c p_v(c) p_a(c) of every pair `[n]`, from what video alone and audio alone say of the clips (equation 8).

    Args:
        pairs: as `described_pairs` gives them.
        video, audio: the row of every clip (`Predictions.rows_by_clip`) and class probabilities `[m, C]`.

    Returns:
        `[n]`, NaN where a clip lacks the modality.
    """
    agreement = np.full(len(pairs), np.nan)
    for i, pair in enumerate(pairs):
        of_video, of_audio = video[0].get(part_of(pair, "video")), audio[0].get(part_of(pair, "audio"))
        if of_video is not None and of_audio is not None:
            agreement[i] = video[1][of_video] @ audio[1][of_audio]
    return agreement


def followed_modality(predictions: Predictions, mismatched: np.ndarray) -> dict:
    """Given audio of another class, how often the model names the class of the video, and how often that of the audio."""
    labels, rows = predictions.labels, predictions.rows_by_clip
    figures = {}
    for key in ("video", "audio"):
        right = []
        for i in np.flatnonzero(mismatched):
            row = rows.get(part_of(predictions.pairs[i], key))
            if is_copy(predictions.pairs[i]) and row is not None and labels[row] != IGNORED_LABEL:
                right.append(predictions.classes[i] == labels[row])
        if right:
            figures[f"mismatched_{key}_class"] = float(np.mean(right))
    return figures


def class_score(predictions: Predictions, options: dict) -> dict:
    """Top-1 with its interval over groups, macro F1, and top-5 where there are more than five classes."""
    row = class_metrics(predictions.logits, predictions.labels)
    known = predictions.labels != IGNORED_LABEL
    correct = predictions.correct[known].astype(float)
    row["top1_interval"] = list(bootstrap_interval(correct, predictions.groups[known], **options))
    return row


def multi_label_score(predictions: Predictions) -> dict:
    """mAP, mAUC and d-prime; a figure that is undefined or infinite is skipped, since JSON has no word for it."""
    row = MultiLabelScore().compute(predictions=predictions.logits, references=predictions.labels)
    return {name: value for name, value in row.items() if not name.startswith("num_") and np.isfinite(value)}


def combined_accuracy(predictions: Predictions, threshold: float) -> float:
    """Share of pairs that are matched, accepted and rightly classified, or mismatched and rejected."""
    return CombinedScore().compute(
        predictions=predictions.classes,
        references=predictions.labels,
        match_scores=predictions.match_logits,
        is_matched=predictions.is_matched,
        threshold=threshold,
    )["combined_accuracy"]


def match_threshold(trainer: AudioVisualTrainer, dataset: ClipDataset) -> float | None:
    """The match logit above which a pair is accepted: best combined accuracy on validation; None without match head."""
    predictions = predict(trainer, dataset)
    if predictions.match_logits is None:
        return None
    judged = predictions.subset(predictions.judged & predictions.has_answer)
    if judged.is_matched.all():
        return None
    return best_threshold(judged.match_logits, judged.is_matched, judged.correct)


@dataclass
class Evaluation:
    """What a finished model does on the clips of `evaluation_split`."""

    rows: list[dict]  # of the table
    records: list[dict]  # one per pair, input and condition, for the predictions file
    predictions: dict[str, Predictions]  # by input, under the first condition
    threshold: float | None  # of the match logit; None without a match head


def evaluate_model(trainer: AudioVisualTrainer, recipe: Recipe, data: RunData, label_names: list[str]) -> Evaluation:
    """The table of the trained model: audio only, video only, both, under every condition of noise.

    The match threshold is the best one on validation.
    """
    threshold = None
    if data.trains_match_head:
        threshold = match_threshold(trainer, data.validation_set)
    bootstrap = {"num_samples": recipe.evaluation.bootstrap_samples, "seed": recipe.run.seed}
    rows, records, first = [], [], {}
    # Of no clip, where none has the modality.
    alone = {name: ({}, np.empty((0, len(label_names)))) for name in ("video", "audio")}
    for condition, name, streams in table_cells(recipe):
        if not data.has_any_of(streams):
            continue
        shown = shown_condition(name, condition)
        paired = name == "both" and data.paired
        copies = {"mismatched_copies": paired, "same_class_copies": paired and data.trains_match_head}
        dataset = data.split(data.tested, modalities=streams, noise_db=condition_level(condition), **copies)
        predictions = predict(trainer, dataset)
        first.setdefault(name, predictions)
        row = {"model": "maavt", "input": name, "noise": shown}
        row |= score(predictions, threshold, **bootstrap)
        # The class agreement needs no head: it is there for every way of tuning.
        if len(streams) == 1:
            alone[name] = predictions.rows_by_clip, predictions.probabilities
        elif data.paired and not predictions.multi_label:
            pairs = described_pairs(data.split(data.tested, mismatched_copies=True, same_class_copies=True))
            agreement = class_agreement(pairs, alone["video"], alone["audio"])
            row |= pair_scores("agreement", agreement, pairs, bootstrap)
        rows.append(row)
        records += pair_records(predictions, label_names, name, shown)
    return Evaluation(rows, records, first, threshold)


def table_cells(recipe: Recipe) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(condition, input, modalities) of every row; video carries no noise and is measured once."""
    conditions = recipe.evaluation.evaluation_noise_db
    for condition in conditions:
        for name, streams in INPUTS.items():
            repeated = name == "video" and condition != conditions[0]
            if set(streams) <= set(recipe.data.modalities) and not repeated:
                yield condition, name, streams


def shown_condition(name: str, condition: str) -> str:
    if name == "video":
        return "any"
    return condition


def pair_records(predictions: Predictions, label_names: list[str], name: str, noise: str) -> list[dict]:
    """One flat record per pair: what was shown, what was right, what the model said.

    Clips with several classes have them in `labels`, with `;` between, and an empty `label`; their probabilities are
    those of independent classes.
    """
    probabilities = predictions.probabilities
    records = []
    for i, (predicted, pair) in enumerate(zip(predictions.classes, predictions.pairs, strict=True)):
        record = {"input": name, "noise": noise, **pair, "label": None}
        if predictions.multi_label:
            record["labels"] = ";".join(label_names[label] for label in pair["label"])
        elif pair["label"] != IGNORED_LABEL:
            record["label"] = label_names[pair["label"]]
        record |= {"predicted": label_names[predicted], "probability": round(float(probabilities[i, predicted]), 5)}
        record["match_logit"] = None
        if predictions.match_logits is not None and np.isfinite(predictions.match_logits[i]):
            record["match_logit"] = round(float(predictions.match_logits[i]), 5)
        records.append(record)
    return records
