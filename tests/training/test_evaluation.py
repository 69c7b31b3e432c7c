# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The evaluation table: what each figure means, its files, and the summary over seeds."""

import csv
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clip_factory import write_clip
from datasets import Dataset
from toy_run import write_backbone, write_clips, write_config

from training.common.results import markdown_table
from training.maavt import evaluation
from training.maavt.arguments import parse_arguments
from training.maavt.evaluation import (
    Predictions,
    class_agreement,
    match_threshold,
    pair_records,
    pair_scores,
    predict,
    score,
)
from training.maavt.official_scores import official_scores
from training.maavt.outputs import write_results
from training.tools import compare, out_of_step, regression, robustness
from training.tools.repeated_runs import Run, result_file, shown
from training.tools.seeds import aggregate, main


REPOSITORY = Path(__file__).resolve().parents[2]


def read_csv(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def predictions(match_logits=(3.0, 2.0, 1.0, 0.5, -1.0, -2.0, 1.5, -3.0)) -> Predictions:
    """Four matched clips (three right) and four mismatched copies, one of which is accepted above 0.75."""
    labels = [0, 1, 2, 1, -100, -100, -100, -100]
    pairs = [
        {
            "clip_id": "abcd"[i % 4],
            "audio": "abcdbcda"[i],
            "group": ("g1", "g1", "g2", "g3")[i % 4],
            "label": label,
            "is_matched": i < 4,
        }
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


@pytest.mark.parametrize("how", ["unlabeled", "absent"])
def test_mismatched_pairs_follow_only_clips_whose_class_is_known(how):
    found = predictions()
    if how == "unlabeled":
        found.pairs[3]["label"] = -100
    else:
        found = found.subset(np.arange(8) != 3)
    row = score(found, threshold=0.75)  # of the classes 0, 1, 2, 0
    assert row["mismatched_video_class"] == 1.0  # a, b, c
    assert row["mismatched_audio_class"] == pytest.approx(1 / 3)  # b, c, a


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
        low, high = score(Predictions(logits, None, pairs), None, num_samples=300)["top1_interval"]
        return high - low

    assert width([str(i // 40) for i in range(400)]) > 3 * width([str(i) for i in range(400)])


def test_match_interval_resamples_the_groups_of_both_clips():
    """Clips whose audio decides the score: mismatched pairs with one audio are no independent observations."""
    generator, num = np.random.default_rng(0), 40
    loud = generator.normal(size=num)
    partner = (np.arange(num) // 10 * 10 + 13) % num  # four clips give the audio of all mismatched pairs
    pairs, scores = [], []
    for matched in (True, False):
        for clip in range(num):
            audio = clip if matched else int(partner[clip])
            pairs.append({"clip_id": str(clip), "audio": str(audio), "group": str(clip), "is_matched": matched})
            pairs[-1]["label"] = 0 if matched else -100
            scores.append(matched + loud[audio])
    found = Predictions(np.eye(2, dtype=np.float32)[[0] * len(pairs)], np.array(scores, dtype=np.float32), pairs)
    row = score(found, None, num_samples=300)
    for pair in pairs:
        pair["audio"] = pair["clip_id"]
    narrow = score(found, None, num_samples=300)
    assert row["match_auroc"] == narrow["match_auroc"]
    assert np.ptp(row["match_auroc_interval"]) > 1.5 * np.ptp(narrow["match_auroc_interval"])


def two_clip_pairs() -> list[dict]:
    """Clips a, b of class 0 and c, d of class 1, then each with the audio of another class, then of its own class."""
    label = {"a": 0, "b": 0, "c": 1, "d": 1}
    pairs = []
    for video, audio in zip("abcd" * 3, "abcdcdabbadc", strict=True):
        matched, alike = video == audio, label[video] == label[audio]
        pair = {"clip_id": video, "video": video, "audio": audio, "group": video, "label": label[video]}
        pairs.append(pair | {"is_matched": matched, "same_class": alike})
        if not matched:
            pairs[-1]["label"] = -100
    return pairs


def test_pairs_of_another_class_and_of_the_same_class_are_judged_apart():
    pairs = two_clip_pairs()
    scores = np.array([3.0, 3, 3, 1, -1, -1, -1, 2, 3, 3, 3, 1])
    found = pair_scores("match", scores, pairs, {"num_samples": 50})
    assert found["match_auroc"] == pytest.approx(15 / 16) and found["match_auroc_same_class"] == pytest.approx(0.5)
    low, high = found["match_auroc_same_class_interval"]
    assert low <= 0.5 <= high
    # A pair that lacks a modality is asked in neither.
    scores[3], scores[7] = np.nan, np.nan
    assert pair_scores("match", scores, pairs, {"num_samples": 50})["match_auroc"] == 1.0


def test_class_agreement_of_pairs_comes_from_what_each_modality_says_alone():
    pairs = two_clip_pairs()
    video = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9]])
    audio = np.array([[0.6, 0.4], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    rows = {(clip, None): i for i, clip in enumerate("abcd")}
    found = class_agreement(pairs, (rows, video), (rows, audio))
    for pair, value in zip(pairs, found, strict=True):
        assert value == pytest.approx(video["abcd".index(pair["video"])] @ audio["abcd".index(pair["audio"])])
    del rows["d", None]
    assert np.isnan(class_agreement(pairs, (rows, video), (rows, audio))[[3, 5, 7]]).all()


def test_which_modality_the_class_follows_when_the_audio_is_of_another_class():
    pairs = two_clip_pairs()[:8]
    logits = np.eye(2, dtype=np.float32)[[0, 0, 1, 1, 0, 0, 1, 0]] * 5  # of the mismatched pairs d follows its audio
    row = score(Predictions(logits, None, pairs), None)
    assert row["mismatched_video_class"] == 0.75 and row["mismatched_audio_class"] == 0.25 and row["top1"] == 1.0


def test_match_interval_resamples_the_group_of_the_other_video_too():
    """Copies that show the audio of a clip with the frames of another one hang on the other one's group."""
    generator, num = np.random.default_rng(0), 40
    bright = generator.normal(size=num)
    partner = (np.arange(num) // 10 * 10 + 13) % num
    pairs, scores = [], []
    for matched in (True, False):
        for clip in range(num):
            video = clip if matched else int(partner[clip])
            pairs.append({"clip_id": str(clip), "video": str(video), "audio": str(clip), "group": str(clip)})
            pairs[-1]["is_matched"] = matched
            scores.append(matched + bright[video])
    both = pair_scores("match", np.array(scores), pairs, {"num_samples": 300})
    for pair in pairs:
        pair["video"] = pair["clip_id"]
    narrow = pair_scores("match", np.array(scores), pairs, {"num_samples": 300})
    assert np.ptp(both["match_auroc_interval"]) > 1.5 * np.ptp(narrow["match_auroc_interval"])


class FixedPredictions:
    """A trainer that has the predictions already."""

    def __init__(self, logits: np.ndarray, match_logits: np.ndarray):
        self.predictions = (logits, match_logits)

    def predict(self, dataset):
        return self


class FixedPairs(list):
    """A data set of described pairs."""

    targets = SimpleNamespace(kind="clip")

    def describe(self, index: int) -> dict:
        return self[index]

    def has_both(self, index: int) -> bool:
        return True


def test_match_threshold_is_fitted_on_the_given_pairs():
    """Scores around 5: at a threshold of 0 every mismatched pair would be accepted."""
    found = predictions()
    threshold = match_threshold(FixedPredictions(found.logits, found.match_logits + 5), FixedPairs(found.pairs))
    assert 4 < threshold < 5.5  # rejects three of the mismatched pairs, accepts the three that are rightly classified
    scores = [score(found, candidate - 5)["combined"] for candidate in (threshold, 0.0, 5.0)]
    assert scores[0] == max(scores) and scores[0] > scores[1]


def test_modality_confusion_is_that_of_clips_with_both_modalities():
    """The last of three clips has no audio."""
    table = Dataset.from_dict({"clip_id": ["a", "b", "c"], "label": [[0], [1], [0]], "modalities": [["AV"]] * 3})
    pairs = [{"clip_id": name, "video": name, "audio": name} for name in table["clip_id"]]
    right = Predictions(np.eye(2)[[0, 1, 0]], None, pairs)
    wrong = Predictions(1 - right.logits, None, pairs)
    shown = {"audio": right.subset(np.array([True, True, False])), "video": right, "both": wrong}
    scores = official_scores(shown, table, ["x", "y"], lambda: None)["vggsounder"]
    assert scores["modality_confusion"] == {"mu_a": 1.0, "mu_v": 1.0, "mu_av": 1.0, "num_clips": 2}


@pytest.mark.parametrize(("name", "value"), [("logits", np.nan), ("match_logits", np.inf)])
def test_a_clip_whose_logits_diverged_is_named(name, value):
    found = predictions()
    getattr(found, name)[2] = value
    with pytest.raises(ValueError, match="^c: .* lower learning rate"):
        predict(FixedPredictions(found.logits, found.match_logits), FixedPairs(found.pairs))


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
    assert not list(tmp_path.glob("*.part*"))


def run(modalities: str, seed: int, top1: float) -> tuple[dict, dict]:
    row = {"model": "maavt", "input": modalities, "noise": "clean", "top1": top1, "clips": 4, "groups": 3}
    baseline = row | {"model": "logistic regression", "top1": 0.5}
    return {"modalities": modalities, "seed": seed}, {"rows": [row, baseline], "minutes": 1.0}


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
    config.write_text("model_name_or_path: nowhere\ndata: nowhere\n")
    with pytest.raises(ChildProcessError, match="data: nowhere: no such file or folder"):
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


# Comparisons


COMPARISON = """
base: toy.yaml
variants:
  MA-AVT: {}
  no contrast: {model_config: {contrastive: null}, mismatch_probability: 0.5}
  sound: {modalities: [audio], bf16: false}
"""


def test_variants_become_command_lines(tmp_path):
    (tmp_path / "toy.yaml").write_text("data: x\nmodel_name_or_path: y\n")
    (tmp_path / "c.yaml").write_text(COMPARISON)
    jobs = compare.comparison_runs(str(tmp_path / "c.yaml"), ["--check", "none"], [3])
    assert [job.name for job in jobs] == ["c-ma-avt-seed3", "c-no-contrast-seed3", "c-sound-seed3"]
    recipe = parse_arguments([jobs[1].config, *jobs[1].arguments])
    assert recipe.model.model_config == {"contrastive": None} and recipe.run.seed == 3
    assert recipe.data.mismatch_probability == 0.5
    recipe = parse_arguments([jobs[2].config, *jobs[2].arguments])
    assert recipe.data.modalities == ["audio"] and recipe.run.bf16 is False and recipe.data.check == "none"
    assert len(compare.comparison_runs(str(tmp_path / "c.yaml"), [], [0, 1], only=["sound"])) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variants: {a: {}}", "expected the keys `base` and `variants`"),
        ("base: none.yaml\nvariants: {a: {}}", "does not exist"),
        ("base: toy.yaml\nvariants: [a]", "expected `name"),
        ("base: toy.yaml\nvariants: {a: {train_noise_db: null}}", "a: train_noise_db is null"),
    ],
)
def test_bad_comparisons_are_refused(tmp_path, text, message):
    (tmp_path / "toy.yaml").write_text("data: x\n")
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        compare.read_comparison(tmp_path / "c.yaml")
    with pytest.raises(FileNotFoundError, match="configs/compare/"):
        compare.read_comparison(tmp_path / "none.yaml")
    (tmp_path / "c.yaml").write_text(COMPARISON)
    with pytest.raises(ValueError, match=r"no variant \['x'\]"):
        compare.comparison_runs(str(tmp_path / "c.yaml"), [], [0], only=["x"])


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs" / "compare").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_comparison_parses(path):
    for job in compare.comparison_runs(str(path), ["--data", "clips", "--model_name_or_path", "vit"], [0]):
        parse_arguments([job.config, *job.arguments])


def test_comparison_writes_one_row_a_variant(tmp_path):
    write_config(tmp_path / "toy.yaml", write_clips(tmp_path / "data"), write_backbone(tmp_path / "vit"))
    (tmp_path / "c.yaml").write_text(COMPARISON)
    arguments = [str(tmp_path / "c.yaml"), "--seeds", "0", "--only", "MA-AVT", "sound", "--max_steps", "2"]
    arguments += ["--check", "none", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "r")]
    rows = compare.main(arguments)["rows"]
    ours = [row for row in rows if row["variant"] in ("MA-AVT", "sound")]
    assert [(row["variant"], row["input"], row["seeds"]) for row in ours] == [
        ("MA-AVT", "both", 1),
        ("sound", "audio", 1),
    ]
    assert ours[0]["trainable"] > ours[1]["trainable"] > 0 and ours[0]["seconds_per_epoch"] > 0
    assert sorted(row["input"] for row in rows if row["variant"] == "logistic regression") == [
        "audio",
        "both",
        "video",
    ]
    text = (tmp_path / "r.md").read_text()
    assert "seconds per epoch" in text and str(tmp_path) not in text

    # The same runs under noise, blur and exchanged clips; nothing is trained again.
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/results.json")}
    worse = {row["variant"]: row for row in robustness.main([*arguments[:-1], str(tmp_path / "w")])["rows"]}
    assert trained == {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/results.json")}
    top1 = {(row["variant"], row["input"]): row["top1"] for row in rows}
    assert worse["MA-AVT"]["clean"] == top1["MA-AVT", "both"] and worse["sound"]["clean"] == top1["sound", "audio"]
    for name in ("both", "video", "audio"):
        condition = "clean" if name == "both" else f"{name} alone"
        assert worse["logistic regression"][condition] == top1["logistic regression", name]
    assert "blur area" not in worse["sound"] and 0 <= worse["sound"]["noise area"] <= 1
    # A clip's class is its color and its pitch: with the audio of another class the two contradict each other.
    alone = worse["logistic regression"]
    assert alone["other audio"] + alone["other frames"] <= 1 and "other audio" in worse["MA-AVT"]
    text = (tmp_path / "w.md").read_text()
    assert "## Frames" in text and "on the test clips" in text
    assert json.loads((tmp_path / "w.json").read_text())["machine"]["cores"] == os.cpu_count()
    # What was tested is not tested again, until the run is another one.
    kept = tmp_path / "runs" / "c-ma-avt-seed0" / "robustness.json"
    kept.write_text(kept.read_text().replace('"clean": ', '"clean": 0.125, "not clean": '))
    again = {row["variant"]: row for row in robustness.main([*arguments[:-1], str(tmp_path / "w")])["rows"]}
    assert again["MA-AVT"]["clean"] == 0.125
    os.utime(kept, (0, 0))
    again = {row["variant"]: row for row in robustness.main([*arguments[:-1], str(tmp_path / "w")])["rows"]}
    assert again["MA-AVT"]["clean"] == worse["MA-AVT"]["clean"]


@pytest.mark.parametrize("several", [False, True])
def test_the_match_threshold_leaves_out_what_has_no_right_answer(monkeypatch, several):
    """Matched segments without a label; with several classes a clip the class does not count."""
    labels = [[0, 1], [2], [1], [0]] if several else [0, -100, 1, -100]
    matched = [True, True, True, False]
    pairs = [
        {"clip_id": str(i), "group": str(i), "label": label, "is_matched": match}
        for i, (label, match) in enumerate(zip(labels, matched, strict=True))
    ]
    predictions = Predictions(np.eye(4, 3, dtype=np.float32), np.array([2.0, -3.0, 3.0, 0.0]), pairs)
    assert predictions.has_answer.tolist() == [True, several, True, True]
    monkeypatch.setattr(evaluation, "predict", lambda trainer, dataset: predictions)
    # With the unlabeled pair, whose logit is -3, accepting all is as good.
    assert evaluation.match_threshold(None, None) == pytest.approx(-4.0 if several else 1.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"multi_label": True}, "robustness: measures top-1, but the clips have several classes"),
        ({"block_states": "folder"}, "leave block_states and feature_cache out"),
        ({"feature_cache": "folder"}, "leave block_states and feature_cache out"),
        ({"paired": False}, "no two test clips can be paired"),
    ],
)
def test_robustness_says_what_it_cannot_show(changes, reason):
    values = {"multi_label": False, "block_states": None, "feature_cache": None, "paired": True} | changes
    one = SimpleNamespace(both_modalities=True, data=SimpleNamespace(**values), **values)
    with pytest.raises(ValueError, match=reason):
        robustness.check_measurable(one, one, one)


def test_names_of_results_may_have_dots(tmp_path):
    assert result_file(tmp_path / "lr0.001", ".json") == tmp_path / "lr0.001.json"


def test_a_wrong_option_replaces_no_finished_run(tmp_path, monkeypatch):
    config = write_config(tmp_path / "toy.yaml", write_clips(tmp_path / "data"), write_backbone(tmp_path / "vit"))
    monkeypatch.setattr(Run, "results", None)
    with pytest.raises(ValueError, match="learning_rat"):
        main([str(config), "--seeds", "0", "--out", str(tmp_path / "r"), "--learning_rat", "1"])


def test_shipped_comparisons_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, variants = compare.read_comparison("configs/compare/folder.yaml")
    assert Path(base).is_file() and "LoRA" in variants


def test_the_regression_is_not_measured_where_it_is_chosen(tmp_path):
    config = write_config(tmp_path / "toy.yaml", write_clips(tmp_path / "data"), write_backbone(tmp_path / "vit"))
    with pytest.raises(ValueError, match="evaluation_split: validation chooses the regression"):
        regression.main([str(config), "--out", str(tmp_path / "r"), "--evaluation_split", "validation"])


def test_audio_out_of_step(tmp_path):
    """Windows that end with their file are tested, clips without audio are not."""
    data = write_clips(tmp_path / "data", seconds=1.0)
    write_config(tmp_path / "toy.yaml", data, write_backbone(tmp_path / "vit"))
    (tmp_path / "c.yaml").write_text(COMPARISON)
    arguments = [
        str(tmp_path / "c.yaml"),
        "--seeds",
        "0",
        "--max_steps",
        "2",
        "--baseline",
        "false",
        "--check",
        "none",
    ]
    arguments += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "o"), "--only"]
    with pytest.raises(ValueError, match="no test clip is a window that begins 0.2 s or more into its file"):
        out_of_step.main([*arguments, "MA-AVT"])

    table = (data / "metadata.csv").read_text().splitlines()
    windows = ["0.0,0.5", *["0.5,1.0"] * (len(table) - 2)]
    rows = [f"{row},{window}" for row, window in zip(table[1:], windows, strict=True)]
    (data / "metadata.csv").write_text("\n".join([f"{table[0]},start,end", *rows]))
    silent = next(row.split(",")[0] for row in reversed(rows) if ",test," in row)
    write_clip(data / silent, np.zeros((10, 32, 32, 3), np.uint8), None, fps=10)
    shutil.rmtree(tmp_path / "runs")
    arguments = [*arguments[:-1], "--on_missing", "none", "--check", "probe", "--only"]
    rows = out_of_step.main([*arguments, "MA-AVT"])["rows"]
    assert [row["out of step by"] for row in rows] == ["0.05 s", "0.1 s", "0.2 s"]
    tested = [
        row for row in (data / "metadata.csv").read_text().splitlines() if ",test," in row and ",0.0," not in row
    ]
    for row in rows:
        assert 0 <= row["match"] <= 1 and 0 <= row["agreement"] <= 1 and row["windows"] == len(tested) - 1
    assert "out of step by" in (tmp_path / "o.md").read_text()
    with pytest.raises(ValueError, match="c-sound-seed0: has no two streams"):
        out_of_step.main([*arguments, "sound"])


