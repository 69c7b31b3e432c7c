# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The evaluation table: what a finished model does with sound only, picture only, and both, on clips it never saw."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from processing.data.atomic_writing import write_csv, write_text
from processing.data.clip_dataset import ClipDataset
from processing.data.conventions import IGNORED_LABEL
from processing.metrics.classification import (
    ClassificationScore,
    CombinedScore,
    MatchScore,
    TopKScore,
    best_threshold,
    bootstrap_interval,
)
from processing.metrics.multilabel import MultiLabelScore
from training.common.results import markdown_table
from training.trainer.audio_visual_trainer import AudioVisualTrainer, split_predictions

from .arguments import condition_level


INPUTS = {"audio": ("audio",), "video": ("video",), "both": ("video", "audio")}


@dataclass
class Predictions:
    """What a model says about `n` pairs of picture and sound; `pairs` says what each of them is."""

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
        return None if self.multi_label else self.classes == self.labels

    @property
    def is_matched(self) -> np.ndarray:
        return np.array([pair["is_matched"] for pair in self.pairs])

    @property
    def groups(self) -> np.ndarray:
        return np.array([pair["group"] for pair in self.pairs])


def described_pairs(dataset: ClipDataset) -> list[dict]:
    """`ClipDataset.describe` of every item; where segments have labels, of every segment, which is judged like a clip."""
    pairs = [dataset.describe(index) for index in range(len(dataset))]
    if dataset.targets.kind != "segments":
        return pairs
    return [
        pair | {"segment": segment, "label": pair["label"][segment], "is_matched": pair["is_matched"][segment]}
        for pair in pairs
        for segment in range(dataset.targets.num_segments)
    ]


