# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Predictions of many clips in shards: those of `classify`, whole or absent, by Ray to the same bytes."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import tiny_deepavfusion
from tiny_models import TINY_VIT, tiny_model
from toy_run import write_clips

import predict
from modeling_deepavfusion import DeepAVFusionForAudioVisualClassification
from processing import (
    DeepAVFusionFeatureExtractor,
    DeepAVFusionProcessor,
    DeepAVFusionVideoProcessor,
    MAAVTProcessor,
)
from processing.data.engines import Engine
from processing.data.isolated_calls import Lost
from processing.feature_extraction_maavt import MAAVTFeatureExtractor
from processing.video_processing_maavt import MAAVTVideoProcessor
from training.maavt import prediction_shards
from training.maavt.prediction import Predictor, classify
from training.maavt.prediction_shards import write_predictions


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    side = TINY_VIT["image_size"]
    sound = MAAVTFeatureExtractor(num_bins=side, num_frames=side)
    MAAVTProcessor(
        sound, MAAVTVideoProcessor(size={"height": side, "width": side}, frames_per_clip=2)
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = write_clips(tmp_path_factory.mktemp("data"), splits=["train"] * 3) / "clips"
    (folder / "broken.mp4").write_bytes(b"no clip")
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(prediction_shards, "SHARD_FILES", 4)


def rows_of(folder: Path) -> list[dict]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pyarrow.parquet.read_table(path).to_pylist()]


