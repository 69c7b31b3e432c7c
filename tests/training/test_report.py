# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Watching a training: progress in sentences, validation by modality, and the report of a run as one HTML file."""

import importlib.util
import io
import json
import logging
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from toy_run import write_backbone, write_clips, write_config
from transformers import TrainerCallback, TrainingArguments

import train as recipe
from processing import MAAVTVideoProcessor
from training.common.html_pages import html_page
from training.maavt import report, stages
from training.maavt.evaluation import Predictions, predict
from training.maavt.report import REPORT, mistakes, write_report
from training.trainer.audio_visual_trainer import class_metrics, modality_predictions, split_predictions
from training.trainer.callbacks import ProgressCallback, validation_text


NASTY = "<script>alert(1)</script>|*a* $x$ [b](http://c)"


class Page(HTMLParser):
    """The tags and pictures of a page, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.sources, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("toy")
    return str(write_config(folder / "toy.yaml", write_clips(folder / "data"), write_backbone(folder / "vit")))


# Progress


def fake_state(step: int, epoch: float) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=20, epoch=epoch, is_world_process_zero=True)


def test_progress_in_sentences(caplog, monkeypatch, tmp_path):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("training.trainer.callbacks.time.monotonic", lambda: next(clock))
    args = TrainingArguments(str(tmp_path), num_train_epochs=4, use_cpu=True, report_to="none")
    progress = ProgressCallback(seconds=60)
    with caplog.at_level(logging.INFO):
        progress.on_train_begin(args, fake_state(0, 0.0), None)
        progress.on_log(args, fake_state(1, 0.2), None, logs={"loss": 0.81234, "grad_norm": 1.0})
        for step in range(1, 11):  # a sentence only after a minute of silence
            progress.on_step_end(args, fake_state(step, step / 5), None)
        metrics = {"eval_loss": 0.5, "eval_top1": 0.75, "eval_top1_video": 0.5, "eval_top1_audio": 0.625}
        progress.on_evaluate(args, fake_state(10, 2.0), None, metrics=metrics)
        progress.on_evaluate(args, fake_state(20, 4.0), None, metrics={"eval_loss": 0.25})
        progress.on_train_end(args, fake_state(20, 4.0), None)
        progress.on_evaluate(args, fake_state(20, 4.0), None, metrics={"eval_loss": 0.25})
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert re.fullmatch(r"Epoch 1\.4 of 4, training loss 0\.812\. Time left: \d\d:\d\d\.", told[0])
    assert told[1].startswith(
        "Epoch 2 of 4, training loss 0.812. Validation: loss 0.500, top-1 0.75 (video alone 0.50, audio alone 0.62). "
    )
    assert told[2] == "Epoch 4 of 4, training loss 0.812. Validation: loss 0.250."


def test_progress_on_a_terminal_is_one_line(monkeypatch, tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    args = TrainingArguments(str(tmp_path), max_steps=20, use_cpu=True, report_to="none", disable_tqdm=False)
    progress = ProgressCallback()
    progress.on_train_begin(args, fake_state(0, 0.0), None)
    for step in range(1, 21):
        progress.line.mininterval = 0
        progress.on_step_end(args, fake_state(step, step / 5), None)
    assert "Step 10 of 20 " in screen.getvalue() and re.search(r"\d\d:\d\d left", screen.getvalue())
    progress.restore()
    assert "\n" not in screen.getvalue() and progress.line is None
    progress.on_evaluate(args, fake_state(20, 4.0), None, metrics={})


def test_the_figures_of_a_validation():
    assert validation_text({"eval_map": 0.5, "eval_map_audio": 0.25, "eval_match_auroc": 0.875}) == (
        "mAP 0.50 (audio alone 0.25), match AUROC 0.88"
    )


# Validation by modality


def test_validation_by_modality_is_that_of_a_model_without_the_other_one(toy, tmp_path):
    run = stages.read_recipe([toy, "--output_dir", str(tmp_path), "--baseline", "false"])
    clips = stages.read_clips(run)
    model = stages.build_model(run, clips.label_names, clips.multi_label)
    data = stages.build_data(run, clips, model)
    trainer = stages.build_trainer(run, clips, data, model)
    torch.nn.init.normal_(trainer.model.get_base_model().classifier.weight)

    passes, seen = [], []
    model.get_base_model().register_forward_pre_hook(lambda module, given: passes.append(1))
    measure = trainer.compute_metrics
    trainer.compute_metrics = lambda prediction: (seen.append(prediction.predictions), measure(prediction))[1]
    metrics = trainer.evaluate()
    assert len(passes) == 2, "12 pairs in batches of 6: no pass more than an ordinary validation"
    halves = modality_predictions(seen[0])
    assert set(halves) == {"video", "audio"} and split_predictions(seen[0])[1].shape == (12,)
    for name, said in halves.items():
        alone = predict(trainer, data.split("validation", modalities=(name,), noise_db=None))
        np.testing.assert_allclose(said[: len(alone.logits)], alone.logits, atol=1e-5)
        assert metrics[f"eval_top1_{name}"] == class_metrics(alone.logits, alone.labels)["top1"]
    assert not np.allclose(halves["video"], halves["audio"])
    trainer.predict(data.split("test"))
    assert not modality_predictions(seen[-1]), "the test table shows one modality in passes of its own"


# The report


def test_html_pages_hold_their_pictures_and_obey_no_html():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    text = f'# {NASTY}\n\n<b>bold</b>\n\n![a "picture"](a.png) ![far away](http://example.org/b.png)\n\n| a |\n|---|\n| b |'
    page = Page(html_page(NASTY, text, {"a.png": buffer.getvalue()}))
    assert not {"script", "b"} & set(page.tags) and page.tags.count("img") == 1 and "table" in page.tags
    sources = [source for source in page.sources if source != "http://c"]
    assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,")
    assert "far away" in page.text and "<b>bold</b>" in page.text


def made_predictions(logits: list, labels: list, matched: list | None = None) -> Predictions:
    matched = matched or [True] * len(labels)
    pairs = [
        {"clip_id": f"clip{i}", "group": str(i), "label": label, "is_matched": known, "audio": f"clip{i}"}
        for i, (label, known) in enumerate(zip(labels, matched, strict=True))
    ]
    return Predictions(np.array(logits, dtype=np.float32), None, pairs)


def test_mistakes_are_sorted_by_how_wrong_they_are():
    found = mistakes(
        made_predictions(
            [[3, 0, 0], [0, 1, 0], [0, 5, 0], [0, 9, 0], [9, 0, 0]],
            [0, 0, 2, -100, 1],
            [True, True, True, False, True],
        )
    )
    assert [(one.row, one.true, one.predicted) for one in found] == [(4, [1], [0]), (2, [2], [1]), (1, [0], [1])]
    assert found[0].true_probability < found[1].true_probability < found[2].true_probability
    several = mistakes(made_predictions([[4, 3, -9], [4, -3, 2], [1, 1, 1]], [[0, 1], [0, 1], []]))
    assert [(one.row, one.true, one.predicted) for one in several] == [(1, [0, 1], [0, 2])]


def test_report_shows_each_mistake_with_its_names_as_text(tmp_path):
    class Clips(list):
        """Two clips of two segments; the second has no audio."""

    clips = Clips([{"pixel_values_videos": torch.rand(4, 3, 32, 48), "input_features": torch.rand(2, 16, 24)}])
    clips.append({"pixel_values_videos": torch.rand(4, 3, 32, 48)})
    predictions = made_predictions([[9, 0], [0, 9], [9, 0], [9, 0]], [0, 0, 1, 1])
    for row, pair in enumerate(predictions.pairs):
        pair |= {"clip_id": f"clip{row // 2}", "segment": row % 2}
    results = {
        "label_names": [NASTY, "b"], "rows": [{"model": "maavt", "input": "both", "top1": 0.25}], "threshold": None,
        "steps": 0, "arguments": {}, "card": {"title": NASTY, "summary": "Classifies."},
    }  # fmt: skip
    processor = SimpleNamespace(video_processor=MAAVTVideoProcessor(size={"height": 32, "width": 48}))
    path = write_report(tmp_path, results, predictions, clips, processor)
    page = Page(path.read_text(encoding="utf-8"))
    assert "script" not in page.tags and NASTY in page.text and "a" not in page.tags
    assert page.tags.count("img") == 4 and all(source.startswith("data:image/") for source in page.sources)
    assert "3 of 4 are classified wrongly" in page.text and "clip0, segment 1" in page.text and "b (1.00)" in page.text
    assert path.name == REPORT and not list(tmp_path.glob(".*"))


def test_a_run_tells_its_progress_and_leaves_a_report(toy, tmp_path, caplog, capfd):
    options = ["--num_train_epochs", "2", "--learning_rate", "1e-9", "--baseline", "false"]
    wanted = [name for name in ("tensorboard", "trackio") if importlib.util.find_spec(name)]
    config = tmp_path / "trackers.yaml"
    config.write_text(Path(toy).read_text().replace("report_to: none", f"report_to: {wanted or 'none'}"))
    with caplog.at_level(logging.INFO), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
        recipe.main([str(config), "--output_dir", str(tmp_path / "run"), *options])
    run = tmp_path / "run"

    # Progress: sentences, no dictionaries.
    told = [text for text in caplog.messages if text.startswith("Epoch")]
    assert len(told) == 2 and all("(video alone 0." in text and "audio alone 0." in text for text in told)
    assert "Time left" in told[0] and "Time left" not in told[1]
    assert "{'loss'" not in "".join(capfd.readouterr())

    # The report: linked, whole, self-contained.
    assert f"[{REPORT}]({REPORT})" in (run / "results.md").read_text()
    page = Page((run / REPORT).read_text(encoding="utf-8"))
    assert all(source.startswith("data:image/") for source in page.sources)
    wrong = int(re.search(r"(\d) of 6 are classified wrongly", page.text)[1])
    plots = len(list(run.glob("*.png")))
    assert page.tags.count("img") == plots + 2 * wrong and (plots == 3 or not importlib.util.find_spec("matplotlib"))
    assert "Trained for 2 epochs" in page.text and str(tmp_path) not in page.text
    log = json.loads((run / "model" / "training_log.json").read_text())
    assert [entry["eval_top1_audio"] for entry in log if "eval_loss" in entry]
    assert str(tmp_path) not in (run / "model" / "training_log.json").read_text()

    # Trackers, where they are installed.
    if "tensorboard" in wanted:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        folder = next(path.parent for path in tmp_path.rglob("events.out.tfevents*"))
        events = EventAccumulator(str(folder)).Reload()
        assert len(events.Scalars("eval/top1_video")) == 2
    if "trackio" in wanted:
        assert list((tmp_path / "trackio").rglob("*.db"))


def test_a_report_that_fails_costs_no_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(report, "write_report", lambda *args: 1 / 0)
    run = SimpleNamespace(evaluation=SimpleNamespace(evaluation_noise_db=["clean"]))
    measured = SimpleNamespace(predictions={"both": None})
    data = SimpleNamespace(clips=lambda *args, **kwargs: [], processor=None, tested="test")
    assert report.report_of_run(tmp_path, {}, measured, run, data) == ""
    assert "report.html: not written" in caplog.text


def test_callbacks_that_trainer_brings_are_gone(toy, tmp_path):
    from transformers import PrinterCallback
    from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

    from training.trainer.audio_visual_trainer import AudioVisualTrainer

    for disable in (True, False):
        args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=disable)
        trainer = AudioVisualTrainer(model=torch.nn.Linear(1, 1), args=args)
        kinds = {type(callback) for callback in trainer.callback_handler.callbacks}
        assert not {PrinterCallback, DEFAULT_PROGRESS_CALLBACK} & kinds and ProgressCallback in kinds
        assert all(issubclass(kind, TrainerCallback) for kind in kinds)
