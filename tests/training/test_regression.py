# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The baseline to beat: its penalty, its features, its folds, and the tool that measures it by nested cross-validation."""

import json

import numpy as np
import pytest
from toy_run import write_backbone, write_clips, write_config

from modeling_maavt import MAAVTModel, modeling_maavt
from training.common import regression
from training.common.regression import best_penalty, choose_features, fit_regression, group_folds
from training.maavt.baseline import (
    FEW_ROWS,
    LATE_FUSION,
    Features,
    choosing_folds,
    fit_inputs,
    late_fusion,
    probabilities_by_input,
    untouched_backbone,
)
from training.tools import regression as tool


def noisy_rows(num: int, width: int, signal: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes, told apart by the first of `width` features, among noise."""
    generator = np.random.default_rng(seed)
    y = np.arange(num) % 2
    x = generator.normal(size=(num, width))
    x[:, 0] += signal * (2 * y - 1)
    return x, y


def test_penalty_is_not_at_the_edge_of_what_was_tried(monkeypatch):
    x, y = noisy_rows(200, 300, 0.5)
    tried = {}
    original = regression.judged

    def record(x, y, folds, exponent):
        tried[exponent] = original(x, y, folds, exponent)
        return tried[exponent]

    monkeypatch.setattr(regression, "judged", record)
    best, figure = best_penalty(x, y, [(np.arange(100), np.arange(100, 200))])
    assert best - 1 in tried and best + 1 in tried and figure == max(tried.values())
    # So little is in these features that the strongest penalty of the first grid is the best: a stronger one is tried.
    assert best == min(regression.EXPONENTS)


def test_reading_the_untouched_backbone_warns_of_nothing(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(modeling_maavt.logger, "warning", warnings.append)
    backbone = write_backbone(tmp_path / "vit")
    untouched_backbone(str(backbone))
    assert warnings == []
    MAAVTModel.from_pretrained(backbone)
    assert "new and untrained on top of it: prompt" in warnings[0] and len(warnings) == 1


def test_fit_uses_the_training_rows_alone():
    x, y = noisy_rows(60, 5, 1.0)
    plain = fit_regression(x, y, x, y)
    # Validation with other labels changes the penalty, not what is fitted.
    other = fit_regression(x, y, x, 1 - y)
    assert plain[-1].C > other[-1].C
    assert plain.score(x, y) >= 0.75 and other.score(x, y) >= 0.75


def test_multi_hot_targets_choose_by_map():
    x, y = noisy_rows(80, 10, 1.5)
    targets = np.stack([y, 1 - y, np.ones_like(y)], axis=1)
    targets[0, 2] = 0
    found = fit_regression(x[:40], targets[:40], x[40:], targets[40:])
    assert found.predict_proba(x).shape == (80, 3)


def test_folds_part_groups():
    groups = np.repeat(np.arange(12), 3)
    for train, test in group_folds(groups, 5, seed=1):
        assert not set(groups[train]) & set(groups[test])
    tested = np.concatenate([test for _, test in group_folds(groups, 5, seed=1)])
    assert sorted(tested) == list(range(36))


def rows_of(num: int, seed: int) -> Features:
    """The audio's patches tell the class in the backbone's picture, everything else is noise."""
    generator = np.random.default_rng(seed)
    y = np.arange(num) % 2
    arrays = {
        (stream, picture): generator.normal(size=(num, 8))
        for stream in ("video", "audio")
        for picture in ("recipe", "backbone")
    }
    arrays["audio", "backbone"][:, 4] += 8 * y
    return Features(arrays, y, np.arange(num).astype(str))


def test_the_best_picture_and_feature_are_chosen():
    known, test = rows_of(60, 0), rows_of(40, 1)
    found = fit_inputs(known, np.arange(40), choosing_folds(known, 40, seed=0))
    assert found["audio"].columns == {"audio": "backbone, patch mean"}
    assert "backbone, patch mean" in found["audio"].description
    assert (found["audio"].probabilities(test, 2).argmax(1) == test.labels).all()
    assert set(found) == {"audio", "video", "both"} and set(found["both"].columns) == {"video", "audio"}
    alone = [found[stream].probabilities(test, 2) for stream in ("video", "audio")]
    fused = late_fusion(*alone)
    np.testing.assert_allclose(fused.sum(1), 1, rtol=1e-6)
    assert (fused.argmax(1) == test.labels).mean() > 0.8
    assert found["video"].exponent < found["audio"].exponent  # of noise, as little as possible


def test_a_clip_without_audio_is_judged_by_its_video():
    known, test = rows_of(60, 0), rows_of(40, 1)
    for features in (known, test):
        for key, array in features.arrays.items():
            if key[0] == "audio":
                array[::4] = np.nan
    fits = fit_inputs(known, np.arange(40), choosing_folds(known, 40, seed=0))
    found = probabilities_by_input(fits, test, 2)
    silent = np.arange(40) % 4 == 0
    audio, video = (found["logistic regression", name] for name in ("audio", "video"))
    assert (np.isnan(audio).any(1) == silent).all() and np.isfinite(video).all()
    for model in ("logistic regression", LATE_FUSION):
        np.testing.assert_array_equal(found[model, "both"][silent], video[silent])
        assert (found[model, "both"].argmax(1) == test.labels)[~silent].mean() > 0.8
    # Without a clip that has audio there is a regression on the video alone.
    for key, array in known.arrays.items():
        if key[0] == "audio":
            array[:] = np.nan
    assert set(fit_inputs(known, np.arange(40), choosing_folds(known, 40, seed=0))) == {"video"}


def test_few_validation_rows_choose_together_with_the_training_rows():
    known = rows_of(60, 0)
    few = choosing_folds(known, 60 - FEW_ROWS + 1, seed=0)
    many = choosing_folds(known, 60 - FEW_ROWS, seed=0)
    assert len(few) == 5 and sorted(np.concatenate([judge for _, judge in few])) == list(range(60))
    assert len(many) == 1 and many[0][1].tolist() == list(range(10, 60))
    name, _ = choose_features({"a": lambda: known.columns("audio", "backbone, patch mean")}, known.labels, few)
    assert name == "a"


def test_nested_cross_validation_tests_every_clip_once(tmp_path):
    config = write_config(tmp_path / "toy.yaml", write_clips(tmp_path / "data"), write_backbone(tmp_path / "vit"))
    arguments = [
        str(config),
        "--seeds",
        "0",
        "--out",
        str(tmp_path / "r"),
        "--check",
        "none",
        "--train_noise_db",
        "20",
    ]
    split = {(row["model"], row["input"]): row for row in tool.main(arguments)["rows"]}
    assert split["logistic regression", "audio"]["clips"] == 6
    assert "agreement_auroc" in split["logistic regression", "both"]
    rows = {(row["model"], row["input"]): row for row in tool.main([*arguments, "--nested"])["rows"]}
    assert {name for _, name in rows} == {"audio", "video", "both"} and len(rows) == 4
    for row in rows.values():
        assert row["clips"] == 27 and row["groups"] == 27 and row["top1"] == pytest.approx(1.0)  # color and pitch
    saved = json.loads((tmp_path / "r.json").read_text())
    assert len(saved["rows"][0]["features_seeds"][0]) == tool.FOLDS
    text = (tmp_path / "r.md").read_text()
    assert "figures of one seed" in text and "±" not in text


def test_nested_cross_validation_learns_nothing_from_a_tested_group():
    """Every group has features of its own that name its class: of no use for another group."""
    generator = np.random.default_rng(0)
    groups = np.arange(40).repeat(2)
    labels = (generator.permutation(40) % 2).repeat(2)
    own = np.eye(40)[groups] * 5 + generator.normal(size=(80, 40)) * 0.1
    features = Features({("audio", "recipe"): own}, labels, groups.astype(str))
    (row,) = tool.nested_rows(features, features, 2, seed=0)
    assert row["input"] == "audio" and 0.2 < row["top1"] < 0.8


def test_nested_cross_validation_leaves_out_segments_without_a_label():
    features = rows_of(60, 0)
    expected = tool.nested_rows(features, features, 2, seed=0)
    unlabeled = rows_of(20, 1)
    unlabeled.labels[:] = -100
    more = Features.joined([features, unlabeled])
    assert tool.nested_rows(more, more, 2, seed=0) == expected and expected[0]["clips"] == 60