def files_of(folder: Path) -> dict:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_shards_hold_what_classify_says_and_are_kept(model, clips, tmp_path, capsys, monkeypatch):
    files = sorted(clips.glob("*.mp4"))
    assert len(files) == 10
    out = tmp_path / "out"
    command = [str(model), str(clips), "--parquet", str(out), "--batch_size", "4", "--workers", "2"]
    assert predict.main(command) == 1  # one file is broken
    assert "1 files could not be read" in capsys.readouterr().err
    assert len(list(out.glob("predictions-*-of-00003.parquet"))) == 3
    rows = rows_of(out)
    assert [row["file"] for row in rows] == [str(file) for file in files]
    readable = [file for file in files if file.name != "broken.mp4"]
    expected = {record["file"]: record for record in classify(model, readable, batch_size=1, embeddings=True)}
    for row in rows:
        if row["file"].endswith("broken.mp4"):
            assert "broken.mp4" in row["error"] and row["scores"] is None
            continue
        record = expected[row["file"]]
        assert row["error"] is None and max(row["scores"]) == pytest.approx(
            record["predictions"][0]["probability"], abs=1e-5
        )
        assert row["match_logit"] == pytest.approx(record["match_logit"], abs=1e-4)
        np.testing.assert_allclose(row["video_embedding"], record["video_embedding"], atol=1e-4)
    metadata = pyarrow.parquet.read_schema(out / "predictions-00000-of-00003.parquet").metadata
    assert len(json.loads(metadata[b"classes"])) == 5

    # A shard that is there is kept, one that is missing is written again, to the same bytes.
    before = files_of(out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*-0000[02]-*")}
    (out / "predictions-00001-of-00003.parquet").unlink()
    assert predict.main([*command[:-1], "0"]) in (0, 1)
    assert files_of(out) == before and all(path.stat().st_mtime_ns == time for path, time in times.items())
    # Another batch size changes nothing of it, as after a lack of memory; other windows and other clips do.
    write_predictions(model, files, out, engine=Engine(workers=0), batch_size=2)
    with pytest.raises(ValueError, match="holds other predictions.*window: None, now 0.5"):
        write_predictions(model, files, out, engine=Engine(workers=0), window=0.5)
    os.utime(files[0], ns=(0, 0))
    with pytest.raises(ValueError, match="holds other predictions.*contents: "):
        write_predictions(model, files, out, engine=Engine(workers=0))


def test_a_model_without_embeddings_leaves_their_columns_empty(clips, tmp_path):
    sizes = {"image_size": 32, "patch_size": 8, "num_mel_bins": 16, "audio_num_frames": 16}
    sizes |= {"audio_mask_ratio": 0.5, "num_labels": 3}
    tiny_deepavfusion.tiny_model(DeepAVFusionForAudioVisualClassification, **sizes).save_pretrained(tmp_path / "model")
    extractor = DeepAVFusionFeatureExtractor(segment_seconds=0.25, num_bins=16, num_frames=16)
    frames = DeepAVFusionVideoProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    DeepAVFusionProcessor(extractor, frames).save_pretrained(tmp_path / "model")
    files = sorted(clips.glob("blue*.mp4"))
    assert write_predictions(tmp_path / "model", files, tmp_path / "out", engine=Engine(workers=0)) == 0
    for row in rows_of(tmp_path / "out"):
        assert len(row["scores"]) == 3 and row["video_embedding"] is row["audio_embedding"] is None


def test_shards_of_a_retrained_model_are_refused(model, clips, tmp_path):
    files = sorted(clips.glob("blue*.mp4"))
    checkpoint, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(model, checkpoint)

    def write():
        return write_predictions(checkpoint, files, out, engine=Engine(workers=0))

    assert write() == 0 and write() == 0
    tiny_model(seed=1).save_pretrained(checkpoint)
    with pytest.raises(ValueError, match="holds other predictions.*model.model.safetensors: "):
        write()
    # Settings of version 0.1 name the path alone.
    settings = json.loads((out / "settings.json").read_text())
    del settings["model"], settings["contents"]
    settings["options"] |= {"batch_size": 8, "top_k": 5}
    (out / "settings.json").write_text(json.dumps(settings))
    assert write() == 0


def end_on_blue(predictor, files, options):
    """Stands in for `Predictor.__call__`: one of the files ends the process."""
    if any(Path(file).name == "blue1.mp4" for file in files):
        os.kill(os.getpid(), signal.SIGKILL)
    return PREDICT(predictor, files, options)


PREDICT = Predictor.__call__


def test_a_file_that_ends_its_process_is_named(model, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(Predictor, "__call__", end_on_blue)  # the processes are forked
    files = sorted(clips.glob("*[0-9].mp4"))
    assert write_predictions(model, files, tmp_path, engine=Engine(workers=2, start_method="fork")) == 1
    rows = {Path(row["file"]).name: row for row in rows_of(tmp_path)}
    assert len(rows) == 9 and "the decoder crashed (SIGKILL)" in rows["blue1.mp4"]["error"]
    assert all(row["scores"] for name, row in rows.items() if name != "blue1.mp4")


class ImpatientEngine:
    """Calls here. Under a time limit the model takes too long, and so does reading the file `stalled`."""

    def __init__(self, stalled: str = ""):
        self.stalled, self.time_limit = stalled, None

    def calls(self, function, items, time_limit):
        for item in items:
            self.time_limit = time_limit
            try:
                result = function(item)
            except TimeoutError:
                result = Lost("too long")
            self.time_limit = None
            yield item, result


@pytest.mark.parametrize("stalled", ["", "blue1.mp4"])
def test_a_slow_model_makes_no_file_a_broken_one(model, clips, tmp_path, monkeypatch, stalled):
    engine, load_clip = ImpatientEngine(stalled), MAAVTProcessor.load_clip

    def predict_slowly(predictor, files, options):
        if engine.time_limit is not None:
            raise TimeoutError
        return PREDICT(predictor, files, options)

    def load_slowly(processor, source, request):
        if engine.time_limit is not None and Path(source).name == stalled:
            raise TimeoutError
        return load_clip(processor, source, request)

    monkeypatch.setattr(Predictor, "__call__", predict_slowly)
    monkeypatch.setattr(MAAVTProcessor, "load_clip", load_slowly)
    files = sorted(clips.glob("blue*.mp4"))
    assert write_predictions(model, files, tmp_path, engine=engine) == bool(stalled)
    rows = {Path(row["file"]).name: row for row in rows_of(tmp_path)}
    assert len(rows) == 3 and [name for name, row in rows.items() if not row["scores"]] == [stalled] * bool(stalled)
    assert not stalled or rows[stalled]["error"].endswith("too long")


@pytest.mark.parametrize(
    "options", [["--engine", "ray"], ["--workers", "2"], ["--parquet", "out", "--output", "out.json"]]
)
def test_options_that_do_not_go_together(options, capsys):
    with pytest.raises(SystemExit):
        predict.parse_arguments(["model", "clip.mp4", *options])
    assert "--parquet" in capsys.readouterr().err


@pytest.mark.slow
def test_ray_writes_the_same_bytes(model, clips, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    files = sorted(clips.glob("*.mp4"))
    try:
        for name, engine in (("process", Engine(workers=2)), ("ray", Engine("ray", workers=2))):
            assert write_predictions(model, files, tmp_path / name, engine=engine) == 1
    finally:
        ray.shutdown()
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "process")
