# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion's classification: LARS, rates by layer, averaging over windows, both tunings from mp4 files to the table."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_deepavfusion import all_close, tiny_model
from transformers import AutoModelForVideoClassification, TrainingArguments

from modeling_deepavfusion import DeepAVFusionForAudioVisualClassification
from processing.generate.sounding_shapes import ShapeSettings, write_shapes
from training.deepavfusion import classification
from training.deepavfusion.arguments import ClassificationArguments, parse_arguments
from training.deepavfusion.classification import class_shares, clip_scores, figures, layer_groups, layer_of
from training.deepavfusion.seed_loop import run_seeds
from training.trainer.lars import LARS


CONFIG = Path(__file__).resolve().parents[2] / "configs" / "deepavfusion" / "classification_shapes.yaml"


def test_lars_follows_its_formula():
    torch.manual_seed(0)
    start, target = torch.randn(4, 3), torch.randn(4, 3)
    matrix, vector = (torch.nn.Parameter(values.clone()) for values in (start, start[0]))
    optimizer = LARS([matrix, vector], lr=0.5, momentum=0.9, weight_decay=0.1, trust=0.01)
    expected, plain = start.clone(), start[0].clone()
    moments = [torch.zeros(4, 3), torch.zeros(3)]
    for _ in range(3):
        optimizer.zero_grad()
        (((matrix - target) ** 2).sum() + ((vector - target[0]) ** 2).sum()).backward()
        optimizer.step()
        change = 2 * (expected - target) + 0.1 * expected
        moments[0] = 0.9 * moments[0] + 0.01 * expected.norm() / change.norm() * change
        moments[1] = 0.9 * moments[1] + 2 * (plain - target[0])  # neither scaled nor decayed
        expected, plain = expected - 0.5 * moments[0], plain - 0.5 * moments[1]
    all_close(matrix.detach(), expected)
    all_close(vector.detach(), plain)
    zero = torch.nn.Parameter(torch.zeros(2, 2))  # a norm of 0 does not hold it there
    LARS([zero], lr=1.0).step()
    zero.grad = torch.ones(2, 2)
    LARS([zero], lr=1.0).step()
    assert (zero == -1).all()
    with pytest.raises(ValueError, match="momentum below 1"):
        LARS([zero], lr=1.0, momentum=1.0)


def test_rates_by_layer():
    model = tiny_model(DeepAVFusionForAudioVisualClassification)
    layers = model.config.num_hidden_layers
    assert layer_of("deepavfusion.fusion_tokens.tokens", layers) == layer_of(
        "module.deepavfusion.audio_embeddings.projection.bias", layers
    )
    names = dict(model.named_parameters())
    where = {id(parameter): layer_of(name, layers) for name, parameter in names.items()}
    assert set(where.values()) == set(range(layers + 2))  # 14 for 12 layers
    assert where[id(names["deepavfusion.layers.0.fusion.mlp.fc1.weight"])] == 1
    assert where[id(names["deepavfusion.fusion_layernorm.weight"])] == where[id(names["image_classifier.bias"])]
    assert where[id(names["image_classifier.bias"])] == layers + 1
    groups = layer_groups(model, 1e-3, 0.05, 0.75)
    assert sum(len(group["params"]) for group in groups) == len(names)
    for group in groups:
        for parameter in group["params"]:
            assert group["lr"] == pytest.approx(1e-3 * 0.75 ** (layers + 1 - where[id(parameter)]))
            assert group["weight_decay"] == (0.05 if parameter.ndim > 1 else 0.0)
    model.freeze_encoder()
    assert sum(len(group["params"]) for group in layer_groups(model, 1e-3, 0.0, 1.0)) == 6