def predict(trainer: AudioVisualTrainer, dataset: ClipDataset) -> Predictions:
    """Runs the trainer's model over a data set. Under several processes every process gets the whole result."""
    logits, match_logits = split_predictions(trainer.predict(dataset).predictions)
    pairs = described_pairs(dataset)
    logits = logits.reshape(len(pairs), -1)
    match_logits = None if match_logits is None else np.asarray(match_logits, dtype=np.float32).reshape(len(logits))
    if match_logits is not None:  # of a clip that lacks a modality the score is a constant that says nothing
        complete = np.array([dataset.has_both(index) for index in range(len(dataset))])
        match_logits = np.where(complete.repeat(len(pairs) // len(dataset)), match_logits, np.float32(np.nan))
    return Predictions(np.asarray(logits, dtype=np.float32), match_logits, pairs)


def score(found: Predictions, threshold: float | None, bootstrap_samples: int = 1000, seed: int = 0) -> dict:
    """One row of the table. Accuracy over matched pairs; the match columns only where mismatched pairs were shown."""
    matched, groups = found.is_matched, found.groups
    options = {"num_samples": bootstrap_samples, "seed": seed}
    row = multi_label_score(found) if found.multi_label else class_score(found, options)
    row["clips"] = len({pair["clip_id"] for pair, one in zip(found.pairs, matched, strict=True) if one})
    row["groups"] = len(set(groups[matched]))
    if found.match_logits is None or matched.all():
        return row
    judged = np.isfinite(found.match_logits)
    pairs = (matched[judged], found.match_logits[judged])
    row["match_auroc"] = MatchScore().compute(predictions=pairs[1], references=pairs[0])["auroc"]
    row["match_auroc_interval"] = list(bootstrap_interval(pairs, groups[judged], roc_auc_score, **options))
    row["mismatched_pairs"] = int((~matched).sum())
    if threshold is not None and not found.multi_label:
        row["combined"] = combined_accuracy(found, threshold)
    return row


def class_score(found: Predictions, options: dict) -> dict:
    """Top-1 with its interval over groups, macro F1, and top-5 where there are more than five classes."""
    row = ClassificationScore().compute(predictions=found.classes, references=found.labels)
    row.pop("num_clips")
    if found.logits.shape[1] > 5:
        row["top5"] = TopKScore().compute(predictions=found.logits, references=found.labels, k=5)["top5"]
    known = found.labels != IGNORED_LABEL
    row["top1_interval"] = list(bootstrap_interval(found.correct[known].astype(float), found.groups[known], **options))
    return row


def multi_label_score(found: Predictions) -> dict:
    """mAP, mAUC and d-prime; a figure that is undefined or infinite is left out, since JSON has no word for it."""
    row = MultiLabelScore().compute(predictions=found.logits, references=found.labels)
    return {name: value for name, value in row.items() if not name.startswith("num_") and np.isfinite(value)}


def combined_accuracy(found: Predictions, threshold: float) -> float:
    """Share of pairs that are matched, accepted and rightly classified, or mismatched and rejected."""
    judged = np.isfinite(found.match_logits)
    return CombinedScore().compute(
        predictions=found.classes[judged],
        references=found.labels[judged],
        match_scores=found.match_logits[judged],
        is_matched=found.is_matched[judged],
        threshold=threshold,
    )["combined_accuracy"]


def match_threshold(trainer: AudioVisualTrainer, dataset: ClipDataset) -> float | None:
    """The match logit above which a pair is accepted: best combined accuracy on validation; None without match head."""
    found = predict(trainer, dataset)
    if found.match_logits is None or found.is_matched.all():
        return None
    judged = np.isfinite(found.match_logits)
    correct = None if found.correct is None else found.correct[judged]
    return best_threshold(found.match_logits[judged], found.is_matched[judged], correct)


def evaluation_table(
    trainer: AudioVisualTrainer,
    make_dataset: Callable[..., ClipDataset],
    label_names: list[str],
    *,
    conditions: list[str],
    modalities: list[str],
    threshold: float | None,
    bootstrap_samples: int,
    seed: int,
) -> tuple[list[dict], list[dict], dict[str, Predictions]]:
    """All rows of the table, one record per pair, input and condition for the predictions file, and by input what the
    model says under the first condition.

    Args:
        make_dataset: builds the test set, given `modalities`, `noise_db` and `mismatched_copies`.
        conditions: `"clean"` or levels of white noise in dB; pictures carry no noise and are measured once.
    """
    rows, records, first = [], [], {}
    for condition in conditions:
        for name, streams in INPUTS.items():
            if not set(streams) <= set(modalities) or (name == "video" and condition != conditions[0]):
                continue
            paired = name == "both" and threshold is not None
            dataset = make_dataset(modalities=streams, noise_db=condition_level(condition), mismatched_copies=paired)
            found = predict(trainer, dataset)
            first.setdefault(name, found)
            shown = "any" if name == "video" else condition
            row = {"model": "maavt", "input": name, "noise": shown}
            rows.append(row | score(found, threshold if paired else None, bootstrap_samples, seed))
            records += pair_records(found, label_names, name, shown)
    return rows, records, first


def pair_records(found: Predictions, label_names: list[str], name: str, noise: str) -> list[dict]:
    """One flat record per pair: what was shown, what was right, what the model said.

    Clips with several classes have them in `labels`, with `;` between, and an empty `label`; their probabilities are
    those of independent classes.
    """
    logits = torch.from_numpy(found.logits)
    probabilities = (logits.sigmoid() if found.multi_label else logits.softmax(-1)).numpy()
    records = []
    for i, (picked, pair) in enumerate(zip(found.classes, found.pairs, strict=True)):
        if found.multi_label:
            said = {"label": None, "labels": ";".join(label_names[label] for label in pair["label"])}
        else:
            said = {"label": label_names[pair["label"]] if pair["label"] != IGNORED_LABEL else None}
        said |= {"predicted": label_names[picked], "probability": round(float(probabilities[i, picked]), 5)}
        said["match_logit"] = None
        if found.match_logits is not None and np.isfinite(found.match_logits[i]):
            said["match_logit"] = round(float(found.match_logits[i]), 5)
        records.append({"input": name, "noise": noise, **pair, **said})
    return records


def write_results(directory: Path, results: dict, records: list[dict], tables: str = "") -> None:
    """`results.json`, `results.md` (with more `tables` below) and `predictions.csv` of one run."""
    write_text(directory / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write_text(directory / "results.md", "\n\n".join(filter(None, (markdown_table(results["rows"]), tables))) + "\n")
    write_csv(directory / "predictions.csv", records, list(records[0]) if records else ["clip_id"])
