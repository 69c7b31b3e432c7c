# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Paired tests: exact values, uniform p-values under the null, power, and the command."""

import csv
import json
from math import comb
from pathlib import Path

import numpy as np
import pytest

from processing.metrics.paired_tests import mcnemar_test, paired_bootstrap
from training.tools.paired import main


def test_mcnemar_by_hand():
    # A alone right 1 time, B alone 9 times: 2 * (C(10, 0) + C(10, 1)) / 2^10
    a = [1] * 5 + [1] + [0] * 9 + [0] * 5
    b = [1] * 5 + [0] + [1] * 9 + [0] * 5
    found = mcnemar_test(a, b)
    assert found == {"only_a_right": 1, "only_b_right": 9, "p_value": pytest.approx(22 / 1024)}
    assert mcnemar_test(b, a)["p_value"] == found["p_value"]
    assert mcnemar_test([True, False], [True, False])["p_value"] == 1
    assert mcnemar_test([True], [False])["p_value"] == 1


def test_mcnemar_against_the_binomial_distribution():
    for n in (4, 7, 20):
        for k in range(n + 1):
            tail = sum(comb(n, i) for i in range(min(k, n - k) + 1)) / 2**n
            a, b = [i < k for i in range(n)], [i >= k for i in range(n)]
            assert mcnemar_test(a, b)["p_value"] == pytest.approx(min(1, 2 * tail))


def test_mcnemar_errors():
    for a, b in (([], []), ([True], [True, False])):
        with pytest.raises(ValueError, match="the same clips"):
            mcnemar_test(a, b)
    with pytest.raises(ValueError, match="true or false"):
        mcnemar_test([0.5], [1])


def answers(generator, groups: int, clips: int, gain: float):
    """Right or wrong for two models of accuracy 0.6 and 0.6 + gain; clips of a group are alike, for both models."""
    hardness = generator.normal(0, 0.2, groups).repeat(clips)
    a = generator.random(groups * clips) < np.clip(0.6 + hardness, 0, 1)
    b = generator.random(groups * clips) < np.clip(0.6 + gain + hardness, 0, 1)
    return a, b, np.arange(groups).repeat(clips)


def test_p_values_are_uniform_without_a_difference_and_small_with_one():
    generator = np.random.default_rng(0)
    for gain in (0.0, 0.15):
        drawn, exact = [], []
        for seed in range(300):
            a, b, groups = answers(generator, 40, 5, gain)
            drawn.append(paired_bootstrap(a, b, groups, num_samples=400, seed=seed)["p_value"])
            exact.append(mcnemar_test(a, b)["p_value"])
        for p_values in (np.array(drawn), np.array(exact)):
            if gain:
                assert (p_values < 0.05).mean() > 0.8
                continue
            for level in (
                0.05,
                0.1,
                0.25,
                0.5,
                0.75,
            ):  # three standard errors of 300 draws, and the exact test's steps
                share = (p_values < level).mean()
                assert share == pytest.approx(level, abs=3 * np.sqrt(level * (1 - level) / 300) + 0.04)


def test_bootstrap_draws_groups():
    """Two models that differ group by group: clips of a group are copies, and count once."""
    generator = np.random.default_rng(1)
    difference = generator.normal(0.3, 1, 30)
    a, b = np.zeros(300), difference.repeat(10)
    groups = [f"speaker{i}" for i in range(30) for _ in range(10)]
    found = paired_bootstrap(a, b, groups, num_samples=2000)
    assert found["difference"] == pytest.approx(difference.mean()) and found["groups"] == 30
    low, high = found["interval"]
    assert high - low == pytest.approx(2 * 1.96 * difference.std() / np.sqrt(30), rel=0.1)
    clips = paired_bootstrap(a, b, np.arange(300), num_samples=2000)
    assert clips["interval"][1] - clips["interval"][0] < 0.5 * (high - low) and clips["p_value"] < found["p_value"]
    assert paired_bootstrap(a, b, groups, num_samples=2000) == found
    back = paired_bootstrap(b, a, groups, num_samples=2000)
    assert back["difference"] == -found["difference"] and back["p_value"] == pytest.approx(found["p_value"], abs=0.02)


