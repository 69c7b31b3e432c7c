# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The figures by which papers report a set, beside the usual table: VGGSounder's subsets and AVE's seconds."""

from collections.abc import Callable, Mapping

import numpy as np
from datasets import Dataset

from processing.data.clip_targets import BACKGROUND
from processing.metrics.multilabel import VGGSOUNDER_SUBSETS, ModalityConfusion, VGGSounderScore, subset_references
from processing.metrics.segments import GatedSegmentScore, SegmentScore, best_segment_threshold
from training.common.results import markdown_table

from .evaluation import Predictions


TOP_K = (1, 5)
COLUMNS = {
    "input": "input", "subset": "labels", "k": "k", "subset_accuracy": "subset accuracy", "f1": "F1", "hit": "hit",
    "background": "background by", "segment_accuracy": "segment accuracy", "event_accuracy": "events",
    "background_accuracy": "background", "num_segments": "segments", "num_clips": "clips",
}  # fmt: skip


def official_scores(
    predictions: Mapping[str, Predictions],
    table: Dataset,
    label_names: list[str],
    validation: Callable[[], Predictions],
) -> dict:
    """What the set's authors ask for; empty for sets of which nothing more is asked.

    Args:
        predictions: by input (`audio`, `video`, `both`), on the test clips under the first condition of noise.
        table: the test clips. A column `modalities` makes them VGGSounder's, labeled seconds with background AVE's.
        validation: gives the predictions from both inputs on validation, for the threshold of the match logit.

    Returns:
        `vggsounder`: `rows` (`VGGSounderScore` by input, subset of labels and k) and, with both inputs,
        `modality_confusion`; `segments`: rows of `SegmentScore` by input, and of `GatedSegmentScore` where background
        is told by the match logit.
    """
    if "modalities" in table.column_names:
        return {"vggsounder": vggsounder_scores(predictions, table, label_names)}
    if "segment_labels" in table.column_names:
        rows = segment_scores(predictions, "segment_matched" in table.column_names, label_names, validation)
        return {"segments": rows} if rows else {}
    return {}


def vggsounder_scores(predictions: Mapping[str, Predictions], table: Dataset, label_names: list[str]) -> dict:
    """Subsets of which no clip has a label are skipped, and so is k > C."""
    # The rows of the table that the predictions are of, in their order.
    row_of = {clip_id: number for number, clip_id in enumerate(table["clip_id"])}
    shown = {name: _matched(each) for name, each in predictions.items()}
    order = {name: [row_of[pair["clip_id"]] for pair in each.pairs] for name, each in shown.items()}
    rows = []
    for subset in VGGSOUNDER_SUBSETS:
        references = subset_references(table["label"][:], table["modalities"][:], len(label_names), subset)
        if not (references == 1).any():
            continue
        for name, each in shown.items():
            for k in TOP_K[: 1 + (len(label_names) >= TOP_K[1])]:
                score = VGGSounderScore().compute(predictions=each.logits, references=references[order[name]], k=k)
                rows.append({"input": name, "subset": subset, **score})
    # Modality confusion compares both modalities with each one alone, on the clips that have both.
    if set(shown) != {"audio", "video", "both"}:
        return {"rows": rows}
    complete = sorted(set.intersection(*(set(rows_shown) for rows_shown in order.values())))
    if not complete:
        return {"rows": rows}
    references = subset_references(table["label"][:], table["modalities"][:], len(label_names), "all")[complete]
    logits = {}
    for name, each in shown.items():
        position = {row: number for number, row in enumerate(order[name])}
        logits[name] = each.logits[[position[row] for row in complete]]
    confusion = ModalityConfusion().compute(
        predictions=logits["both"],
        audio_predictions=logits["audio"],
        video_predictions=logits["video"],
        references=references,
    )
    return {"rows": rows, "modality_confusion": confusion}


def segment_scores(
    predictions: Mapping[str, Predictions],
    gated: bool,
    label_names: list[str],
    validation: Callable[[], Predictions],
) -> list[dict]:
    """Rows for labeled seconds of which some are background; none where the set knows no background."""
    background = next((i for i, name in enumerate(label_names) if name.lower() == BACKGROUND), None)
    # Background is a class: compare classes.
    if background is not None:
        rows = []
        for name, each in predictions.items():
            matched = _matched(each)
            score = SegmentScore().compute(
                predictions=_by_clip(matched, matched.classes),
                references=_by_clip(matched, matched.labels),
                background=background,
            )
            rows.append({"input": name, "background": "class", **score})
        return rows
    if not gated or "both" not in predictions or predictions["both"].match_logits is None:
        return []
    if not predictions["both"].judged.any():  # no tested clip has both modalities
        return []
    # The threshold that tells background is chosen on validation.
    test, tuned = (_gated(_matched(each), len(label_names)) for each in (predictions["both"], validation()))
    threshold = best_segment_threshold(
        tuned["match_scores"], tuned["predictions"], tuned["references"], len(label_names)
    )
    score = GatedSegmentScore().compute(**test, background=len(label_names), threshold=threshold)
    return [{"input": "both", "background": "match logit", **score}]


def official_tables(scores: Mapping) -> str:
    """`official_scores` as Markdown."""
    parts = []
    if vggsounder := scores.get("vggsounder"):
        parts.append(f"VGGSounder\n\n{markdown_table(vggsounder['rows'], COLUMNS)}")
        if confusion := vggsounder.get("modality_confusion"):
            named = ", ".join(f"{name} {confusion[name]:.3f}" for name in ("mu_a", "mu_v", "mu_av"))
            parts.append(f"Right from one input and wrong from both: {named} of {confusion['num_clips']} clips")
    if segments := scores.get("segments"):
        parts.append(f"Seconds\n\n{markdown_table(segments, COLUMNS)}")
    return "\n\n".join(parts)


def _matched(predictions: Predictions) -> Predictions:
    """Without the pairs whose video and audio are of two clips."""
    return predictions.subset(np.array([pair["video"] == pair["audio"] for pair in predictions.pairs]))


def _by_clip(predictions: Predictions, figures: np.ndarray) -> list[np.ndarray]:
    """`[n]` to an array of S for each clip: `described_pairs` gives the segments of a clip one after the other."""
    starts = [i for i, pair in enumerate(predictions.pairs) if pair["segment"] == 0]
    return np.split(figures, starts[1:])


def _gated(predictions: Predictions, background: int) -> dict[str, list[np.ndarray]]:
    references = np.where(predictions.is_matched, predictions.labels, background)
    # Nothing gates a clip that lacks a modality: its class counts.
    highest = float(np.nanmax(predictions.match_logits))
    match_scores = np.nan_to_num(predictions.match_logits, nan=highest + 1)
    columns = {"predictions": predictions.classes, "references": references, "match_scores": match_scores}
    return {name: _by_clip(predictions, figures) for name, figures in columns.items()}