def test_a_score_of_single_windows_does_not_tell_what_is_out_of_step():
    video, audio = np.random.default_rng(0).exponential(size=(2, 2, 500))  # of two windows, 500 times
    video, audio = np.round(8 * video), np.round(8 * audio)  # sums of whole numbers have no rounding: all are ties
    in_step = [video[0] + audio[0], video[1] + audio[1]]
    crossed = [video[0] + audio[1], video[1] + audio[0]]
    assert out_of_step.share_ahead(sum(in_step), sum(crossed)) == 0.5
    assert out_of_step.share_ahead(np.array([1.0, 2.0]), np.array([0.0, 3.0])) == 0.5


def test_comparison_shows_retrieval_on_clean_clips_alone():
    retrieval = {"video_to_audio_r5": 0.5, "audio_to_video_r5": 0.3, "num_clips": 10}
    assert compare.recall({"retrieval": retrieval}, "clean") == {"recall_at_5": pytest.approx(0.4)}
    assert compare.recall({"retrieval": retrieval}, "0") == compare.recall({}, "clean") == {}


def test_frames_are_blurred_by_a_share_of_their_height():
    frames = torch.zeros(2, 3, 40, 40, dtype=torch.uint8)
    frames[..., 20:] = 200
    for share in robustness.BLURS[1:]:
        edge = robustness.blurred(frames, share)[0, 0, 20].float()
        # A Gaussian edge falls from 84 % to 16 % of its height over two deviations.
        width = int(((edge > 0.16 * 200) & (edge < 0.84 * 200)).sum())
        assert abs(width - 2 * share * 40) <= 2


