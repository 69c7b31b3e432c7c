# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Retrieval against hand-ranked examples, a loop, and the score of chance."""

import numpy as np
import pytest
from scipy.stats import rankdata

from processing.metrics import retrieval as retrieval_metrics
from processing.metrics.retrieval import RetrievalScore, partner_ranks


def ranks_by_loop(queries, gallery, optimistic: bool = False) -> list[float]:
    """1 + the number of strangers whose cosine similarity is above (pessimistic: not below) the partner's."""
    ranks = []
    for i, query in enumerate(queries):
        cosine = [float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in gallery]
        others = [value for j, value in enumerate(cosine) if j != i]
        ranks.append(1 + sum(value > cosine[i] + 1e-9 if optimistic else value > cosine[i] - 1e-9 for value in others))
    return ranks


def test_retrieval_by_hand():
    video = [[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]  # lengths do not matter
    audio = [[1.0, 0.1], [1.0, 0.0], [1.0, 1.0]]
    # picture 0 finds sound 1 first; picture 1 finds 2, 0, 1; picture 2 finds itself.
    # sound 0 finds picture 0; sound 1 finds 0, 2, 1; sound 2 finds itself
    score = RetrievalScore().compute(predictions=video, references=audio, ks=(1, 2, 5))
    assert score == {
        "video_to_audio_r1": pytest.approx(1 / 3),
        "video_to_audio_r2": pytest.approx(2 / 3),
        "video_to_audio_median_rank": 2,
        "audio_to_video_r1": pytest.approx(2 / 3),
        "audio_to_video_r2": pytest.approx(2 / 3),
        "audio_to_video_median_rank": 1,
        "num_clips": 3,
    }


def test_retrieval_against_a_loop(monkeypatch):
    monkeypatch.setattr(retrieval_metrics, "CHUNK", 7)
    generator = np.random.default_rng(0)
    video = generator.normal(size=(40, 6))
    audio = video + 0.8 * generator.normal(size=(40, 6))
    score = RetrievalScore().compute(predictions=video, references=audio)
    for name, queries, gallery in (("video_to_audio", video, audio), ("audio_to_video", audio, video)):
        ranks = np.array(ranks_by_loop(queries, gallery))
        assert score[f"{name}_median_rank"] == np.median(ranks)
        for k in (1, 5, 10):
            assert score[f"{name}_r{k}"] == pytest.approx(np.mean(ranks <= k))
    assert score["video_to_audio_r1"] != score["audio_to_video_r1"]


def test_ties():
    """Twelve clips with one embedding: nothing is retrieved, or the mean rank is."""
    same = np.tile(np.random.default_rng(1).normal(size=5), (12, 1)) * np.arange(1, 13)[:, None]
    score = RetrievalScore().compute(predictions=same, references=same)
    assert score["video_to_audio_r10"] == 0 and score["video_to_audio_median_rank"] == 12
    score = RetrievalScore().compute(predictions=same, references=same, ties="mean")
    assert score["video_to_audio_median_rank"] == 6.5 and score["video_to_audio_r10"] == 1 > score["video_to_audio_r5"]
    generator = np.random.default_rng(2)
    queries, gallery = generator.integers(-1, 2, size=(2, 30, 3)).astype(float)
    queries[(queries == 0).all(1), 0] = gallery[(gallery == 0).all(1), 0] = 1
    queries, gallery = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, gallery))
    pessimistic, optimistic = (np.array(ranks_by_loop(queries, gallery, side)) for side in (False, True))
    assert (pessimistic > optimistic).any()
    assert partner_ranks(queries, gallery).tolist() == pessimistic.tolist()
    similarity = np.round(queries @ gallery.T, 10)
    for ties, method in (("pessimistic", "max"), ("mean", "average")):
        assert (
            partner_ranks(queries, gallery, ties).tolist() == rankdata(-similarity, method, axis=1).diagonal().tolist()
        )
    assert partner_ranks(queries, gallery, "mean").tolist() == ((pessimistic + optimistic) / 2).tolist()


def test_random_embeddings_score_chance():
    generator = np.random.default_rng(3)
    video, audio = generator.normal(size=(2, 1000, 16))
    score = RetrievalScore().compute(predictions=video, references=audio)
    assert score["video_to_audio_r10"] == pytest.approx(0.01, abs=0.012)
    assert score["audio_to_video_median_rank"] == pytest.approx(500, abs=60)


def test_recall_that_is_always_one_is_left_out():
    score = RetrievalScore().compute(predictions=np.eye(5), references=np.eye(5))
    ways, figures = ("video_to_audio", "audio_to_video"), ("r1", "median_rank")
    assert set(score) == {f"{way}_{figure}" for way in ways for figure in figures} | {"num_clips"}
    assert score["video_to_audio_r1"] == 1


@pytest.mark.parametrize(
    ("video", "audio", "message"),
    [
        ([[1.0, 2.0]], [[1.0, 2.0]], "n at least 2"),
        ([[1.0, 2.0]] * 2, [[1.0]] * 2, r"give \[n, D\] for both"),
        ([[1.0, float("nan")]] * 2, [[1.0, 2.0]] * 2, "NaN"),
    ],
)
def test_errors(video, audio, message):
    with pytest.raises(ValueError, match=message):
        RetrievalScore().compute(predictions=video, references=audio)
    with pytest.raises(ValueError, match="pessimistic"):
        RetrievalScore().compute(predictions=np.eye(2), references=np.eye(2), ties="optimistic")
