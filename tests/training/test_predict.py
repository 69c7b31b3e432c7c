# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""predict.py: files in, classes, match scores and embeddings out."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy_run import CLASSES, write_backbone, write_clips, write_config
from transformers import AutoModelForVideoClassification, AutoProcessor, BatchFeature
from transformers.utils import ModelOutput

import predict
import train as recipe
from processing import MAAVTFeatureExtractor, MAAVTProcessor, MAAVTVideoProcessor
from processing.clips import ClipError
from processing.generate.clip_writing import write_clip
from training.maavt import prediction
from training.maavt.prediction import (
    PredictionOptions,
    add_predictions,
    class_probabilities,
    classify,
    classify_batch,
    windows,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A folder with a trained checkpoint in `run/model`, its adapter in `run/adapter`, and clips in `data/clips`."""
    folder = tmp_path_factory.mktemp("predict")
    config = write_config(folder / "toy.yaml", write_clips(folder / "data"), write_backbone(folder / "vit"))
    longer = ["--num_train_epochs", "40", "--learning_rate", "1e-2", "--mismatch_probability", "0.1"]
    quiet = ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    recipe.main([str(config), "--baseline", "false", *longer, *quiet])
    return folder


@pytest.fixture(scope="module")
def long_clip(run) -> Path:
    """Three seconds: one of blue, one of green, one of red, each with its own pitch."""
    frames = np.concatenate([np.tile(np.uint8(color), (10, 32, 32, 1)) for color, _ in CLASSES.values()])
    times = np.arange(16000) / 16000
    sound = np.concatenate([0.3 * np.sin(2 * np.pi * pitch * times) for _, pitch in CLASSES.values()])
    return write_clip(run / "long.mp4", frames, sound.astype(np.float32), fps=10, sampling_rate=16000)


def test_predictions_are_those_of_the_model(run):
    files = sorted((run / "data" / "clips").glob("*.mp4"))[:5]
    records = classify(run / "run" / "model", files, top_k=2, batch_size=2)
    model = AutoModelForVideoClassification.from_pretrained(run / "run" / "model").eval()
    processor = AutoProcessor.from_pretrained(run / "run" / "model")
    assert [record["file"] for record in records] == [str(file) for file in files]
    for start in range(0, len(files), 2):  # the same batches: the same products, so that only digits are rounded off
        batch = records[start : start + 2]
        with torch.inference_mode():
            outputs = model(**processor(clips=[record["file"] for record in batch], return_tensors="pt"))
        for row, record in enumerate(batch):
            probabilities, classes = outputs.logits[row].softmax(-1).sort(descending=True)
            assert len(record["predictions"]) == 2
            for i, predicted in enumerate(record["predictions"]):
                assert predicted["label"] == model.config.id2label[classes[i].item()]
                assert predicted["probability"] == pytest.approx(probabilities[i].item(), rel=0, abs=1e-6)
            match = outputs.match_logits[row]
            assert record["match_logit"] == pytest.approx(match.item(), rel=0, abs=1e-6)
            assert record["match_probability"] == pytest.approx(match.sigmoid().item(), rel=0, abs=1e-6)


def test_compiled_to_one_graph_that_every_batch_uses(run, monkeypatch):
    """The last batch has one clip of two, and compiles nothing anew."""

    def compile_quickly(model, **options):
        torch.nn.Module.compile(model, backend="eager", **options)

    monkeypatch.setattr(prediction.MAAVTForAudioVisualClassification, "compile", compile_quickly)
    files = sorted((run / "data" / "clips").glob("*.mp4"))[:5]
    plain = classify(run / "run" / "model", files, batch_size=2)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = classify(run / "run" / "model", files, batch_size=2, compile=True)
    assert len(compiled) == len(plain) == 5
    for one, other in zip(plain, compiled, strict=True):
        assert one["file"] == other["file"]
        assert one["match_logit"] == pytest.approx(other["match_logit"], rel=0, abs=1e-5)
        for first, second in zip(one["predictions"], other["predictions"], strict=True):
            assert first["label"] == second["label"]
            assert first["probability"] == pytest.approx(second["probability"], rel=0, abs=1e-5)


def test_a_clip_is_judged_without_its_neighbors(run):
    """In float64: in float32, products over more clips are rounded in another order."""
    files = sorted((run / "data" / "clips").glob("*.mp4"))[:5]
    model = AutoModelForVideoClassification.from_pretrained(run / "run" / "model").double().eval()
    processor = AutoProcessor.from_pretrained(run / "run" / "model")

    def judge(clips: list[Path]) -> dict:
        with torch.inference_mode():
            return model(**processor(clips=clips, return_tensors="pt").to(torch.float64))

    together = judge(files)
    for row, file in enumerate(files):
        alone = judge([file])
        for name in ("logits", "match_logits"):
            torch.testing.assert_close(alone[name][0], together[name][row], rtol=0, atol=1e-9)


def test_adapter_and_merged_model_agree(run):
    file = run / "data" / "clips" / "red1.mp4"
    merged, adapter = (classify(run / "run" / kind, [file], embeddings=False)[0] for kind in ("model", "adapter"))
    assert [p["label"] for p in merged["predictions"]] == [p["label"] for p in adapter["predictions"]]
    for one, other in zip(merged["predictions"], adapter["predictions"], strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=2e-5)
    assert merged["match_logit"] == pytest.approx(adapter["match_logit"], abs=2e-4)


def test_windows_cover_the_whole_file(long_clip):
    found = list(windows(str(long_clip), 1.0, 0.5))
    assert [start for start, _ in found] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0], abs=0.06)
    found = list(windows(str(long_clip), 0.8, 0.8))
    assert found[-1][1] == pytest.approx(3.0, abs=0.1) and len(found) == 4
    assert list(windows(str(long_clip), 60.0, 60.0)) == [(0.0, pytest.approx(3.0, abs=0.1))]
    assert list(windows(str(long_clip), None, None)) == [(None, None)]


def test_sliding_window_names_the_class_of_each_second(run, long_clip):
    records = classify(run / "run" / "model", [long_clip], window=1.0, stride=1.0, batch_size=2)
    assert [round(record["start"]) for record in records] == [0, 1, 2]
    assert [record["predictions"][0]["label"] for record in records] == list(CLASSES)


def test_one_modality_and_a_file_without_sound(run, long_clip):
    model = run / "run" / "model"
    silent = write_clip(run / "silent.mp4", np.tile(np.uint8((220, 30, 30)), (5, 32, 32, 1)), None, fps=10)
    record = classify(model, [silent])[0]
    assert record["match_logit"] is None and record["predictions"]
    video, audio = (classify(model, [long_clip], modalities=(name,))[0] for name in ("video", "audio"))
    assert video["match_logit"] is None and audio["match_logit"] is None
    assert video["predictions"] != audio["predictions"]
    mixed = classify(model, [silent, run / "data" / "clips" / "red0.mp4"], batch_size=2)
    assert mixed[0]["match_logit"] is None and mixed[1]["match_logit"] is not None
    assert mixed[0]["predictions"][0]["probability"] == pytest.approx(
        record["predictions"][0]["probability"], abs=1e-5
    )


def test_digital_silence_is_remarked_on(run, capsys):
    silent = write_clip(run / "zeros.mp4", np.zeros((5, 32, 32, 3), np.uint8), np.zeros(8000, np.float32), fps=10)
    model, heard = str(run / "run" / "model"), run / "data" / "clips" / "red0.mp4"
    assert predict.main([model, str(silent), str(heard)]) == 0
    shown = capsys.readouterr()
    first, second = json.loads(shown.out)
    assert "digital silence" in first["remark"] and first["predictions"] and "remark" not in second
    assert f"{silent}: the audio is digital silence" in shown.err and "red0" not in shown.err


def test_broken_files_are_reported_or_raised(run):
    broken = run / "broken.mp4"
    broken.write_text("this is no clip")
    good = run / "data" / "clips" / "blue0.mp4"
    with pytest.raises(ClipError, match="broken.mp4"):
        classify(run / "run" / "model", [broken, good])
    records = classify(run / "run" / "model", [broken, good, broken], skip_broken=True)
    assert "broken.mp4" in records[0]["error"] and "predictions" in records[1] and "error" in records[2]


@pytest.mark.parametrize(
    "change",
    [
        {"modalities": ("smell",)},
        {"window": 0.0},
        {"stride": 1.0},
        {"modalities": ()},
        {"batch_size": 0},
        {"top_k": -1},
    ],
)
def test_bad_arguments_are_refused(run, change):
    with pytest.raises(ValueError, match=f"^{next(iter(change))}: "):
        classify(run / "run" / "model", [], **change)


def test_outputs_that_cannot_be_written_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "clip.mp4").write_text("")
    for option, path, message in (
        ("--output", tmp_path, "is a folder; name a file"),
        ("--parquet", tmp_path / "file", "is a file; name a folder"),
        ("--embeddings", tmp_path / "file" / "e.npz", "is a file, not a folder"),
    ):
        with pytest.raises(OSError, match=f"^{option}: .* {message}"):
            predict.main(["no/model", str(tmp_path / "clip.mp4"), option, str(path)])


def test_a_device_that_does_not_exist_is_named(run):
    with pytest.raises(ValueError, match=r"^device: 'xx' is none; give cpu"):
        classify(run / "run" / "model", [], device="xx")


def test_the_folder_of_a_run_is_not_taken_for_its_model(run):
    with pytest.raises(ValueError, match=r"is the folder of a run; give .*model"):
        classify(run / "run", [])


def test_command_line_writes_json_and_embeddings(run, long_clip, capsys):
    folder = run / "inputs"
    folder.mkdir()
    shutil.copy(long_clip, folder / "a.mp4")
    write_clip(folder / "b.mp4", np.zeros((5, 32, 32, 3), np.uint8), None, fps=10)
    arguments = [str(run / "run" / "model"), str(folder), "--top_k", "1", "--window", "1.0"]
    arguments += ["--output", str(run / "out" / "p.json"), "--embeddings", str(run / "out" / "e.npz")]
    predict.main(arguments)
    records = json.loads((run / "out" / "p.json").read_text())
    assert [Path(record["file"]).name for record in records] == ["a.mp4"] * 3 + ["b.mp4"]
    arrays = np.load(run / "out" / "e.npz")
    assert arrays["video"].shape[0] == arrays["audio"].shape[0] == 4
    assert np.isfinite(arrays["video"]).all() and np.isnan(arrays["audio"][3]).all()
    assert np.isfinite(arrays["audio"][:3]).all()
    assert np.linalg.norm(arrays["video"], axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    with pytest.raises(FileNotFoundError, match="no clips inside"):
        predict.find_files([str(run / "out")])


def test_classes_of_a_multi_label_checkpoint_are_judged_one_by_one():
    logits = torch.tensor([[6.0, 6.0, -6.0], [0.0, 0.0, 0.0]])  # (B, C), as outputs are
    model = SimpleNamespace(config=SimpleNamespace(problem_type="multi_label_classification"))
    torch.testing.assert_close(class_probabilities(model, logits), logits.sigmoid())
    model.config.problem_type = None
    torch.testing.assert_close(class_probabilities(model, logits).sum(-1), torch.ones(2))


def test_a_clip_that_the_processor_refuses_costs_no_other_its_result(monkeypatch):
    def refuse_bad(clips, **options):
        if "bad" in clips:
            raise ValueError("the waveform holds NaN")
        return BatchFeature({"clips": clips})

    def add(model, inputs, records, options):
        for record in records:
            record["predictions"] = []

    monkeypatch.setattr(prediction, "add_predictions", add)
    batch = [({"file": name}, name) for name in ("a", "bad", "b")]
    model = SimpleNamespace(device="cpu")
    classify_batch(model, refuse_bad, batch, PredictionOptions(skip_broken=True))
    assert batch[1][0] == {"file": "bad", "error": "bad: the waveform holds NaN"}
    assert all("predictions" in record for record, name in batch if name != "bad")
    with pytest.raises(ValueError, match="NaN"):
        classify_batch(model, refuse_bad, batch, PredictionOptions())


@pytest.mark.parametrize("name", ["logits", "match_logits"])
def test_a_clip_whose_logits_are_nan_has_an_error_and_no_class(name):
    outputs = ModelOutput(logits=torch.eye(2), match_logits=torch.ones(2))
    outputs[name][1] = torch.nan

    class Diverged:
        config = SimpleNamespace(problem_type=None, id2label={0: "a", 1: "b"})

        def __call__(self, **inputs):
            return outputs

    inputs = {"has_video": torch.tensor([True, True]), "has_audio": torch.tensor([True, True])}
    records = [{"file": "good.mp4"}, {"file": "bad.mp4"}]
    add_predictions(Diverged(), inputs, records, PredictionOptions(skip_broken=True))
    assert records[0]["predictions"][0]["label"] == "a"
    assert set(records[1]) == {"file", "error"} and records[1]["error"].startswith("bad.mp4: ")
    with pytest.raises(ValueError, match="bad.mp4: .* lower learning rate"):
        add_predictions(Diverged(), inputs, records, PredictionOptions())


def test_windows_after_the_end_of_a_stream_cost_no_other_window(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "call_isolated", map)
    clip = write_clip(tmp_path / "a.mp4", np.zeros((20, 32, 32, 3), np.uint8), np.full(10400, 0.1, np.float32), fps=10)
    extractor = MAAVTFeatureExtractor(
        sampling_rate=4000, n_fft=256, win_length=256, hop_length=62, num_bins=64, num_frames=32
    )
    processor = MAAVTProcessor(extractor, MAAVTVideoProcessor(size={"height": 32, "width": 32}))

    def read(**options):
        return list(prediction.read_windows([clip], processor, PredictionOptions(skip_broken=True, **options)))

    clips = [clip for _, clip in read(window=0.5)]
    assert [clip.waveform is None for clip in clips] == [False, False, True, True]
    assert all(clip.frames is not None for clip in clips)
    # the audio alone: each window without it says so
    records = [record for record, _ in read(window=0.4, modalities=("audio",))]
    assert [record["start"] for record in records] == pytest.approx([0.0, 0.4, 0.8, 1.2, 1.6])
    assert ["audio stream ends" in record.get("error", "") for record in records] == [False] * 2 + [True] * 3
    # a file that cannot be read has one record
    clip.write_bytes(clip.read_bytes()[:2000])
    assert len(read(window=0.5)) == 1


def test_files_of_a_folder_that_are_no_clips_are_named(tmp_path, capsys):
    for name in ("a.mp4", "b.MPG", "list.txt", ".hidden"):
        (tmp_path / name).write_text("")
    assert predict.find_files([str(tmp_path)]) == [tmp_path / "a.mp4", tmp_path / "b.MPG"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / 'list.txt'}: skipped, the name ends in none of .mp4")
