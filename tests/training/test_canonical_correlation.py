# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The linear baseline of the match score: what it finds in pairs that share a code, and the tool on a folder of clips."""

import json

import numpy as np
from sklearn.metrics import roc_auc_score
from toy_run import write_backbone, write_clips, write_config

from training.tools import canonical_correlation as tool


def test_directions_find_what_both_modalities_share():
    generator = np.random.default_rng(0)
    code = generator.normal(size=(400, 3))
    video, audio = (
        np.concatenate([code @ generator.normal(size=(3, 3)), generator.normal(size=(400, 5))], axis=1)
        for _ in range(2)
    )
    video, audio = (np.linalg.qr(each - each.mean(0))[0] * 20 for each in (video, audio))  # white
    directions = tool.canonical_directions(video[:300], audio[:300], 8, 3)
    left, right = (each[300:] @ part for each, part in zip((video, audio), directions, strict=True))
    scores = np.concatenate([tool.cosine(left, right), tool.cosine(left, np.roll(right, 1, axis=0))])
    assert roc_auc_score([1] * 100 + [0] * 100, scores) >= 0.98
    assert directions[0].shape == directions[1].shape == (8, 3)


def test_tool_writes_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "PRINCIPAL", (2, 4))
    monkeypatch.setattr(tool, "CANONICAL", (2,))
    config = write_config(tmp_path / "toy.yaml", write_clips(tmp_path / "data"), write_backbone(tmp_path / "vit"))
    record = tool.main([str(config), "--seeds", "0", "--out", str(tmp_path / "result"), "--check", "none"])
    (row,) = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert row == record["rows"][0] and 0 <= row["match_auroc"] <= 1 and row["pairs"] > 0
    assert row["components"] in ("2 principal, 2 canonical", "4 principal, 2 canonical")
    assert "canonical correlation" in (tmp_path / "result.md").read_text()
