# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Training that is really killed, again and again, ends with the result of a run that nobody touched."""

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_run import write_backbone, write_clips, write_config
from trainee import Trainee

from training.trainer.checkpoints import checkpoint_problem


TIMES = ("runtime", "per_second")


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    Trainee.kill_all()


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    """Ten epochs of four steps, with dropped modalities and an evaluation and a checkpoint after every step."""
    folder = tmp_path_factory.mktemp("kill")
    clips = write_clips(folder / "data", splits=["train"] * 5 + ["validation", "test"])
    config = write_config(folder / "toy.yaml", clips, write_backbone(folder / "vit"))
    options = "--check none --baseline false --num_train_epochs 10 --resume_from_checkpoint true --augmentation {} "
    return [str(config), *options.split(), "--model_config", "{modality_dropout: 0.3}"]


STEPWISE = [
    "--save_strategy",
    "steps",
    "--save_steps",
    "1",
    "--eval_strategy",
    "steps",
    "--eval_steps",
    "1",
    "--save_total_limit",
    "2",
]


def run(argv: list[str], output: Path, **moment) -> Trainee:
    output.mkdir(exist_ok=True)
    return Trainee([*argv, "--output_dir", str(output)], output / "train.log", **moment)


@pytest.fixture(scope="module")
def untouched(arguments, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("untouched")
    trainee = run([*arguments, *STEPWISE], output)
    assert trainee.end() == 0, trainee.tail()
    return output


def assert_same_result(one: Path, other: Path) -> None:
    """Final weights bit for bit, table of results, and every loss and metric on the way."""
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    rows = [json.loads((folder / "results.json").read_text())["rows"] for folder in (one, other)]
    assert rows[0] == rows[1]
    states = [json.loads((folder / "trainer_state.json").read_text()) for folder in (one, other)]
    kept = [
        [{k: v for k, v in entry.items() if not any(word in k for word in TIMES)} for entry in state["log_history"]]
        for state in states
    ]
    history = [[entry for entry in entries if "train_loss" not in entry] for entries in kept]
    assert history[0] == history[1] and history[0]
    assert states[0]["best_global_step"] == states[1]["best_global_step"]
    assert [Path(state["best_model_checkpoint"]).parent for state in states] == [one, other]


def check_after_kill(output: Path) -> bool:
    """Whatever has the name of a checkpoint is one. Whether the kill fell into a save."""
    for folder in output.glob("checkpoint-*"):
        assert checkpoint_problem(folder) is None, folder
    return any(output.glob("tmp-*checkpoint-*"))


@pytest.mark.timeout(1800)
def test_killed_at_random_moments(arguments, untouched, tmp_path):
    """Ten kills at random times during steps, evaluations and saves, and twelve at random file operations of a save."""
    generator = random.Random(0)
    kinds = ["moment"] * 4 + ["save"] * 6 + ["file"] * 12
    generator.shuffle(kinds)
    killed = in_save = 0
    for kind in kinds:
        # a save of this run makes some 60 file operations, rotation included
        kill_at = generator.randint(1, 60) if kind == "file" else None
        trainee = run([*arguments, *STEPWISE], tmp_path, kill_at=kill_at)
        if kind != "file":
            trainee.wait_for("step" if kind == "moment" else "save", generator.randint(1, 2))
            time.sleep(generator.uniform(0, 0.3 if kind == "moment" else 0.1))
            trainee.kill()
        killed += trainee.end() == -signal.SIGKILL
        in_save += check_after_kill(tmp_path)
    assert killed >= 20, f"{killed} kills; {trainee.tail()}"
    assert in_save >= 8, f"{in_save} of {killed} kills fell into a save"
    trainee = run([*arguments, *STEPWISE], tmp_path)
    assert trainee.end() == 0, trainee.tail()
    assert_same_result(tmp_path, untouched)
    assert not list(tmp_path.glob("tmp-*")) and not list(tmp_path.glob("damaged-*"))
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2


@pytest.mark.timeout(1800)
def test_sigterm_saves_first(arguments, tmp_path):
    """A run that saves by epoch, ended in the middle and at the end of an epoch: code 143, and no step is lost."""
    epochwise = [*arguments, "--num_train_epochs", "3"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    trainee = run(epochwise, whole)
    assert trainee.end() == 0, trainee.tail()
    saved = []
    for steps in (2, 2, 3):
        trainee = run(epochwise, cut, term_at=steps)
        assert trainee.end() == 128 + signal.SIGTERM, trainee.tail()
        assert "go on with --resume_from_checkpoint true" in trainee.tail()
        assert not (cut / "results.json").exists() and not list(cut.glob("tmp-*"))
        newest = max(cut.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
        assert checkpoint_problem(newest) is None
        saved.append(int(newest.name.rpartition("-")[2]))
    assert saved == [2, 4, 7]
    trainee = run(epochwise, cut)
    assert trainee.end() == 0, trainee.tail()
    assert_same_result(cut, whole)


@pytest.mark.timeout(1800)
def test_run_that_had_stopped_early_trains_no_further(arguments, tmp_path):
    """Killed after early stopping, while it measured the test clips: the count of bad evaluations is not lost."""
    stopping = [*arguments, *STEPWISE, "--learning_rate", "1e-9", "--early_stopping_patience", "3"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    trainee = run(stopping, whole)
    assert trainee.end() == 0, trainee.tail()
    trainee = run(stopping, cut, kill_at_step=4)
    assert trainee.end() == -signal.SIGKILL
    trainee = run(stopping, cut, kill_at_test=True)
    assert trainee.end() == -signal.SIGKILL
    assert not (cut / "results.json").exists()
    trainee = run(stopping, cut)
    assert trainee.end() == 0, trainee.tail()
    assert_same_result(cut, whole)
    assert json.loads((cut / "trainer_state.json").read_text())["global_step"] == 4
