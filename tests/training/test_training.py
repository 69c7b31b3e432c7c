# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The recipe: arguments, what is trained, resume, selection on validation, outputs."""

import csv
import importlib
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_run import write_backbone, write_clips, write_config
from transformers import TrainerCallback

import train as recipe
from modeling_maavt import MAAVTForAudioVisualClassification
from processing import MAAVTProcessor
from processing.data.clip_cache import ClipCache
from processing.generate.clip_writing import write_clip
from training.common.commands import shown_command
from training.common.folder_lock import folder_lock
from training.common.results import markdown_table, plain_text
from training.common.yaml_text import read_yaml
from training.maavt import data, outputs
from training.maavt import trainer as run_trainer
from training.maavt.arguments import check_files_and_backbone, parse_arguments, recorded_arguments
from training.maavt.baseline import feature_sources
from training.maavt.data import build_processor, build_tables, make_dataset
from training.maavt.model import build_model
from training.maavt.retrieval import retrieval_scores
from training.maavt.trainer import end_of_training
from training.maavt.upload import push_run
from training.trainer.audio_visual_trainer import AudioVisualTrainer, part_count, weighted_mean


REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> str:
    """The path of the toy run's YAML."""
    folder = tmp_path_factory.mktemp("toy")
    return str(write_config(folder / "toy.yaml", write_clips(folder / "data"), write_backbone(folder / "vit")))


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory) -> tuple[dict, Path]:
    """Results and output folder of one whole run."""
    output = tmp_path_factory.mktemp("finished")
    options = ["--evaluation_noise_db", "clean", "-5", "--retrieval", "true"]
    results = recipe.main([toy, "--output_dir", str(output), *options])
    return results, output


def read_csv(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def state_of(output: Path) -> dict:
    return json.loads((output / "trainer_state.json").read_text())


# Arguments


def test_help_lists_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        recipe.main(["--help"])
    assert end.value.code == 0 and "--bootstrap_samples" in capsys.readouterr().out


def test_a_saved_model_is_measured_again(finished, toy, tmp_path):
    results, output = finished
    options = ["--evaluation_noise_db", "clean", "-5", "--baseline", "false", "--evaluate_only", "true"]
    model = ["--model_name_or_path", str(output / "model")]
    again = recipe.main([toy, "--output_dir", str(tmp_path / "again"), *model, *options])
    ours = [row for row in results["rows"] if row["model"] == "maavt"]
    for one, other in zip(ours, again["rows"], strict=True):
        assert one["top1"] == other["top1"] and one.get("match_auroc") == pytest.approx(other.get("match_auroc"))
    assert (tmp_path / "again" / "predictions.csv").is_file() and not (tmp_path / "again" / "model").exists()
    with pytest.raises(ValueError, match="evaluate_only: .* is a vit model"):
        recipe.main([toy, "--output_dir", str(tmp_path / "none"), "--evaluate_only", "true"])


def test_the_record_of_a_training_run_is_not_replaced_by_an_evaluation(finished, toy):
    _, output = finished
    model = ["--model_name_or_path", str(output / "model"), "--evaluate_only", "true"]
    with pytest.raises(FileExistsError, match=r"record of a training run.* --output_dir .*evaluation"):
        check_files_and_backbone(parse_arguments([toy, "--output_dir", str(output), *model]))
    again = parse_arguments([toy, "--output_dir", str(output / "evaluation"), *model])
    check_files_and_backbone(again)
    assert not again.evaluation.baseline  # its features would be those of the tuned encoder


def test_a_model_without_match_head_is_not_chosen_by_match_figures(toy, tmp_path):
    for changes in (["--modalities", "audio"], ["--tuning", "linear_probe", "--lora_rank", "0"]):
        parsed = parse_arguments([toy, "--output_dir", str(tmp_path), "--metric_for_best_model", "combined", *changes])
        check_files_and_backbone(parsed)
        assert parsed.run.metric_for_best_model == "top1"


def test_clips_without_audio_are_tested_by_their_video(toy, tmp_path):
    clips = write_clips(tmp_path / "data")
    generator = np.random.default_rng(1)
    for name in ("red0", "red8", "blue7"):  # one to train on, two to test on
        frames = generator.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
        write_clip(clips / "clips" / f"{name}.mp4", frames, None, fps=10)
    options = ["--on_missing", "none", "--max_steps", "2", "--baseline", "true", "--per_device_eval_batch_size", "1"]
    options += ["--train_noise_db", "20", "--evaluation_noise_db", "clean", "0"]
    results = recipe.main([toy, "--output_dir", str(tmp_path / "run"), "--data", str(clips), *options])
    counted = {}
    for row in results["rows"]:
        counted.setdefault((row["input"], row["noise"]), set()).add((row["model"], row["clips"]))
    models = ("maavt", "logistic regression")
    for noise in ("clean", "0"):
        assert counted["audio", noise] == {(model, 4) for model in models}
        assert counted["both", noise] == {(model, 6) for model in (*models, "logistic regression, late fusion")}
    assert counted["video", "any"] == {(model, 6) for model in models}
    assert (tmp_path / "run" / "model").is_dir()


def test_a_class_that_is_lost_and_a_split_without_clips_are_told(toy, tmp_path, caplog):
    clips = write_clips(tmp_path / "data")
    for path in (clips / "clips").glob("red*.mp4"):
        path.write_text("no clip")
    recipe_of = [toy, "--output_dir", str(tmp_path / "run"), "--data", str(clips)]
    with caplog.at_level("INFO"), pytest.raises(ValueError, match="no clip is left for validation; add clips"):
        recipe.main([*recipe_of, "--table", "{split: none, group: none}", "--validation_fraction", "0", "--dry_run"])
    assert "class red: no clip is left" in caplog.text


def test_yaml_that_cannot_be_read_is_named(toy, tmp_path):
    (tmp_path / "bad.yaml").write_text("data: my_clips\n  bad: [\n")
    with pytest.raises(ValueError, match=r"bad.yaml: line 2 is no YAML"):
        parse_arguments([str(tmp_path / "bad.yaml")])
    with pytest.raises(ValueError, match=r"--model_config: line 1 is no YAML"):
        parse_arguments([toy, "--model_config", "{a: [}"])


def test_the_best_epoch_is_told(finished):
    results, output = finished
    history = [entry for entry in state_of(output)["log_history"] if "eval_top1" in entry]
    best = max(history, key=lambda entry: entry["eval_top1"])
    assert results["best"] == {"epoch": best["epoch"], "metric": "top1", "value": round(best["eval_top1"], 4)}


def test_a_backbone_that_is_not_there_is_named(toy, tmp_path):
    with pytest.raises(OSError, match=r"model_name_or_path: no/such is no folder .* give a folder"):
        recipe.main([toy, "--output_dir", str(tmp_path / "none"), "--model_name_or_path", "no/such"])


def test_a_side_whose_clips_cannot_be_torn_apart_is_named_before_training(toy, tmp_path):
    table = Path(toy).parent / "data" / "metadata.csv"
    (tmp_path / "clips").symlink_to(table.parent / "clips")
    lines = [line for line in table.read_text().splitlines() if ",test," not in line or line.startswith("clips/red")]
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"^test: .* no clip of another class .*mismatch_probability 0"):
        recipe.main([toy, "--output_dir", str(tmp_path / "none"), "--data", str(tmp_path)])
    assert not list((tmp_path / "none").glob("checkpoint-*"))


