# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Retrieval of a clip's audio by its video, and of its video by its audio."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from sklearn.preprocessing import normalize

from .classification import FLOAT_ROW, OfflineMetric


CHUNK = 1024  # queries ranked at a time: [CHUNK, n] similarities are in memory
DECIMALS = 10  # of a similarity: equal vectors then tie, whatever the order of summation


class RetrievalScore(OfflineMetric):
    """Recall at 1, 5, 10 and median rank of the true partner by cosine similarity, from video to audio and back.

    `compute(predictions=[n, D] float video embeddings, references=[n, D] float audio embeddings, ks=(1, 5, 10),
    ties="pessimistic")`; row i of both belongs to clip i -> `video_to_audio_r1`, `video_to_audio_r5`,
    `video_to_audio_r10`, `video_to_audio_median_rank`, the same from `audio_to_video`, and `num_clips`. Rank 1 is best.
    `ties="pessimistic"` ranks the partner behind all clips with the same similarity, so that collapsed embeddings score
    nothing; `"mean"` gives it the mean rank of those clips. Recall at k >= n is skipped: it is always 1.

    Raises ValueError for fewer than two clips, other shapes, values that are not finite, and other `ties`.
    """

    columns = {"predictions": FLOAT_ROW, "references": FLOAT_ROW}
    source = "Hodosh et al., Framing Image Description as a Ranking Task, JAIR 2013 (R@k, median rank)"

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[Sequence[float]],
        ks: Sequence[int] = (1, 5, 10),
        ties: Literal["pessimistic", "mean"] = "pessimistic",
    ) -> dict[str, float]:
        video, audio = (np.asarray(rows, dtype=np.float64) for rows in (predictions, references))
        if video.shape != audio.shape or video.ndim != 2 or len(video) < 2:
            raise ValueError(f"video {video.shape}, audio {audio.shape}; give [n, D] for both, n at least 2")
        video, audio = normalize(video), normalize(audio)
        result = {}
        for name, queries, gallery in (("video_to_audio", video, audio), ("audio_to_video", audio, video)):
            ranks = partner_ranks(queries, gallery, ties)
            result |= {f"{name}_r{k}": float(np.mean(ranks <= k)) for k in ks if k < len(ranks)}
            result[f"{name}_median_rank"] = float(np.median(ranks))
        return result | {"num_clips": len(video)}


def partner_ranks(
    queries: np.ndarray, gallery: np.ndarray, ties: Literal["pessimistic", "mean"] = "pessimistic"
) -> np.ndarray:
    """Rank of gallery row i for query row i by inner product, 1 is best; `[n, D]` each -> `[n]` float.

    These are `scipy.stats.rankdata`'s ranks, methods "max" and "average", without sorting the gallery for each query.
    """
    if ties not in ("pessimistic", "mean"):
        raise ValueError(f'ties={ties!r}; use "pessimistic" or "mean"')
    ranks = []
    for begin in range(0, len(queries), CHUNK):
        similarity = np.round(queries[begin : begin + CHUNK] @ gallery.T, DECIMALS)
        of_partner = similarity[np.arange(len(similarity)), begin + np.arange(len(similarity))][:, None]
        above, equal = (
            (similarity > of_partner).sum(1),
            (similarity == of_partner).sum(1),
        )  # equal counts the partner itself
        ranks.append(above + (equal if ties == "pessimistic" else (equal + 1) / 2))
    return np.concatenate(ranks).astype(np.float64)