def test_bootstrap_weighs_groups_by_their_clips():
    found = paired_bootstrap([0, 0, 0, 0], [1, 1, 1, 0], ["a", "a", "a", "b"], num_samples=500)
    assert found["difference"] == 0.75 and found["interval"] == [0, 1]


def test_equal_models_and_an_interval_that_agrees_with_the_p_value():
    same = paired_bootstrap([1, 0, 1, 0], [1, 0, 1, 0], [0, 1, 2, 3], num_samples=100)
    assert same == {"difference": 0, "interval": [0, 0], "p_value": 1, "groups": 4}
    generator = np.random.default_rng(2)
    for seed in range(40):
        a, b, groups = answers(generator, 30, 4, 0.1)
        found = paired_bootstrap(a, b, groups, num_samples=999, seed=seed)
        low, high = found["interval"]
        if abs(found["p_value"] - 0.05) > 0.005:
            assert (found["p_value"] < 0.05) == (low > 0 or high < 0)


def test_bootstrap_errors():
    with pytest.raises(ValueError, match="at least two groups"):
        paired_bootstrap([1, 0], [0, 1], ["a", "a"])
    with pytest.raises(ValueError, match="the same clips"):
        paired_bootstrap([1, 0], [0, 1], ["a"])


# The command


def write_predictions(path: Path, answers: dict[tuple[str, str], list[str]], **changes) -> Path:
    """A file as `training/maavt/evaluation.py` writes it: six clips of three groups, plus a mismatched pair per condition."""
    labels = ["cat", "dog", "cat", "dog", "cat", "dog"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as stream:
        names = ["input", "noise", "clip_id", "group", "label", "is_matched", "predicted"]
        writer = csv.DictWriter(stream, names, extrasaction="ignore")
        writer.writeheader()
        for (streams, noise), predicted in answers.items():
            for i, (label, said) in enumerate(zip(labels, predicted, strict=False)):
                row = {"clip_id": f"clip{i}", "group": f"g{i // 2}", "label": label, "is_matched": True}
                writer.writerow(
                    {"input": streams, "noise": noise, **row, "predicted": said, **changes.get(f"clip{i}", {})}
                )
            mismatched = {"clip_id": "clip0", "group": "g0", "label": None, "is_matched": False, "predicted": "dog"}
            writer.writerow({"input": streams, "noise": noise, **mismatched})
    return path


RIGHT = ["cat", "dog", "cat", "dog", "cat", "dog"]
WRONG = ["cat", "dog", "dog", "cat", "dog", "dog"]  # clips 2, 3, 4


def test_command_compares_clip_by_clip(tmp_path, capsys):
    a = write_predictions(tmp_path / "a" / "predictions.csv", {("both", "clean"): WRONG, ("both", "-5"): RIGHT})
    b = write_predictions(tmp_path / "b" / "predictions.csv", {("both", "clean"): RIGHT})
    results = main([str(a), str(b), "--num_samples", "200", "--out", str(tmp_path / "paired.json")])
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "paired.json").read_text()) == results
    (result,) = results
    assert result["a"] == {"file": str(a), "input": "both", "noise": "clean"} and result["clips"] == 6
    assert (result["accuracy_a"], result["accuracy_b"], result["difference"]) == (0.5, 1.0, 0.5)
    assert (result["only_a_right"], result["only_b_right"], result["groups"]) == (0, 3, 3)
    assert result["mcnemar_p"] == 0.25 and 0 < result["bootstrap_p"] < 1
    assert 0 <= result["interval"][0] <= 0.5 <= result["interval"][1] <= 1