def test_windows_of_a_clip_are_averaged_and_every_clip_counts_once():
    torch.manual_seed(0)
    model = tiny_model(DeepAVFusionForAudioVisualClassification)
    config = model.config
    side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    sound = (config.num_mel_bins, config.audio_num_frames)
    clips = [
        {
            "pixel_values_videos": torch.randn(3, 3, side, side),
            "input_features": torch.randn(3, *sound),
            "labels": torch.tensor(index % config.num_labels),
        }
        for index in range(5)
    ]
    scores, labels = clip_scores(model, clips, batch_size=2)  # the last batch is not full
    assert scores["logits"].shape == (5, config.num_labels) and labels.tolist() == [int(c["labels"]) for c in clips]
    for index, clip in enumerate(clips):
        with torch.no_grad():
            alone = [
                model(clip["pixel_values_videos"][None, [s]], clip["input_features"][None, [s]]) for s in range(3)
            ]
        all_close(torch.tensor(scores["logits"][index]), torch.stack([out.logits[0] for out in alone]).mean(0))
        all_close(torch.tensor(scores["audio_logits"][index]), torch.stack([o.audio_logits[0] for o in alone]).mean(0))


def test_shares_and_figures():
    assert class_shares({"label": [0, 0, 1, 2]}, 4).tolist() == [0.5, 0.25, 0.25, 0]
    assert class_shares({"label": [[0, 2], [2]]}, 3).tolist() == [0.5, 0, 1]  # several classes a clip
    assert figures(np.eye(3)[[0, 1, 1]], np.array([0, 1, 2]))["top1"] == pytest.approx(2 / 3)
    several = np.array([[1, 0], [0, 1]])
    assert figures(several.astype(float), several)["map"] == pytest.approx(1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    settings = ShapeSettings(num_train=12, num_test=6, num_pairs=1, frames_per_clip=1)
    return str(write_shapes(tmp_path_factory.mktemp("shapes") / "clips", settings) / "clips.csv")


def arguments(clips: str, output: Path, *more: str) -> list[str]:
    few = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--disable_tqdm", "true", "--seeds", "0"]
    return [str(CONFIG), *few, "--data", clips, "--output_dir", str(output), "--results", str(output / "t"), *more]


def test_fine_tuning(clips, tmp_path):
    more = ["--mixup_alpha", "0.8", "--layer_decay", "0.75"]
    more += ["--model_config", "{drop_path_rate: 0.2, label_smoothing: 0.1, classifier_loss: separate}"]
    table = classification.main(arguments(clips, tmp_path, *more))
    assert {"DeepAVFusion", "DeepAVFusion, one window", "largest class"} < set(table) and len(table) == 8
    assert all(0 <= row["top1"] <= 1 for row in table.values())
    record = json.loads((tmp_path / "t.json").read_text())
    assert record["facts"]["recipe"].startswith("tuning full") and "mixup_alpha 0.8" in record["facts"]["recipe"]
    assert Image.open(tmp_path / "seed_0" / "confusion.png").width > 100
    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "seed_0" / "model")
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red", 3: "yellow"}
    assert classification.main(arguments(clips, tmp_path, *more)) == table  # measured before, not run again


def test_linear_probe_trains_the_heads_alone(clips, tmp_path):
    more = ["--tuning", "linear_probe", "--optimizer", "lars", "--learning_rate", "0.3", "--weight_decay", "0"]
    classification.main(arguments(clips, tmp_path / "start", "--max_steps", "1", "--regression", "false"))
    start = tmp_path / "start" / "seed_0" / "model"
    table = classification.main(arguments(clips, tmp_path / "probe", *more, "--model_name_or_path", str(start)))
    assert "logistic regression on the encoder before training" in table
    before, after = (
        AutoModelForVideoClassification.from_pretrained(folder)
        for folder in (start, tmp_path / "probe" / "seed_0" / "model")
    )
    encoder = after.deepavfusion.state_dict()
    assert all(torch.equal(value, encoder[name]) for name, value in before.deepavfusion.state_dict().items())
    assert not torch.equal(before.fusion_classifier.weight, after.fusion_classifier.weight)
    assert after.config.use_pooled_batchnorm and after.fusion_batchnorm.num_batches_tracked == 2


