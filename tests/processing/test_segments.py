# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips whose segments have labels of their own, and clips with several labels: table, items, training, evaluation."""

import csv
import itertools
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from clip_factory import tone
from tiny_models import tiny_inputs, tiny_model
from toy_run import CLASSES, write_backbone, write_config

import train as recipe
from processing import MAAVTFeatureExtractor, MAAVTProcessor, MAAVTVideoProcessor
from processing.data.clip_dataset import ClipDataset
from processing.data.clip_tables import build_clip_table
from processing.data.clip_targets import ClipTargets
from processing.generate.clip_writing import write_clip


NAMES = sorted(CLASSES)
SEGMENTS = [{"label": f"word{i}", "start": f"word{i}_start", "end": f"word{i}_end"} for i in range(3)]
COLUMNS = "{word0: [word0_start, word0_end], word1: [word1_start, word1_end], word2: [word2_start, word2_end]}"
SECONDS = 0.4


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> Path:
    """A csv of clips of three words, each word a color and a pitch; all orders of the three classes, twice."""
    folder = tmp_path_factory.mktemp("sentences")
    generator = np.random.default_rng(0)
    rows = []
    orders = [*itertools.permutations(NAMES)] * 2
    for number, order in enumerate(orders):
        pictures, sounds, row = [], [], {"file_name": f"{number}.mp4", "group": f"g{number}"}
        row["split"] = ["train", "train", "train", "train", "validation", "test"][number % 6]
        for i, name in enumerate(order):
            color, pitch = CLASSES[name]
            pictures.append(np.clip(generator.normal(color, 8, (8, 32, 32, 3)), 0, 255).astype(np.uint8))
            sounds.append(tone(SECONDS, 16000, pitch))
            row |= {f"word{i}": name, f"word{i}_start": i * SECONDS, f"word{i}_end": (i + 1) * SECONDS}
        write_clip(folder / row["file_name"], np.concatenate(pictures), np.concatenate(sounds), fps=20)
        rows.append(row)
    with open(folder / "words.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "words.csv"


@pytest.fixture(scope="module")
def words(sentences):
    return build_clip_table(sentences, segments=SEGMENTS, split="split", group="group", check="probe")


def processor(**sound) -> MAAVTProcessor:
    extractor = MAAVTFeatureExtractor(**{"num_bins": 32, "num_frames": 32, **sound})
    return MAAVTProcessor(extractor, MAAVTVideoProcessor(size={"height": 32, "width": 32}))


def color_of(frame: torch.Tensor) -> str:
    pixels = 255 * (frame.mean((1, 2)) / 2 + 0.5)
    return min(NAMES, key=lambda name: float((pixels - torch.tensor(CLASSES[name][0])).abs().sum()))


def pitch_of(features: torch.Tensor) -> int:
    return int(features.mean(-1).argmax())


def test_table_of_words_has_labels_and_windows(words):
    table, report = words
    assert {side: len(part) for side, part in table.items()} == {"train": 8, "validation": 2, "test": 2}
    row = table["train"][0]
    assert [table["train"].features["label"].names[i] for i in row["segment_labels"]] == NAMES
    assert row["segment_windows"] == [[0.0, 0.4], [0.4, 0.8], [0.8, pytest.approx(1.2)]]
    assert (row["start"], row["end"]) == (0.0, pytest.approx(1.2))
    assert report["splits"]["train"]["per_class"] == dict.fromkeys(NAMES, 8)


def test_windows_of_words_are_moved_and_checked(sentences):
    options = {"split": "split", "group": "group", "check": "probe"}
    table, _ = build_clip_table(sentences, segments=SEGMENTS, window=0.2, **options)
    assert table["train"][0]["segment_windows"][1] == [pytest.approx(0.5), pytest.approx(0.7)]
    with pytest.raises(ValueError, match="no column 'wrd'"):
        build_clip_table(sentences, segments=[{"label": "wrd"}], **options)
    text = sentences.read_text().replace("0.8,", "x,", 1)
    broken = sentences.with_name("broken.csv")
    broken.write_text(text)
    _, report = build_clip_table(broken, segments=SEGMENTS, **options)
    assert report["skipped"][0]["reason"].startswith("bad window") and "'x'" in report["skipped"][0]["reason"]


def test_each_word_is_processed_like_a_clip(words):
    table = words[0]["train"]
    dataset = ClipDataset(table, processor(), num_frames=6)
    for index in (0, 3):
        item, row = dataset[index], table[index]
        assert item["pixel_values_videos"].shape == (6, 3, 32, 32) and item["input_features"].shape == (3, 32, 32)
        assert item["labels"].tolist() == row["segment_labels"] and item["is_matched"].tolist() == [True] * 3
        seen = [color_of(frame) for frame in item["pixel_values_videos"]]
        assert seen == [NAMES[label] for label in row["segment_labels"] for _ in range(2)]
        heard = [pitch_of(features) for features in item["input_features"]]
        ranks = np.argsort([CLASSES[name][1] for name in NAMES]).argsort()
        assert np.argsort(np.argsort(heard)).tolist() == [int(ranks[label]) for label in row["segment_labels"]]


def test_partners_share_no_word(words):
    # every sentence holds all three words: nobody can be a partner
    with pytest.raises(ValueError, match="no clip of another class"):
        ClipDataset(words[0]["train"], processor(), num_frames=3, mismatch_probability=0.5)


def test_words_of_one_class_stand_at_one_place():
    table = seconds_table(True)
    targets = ClipTargets(table)
    # Background has no class in common with background; bell and bell are at one place.
    assert targets.same_class(1, 2) == [False, True, False] and targets.same_class(0, 1) == [False] * 3
    dataset = ClipDataset(table, processor(num_segments=3), mismatched_copies=True, same_class_copies=True)
    assert len(dataset) == 3 + 3 + 2  # the clip that barks has no namesake
    assert {dataset.pair(6), dataset.pair(7)} == {(2, 1), (2, 1)}
    assert dataset.describe(7)["same_class"] == [False, True, False]
    assert dataset.describe(7)["is_matched"] == [False] * 3


def seconds_table(background_matched: bool) -> datasets.Dataset:
    """Like AVE: three seconds, the event in the middle, `Background` around it."""
    cell = {"path": "missing.mp4", "bytes": None}
    names = ["bark", "bell", "Background"]
    rows = {"label": [0, 1, 1], "segment_labels": [[2, 0, 2], [2, 1, 1], [2, 1, 2]], "group": ["a", "b", "c"]}
    if not background_matched:
        rows["segment_labels"] = [[-100, 0, -100], [-100, 1, 1], [-100, 1, -100]]
        rows["segment_matched"] = [[value >= 0 for value in row] for row in rows["segment_labels"]]
    rows |= {"video": [cell] * 3, "audio": [cell] * 3, "start": [None] * 3, "end": [None] * 3, "clip_id": list("abc")}
    table = datasets.Dataset.from_dict(rows)
    return table.cast_column("label", datasets.ClassLabel(names=names))


def test_background_seconds_are_no_common_class():
    targets = ClipTargets(seconds_table(True))
    assert targets.kind == "segments" and targets.num_segments == 3
    assert targets.differ(0, 1) and not targets.differ(1, 2)
    assert targets.labels(0).tolist() == [2, 0, 2] and targets.labels(0, matched=False).tolist() == [-100] * 3
    assert targets.is_matched(0).all() and not targets.is_matched(0, matched=False).any()
    assert targets.class_counts().tolist() == [1, 3, 5]


def test_background_seconds_can_be_mismatched_pairs():
    targets = ClipTargets(seconds_table(False))
    assert targets.is_matched(0).tolist() == [False, True, False] and targets.labels(0).tolist() == [-100, 0, -100]
    model = tiny_model().train()
    inputs = tiny_inputs(clips=3, frames=3, segments=3)
    labels = torch.stack([targets.labels(i) for i in range(3)])
    is_matched = torch.stack([targets.is_matched(i) for i in range(3)])
    outputs = model(**inputs, labels=labels, is_matched=is_matched)
    assert outputs.segment_logits.shape == (3, 3, 5) and outputs.segment_match_logits.shape == (3, 3)
    assert torch.isfinite(outputs.loss)


def test_segments_of_table_and_processor_must_agree(words):
    table = seconds_table(True)
    with pytest.raises(ValueError, match="set its num_segments"):
        ClipDataset(table, processor(), num_frames=3)
    with pytest.raises(ValueError, match="num_frames=4 for 3 segments"):
        ClipDataset(words[0]["train"], processor(), num_frames=4)
    with pytest.raises(ValueError, match="class 9"):
        ClipTargets(table.map(lambda row: {"segment_labels": [9, 0, 0]}))


def test_pictures_alone_are_judged_by_segment():
    model = tiny_model()
    frames = tiny_inputs(clips=2, frames=4, segments=2)["pixel_values_videos"]
    outputs = model(pixel_values_videos=frames, labels=torch.zeros(2, 2, dtype=torch.long))
    segments = outputs.segment_logits
    assert segments.shape == (2, 2, 5)
    torch.testing.assert_close(model(pixel_values_videos=frames, num_segments=2).segment_logits, segments)
    torch.testing.assert_close(model(pixel_values_videos=frames[:, :2]).logits, segments[:, 0])
    with pytest.raises(ValueError, match="must divide T = 4"):
        model(pixel_values_videos=frames, num_segments=3)


@pytest.mark.parametrize("modalities", [["video", "audio"], ["video"]], ids="-".join)
def test_recipe_learns_and_scores_words(sentences, tmp_path, modalities):
    backbone = write_backbone(tmp_path / "vit")
    config = write_config(tmp_path / "words.yaml", sentences, backbone)
    results = recipe.main(
        [
            str(config),
            "--table",
            f"{{segments: {COLUMNS}}}",
            "--num_frames",
            "3",
            "--mismatch_probability",
            "0",
            "--modalities",
        ]
        + [*modalities, "--num_train_epochs", "12", "--learning_rate", "1e-2", "--check", "probe"]
        + ["--processor", "{feature_extractor: {num_bins: 32, num_frames: 32}}", "--save_total_limit", "1"]
    )
    row = next(row for row in results["rows"] if row["input"] == ("both" if len(modalities) == 2 else "video"))
    assert row["clips"] == 2 and row["top1"] >= 0.8
    with open(tmp_path / "run" / "predictions.csv", newline="", encoding="utf-8") as stream:
        records = [record for record in csv.DictReader(stream) if record["input"] == row["input"]]
    assert len(records) == 6 and [record["segment"] for record in records[:3]] == ["0", "1", "2"]
    right = np.mean([record["label"] == record["predicted"] for record in records])
    assert right == pytest.approx(row["top1"])
    assert any(row["model"] == "logistic regression" for row in results["rows"])
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert "eval_top1" in state["log_history"][-1] or any("eval_top1" in log for log in state["log_history"])


# Several labels a clip


@pytest.fixture(scope="module")
def scenes(sentences) -> Path:
    """The same clips, each labeled with the first two of its words: a multi-label set of three classes."""
    with open(sentences, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    path = sentences.with_name("scenes.csv")
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=["file_name", "label", "split", "group", "start", "end"])
        writer.writeheader()
        for row in rows:
            kept = {name: row[name] for name in ("file_name", "split", "group")}
            writer.writerow(kept | {"label": f"{row['word0']}; {row['word1']}", "start": 0, "end": 2 * SECONDS})
    return path


def test_table_of_several_labels(scenes):
    table, report = build_clip_table(scenes, label_separator=";", check="probe")
    assert report["labels"] == "multi_label" and report["classes"] == NAMES
    assert sum(report["splits"]["train"]["per_class"].values()) == 16
    targets = ClipTargets(table["train"])
    assert targets.labels(0).tolist() == [float(i in table["train"][0]["label"]) for i in range(3)]
    assert targets.labels(0, matched=False).tolist() == [-100.0] * 3 and not targets.differ(0, 1)
    saved = scenes.with_name("saved")
    table.save_to_disk(str(saved))
    again, _ = build_clip_table(saved, check="none")
    assert again["train"]["label"][:] == table["train"]["label"][:]


def test_recipe_learns_and_scores_several_labels(scenes, tmp_path):
    config = write_config(tmp_path / "scenes.yaml", scenes, write_backbone(tmp_path / "vit"))
    results = recipe.main(
        [
            str(config),
            "--table",
            "{label_separator: ';'}",
            "--num_frames",
            "4",
            "--mismatch_probability",
            "0",
            "--check",
            "probe",
        ]
        + ["--num_train_epochs", "15", "--learning_rate", "1e-2", "--save_total_limit", "1"]
        + ["--model_config", "{unimodal_loss_weight: 1.0}"]
    )
    rows = {(row["model"], row["input"]): row for row in results["rows"]}
    assert rows["maavt", "both"]["map"] >= 0.9 and "top1" not in rows["maavt", "both"]
    assert rows["logistic regression", "both"]["map"] > 0.5
    assert (tmp_path / "run" / "results.md").read_text().splitlines()[0].count("mAP") == 1
    with open(tmp_path / "run" / "predictions.csv", newline="", encoding="utf-8") as stream:
        record = next(csv.DictReader(stream))
    assert set(record["labels"].split(";")) <= set(NAMES) and 0 <= float(record["probability"]) <= 1
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


def test_rows_of_one_file_may_have_different_segments(sentences, tmp_path):
    """A long recording in several rows; a row whose first segment has no label is one of its others."""
    rows = []
    for number in range(6):
        row = {"file_name": "0.mp4", "split": ["train", "train", "train", "train", "validation", "test"][number]}
        row |= {"word0": "", "word0_start": 0.1 * number, "word0_end": 0.1 * number + 0.1}
        row |= {"word1": NAMES[number % 3], "word1_start": 0.1 * number + 0.1, "word1_end": 0.1 * number + 0.2}
        rows.append(row)
    shutil.copy(sentences.parent / "0.mp4", tmp_path)
    with open(tmp_path / "words.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows([*rows, rows[0]])
    options = {"segments": SEGMENTS[:2], "group": False, "split": False, "check": "probe"}
    options |= {"validation_fraction": 0.0, "test_fraction": 0.0}
    table, report = build_clip_table(tmp_path / "words.csv", **options)
    assert report["clips"] == 6 and [each["reason"][:9] for each in report["skipped"]] == ["duplicate"]
    assert table["train"][0]["segment_labels"][0] == -100