def test_clips_of_one_class_are_refused_by_its_name(toy, tmp_path):
    table = Path(toy).parent / "data" / "metadata.csv"
    (tmp_path / "clips").symlink_to(table.parent / "clips")
    header, *lines = table.read_text().splitlines()
    reds = [line for line in lines if line.startswith("clips/red")]
    (tmp_path / "metadata.csv").write_text("\n".join([header, *reds]) + "\n")
    with pytest.raises(ValueError, match=r"all clips that are left are of one class, 'red'; add clips of another"):
        recipe.main([toy, "--output_dir", str(tmp_path / "none"), "--data", str(tmp_path)])


def test_yaml_first_and_the_command_line_wins(toy):
    recipe = parse_arguments([toy])
    assert recipe.run.learning_rate == 5e-3 and recipe.data.num_frames == 2
    assert recipe.model.model_config["token_init_std"] == 0.02 and recipe.data.table.group == "group"
    recipe = parse_arguments(
        [toy, "--learning_rate", "1e-3", "--model_config", "{temperature: 1e-1}", "--modalities", "audio"]
    )
    assert recipe.run.learning_rate == 1e-3 and recipe.data.modalities == ["audio"]
    assert recipe.model.model_config["temperature"] == 0.1 and recipe.model.model_config["num_audio_tokens"] == 2


def test_the_split_has_a_seed_of_its_own_or_that_of_the_run(toy):
    assert parse_arguments([toy, "--seed", "3"]).split_seed == 3
    assert parse_arguments([toy, "--seed", "3", "--split_seed", "5"]).split_seed == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--lerning_rate", "1"], "did you mean '--learning_rate'"),
        (["--modalities", "smell"], "modalities"),
        (["--evaluation_noise_db", "loud"], "evaluation_noise_db"),
        (["--mismatch_probability", "1.5"], "mismatch_probability"),
        (["--tuning", "full", "--lora_rank", "4"], "lora_rank"),
        (["--model_config", "{tokens: 3}"], "unknown fields"),
        (["--processor", "{ears: {}}"], "unknown parts"),
    ],
)
def test_contradictions_are_refused_by_name(toy, change, message):
    with pytest.raises(ValueError, match=message):
        recipe.main([toy, "--dry_run", *change])


def test_unknown_and_mistyped_yaml_keys_are_refused(toy, tmp_path, capsys):
    config = tmp_path / "bad.yaml"
    config.write_text("data: x\nmodel_name_or_path: y\nnum_frame: 3\n")
    with pytest.raises(ValueError, match="unknown key 'num_frame'; did you mean 'num_frames'"):
        parse_arguments([str(config)])
    config.write_text("data: x\nmodel_name_or_path: y\nnum_frames: 2.5\n")
    with pytest.raises(SystemExit):
        parse_arguments([str(config)])
    usage, reason = capsys.readouterr().err.strip().splitlines()[-2:]
    assert "--help lists the options" in usage and "invalid int value: '2.5'" in reason
    with pytest.raises(FileNotFoundError, match="configs/"):
        parse_arguments([str(tmp_path / "none.yaml")])