@pytest.mark.parametrize(
    "more, message",
    [
        (["--tuning", "half"], "tuning: 'half'"),
        (["--optimizer", "lion"], "optimizer: 'lion'"),
        (["--measured_split", "train"], "measured_split: 'train'"),
        (["--evaluation_windows", "0"], "evaluation_windows: 0"),
        (["--mixup_alpha", "-1"], "mixup_alpha: -1"),
        (["--label_smoothing_factor", "0.1"], "set label_smoothing in model_config"),
        (["--tuning", "linear_probe", "--model_config", "{drop_path_rate: 0.2}"], "drop_path_rate: would drop"),
        (["--layer_decay", "1.5"], "layer_decay: 1.5 must be"),
    ],
)
def test_wrong_arguments_are_named(clips, tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        classification.main(arguments(clips, tmp_path, "--regression", "false", *more))


@pytest.mark.parametrize("name, rate, batch", [("classification", 3e-4, 32 * 2 * 8), ("probe", 0.3, 128 * 8)])
def test_recipes_of_the_paper(name, rate, batch):
    """Eight processes; the base rate is one for 256 clips."""
    argv = [str(CONFIG.parent / f"{name}_vggsound.yaml"), "--bf16", "false", "--use_cpu", "true"]
    task, args = parse_arguments(ClassificationArguments, argv)
    task.check(args)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps * 8 == batch
    assert args.learning_rate == pytest.approx(rate * batch / 256)
    assert task.evaluation_windows == 10 and task.clip_seconds == 3.0 and task.layer_decay == 0.75
    assert task.optimizer == ("lars" if task.tuning == "linear_probe" else "adamw")


def run_one_seed(folder: Path, options: dict, trainer_options: dict) -> list[int]:
    """`run_seeds` without a model; returns the seeds that were measured now."""
    task = ClassificationArguments(**{"data": "clips", "processor": {"video_processor": {"fps": 2}}, **options})
    args = TrainingArguments(str(folder), report_to="none", use_cpu=True, **trainer_options)
    measured = []

    def measure(args: TrainingArguments) -> dict:
        measured.append(args.seed)
        return {"model": {"top1": 0.5}}

    run_seeds("classification", [], task, args, lambda seed: task.facts(), measure, {"top1": "top-1"})
    return measured


@pytest.mark.parametrize(
    "options, trainer_options, name",
    [
        ({"data": "other"}, {}, "data"),
        ({"table": {"label": "other"}}, {}, "table"),
        ({"processor": {"video_processor": {"fps": 4}}}, {}, "processor"),
        ({"augmentation": {"flip": 0.0}}, {}, "augmentation"),
        ({}, {"lr_scheduler_type": "cosine"}, "lr_scheduler_type"),
        ({}, {"warmup_steps": 100}, "warmup_steps"),
        ({}, {"weight_decay": 0.3}, "weight_decay"),
        ({}, {"gradient_accumulation_steps": 8}, "gradient_accumulation_steps"),
    ],
)
def test_a_seed_measured_under_other_settings_is_refused(tmp_path, options, trainer_options, name):
    assert run_one_seed(tmp_path, {}, {}) == [0]
    with pytest.raises(ValueError, match=rf"measured with {{'{name}': .*, this run has {{'{name}': .*--output_dir$"):
        run_one_seed(tmp_path, options, trainer_options)


def test_a_measured_seed_is_taken_where_nothing_that_matters_changed(tmp_path):
    path = tmp_path / "seed_0" / "measured.json"
    trainer_options = {"lr_scheduler_type": "cosine", "warmup_steps": 10}
    assert run_one_seed(tmp_path, {}, trainer_options) == [0]
    assert run_one_seed(tmp_path, {"seeds": [0, 1], "cache_gb": 1.0}, trainer_options | {"logging_steps": 7}) == [1]
    # The table prints the facts alone.
    record = json.loads(path.read_text())
    assert record["settings"]["lr_scheduler_type"] == "cosine" and "regression" not in record["settings"]
    assert "cosine" not in (tmp_path / "results.md").read_text()
    # A record of an earlier version has facts only.
    del record["settings"]
    path.write_text(json.dumps(record))
    assert run_one_seed(tmp_path, {}, {"weight_decay": 0.3}) == []
