# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Pipelines, Auto classes and a processor, called on a folder by a process without this package."""

import pytest
from clip_factory import numbered_frames, tone
from tiny_models import tiny_model

from modeling_maavt.pipeline_maavt import AudioVisualClassificationPipeline
from processing import MAAVTFeatureExtractor, MAAVTProcessor, MAAVTVideoProcessor
from processing.clip_decoders import torchcodec_decoders
from processing.generate.clip_writing import write_clip


systems = pytest.mark.parametrize("system", ["maavt", "deepavfusion"])


def scores(predictions: list[dict]) -> list[float]:
    """In the order of the classes."""
    return [row["score"] for row in sorted(predictions, key=lambda row: row["label"])]


@systems
def test_video_classification_hears_and_sees(answers, system):
    said = answers[f"pipeline_video {system}"]
    assert "error" not in said, said
    assert scores(said["one"]) == pytest.approx(said["expected"][0], abs=1e-5)
    assert [score for clip in said["list"] for score in scores(clip)] == pytest.approx(
        sum(said["expected"], []), abs=1e-5
    )
    assert said["one by one"][1][0]["label"] == said["list"][1][0]["label"]
    assert len(said["window"]) == 1
    assert said["window"][0]["score"] == pytest.approx(max(said["expected window"][0]), abs=1e-5)
    assert scores(said["one"]) != pytest.approx(said["deaf"][0], abs=1e-4), "the audio makes no difference"
    assert [row["score"] for row in said["one"]] == sorted((row["score"] for row in said["one"]), reverse=True)
    assert "AutoModelForVideoClassification" in said["config"]


@systems
def test_a_clip_without_audio_in_a_batch(answers, system):
    said = answers[f"pipeline_without_audio {system}"]
    assert "error" not in said, said
    found = [score for clip in said["found"] for score in scores(clip)]
    assert found == pytest.approx(sum(said["expected"], []), abs=1e-5)


@systems
def test_whatever_holds_a_file_is_seen_and_heard(answers, system):
    """A row or an open file was once taken for a waveform: its frames were ignored without a word."""
    said = answers[f"pipeline_rows {system}"]
    assert "error" not in said, said
    assert said["rows"] == [said["path"]] * 4
    assert said["number"].startswith("ClipError: float: path: is no clip")
    assert said["number"].endswith("a decoder, or a list of them")
    assert said["past the end"].endswith(
        "blue0.mp4: window: 5 s to 8 s passes the end at 0.500 s; give a window inside"
    )
    assert said["frames"].startswith("ValueError: input of shape (2, 8, 8, 3): a pipeline takes files and waveforms")
    assert said["whole row"].startswith("ClipError: row: path: no file in ['video', 'label']; give the column")


@systems
def test_audio_classification_reads_files_and_arrays(answers, system):
    said = answers[f"pipeline_audio {system}"]
    assert "error" not in said, said
    assert scores(said["file"]) == pytest.approx(
        said["expected file"][0], abs=2e-3
    )  # its window may differ by samples
    assert said["raw"] == said["array"]
    assert scores(said["array"]) == pytest.approx(said["expected array"][0], abs=1e-5)


@systems
def test_a_pipeline_saves_what_it_needs(answers, system):
    said = answers[f"pipeline_saved_again {system}"]
    assert "error" not in said, said
    assert said[0] == said[1]


@systems
def test_remote_code_needs_trust(answers, system):
    assert "trust_remote_code" in answers[f"pipeline_without_trust {system}"]


def test_classes_of_a_multi_label_model_are_judged_one_by_one(answers):
    said = answers["pipeline_multi_label"]
    assert "error" not in said, said
    assert sum(row["score"] for row in said) > 1.05  # near 0.5 each, untrained


@systems
def test_audio_auto_class(answers, system):
    assert answers[f"audio_auto_class {system}"].endswith("ForAudioVisualClassification")


@systems
def test_the_trunk_alone_gives_vectors(answers, system):
    said = answers[f"trunk_alone {system}"]
    assert said["vectors"] >= 2 and said["finite"] and said["report"] == [[], []]
    assert (abs(said["length"] - 1) < 1e-5) == (system == "maavt")  # the page has the line that makes it one
    assert said["clips"][0] == 2
    assert said["code"].startswith("transformers_modules.")  # not a package of this repository


@systems
def test_a_path_gives_video_and_audio(answers, system):
    shapes = answers[f"processor_of_a_path {system}"]
    assert set(shapes) == {"pixel_values_videos", "input_features", "has_video", "has_audio"}


@systems
@pytest.mark.skipif(torchcodec_decoders() is None, reason="torchcodec does not load here")
def test_decoders_give_both_or_one_line(answers, system):
    said = answers[f"processor_of_decoders {system}"]
    assert "error" not in said, said
    assert said["apart"] < 1e-4, "frames and audio of two decoders are not those of the file"
    assert "Video(decode=False)" in said["decoder as clip"]


@systems
def test_odd_arrays_give_one_line(answers, system):
    said = answers[f"processor_of_odd_arrays {system}"]
    assert "give uint8 frames" in said["integers"] and "samples up to 1e+30" in said["loud"]
    assert "input_features" in said["channel first"]
    assert answers[f"unknown_class {system}"].startswith("ValueError: labels: 7 is no class of this model")


@systems
def test_a_plain_trainer_trains_evaluates_predicts_and_saves(answers, system):
    said = answers[f"trainer {system}"]
    assert "error" not in said, said
    assert {"eval_loss", "eval_top1"} <= set(said["evaluation"]) and said["best"] is not None
    assert said["predictions"] == [6, 3] and said["labels"] == [0, 1, 2, 0, 1, 2]
    assert said["processor"].endswith("Processor") and said["pipeline"] == 3


def test_a_clip_without_what_a_model_reads_is_named(tmp_path):
    """In a batch with others it would get the same score for every class."""
    silent = write_clip(tmp_path / "silent.mp4", numbered_frames(5), fps=10)
    whole = write_clip(tmp_path / "whole.mp4", numbered_frames(5), tone(0.5), fps=10)
    processor = MAAVTProcessor(
        MAAVTFeatureExtractor(num_bins=32, num_frames=32), MAAVTVideoProcessor(size={"height": 32, "width": 32})
    )
    model = tiny_model(modalities=["audio"], contrastive=None, background_mining=False)
    classify = AudioVisualClassificationPipeline(model=model, processor=processor, task="video-classification")
    assert len(classify(str(whole), num_frames=1)) == 5
    with pytest.raises(ValueError, match="silent.mp4: has no audio, which this model reads"):
        classify([str(whole), str(silent)], batch_size=2)
    assert classify._sanitize_parameters(allow_remote=True)[0] == {"allow_remote": True}
