# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics for clips with several classes: AudioSet's (mAP, mAUC, d-prime) and VGGSounder's.

References are matrices `[n, C]` of 0 and 1; a clip whose row holds -100 is skipped.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import norm
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

from processing.metrics import IGNORED_LABEL

from .classification import FLOAT_ROW, INT_ROW, OfflineMetric, labeled_rows


# VGGSounder tags each label of a clip: A (audible), V (visible), AV (both).
VGGSOUNDER_SUBSETS = {
    "all": ("A", "V", "AV"),
    "a": ("A", "AV"),
    "v": ("V", "AV"),
    "av": ("AV",),
    "a only": ("A",),
    "v only": ("V",),
}


class MultiLabelScore(OfflineMetric):
    """Mean average precision, mean area under the ROC curve, and d-prime, as reported for AudioSet.

    `compute(predictions=[n, C] float scores, references=[n, C] 0/1)` -> `map` (mean of the average precision over
    classes with positives), `mauc` (mean AUC over classes with positives and negatives), `d_prime` = sqrt(2) *
    Phi^-1(mauc) (infinite at a mauc of 1), `num_classes` (with positives), `num_clips`. `mauc` and `d_prime` are left
    out where no class has both. Raises ValueError without positives, for other shapes, and for scores that are not
    finite.
    """

    columns = {"predictions": FLOAT_ROW, "references": INT_ROW}
    source = (
        "Gemmeke et al., Audio Set: An ontology and human-labeled dataset for audio events, ICASSP 2017; "
        "Hershey et al., CNN architectures for large-scale audio classification, ICASSP 2017"
    )

    def _compute(
        self, predictions: Sequence[Sequence[float]], references: Sequence[Sequence[int]]
    ) -> dict[str, float]:
        positive, scores = _labeled(references, predictions)
        has_positive = positive.any(0)
        if not has_positive.any():
            raise ValueError(f"references: {len(positive)} clips without any class; give clips with labels")
        # AP needs positives, the AUC also negatives.
        precision = average_precision_score(positive[:, has_positive], scores[:, has_positive], average="macro")
        result = {"map": float(precision), "num_classes": int(has_positive.sum()), "num_clips": len(positive)}
        both = has_positive & ~positive.all(0)
        if both.any():
            result["mauc"] = float(roc_auc_score(positive[:, both], scores[:, both], average="macro"))
            result["d_prime"] = float(np.sqrt(2) * norm.ppf(result["mauc"]))
        return result


class VGGSounderScore(OfflineMetric):
    """VGGSounder's metrics of the k classes with the highest scores.

    `compute(predictions=[n, C] float scores, references=[n, C] 0/1, k=1)` -> `subset_accuracy` (the k classes are
    exactly the labels), `f1` (micro average), `hit` (one of the k is a label), `k`, `num_clips`. Clips without a
    label are skipped, as the benchmark does per subset; `subset_references` makes the references of a subset. Of
    equal scores the lower class index counts as higher. Raises ValueError unless 1 <= k <= C, and where no clip has a
    label.
    """

    columns = {"predictions": FLOAT_ROW, "references": INT_ROW}
    source = "Zverev et al., VGGSounder: Audio-Visual Evaluations for Foundation Models, ICCV 2025, and its package"

    def _compute(
        self, predictions: Sequence[Sequence[float]], references: Sequence[Sequence[int]], k: int = 1
    ) -> dict[str, float]:
        positive, scores = _with_labels(*_labeled(references, predictions))
        picked = _highest(scores, k)
        return {
            "subset_accuracy": float(accuracy_score(positive, picked)),
            "f1": float(f1_score(positive, picked, average="micro", zero_division=0)),
            "hit": float(np.mean((positive & picked).any(1))),
            "k": k,
            "num_clips": len(positive),
        }


