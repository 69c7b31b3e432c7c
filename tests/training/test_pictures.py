# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures, masks, audio and timelines from prediction, for every kind of model that answers to clips."""

import csv
import json
import re
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import tiny_deepavfusion
import tiny_models
import torch
from PIL import Image
from transformers import ViTConfig, ViTModel

import predict
from modeling_deepavfusion import (
    DeepAVFusionForAudioVisualClassification,
    DeepAVFusionForAudioVisualSegmentation,
    DeepAVFusionForPreTraining,
    DeepAVFusionForSoundSourceLocalization,
    DeepAVFusionForSoundSourceSeparation,
)
from processing import (
    DeepAVFusionFeatureExtractor,
    DeepAVFusionProcessor,
    DeepAVFusionVideoProcessor,
    MAAVTFeatureExtractor,
    MAAVTProcessor,
    MAAVTVideoProcessor,
)
from processing.generate.clip_writing import write_clip
from training.common import picture_folder
from training.common.clip_pictures import ClipView, draw_clip, layout, view_clip
from training.common.picture_folder import Moment, PictureFolder, caption_text
from training.maavt.prediction import classify, load_model


pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: plots)")
CLASSES = ["a $1 $2", "b <i> --> &", "c, d"]
SIZE = {"height": 32, "width": 32}
SIZES = {"image_size": 32, "patch_size": 8, "num_mel_bins": 16, "audio_num_frames": 16, "audio_mask_ratio": 0.5}
DENSE = {
    "segmentation": (DeepAVFusionForAudioVisualSegmentation, {"num_labels": 1}),
    "semantic": (DeepAVFusionForAudioVisualSegmentation, {"num_labels": 3}),
    "localization": (DeepAVFusionForSoundSourceLocalization, {}),
    "separation": (DeepAVFusionForSoundSourceSeparation, {}),
    "fusion": (DeepAVFusionForAudioVisualClassification, {"num_labels": 3}),
    "pretraining": (DeepAVFusionForPreTraining, {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Saved tiny models by name, and clips: `long.mp4` (3 s), `silent.mp4`, `dark.wav`."""
    root = tmp_path_factory.mktemp("pictures")
    labels = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
    tiny_models.tiny_model(num_labels=3, **labels).save_pretrained(root / "maavt")
    extractor = MAAVTFeatureExtractor(num_bins=32, num_frames=48)
    MAAVTProcessor(extractor, MAAVTVideoProcessor(size=SIZE, frames_per_clip=2)).save_pretrained(root / "maavt")
    extractor = DeepAVFusionFeatureExtractor(
        segment_seconds=0.25, n_fft=512, win_length=512, hop_length=250, num_bins=16, num_frames=16
    )
    for name, (model_class, changes) in DENSE.items():
        tiny_deepavfusion.tiny_model(model_class, **SIZES | changes).save_pretrained(root / name)
        processor = DeepAVFusionProcessor(extractor, DeepAVFusionVideoProcessor(size=SIZE, do_center_crop=False))
        processor.save_pretrained(root / name)
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 255, (30, 32, 32, 3)).astype(np.uint8)
    sound = generator.normal(0, 0.1, 48000).astype(np.float32)
    write_clip(root / "long.mp4", frames, sound, fps=10, sampling_rate=16000)
    write_clip(root / "silent.mp4", frames[:5], None, fps=10)
    return root


def load(folder: Path, name: str):
    kind = MAAVTProcessor if name == "maavt" else DeepAVFusionProcessor
    return load_model(folder / name, "cpu"), kind.from_pretrained(folder / name)


def test_a_view_is_what_the_model_sees_and_says(folder):
    model, processor = load(folder, "maavt")
    clip = folder / "long.mp4"
    view = view_clip(model, processor, clip, 1.0, 2.0)
    inputs = processor(clips=[(clip, 1.0, 2.0)], return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs, output_localization=True)
    pixels = inputs["pixel_values_videos"][0].permute(0, 2, 3, 1) * 0.5 + 0.5
    np.testing.assert_allclose(view.frames, pixels.numpy() * 255, atol=0.51)
    torch.testing.assert_close(view.spectrograms, inputs["input_features"][0])
    torch.testing.assert_close(view.probabilities, outputs.logits[0].softmax(-1))
    assert view.match_probability == pytest.approx(outputs.match_logits.sigmoid().item())
    assert [name for name, _ in view.predictions(2)] == [CLASSES[i] for i in outputs.logits[0].topk(2).indices]
    # The map is brightest in the patch of the highest attention.
    for maps, attention in (
        (view.frame_maps, outputs.video_localization[0]),
        (view.spectrogram_maps, outputs.audio_localization[0]),
    ):
        assert maps.min() >= 0 and 0.8 < maps.amax((1, 2)).min() <= maps.max() <= 1
        rows, columns = maps.shape[1] // attention.shape[1], maps.shape[2] // attention.shape[2]
        for map_, weights in zip(maps, attention, strict=True):
            row, column = divmod(int(map_.argmax()), map_.shape[1])
            assert (row // rows, column // columns) == divmod(int(weights.argmax()), weights.shape[1])
    assert 1.0 <= view.frame_times[0] < view.frame_times[1] <= 2.0 and view.spectrogram_starts[0] >= 1.0


def test_a_missing_modality_has_no_panel(folder):
    model, processor = load(folder, "maavt")
    silent = view_clip(model, processor, folder / "silent.mp4")
    assert silent.spectrograms is None and silent.spectrogram_maps is None and silent.match_probability is None
    assert silent.frame_maps is not None
    heard = view_clip(model, processor, folder / "long.mp4", modalities=("audio",))
    assert heard.frames is None and heard.frame_maps is None and heard.match_probability is None
    for view in (silent, heard):
        for narrow in (False, True):
            names = {name.rpartition(" ")[0] for row in layout(view, narrow) for name in row} - {""}
            given = {"frame", "frame map"} if view is silent else {"spectrogram", "spectrogram map"}
            assert names == given | {"classes"}
            assert draw_clip(view, narrow=narrow).get_axes()


def test_spectrograms_stand_upright_where_the_model_reads_time_first(folder):
    model, processor = load(folder, "maavt")
    expected = view_clip(model, processor, folder / "long.mp4").spectrograms
    processor.feature_extractor.time_first = True
    view = view_clip(model, processor, folder / "long.mp4")
    torch.testing.assert_close(view.spectrograms, expected)
    assert view.spectrogram_maps.shape == expected.shape == (1, 32, 48)


@pytest.mark.parametrize("name", ["maavt", "fusion", "segmentation", "semantic", "localization", "separation"])
def test_every_panel_has_words(folder, name):
    """Headings say what is input and what output; bars, axes and maps have a scale."""
    model, processor = load(folder, name)
    view = view_clip(model, processor, folder / "long.mp4", 0.0, 1.0)
    figure = draw_clip(view, top_k=2)
    texts = [
        text.get_text() for axes in figure.get_axes() for text in (axes.title, axes.xaxis.label, axes.yaxis.label)
    ]
    words = " ".join(texts)
    assert "(input)" in words and "seconds" in words and "Hz" in words
    if name != "semantic":
        assert "(output)" in words
    else:
        assert any(axes.get_legend() is not None for axes in figure.get_axes())
    if name in ("maavt", "fusion"):
        (bars,) = (axes for axes in figure.get_axes() if axes.containers)
        shown = [round(bar.get_width(), 5) for bar in bars.patches]
        expected = [p for _, p in view.predictions(2)] + [view.match_probability] * (name == "maavt")
        assert shown == pytest.approx(expected, abs=1e-5)


def test_segmentation_writes_its_mask(folder, tmp_path):
    records = classify(folder / "segmentation", [folder / "long.mp4"], window=1.5, pictures=tmp_path)
    assert len(records) == 2 and "predictions" not in records[0]
    model, processor = load(folder, "segmentation")
    with torch.inference_mode():
        logits = model(**processor(clips=[(folder / "long.mp4", 1.5, 3.0)], return_tensors="pt")).logits[0, 0, 0]
    (path,) = (path for path in records[1]["pictures"] if path.endswith("_mask.png"))
    np.testing.assert_allclose(np.array(Image.open(path)), logits.sigmoid() * 255, atol=0.51)
    classes = classify(folder / "semantic", [folder / "long.mp4"], window=3.0, pictures=tmp_path)[0]["pictures"]
    mask = np.array(Image.open(next(path for path in classes if path.endswith("_mask.png"))))
    model, processor = load(folder, "semantic")
    with torch.inference_mode():
        logits = model(**processor(clips=[folder / "long.mp4"], return_tensors="pt")).logits[0, 0]  # (K, H, W)
    np.testing.assert_array_equal(mask, logits.argmax(0))


def test_separation_writes_audio_that_adds_up(folder, tmp_path):
    (record,) = classify(folder / "separation", [folder / "long.mp4"], window=3.0, pictures=tmp_path)
    waves = {}
    for path in record["pictures"]:
        if path.endswith(".wav"):
            with wave.open(path) as file:
                assert (file.getframerate(), file.getnchannels()) == (16000, 1)
                samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
            waves[Path(path).stem.rpartition("_")[2]] = samples
    model, processor = load(folder, "separation")
    clip = processor.load_clip(folder / "long.mp4")
    mixture = processor.mixture_windows([clip.waveform])
    np.testing.assert_allclose(waves["mixture"], mixture[0, 0], atol=1e-4)
    np.testing.assert_allclose(waves["separated"] + waves["rest"], waves["mixture"], atol=1e-4)
    with torch.inference_mode():
        logits = model(**processor(clips=[clip], return_tensors="pt")).logits
    separated = processor.post_process_separation(logits, mixture, renormalize=True)
    np.testing.assert_allclose(waves["separated"], separated[0, 0], atol=1e-4)
    assert np.abs(waves["rest"]).max() > 1e-3


def test_localization_draws_its_map(folder, tmp_path):
    model, processor = load(folder, "localization")
    view = view_clip(model, processor, folder / "long.mp4")
    with torch.inference_mode():
        expected = model(**processor(clips=[folder / "long.mp4"], return_tensors="pt")).logits[0]
    torch.testing.assert_close(view.frame_maps, expected)
    records = classify(folder / "localization", [folder / "silent.mp4"], pictures=tmp_path)
    assert Image.open(records[0]["pictures"][0]).width > 200


def test_a_long_file_gets_a_timeline(folder, tmp_path, capsys):
    """Half a second is heard of three, so that the file is cut; figures of table, captions and records agree."""
    predict.main([str(folder / "maavt"), str(folder / "long.mp4"), "--pictures", str(tmp_path), "--top_k", "3"])
    printed = capsys.readouterr()
    records = json.loads(printed.out)
    assert len(records) >= 6 and "long.mp4: cut into windows of 0.48 s" in printed.err
    picture, table, captions = records[0]["timeline"]
    assert Image.open(picture).width > 500 and all("timeline" not in record for record in records[1:])
    with open(table, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records) and list(rows[0])[3:] == CLASSES
    for row, record in zip(rows, records, strict=True):
        assert float(row["start_seconds"]) == pytest.approx(record["start"], abs=1e-3)
        assert float(row["match_probability"]) == pytest.approx(record["match_probability"], abs=1e-5)
        for prediction in record["predictions"]:
            assert float(row[prediction["label"]]) == pytest.approx(prediction["probability"], abs=1e-5)
    header, *cues = Path(captions).read_text(encoding="utf-8").rstrip().split("\n\n")
    assert header == "WEBVTT" and len(cues) == len(records)
    ends = [0.0]
    for cue in cues:
        times, text = cue.split("\n")
        start, end = (seconds(part) for part in re.fullmatch(r"(\S+) --> (\S+)", times).groups())
        assert ends[-1] <= start < end and "<" not in text and "-->" not in text
        ends.append(end)
    stems = {Path(path).name for record in records for path in record["pictures"]}
    assert len(stems) == len(records)


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)


def test_captions_of_overlapping_windows_do_not_overlap():
    moments = [Moment(start, start + 2.0, np.array([0.2, 0.8]), None, None) for start in (0.0, 0.5, 3599.75)]
    cues = caption_text(["x", "y"], moments).split("\n\n")[1:]
    assert cues[0] == "00:00:00.000 --> 00:00:00.500\ny 0.80"
    assert cues[2].startswith("00:59:59.750 --> 01:00:01.750")


def test_a_short_file_keeps_one_picture_and_files_of_one_name_two(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(folder / "silent.mp4", other)
    records = classify(folder / "maavt", [folder / "silent.mp4", other / "silent.mp4"], pictures=tmp_path / "out")
    names = [[Path(path).name for path in record["pictures"]] for record in records]
    assert names == [["silent.png"], ["silent_2.png"]] and "timeline" not in records[0]


def test_of_many_windows_the_first_have_a_picture(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(picture_folder, "MAX_PICTURES", 2)
    records = classify(folder / "maavt", [folder / "long.mp4"], window=0.5, pictures=tmp_path)
    assert [len(record["pictures"]) for record in records] == [1, 1, 0, 0, 0, 0]
    with open(records[0]["timeline"][1], encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 6


def test_what_cannot_be_answered_is_one_line(folder, tmp_path, monkeypatch):
    clip = [folder / "long.mp4"]
    with pytest.raises(ValueError, match=r"answers with pictures and audio.*--pictures"):
        classify(folder / "separation", clip)
    with pytest.raises(ValueError, match="predicts nothing"):
        classify(folder / "pretraining", clip, pictures=tmp_path)
    ViTModel(ViTConfig(**tiny_models.TINY_VIT), add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="is a vit checkpoint; train it first"):
        classify(tmp_path / "vit", clip)
    with pytest.raises(FileExistsError, match="is a file; give a folder"):
        PictureFolder(clip[0])
    monkeypatch.setattr(picture_folder.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install"):
        PictureFolder(tmp_path / "none")


def test_pictures_carry_their_figures_as_text(folder, tmp_path):
    (record,) = classify(folder / "maavt", [folder / "long.mp4"], window=3.0, pictures=tmp_path)
    words = Image.open(record["pictures"][0]).info["Description"]
    best = record["predictions"][0]
    assert f"{best['label']} {best['probability']:.3f}" in words
    assert f"match {record['match_probability']:.3f}" in words


def test_a_view_without_anything_to_map():
    view = ClipView("x.mp4", 0.0, 1.0, "AudioVisualClassification", None, frames=np.zeros((1, 8, 8, 3), np.uint8))
    assert layout(view, narrow=False) == [["frame 0"]]