def test_command_compares_inputs_and_conditions(tmp_path, capsys):
    conditions = {("audio", "clean"): WRONG, ("audio", "-5"): WRONG, ("video", "any"): WRONG, ("both", "clean"): RIGHT}
    path = str(write_predictions(tmp_path / "predictions.csv", conditions))

    def compared(*arguments: str) -> list[tuple]:
        found = main([path, path, "--num_samples", "20", *arguments])
        return [(one["a"]["input"], one["a"]["noise"], one["b"]["input"], one["b"]["noise"]) for one in found]

    assert compared() == [(*condition, *condition) for condition in conditions]
    assert compared("--input", "audio", "both") == [("audio", "clean", "both", "clean")]
    assert compared("--input", "video", "audio", "--noise", "-5") == [("video", "any", "audio", "-5")]
    assert compared("--input", "audio", "--noise", "clean", "-5") == [("audio", "clean", "audio", "-5")]
    with pytest.raises(ValueError, match="nothing to compare"):
        main([path, path, "--noise", "10", "--input", "both"])
    with pytest.raises(SystemExit):
        main([path, path, "--input", "a", "b", "c"])


def test_command_compares_labeled_segments(tmp_path):
    """Two segments of each clip: each is right or wrong by itself, and the bootstrap still draws groups."""
    for name, predicted in (("a", WRONG), ("b", RIGHT)):
        rows = ["input,noise,clip_id,group,label,is_matched,predicted,segment"]
        for i, (label, said) in enumerate(zip(RIGHT, predicted, strict=True)):
            rows.append(f"both,clean,clip{i // 2},g{i // 4},{label},True,{said},{i % 2}")
        (tmp_path / f"{name}.csv").write_text("\n".join(rows) + "\n")
    a, b = (str(tmp_path / f"{name}.csv") for name in "ab")
    (result,) = main([a, b, "--num_samples", "50"])
    assert (result["clips"], result["segments"], result["groups"]) == (3, 6, 2)
    assert (result["accuracy_a"], result["accuracy_b"], result["only_b_right"]) == (0.5, 1.0, 3)

    lines = Path(b).read_text().splitlines()
    Path(b).write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ValueError, match="1 of 6 segments are not in the other file, such as 'clip2' segment 1"):
        main([a, b])
    Path(b).write_text("\n".join([*lines, lines[-1]]) + "\n")
    with pytest.raises(ValueError, match="clip_id 'clip2' segment 1 stands in it twice"):
        main([a, b])


def test_command_refuses_what_cannot_be_compared(tmp_path):
    clean = ("both", "clean")
    a = str(write_predictions(tmp_path / "a.csv", {clean: RIGHT}))
    for name, changes, message in (
        ("other", {"clip1": {"clip_id": "stranger"}}, "1 of 6 clips are not in the other file, such as 'clip1'"),
        ("label", {"clip1": {"label": "cat"}}, "clip 'clip1' has label 'cat', and 'dog'"),
        ("group", {"clip1": {"group": "g9"}}, "clip 'clip1' has group 'g9', and 'g0'"),
        ("twice", {"clip1": {"clip_id": "clip0"}}, "clip_id 'clip0' stands in it twice"),
    ):
        b = write_predictions(tmp_path / f"{name}.csv", {clean: RIGHT}, **changes)
        with pytest.raises(ValueError, match=message):
            main([a, str(b)])
    fewer = write_predictions(tmp_path / "fewer.csv", {clean: RIGHT[:5]})
    with pytest.raises(ValueError, match="same test set"):
        main([a, str(fewer)])
    (tmp_path / "table.csv").write_text("clip_id,label\nx,cat\n")
    with pytest.raises(ValueError, match="table.csv: no column"):
        main([a, str(tmp_path / "table.csv")])
    with pytest.raises(FileNotFoundError):
        main([a, str(tmp_path / "nowhere.csv")])