def test_a_comparison_does_not_take_the_results_of_another_command(tmp_path, monkeypatch):
    config = tmp_path / "c.yaml"
    config.write_text("data: x\n")

    def train(run, command, log, threads):
        rate = command[command.index("--learning_rate") + 1]
        (log.parent / "results.json").write_text(f'{{"rate": "{rate}", "minutes": 0}}')
        if rate == "3":
            raise ChildProcessError("ended after its results were written")

    monkeypatch.setattr(Run, "train", train)
    first, second = (Run("one", {}, str(config), ["--learning_rate", rate]) for rate in ("1", "3"))
    assert first.results(tmp_path, 1)["rate"] == "1"
    with pytest.raises(ChildProcessError):
        second.results(tmp_path, 1)
    assert first.results(tmp_path, 1)["rate"] == "1"


def test_variants_that_would_share_a_folder_are_refused(tmp_path):
    (tmp_path / "base.yaml").write_text("data: x\n")
    (tmp_path / "c.yaml").write_text("base: base.yaml\nvariants:\n  contrast +: {}\n  contrast -: {}\n")
    with pytest.raises(ValueError, match=r"'contrast \+' and 'contrast -' differ in signs alone"):
        compare.comparison_runs(str(tmp_path / "c.yaml"), [], [0])
