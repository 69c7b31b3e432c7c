# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The evaluation table: what each figure means, its files, and the summary over seeds."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.toy_run import write_backbone, write_clips, write_config
from training.evaluation import (
    Predictions,
    markdown_table,
    pair_records,
    score,
    write_results,
)
from training.seeds import aggregate, main, shown


def read_csv(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def predictions(match_logits=(3.0, 2.0, 1.0, 0.5, -1.0, -2.0, 1.5, -3.0)) -> Predictions:
    """Four matched clips (three right) and four mismatched copies, one of which is accepted above 0.75."""
    labels = [0, 1, 2, 1, -100, -100, -100, -100]
    pairs = [
        {"clip_id": "abcd"[i % 4], "group": ("g1", "g1", "g2", "g3")[i % 4], "label": label, "is_matched": i < 4}
        for i, label in enumerate(labels)
    ]
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 0, 1, 2, 0]] * 5
    return Predictions(logits, np.array(match_logits, dtype=np.float32), pairs)


def test_row_counts_matched_pairs_for_classes_and_all_pairs_for_matching():
    row = score(predictions(), threshold=0.75)
    assert row["clips"] == 4 and row["groups"] == 3 and row["mismatched_pairs"] == 4
    assert row["top1"] == pytest.approx(0.75)
    assert row["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert row["match_auroc"] == pytest.approx(14 / 16)
    # accepted and right: a, b, c; d falls below the threshold; of the mismatched four one is accepted
    assert row["combined"] == pytest.approx((3 + 3) / 8)


def test_threshold_decides_the_combined_accuracy_and_nothing_else():
    low, high = score(predictions(), threshold=-10.0), score(predictions(), threshold=10.0)
    assert low["combined"] == pytest.approx(3 / 8) and high["combined"] == pytest.approx(4 / 8)
    assert low["top1"] == high["top1"] and low["match_auroc"] == high["match_auroc"]


def test_single_modality_has_no_match_columns():
    found = predictions()
    row = score(Predictions(found.logits[:4], None, found.pairs[:4]), threshold=None)
    assert "match_auroc" not in row and "combined" not in row
    table = markdown_table([{"model": "maavt", "input": "audio", "noise": "clean", **row}])
    assert "AUROC" not in table and "0.750" in table


def test_interval_resamples_groups_not_clips():
    """Ten groups of forty clips that are all right or all wrong: as uncertain as ten clips."""

    def width(groups: list[str]) -> float:
        pairs = [{"clip_id": str(i), "group": g, "label": 0, "is_matched": True} for i, g in enumerate(groups)]
        logits = np.eye(2, dtype=np.float32)[np.repeat([0, 1] * 5, 40)]
        low, high = score(Predictions(logits, None, pairs), None, bootstrap_samples=300)["top1_interval"]
        return high - low

    assert width([str(i // 40) for i in range(400)]) > 3 * width([str(i) for i in range(400)])


def test_files_of_a_run(tmp_path):
    found = predictions()
    rows = [{"model": "maavt", "input": "both", "noise": "-5", **score(found, 0.75)}]
    write_results(tmp_path, {"rows": rows}, pair_records(found, ["x", "y", "z"], "both", "-5"))
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == rows
    assert "| maavt | both | -5 dB | 0.750 |" in (tmp_path / "results.md").read_text()
    lines = read_csv(tmp_path / "predictions.csv")
    assert len(lines) == 8 and lines[4]["is_matched"] == "False" and lines[4]["clip_id"] == "a"
    assert (
        lines[3]["label"] == "y"
        and lines[3]["predicted"] == "x"
        and lines[4]["label"] == ""
        and lines[3]["match_logit"] == "0.5"
    )
    assert not list(tmp_path.glob("*.part"))


def run(modalities: str, seed: int, top1: float) -> dict:
    row = {"model": "maavt", "input": modalities, "noise": "clean", "top1": top1, "clips": 4, "groups": 3}
    baseline = row | {"model": "logistic regression", "top1": 0.5}
    return {"modalities": modalities, "seed": seed, "results": {"rows": [row, baseline], "minutes": 1.0}}


def test_seeds_are_averaged_per_training_modality():
    rows = aggregate([run("both", 0, 0.8), run("both", 1, 0.9), run("audio", 0, 0.6), run("audio", 1, 0.6)])
    assert [(r["model"], r["trained"], r["seeds"]) for r in rows] == [
        ("maavt", "both", 2),
        ("maavt", "audio", 2),
        ("logistic regression", "-", 2),
    ]
    assert rows[0]["top1"] == pytest.approx(0.85) and rows[0]["top1_spread"] == pytest.approx(0.0707, abs=1e-4)
    assert rows[0]["top1_seeds"] == [0.8, 0.9]
    assert shown(rows)[0]["top1"] == "0.850 ± 0.071"


def test_failed_run_shows_the_end_of_its_log(tmp_path):
    config = tmp_path / "x.yaml"
    config.write_text("model_name_or_path: nowhere\ndata: nowhere\nlerning_rate: 1\n")
    with pytest.raises(RuntimeError, match="did you mean 'learning_rate'"):
        main(
            [
                str(config),
                "--seeds",
                "0",
                "--trained_on",
                "both",
                "--runs",
                str(tmp_path),
                "--out",
                str(tmp_path / "r"),
            ]
        )


def test_seeds_run_once_and_are_summarized(tmp_path, capsys):
    config = write_config(tmp_path / "toy.yaml", write_clips(tmp_path / "data"), write_backbone(tmp_path / "vit"))
    arguments = [str(config), "--seeds", "0", "1", "--trained_on", "audio", "--runs", str(tmp_path / "runs")]
    arguments += ["--parallel", "2", "--out", str(tmp_path / "results" / "toy"), "--max_steps", "2", "--check", "none"]
    results = main(arguments)
    assert json.loads((tmp_path / "results" / "toy.json").read_text())["rows"] == results["rows"]
    assert [(row["model"], row["trained"], row["seeds"]) for row in results["rows"]] == [
        ("maavt", "audio", 2),
        ("logistic regression", "-", 2),
    ]
    text = (tmp_path / "results" / "toy.md").read_text()
    assert "±" in text and str(tmp_path) not in text and "--seeds 0 1" in text
    finished = [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.glob("runs/*/results.json"))]
    assert len(finished) == 2
    main(arguments)
    assert finished == [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.glob("runs/*/results.json"))]