class ModalityConfusion(OfflineMetric):
    """Share of clips that one input gets right and both together get wrong (VGGSounder's mu).

    `compute(predictions=[n, C] scores from both inputs, audio_predictions=[n, C], video_predictions=[n, C],
    references=[n, C] 0/1 of all labels)` -> `mu_a`, `mu_v`, `mu_av` (audio alone and video alone right, both together
    wrong), `num_clips`. Right: the class with the highest score is a label. Shares of all labeled clips; the paper
    prints them times 100. Raises ValueError where no clip has a label.
    """

    columns = {
        "predictions": FLOAT_ROW,
        "audio_predictions": FLOAT_ROW,
        "video_predictions": FLOAT_ROW,
        "references": INT_ROW,
    }
    source = VGGSounderScore.source

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        audio_predictions: Sequence[Sequence[float]],
        video_predictions: Sequence[Sequence[float]],
        references: Sequence[Sequence[int]],
    ) -> dict[str, float]:
        matrices = (predictions, audio_predictions, video_predictions)
        positive, *scores = _with_labels(*_labeled(references, *matrices))
        # Right: the class with the highest score is a label.
        both, audio, video = ((positive & _highest(one, 1)).any(1) for one in scores)
        return {
            "mu_a": float(np.mean(audio & ~both)),
            "mu_v": float(np.mean(video & ~both)),
            "mu_av": float(np.mean(audio & video & ~both)),
            "num_clips": len(positive),
        }


def subset_references(
    labels: Sequence[Sequence[int]], modalities: Sequence[Sequence[str]], num_classes: int, subset: str
) -> np.ndarray:
    """References of one of VGGSounder's subsets: `[n, num_classes]` of 0 and 1, -100 for clips without a label in it.

    Args:
        labels: the classes of each clip.
        modalities: "A", "V" or "AV" for each of them.
        num_classes: C.
        subset: a key of `VGGSOUNDER_SUBSETS`. The paper shows a model that hears only the labels of "a", one that sees
            only those of "v", one given both those of "av".

    Raises:
        ValueError: no such subset or modality, or another number of modalities than labels.
    """
    if subset not in VGGSOUNDER_SUBSETS:
        raise ValueError(f"subset={subset!r}; use one of {list(VGGSOUNDER_SUBSETS)}")
    # Labels of the subset; clips without one do not count.
    references = np.zeros((len(labels), num_classes), dtype=np.int64)
    for row, (classes, tags) in enumerate(zip(labels, modalities, strict=True)):
        if len(classes) != len(tags) or set(tags) - set(VGGSOUNDER_SUBSETS["all"]):
            raise ValueError(f"clip {row}: labels {list(classes)}, modalities {list(tags)}; give A, V or AV for each")
        references[row, [one for one, tag in zip(classes, tags, strict=True) if tag in VGGSOUNDER_SUBSETS[subset]]] = 1
    references[~references.any(1)] = IGNORED_LABEL
    return references


def _labeled(references: Any, *predictions: Any) -> list[np.ndarray]:
    """References as bool and scores as float64, `[n, C]` each, without the clips whose references hold -100."""
    try:
        references = np.asarray(references, dtype=np.int64)
        scores = [np.asarray(matrix, dtype=np.float64) for matrix in predictions]
    except ValueError:
        raise ValueError(
            "predictions and references: rows of different lengths; give C values for each clip"
        ) from None
    # One score for each class of each clip.
    for matrix in scores:
        if matrix.ndim != 2 or matrix.shape != references.shape:
            raise ValueError(f"predictions {matrix.shape}, references {references.shape}; give [n, C] for both")
        if not np.isfinite(matrix).all():
            raise ValueError(f"predictions: {int((~np.isfinite(matrix)).sum())} scores are not finite")
    # Clips without a label do not count.
    kept = labeled_rows(references)
    if not np.isin(references[kept], (0, 1)).all():
        raise ValueError("references: give 1 for the classes of a clip and 0 for the others, or -100")
    return [references[kept].astype(bool), *(matrix[kept] for matrix in scores)]


def _with_labels(positive: np.ndarray, *scores: np.ndarray) -> list[np.ndarray]:
    kept = positive.any(1)
    if not kept.any():
        raise ValueError(f"references: none of {len(positive)} clips has a label; give labeled clips")
    return [positive[kept], *(matrix[kept] for matrix in scores)]


def _highest(scores: np.ndarray, k: int) -> np.ndarray:
    """`[n, C]` bool: the k highest scores of each row."""
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k={k} with {scores.shape[1]} classes; give 1 <= k <= {scores.shape[1]}")
    # A stable sort: of equal scores the lower class comes first.
    picked = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(picked, np.argsort(-scores, axis=1, kind="stable")[:, :k], True, axis=1)
    return picked