def test_yaml_numbers_with_exponents_are_numbers():
    assert read_yaml("[1e-4, 1e3, -2.5E-1, 1.0e2]", "text") == [1e-4, 1e3, -0.25, 100.0]
    assert read_yaml("{a: e5, b: '1e-4'}", "text") == {"a": "e5", "b": "1e-4"}


def test_record_of_arguments_holds_no_folders_and_no_secrets(toy):
    record = recorded_arguments(parse_arguments([toy, "--hub_token", "secret"]))
    text = json.dumps(record)
    assert "secret" not in text and str(Path(toy).parent) not in text
    assert record["data"] == "data" and record["learning_rate"] == 5e-3


@pytest.mark.parametrize("config", sorted(p.name for p in (REPOSITORY / "configs").glob("*.yaml")))
def test_every_shipped_config_parses_and_says_how_to_launch_it(config):
    path = REPOSITORY / "configs" / config
    parse_arguments([str(path), "--data", "clips", "--model_name_or_path", "vit", "--use_cpu", "true"])
    head = [line for line in path.read_text(encoding="utf-8").splitlines()[:20] if line.startswith("#")]
    for word in ("Needs:", "Launch:", "Override:"):
        assert any(word in line for line in head), f"{config}: header without '{word}'"


def test_a_model_is_built_without_warnings_of_other_libraries(toy, tmp_path):
    """Nobody who reads the log of a run could do anything about them."""
    recipe = parse_arguments([toy, "--output_dir", str(tmp_path), "--tuning", "lora"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        build_model(recipe, ["a", "b"])


def test_weight_decay_leaves_learned_tokens_norms_and_biases_alone(toy, tmp_path):
    recipe = parse_arguments([toy, "--weight_decay", "0.1", "--output_dir", str(tmp_path)])
    model = build_model(recipe, ["a", "b"])
    recipe.run.eval_strategy = "no"
    optimizer = AudioVisualTrainer(model=model, args=recipe.run).create_optimizer()
    of_parameter = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    decayed = {name: of_parameter[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    tokens = [name for name in decayed if "prompt" in name]
    assert len(tokens) == 5 and all(decayed[name] == 0 for name in tokens)
    assert all(decayed[name] == 0 for name in decayed if name.endswith("bias"))
    assert [decay for name, decay in decayed.items() if "classifier" in name and name.endswith("weight")] == [0.1]


# The run


def test_retrieval_is_measured_on_the_test_clips(finished, toy):
    results, output = finished
    found = results["retrieval"]
    assert found["num_clips"] == 6 and 1 <= found["video_to_audio_median_rank"] <= 6
    assert json.loads((output / "results.json").read_text())["retrieval"] == found
    parsed = parse_arguments([toy])
    dataset = make_dataset(parsed, build_tables(parsed)[0], build_processor(parsed), "test")
    model = MAAVTForAudioVisualClassification.from_pretrained(output / "model")
    assert retrieval_scores(model, dataset, batch_size=4) == pytest.approx(found)
    with pytest.raises(ValueError, match="fewer than two test clips"):
        retrieval_scores(model, torch.utils.data.Subset(dataset, [0]), batch_size=4)


def test_components_of_the_loss_are_logged(finished):
    history = state_of(finished[1])["log_history"]
    parts = ("classification_loss", "matching_loss", "contrastive_loss")
    steps = [entry for entry in history if "loss" in entry]
    evaluations = [entry for entry in history if "eval_loss" in entry]
    assert len(steps) == 12 and len(evaluations) == 3
    for entry in steps:
        assert sum(entry.get(part, 0.0) for part in parts) == pytest.approx(float(entry["loss"]), abs=2e-3)
    for entry in evaluations:
        assert {f"eval_{part}" for part in parts} <= set(entry)
        assert {"eval_top1", "eval_macro_f1", "eval_match_auroc", "eval_combined"} <= set(entry)


def test_learning_rate_and_schedule_are_the_ones_asked_for(finished):
    rates = [entry["learning_rate"] for entry in state_of(finished[1])["log_history"] if "learning_rate" in entry]
    expected = [5e-3 * (1 - step / 12) for step in range(12)]
    assert [float(rate) for rate in rates] == pytest.approx(expected, rel=1e-4)


def test_table_and_files_of_a_run(finished):
    results, output = finished
    kinds = [(row["model"], row["input"], row["noise"]) for row in results["rows"]]
    for model in ("maavt", "logistic regression"):
        for kind in (("audio", "clean"), ("video", "any"), ("both", "clean"), ("audio", "-5"), ("both", "-5")):
            assert (model, *kind) in kinds
    for condition in ("clean", "-5"):
        assert ("logistic regression, late fusion", "both", condition) in kinds
    assert len(kinds) == 12
    saved = json.loads((output / "results.json").read_text())
    assert saved["rows"] == results["rows"] and saved["splits"]["test"]["clips"] == 6
    lines = read_csv(output / "predictions.csv")
    # Both: every clip as it is, with the audio of another class, and of another clip of its class.
    assert len(lines) == 6 * 3 + 18 * 2
    pairs = [(line["is_matched"], line["same_class"]) for line in lines if line["input"] == "both"]
    assert [pairs.count(kind) for kind in (("True", "True"), ("False", "False"), ("False", "True"))] == [12, 12, 12]
    both = next(row for row in results["rows"] if (row["model"], row["input"]) == ("maavt", "both"))
    for name in ("match_auroc", "agreement_auroc", "match_auroc_same_class", "agreement_auroc_same_class"):
        assert 0 <= both[name] <= 1 and len(both[f"{name}_interval"]) == 2
    for folder in ("model", "adapter"):
        assert (output / folder / "README.md").is_file() and (output / folder / "processor_config.json").is_file()


def test_frozen_backbone_stays_as_it_was(finished, toy):
    backbone = load_file(Path(toy).parent / "vit" / "model.safetensors")
    trained = load_file(finished[1] / "model" / "model.safetensors")
    same = [
        n
        for n in trained
        if any(t.shape == trained[n].shape and torch.equal(t, trained[n]) for t in backbone.values())
    ]
    frozen = [n for n in trained if ".encoder." in n]
    assert frozen and set(frozen) <= set(same)
    assert "maavt.prompt.cls_token" in trained and "maavt.prompt.cls_token" not in same


def test_a_table_on_validation_sees_no_test_clip(toy, tmp_path):
    options = ["--max_steps", "2", "--evaluation_split", "validation"]
    results = recipe.main([toy, "--output_dir", str(tmp_path), *options])
    clips = {line["clip_id"] for line in read_csv(tmp_path / "predictions.csv")}
    table = {row["file_name"]: row["split"] for row in read_csv(Path(toy).parent / "data" / "metadata.csv")}
    assert {table[clip] for clip in clips} == {"validation"} and len(clips) == 6
    assert {row["model"] for row in results["rows"]} == {"maavt"}
    assert "Results on the validation clips" in (tmp_path / "model" / "README.md").read_text()


def test_selection_never_sees_the_test_clips(toy, tmp_path, monkeypatch):
    seen = []
    original = AudioVisualTrainer.evaluate

    def evaluate(self, eval_dataset=None, *args, **kwargs):
        seen.extend((eval_dataset or self.eval_dataset).table["clip_id"])
        return original(self, eval_dataset, *args, **kwargs)

    monkeypatch.setattr(AudioVisualTrainer, "evaluate", evaluate)
    results = recipe.main([toy, "--output_dir", str(tmp_path), "--num_train_epochs", "2", "--baseline", "false"])
    state = state_of(tmp_path)
    best = [entry for entry in state["log_history"] if entry.get("eval_top1") == state["best_metric"]]
    assert best and results["rows"]
    tested = {line["clip_id"] for line in read_csv(tmp_path / "predictions.csv")}
    assert len(tested) == 6 and seen and not tested & set(seen)


class _Stop(TrainerCallback):
    """Ends the process's training as a kill would: in the middle of an epoch, right after a checkpoint."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("workers", ["0", "2"])
def test_killed_and_resumed_equals_uninterrupted(toy, tmp_path, monkeypatch, workers):
    common = [toy, "--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "steps", "--eval_steps", "2"]
    common += [
        "--baseline",
        "false",
        "--augmentation",
        "{}",
        "--train_noise_db",
        "-5",
        "20",
        "--save_total_limit",
        "9",
    ]
    common += ["--model_config", "{modality_dropout: 0.3}", "--dataloader_num_workers", workers]
    common += ["--gradient_modulation", "0.1"]
    whole = recipe.main([*common, "--output_dir", str(tmp_path / "whole")])

    with monkeypatch.context() as patch:
        patch.setattr(run_trainer, "CheckpointFilesCallback", lambda processor: _Stop(7))
        with pytest.raises(KeyboardInterrupt):
            recipe.main([*common, "--output_dir", str(tmp_path / "cut")])
    assert (tmp_path / "cut" / "checkpoint-6").is_dir() and not (tmp_path / "cut" / "model").exists()
    resumed = recipe.main([*common, "--output_dir", str(tmp_path / "cut"), "--resume_from_checkpoint", "true"])

    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert [row["top1"] for row in whole["rows"]] == [row["top1"] for row in resumed["rows"]]
    losses = [
        [entry["loss"] for entry in state_of(tmp_path / name)["log_history"] if "loss" in entry]
        for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 12


def test_same_seed_same_run_other_seed_other_run(finished, toy, tmp_path):
    again = recipe.main([toy, "--output_dir", str(tmp_path / "a"), "--evaluation_noise_db", "clean", "-5"])
    assert again["rows"] == finished[0]["rows"]
    recipe.main([toy, "--output_dir", str(tmp_path / "b"), "--baseline", "false", "--seed", "1"])
    assert state_of(tmp_path / "b")["log_history"][0] != state_of(finished[1])["log_history"][0]


def test_earlier_checkpoints_are_neither_mixed_in_nor_deleted_unasked(finished, toy):
    with pytest.raises(FileExistsError, match="--resume_from_checkpoint true"):
        recipe.main([toy, "--output_dir", str(finished[1])])
    assert list(finished[1].glob("checkpoint-*"))


def test_every_checkpoint_loads_on_its_own(finished):
    from modeling_maavt import MAAVTForAudioVisualClassification

    checkpoint = sorted(finished[1].glob("checkpoint-*"))[-1]
    model = MAAVTForAudioVisualClassification.from_pretrained(checkpoint)
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
    assert (checkpoint / "processor_config.json").is_file()


def test_early_stopping(toy, tmp_path):
    recipe.main(
        [toy, "--output_dir", str(tmp_path), "--baseline", "false", "--num_train_epochs", "9"]
        + ["--learning_rate", "1e-9", "--early_stopping_patience", "2"]
    )
    assert state_of(tmp_path)["epoch"] == 3.0


def test_a_resumed_run_has_the_patience_that_it_is_given(toy, tmp_path):
    """Also where the run before had another one, or none."""
    flat = ["--baseline", "false", "--num_train_epochs", "9", "--learning_rate", "1e-9"]
    for name, before in {"none": ["--num_train_epochs", "2"], "two": ["--early_stopping_patience", "2"]}.items():
        command = [toy, "--output_dir", str(tmp_path / name), *flat]
        recipe.main([*command, *before])
        recipe.main([*command, "--early_stopping_patience", "4", "--resume_from_checkpoint", "true"])
        # The count goes on where there is one: of the first run's three evaluations, two were no better.
        assert state_of(tmp_path / name)["epoch"] == {"none": 6.0, "two": 5.0}[name]


@pytest.mark.parametrize(
    ("metric", "more", "instead"),
    [
        ("combined", ["--mismatch_probability", "0"], "top1, macro_f1, top1_video, top1_audio, loss"),
        ("top1_video", ["--modalities", "audio"], "top1, macro_f1, loss"),
        ("map", [], "top1, macro_f1, top1_video, top1_audio, match_auroc, match_accuracy, combined, loss"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused_before_training(toy, tmp_path, monkeypatch, metric, more, instead):
    monkeypatch.setattr(AudioVisualTrainer, "train", None)
    with pytest.raises(
        ValueError, match=f"metric_for_best_model: {metric} is not measured in this run; take one of {instead}$"
    ):
        recipe.main([toy, "--output_dir", str(tmp_path), "--metric_for_best_model", metric, *more])


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_a_model_of_one_modality_ignores_the_other(toy, tmp_path, modality):
    """Half of its class head is random; a clip with both streams is classified as it was measured."""
    results = recipe.main([toy, "--output_dir", str(tmp_path), "--baseline", "false", "--modalities", modality])
    model = MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "model").eval()
    processor = MAAVTProcessor.from_pretrained(tmp_path / "model")
    clips = sorted((Path(toy).parent / "data" / "clips").glob("*.mp4"))
    batch = processor(clips=[str(clip) for clip in clips])
    name = {"audio": "input_features", "video": "pixel_values_videos"}[modality]
    both, alone = model(**batch).logits, model(**{name: batch[name]}).logits
    assert torch.equal(both, alone)
    with pytest.raises(ValueError, match=f"no input: this model reads {modality}"):
        model(**{key: value for key, value in batch.items() if key != name})
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"from their {modality} alone" in card and f"reads the {modality} alone" in card
    assert "Either input may be missing" not in card
    # It cannot be measured on what it was not trained on.
    command = [toy, "--evaluate_only", "true", "--model_name_or_path", str(tmp_path / "model"), "--baseline", "false"]
    again = recipe.main([*command, "--output_dir", str(tmp_path / "again"), "--modalities", modality])
    assert again["rows"][0]["top1"] == results["rows"][0]["top1"]
    with pytest.raises(ValueError, match=f"was not trained on .*--modalities {modality}"):
        recipe.main([*command, "--output_dir", str(tmp_path / "both")])


def test_no_path_of_this_machine_is_recorded(toy):
    options = {"table": "{where: {file: /home/ann/a.csv}}", "card": "{data_name: file:///home/ann/clips}"}
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    recorded = recorded_arguments(parse_arguments([toy, *arguments]))
    assert "ann" not in json.dumps(recorded) and recorded["table"]["where"] == {"file": "a.csv"}
    words = ["--data=/home/ann/x", "--out", "/home/ann/y", "--data", "file:///home/ann/z", "--rate=1e-3"]
    assert shown_command("m", words) == "python -m m --data=x --out y --data z --rate=1e-3"


def test_a_checkpoint_is_measured_with_its_own_tokens(toy, finished, tmp_path, caplog):
    """Whatever the recipe says of its weights; `--model_config` must not make another model of it."""
    command = [
        toy,
        "--evaluate_only",
        "true",
        "--model_name_or_path",
        str(finished[1] / "model"),
        "--baseline",
        "false",
    ]
    same = recipe.main([*command, "--output_dir", str(tmp_path / "same")])
    changes = "{num_shared_tokens: 5, match_head: linear, temperature: 0.5}"
    other = recipe.main([*command, "--output_dir", str(tmp_path / "other"), "--model_config", changes])
    assert other["rows"] == same["rows"]
    assert "num_shared_tokens stays 2, as in the checkpoint; the recipe has 5" in caplog.text
    assert "match_head stays 'bilinear'" in caplog.text and "temperature" not in caplog.text


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        (["--tuning", "full"], ("embeddings", "encoder", "layernorm", "prompt", "classifier", "match_head")),
        (["--tuning", "linear_probe"], ("classifier",)),
        (["--lora_rank", "2"], ("lora_A", "lora_B", "prompt", "classifier", "match_head")),
    ],
)
def test_what_each_tuning_trains(toy, tmp_path, monkeypatch, change, trained):
    found = {}
    original = AudioVisualTrainer.train

    def remember(self, *args, **kwargs):
        found.update({n: p.requires_grad for n, p in self.model.named_parameters()})
        return original(self, *args, **kwargs)

    monkeypatch.setattr(AudioVisualTrainer, "train", remember)
    results = recipe.main([toy, "--output_dir", str(tmp_path), "--max_steps", "2", "--baseline", "false", *change])
    for word in trained:
        assert any(word in name and needs for name, needs in found.items()), word
    if "linear_probe" in change:
        assert all("classifier" in name for name, needs in found.items() if needs)
        assert results["trainable"] == 3 * 64 + 3
    if "--lora_rank" in change:
        assert not any(needs for name, needs in found.items() if ".encoder." in name and "lora" not in name)
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_cache_changes_no_item_and_decodes_each_stream_once(toy, monkeypatch):
    parsed = parse_arguments([toy, "--train_noise_db", "0", "--augmentation", "{}"])
    tables, _ = build_tables(parsed)
    processor = build_processor(parsed)
    calls = []
    original = MAAVTProcessor.load_clip
    monkeypatch.setattr(
        MAAVTProcessor,
        "load_clip",
        lambda self, source, request: calls.append(request.streams) or original(self, source, request),
    )
    plain = make_dataset(parsed, tables, processor, "train", training=True)
    cached = make_dataset(parsed, tables, ClipCache(processor, 1.0), "train", training=True)
    for epoch in range(3):
        plain.set_epoch(epoch)
        cached.set_epoch(epoch)
        for i in range(len(plain)):
            one, other = plain[i], cached[i]
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one), (epoch, i)
    assert not all(cached.describe(i)["is_matched"] for i in range(len(cached)))
    calls.clear()
    for i in range(len(cached)):
        cached[i]
    assert not calls
    full = ClipCache(processor, 1e-9)
    for _ in range(2):
        make_dataset(parsed, tables, full, "train", training=True)[0]
    assert len(calls) >= 2 and not full.kept


def test_cache_keeps_frames_of_every_size(toy):
    """The regression reads clips in two sizes."""
    parsed = parse_arguments([toy])
    tables, _ = build_tables(parsed)
    processor = build_processor(parsed)
    processor.video_processor.size = {"height": 16, "width": 16}
    cached = feature_sources(ClipCache(processor, 1.0), processor, 48)
    plain = feature_sources(processor, processor, 48)
    for name in ("recipe", "backbone"):
        one, other = (make_dataset(parsed, tables, sources[name], "test")[0] for sources in (plain, cached))
        assert torch.equal(one["pixel_values_videos"], other["pixel_values_videos"]), name


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_single_modality_training_reads_only_its_stream(toy, tmp_path, monkeypatch, modality):
    wanted = set()
    original = MAAVTProcessor.load_clip
    monkeypatch.setattr(
        MAAVTProcessor,
        "load_clip",
        lambda self, source, request: wanted.update(request.streams) or original(self, source, request),
    )
    arguments = [toy, "--output_dir", str(tmp_path), "--modalities", modality, "--max_steps", "2"]
    results = recipe.main(arguments)
    assert wanted == {modality}
    assert {row["input"] for row in results["rows"]} == {modality} and results["threshold"] is None


def test_dry_run_trains_and_writes_nothing(toy, tmp_path, capsys):
    found = recipe.main([toy, "--output_dir", str(tmp_path / "none"), "--dry_run"])
    assert not (tmp_path / "none").exists()
    assert found["batch"]["pixel_values_videos"] == [4, 2, 3, 32, 32]
    assert found["splits"]["train"]["clips"] == 15 and found["splits"]["test"]["groups"] == 6 and found["steps"] == 12
    assert found["minutes"] >= 0 and found["memory_gb"] > 0 and found["trainable"] < found["parameters"]
    assert "trainable" in capsys.readouterr().out


def test_a_dry_run_measures_memory_without_the_module_resource(monkeypatch):
    """Windows has no such module."""
    monkeypatch.setitem(sys.modules, "resource", None)
    module = importlib.reload(importlib.import_module("training.maavt.dry_run"))
    assert module.peak_memory() > 1e6


def test_bfloat16_backbone_keeps_what_is_trained_in_float32(toy, tmp_path, monkeypatch):
    found = {}
    original = AudioVisualTrainer.train

    def remember(self, *args, **kwargs):
        found.update({n: (p.dtype, p.requires_grad) for n, p in self.model.named_parameters()})
        return original(self, *args, **kwargs)

    monkeypatch.setattr(AudioVisualTrainer, "train", remember)
    arguments = ["--backbone_dtype", "bfloat16", "--max_steps", "2", "--baseline", "false"]
    recipe.main([toy, "--output_dir", str(tmp_path), *arguments])
    assert {dtype for dtype, needs in found.values() if needs} == {torch.float32}
    assert any(dtype == torch.bfloat16 for dtype, needs in found.values() if not needs)


# What a run leaves, and what it refuses early


def test_the_validation_loss_is_the_sum_of_its_parts(finished):
    evaluations = [entry for entry in state_of(finished[1])["log_history"] if "eval_loss" in entry]
    for entry in evaluations:
        parts = [entry[f"eval_{name}_loss"] for name in ("classification", "matching", "contrastive")]
        assert sum(parts) == pytest.approx(entry["eval_loss"], abs=2e-4)


def test_a_part_of_the_loss_is_averaged_over_what_it_counts():
    inputs = {
        "is_matched": torch.tensor([True, True, False, True]),
        "has_video": torch.tensor([True, False, True, True]),
        "has_audio": torch.tensor([True, True, True, True]),
        "labels": torch.tensor([0, 1, -100, -100]),
    }
    assert part_count("classification_loss", inputs) == 2
    assert part_count("contrastive_loss", inputs) == 2
    assert part_count("matching_loss", inputs) == 3
    assert part_count("unimodal_loss", inputs) == 1
    assert weighted_mean(torch.tensor([1.0, 4.0]), torch.tensor([3.0, 1.0])) == 1.75
    assert weighted_mean(torch.tensor([1.0]), torch.tensor([0.0])) is None


def test_the_schedule_is_recorded(finished):
    results, output = finished
    training = results["training"]
    assert training["scheduler"] == "linear" and training["epochs"] == 3 and training["steps"] == 12
    assert "learning rate 0.005" in (output / "model" / "README.md").read_text()
    assert "validation_fraction" not in results["arguments"]  # a default is no difference


def test_the_end_of_training_is_a_sentence():
    best = {"epoch": 2.0, "metric": "top1", "value": 0.5}
    told = "Stopped after 3 epochs. Keeping the checkpoint of epoch 2 (validation top-1 0.50)."
    assert end_of_training(3.0, best) == told
    assert end_of_training(1.5, None) == "Stopped after 1.5 epochs. Keeping the weights of the last step."


def test_the_match_threshold_is_fitted_on_validation(finished):
    """Not zero, not taken from the test clips: the best one on the validation pairs of the model that goes on."""
    results, output = finished
    history = state_of(output)["log_history"]
    best = next(e for e in history if "eval_top1" in e and e["epoch"] == results["best"]["epoch"])
    assert results["threshold"] == pytest.approx(best["eval_threshold"], abs=1e-4) and results["threshold"] != 0


def test_a_checkpoint_is_measured_with_its_own_processor(finished, toy, tmp_path, caplog):
    arguments = ["--model_name_or_path", str(finished[1] / "model"), "--evaluate_only", "--num_frames", "3"]
    parsed = parse_arguments([toy, "--output_dir", str(tmp_path), *arguments])
    check_files_and_backbone(parsed)
    assert parsed.data.num_frames == 2 and "num_frames: 3 is set" in caplog.text


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        (["--label_smoothing_factor", "0.1"], r"model_config: {label_smoothing: 0.1}"),
        (["--evaluate_only", "--push_to_hub"], r"`maavt push RUN you/name` uploads the run"),
        (["--tuning", "full", "--lora_rank", "8"], r"lora_rank: 8 needs tuning.* give --lora_rank 0"),
        (
            ["--early_stopping_patience", "2", "--eval_strategy", "no", "--load_best_model_at_end", "false"],
            "it counts",
        ),
        (
            ["--push_to_hub", "true", "--hub_upload", "adapter", "--tuning", "full"],
            "hub_upload: tuning: full makes no adapter; give model",
        ),
        (["--metric_for_best_model", "topp1"], "metric_for_best_model: topp1 is not measured; take one of top1"),
        (["--num_train_epochs", "0"], "num_train_epochs: 0 trains nothing"),
        (["--bootstrap_samples", "0"], "bootstrap_samples: 0 must be at least 1"),
        (["--augmentation", "{flop: 0.5}"], "augmentation: unknown key 'flop'; did you mean 'flip"),
    ],
)
def test_options_that_would_drop_something_name_the_cure(toy, options, cure):
    with pytest.raises(ValueError, match=cure):
        parse_arguments([toy, *options])


def test_wrong_folders_are_refused_before_any_clip_is_decoded(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "build_clip_table", None)
    (tmp_path / "file").write_text("")
    for change, message in (
        (["--data", "no/such"], "data: no/such: no such file or folder"),
        (["--model_name_or_path", "no/such"], "model_name_or_path"),
        (["--output_dir", str(tmp_path / "file" / "run")], "output_dir: .* is no folder"),
    ):
        with pytest.raises(OSError, match=message):
            recipe.main([toy, *change])


def test_an_error_is_one_line_and_help_is_quick(toy, tmp_path):
    command = [sys.executable, str(REPOSITORY / "train.py")]
    wrong = subprocess.run([*command, toy, "--learning_rat", "1"], capture_output=True, text=True)
    assert wrong.returncode == 1 and wrong.stderr.splitlines()[-1].startswith("error: unknown argument")
    assert "Traceback" not in wrong.stderr
    code = (
        "import sys; sys.argv = ['train.py', '--help']; import train\n"
        "try: train.main()\n"
        "finally: print('torch' in sys.modules or 'transformers' in sys.modules, file=sys.stderr)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert told.stderr.strip() == "False" and "--mismatch_probability" in told.stdout


def test_two_runs_in_one_folder_are_told(tmp_path):
    code = "import sys, time; from pathlib import Path; from training.common.folder_lock import folder_lock\n"
    code += "with folder_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=f"in use by process {other.pid}"), folder_lock(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    with folder_lock(tmp_path):
        pass


def test_results_appear_together_and_results_json_last(tmp_path, monkeypatch):
    staged = tmp_path / outputs.UNFINISHED
    for folder in (staged / "model", tmp_path / "model"):
        folder.mkdir(parents=True)
    (staged / "model" / "new").write_text("")
    (tmp_path / "model" / "old").write_text("")
    (staged / "results.json").write_text("{}")
    (tmp_path / "results.json").write_text("earlier")
    order, replace = [], os.replace
    monkeypatch.setattr(outputs.os, "replace", lambda a, b: (order.append(Path(b).name), replace(a, b)))
    outputs.publish(staged, tmp_path)
    assert order[-1] == "results.json"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "new", "results.json"]


def test_an_adapter_of_an_earlier_run_does_not_stay_beside_another_model(tmp_path):
    staged = tmp_path / outputs.UNFINISHED
    for folder in (staged / "model", tmp_path / "model", tmp_path / "adapter"):
        folder.mkdir(parents=True)
    (staged / "results.json").write_text("{}")
    outputs.publish(staged, tmp_path, removed={"adapter"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "results.json"]


def test_an_unfinished_run_is_not_uploaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="results.json"):
        push_run(tmp_path, "user/name")


def test_a_compiled_training_writes_a_plain_model(toy, tmp_path):
    options = "--torch_compile true --torch_compile_backend eager --num_train_epochs 1 --baseline false --check none"
    recipe.main([toy, "--output_dir", str(tmp_path), *options.split()])
    names = load_file(tmp_path / "model" / "model.safetensors").keys()
    assert not [name for name in names if "_orig_mod" in name]
    assert "Only 6 test clips" in (tmp_path / "results.md").read_text()


def test_names_of_classes_break_no_table_and_no_card():
    assert plain_text("a*b_c <i>\n# d") == "a\\*b\\_c &lt;i&gt; \\# d"
    assert markdown_table([{"label": "a|b\n<c>"}], {"label": "class"}).splitlines()[-1] == "| a\\|b &lt;c&gt; |"


def test_a_run_with_hostile_names_of_classes(toy, tmp_path):
    """Markdown, HTML, line breaks, slashes and formulas in labels: the card, the tables and the folder stay sound."""
    names = {"blue": "=1+1|<script>\n# x", "green": "../../up/*x*", "red": "-2+3 [a](http://b)"}
    shown = {label: " ".join(name.split()) for label, name in names.items()}  # one line
    data = tmp_path / "data"
    data.mkdir()
    table = Path(toy).parent / "data" / "metadata.csv"
    (data / "clips").symlink_to(table.parent / "clips")
    rows = read_csv(table)
    with open(data / "metadata.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(row | {"label": names[row["label"]]} for row in rows)
    options = "--check none --baseline false --num_train_epochs 1"
    results = recipe.main([toy, "--data", str(data), "--output_dir", str(tmp_path / "run"), *options.split()])
    assert sorted(results["label_names"]) == sorted(shown.values())
    assert {path.name for path in tmp_path.iterdir()} == {"data", "run"}
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert ", ".join(plain_text(name) for name in results["label_names"]) in card
    assert "<script>" not in card.split("```yaml")[0].split("---")[2] and "\n# x" not in card
    cells = [cell for row in read_csv(tmp_path / "run" / "predictions.csv") for cell in row.values()]
    assert f"'{shown['blue']}" in cells and not [cell for cell in cells if cell.startswith(("=", "-2"))]
    report = json.loads((tmp_path / "run" / "class_report.json").read_text(encoding="utf-8"))
    assert {row["label"] for row in report[0]["classes"]} == set(shown.values())
    table = (tmp_path / "run" / "class_report.md").read_text(encoding="utf-8")
    assert "<script>" not in table and all(line.startswith("|") for line in table.splitlines()[2:])
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text(encoding="utf-8"))
    assert set(config["id2label"].values()) == set(shown.values())


def test_ctrl_c_saves_and_says_how_to_go_on(toy, tmp_path, monkeypatch, caplog):
    step = AudioVisualTrainer.training_step

    def interrupt_second_step(self, *args, **kwargs):
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(AudioVisualTrainer, "training_step", interrupt_second_step)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as end:
        recipe.main([toy, "--output_dir", str(tmp_path)])
    assert end.value.code == 130 and (tmp_path / "checkpoint-2").is_dir()
    assert "Ctrl-C: saved" in caplog.text and "--resume_from_checkpoint true" in caplog.text
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes(toy, tmp_path, launcher):
    """The same recipe under torchrun and accelerate launch; some gloo processes abort at exit after all is written."""
    launch = {
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29611"],
        "accelerate": [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"],
    }[launcher]
    command = [*launch, str(REPOSITORY / "train.py"), toy, "--output_dir", str(tmp_path), "--max_steps", "4"]
    if launcher == "torchrun":
        command += ["--ddp_backend", "gloo", "--per_device_train_batch_size", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert (tmp_path / "results.json").is_file(), done.stderr[-3000:]
    assert (tmp_path / "model" / "model.safetensors").is_file(), done.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["clips"] for row in results["rows"]} == {6}
    for entry in state_of(tmp_path)["log_history"]:
        if "loss" in entry:
            parts = [value for name, value in entry.items() if name.endswith("_loss") and not name.startswith("train")]
            assert sum(parts) == pytest.approx(float(entry["loss"]), abs=2e-3)
