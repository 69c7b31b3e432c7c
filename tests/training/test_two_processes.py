# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The whole recipe on two processes (gloo): the same result as on one, resume, and what happens when a process dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_run import write_backbone, write_clips, write_config
from trainee import Trainee, start_processes

from training.trainer.checkpoints import checkpoint_problem


REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    Trainee.kill_all()


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    """15 training clips in global batches of 6: the last one holds 3, all on the first of two processes."""
    folder = tmp_path_factory.mktemp("two")
    config = write_config(folder / "toy.yaml", write_clips(folder / "data"), write_backbone(folder / "vit"))
    # plain gradient descent: Adam turns a rounding error in a vanishing gradient into a full step
    options = "--check none --baseline false --num_train_epochs 2 --optim sgd --learning_rate 0.05"
    return [str(config), *options.split(), "--augmentation", "{}", "--evaluation_noise_db", "clean", "0"]


def batch_sizes(train: int, evaluation: int) -> list[str]:
    return ["--per_device_train_batch_size", str(train), "--per_device_eval_batch_size", str(evaluation)]


def history(output: Path) -> list[dict]:
    """The log, without times, the count of operations (which includes what fills the last batch), and the final
    `train_loss`, which the Trainer averages over what the last process ran."""
    log = json.loads((output / "trainer_state.json").read_text())["log_history"]
    left_out = ("runtime", "per_second", "total_flos", "train_loss")
    return [{k: v for k, v in entry.items() if not any(word in k for word in left_out)} for entry in log]


def merged(batches: list[list]) -> list[list]:
    """The records of all processes as those of global batches."""
    return [[per[0][0], sorted(label for _, labels in per for label in labels)] for per in zip(*batches, strict=True)]


def test_two_processes_do_what_one_does(arguments, tmp_path):
    """Losses, gradient norms, metrics, weights and clips; training batches of 6, 6, 3 and evaluation batches of 8 and 4."""
    found = {}
    for number, sizes in ((1, batch_sizes(6, 8)), (2, batch_sizes(3, 4))):
        output = tmp_path / str(number)
        output.mkdir()
        processes = start_processes([*arguments, *sizes, "--output_dir", str(output)], output, number)
        for process in processes:
            assert process.end() == 0, process.tail()
        records = [json.loads((output / f"batches{rank}.json").read_text()) for rank in range(number)]
        found[number] = merged(records)
    assert found[1] == found[2]
    assert [len(labels) for training, labels in found[2] if training] == [6, 6, 3] * 2
    assert [len(labels) for training, labels in found[2] if not training][:2] == [8, 4]

    one, two = history(tmp_path / "1"), history(tmp_path / "2")
    assert len(one) == len(two) == 6 + 2 + 1
    for first, second in zip(one, two, strict=True):
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert second[name] == pytest.approx(value, rel=2e-4, abs=2e-4), (name, first, second)
    first, second = (json.loads((tmp_path / n / "results.json").read_text())["rows"] for n in "12")
    assert [row["clips"] for row in second] == [row["clips"] for row in first] and {
        row["clips"] for row in second
    } == {6}
    for row, other in zip(first, second, strict=True):
        for name in ("top1", "macro_f1", "match_auroc", "combined"):
            assert row.get(name) == pytest.approx(other.get(name)), (name, row, other)
    weights = [load_file(tmp_path / n / "model" / "model.safetensors") for n in "12"]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


STEPWISE = [
    "--save_strategy",
    "steps",
    "--save_steps",
    "1",
    "--eval_strategy",
    "no",
    "--load_best_model_at_end",
    "false",
]


def newest(output: Path) -> int:
    folders = list(output.glob("checkpoint-*"))
    assert folders and all(checkpoint_problem(folder) is None for folder in folders)
    return max(int(folder.name.rpartition("-")[2]) for folder in folders)


@pytest.mark.timeout(1200)
def test_dead_silent_and_terminated_processes(arguments, tmp_path):
    """A process dies, one hangs, one gets SIGTERM: the other ends by itself, and a resume loses nothing."""
    argv = [*arguments, *batch_sizes(3, 4), *STEPWISE, "--model_config", "{modality_dropout: 0.3}"]
    argv += ["--resume_from_checkpoint", "true", "--num_train_epochs", "3", "--optim", "adamw_torch"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def start(output: Path, *more: str, **options) -> list:
        output.mkdir(exist_ok=True)
        return start_processes([*argv, "--output_dir", str(output), *more], output, 2, [{}, options])

    for process in start(whole):
        assert process.end() == 0, process.tail()

    # the second process dies in its third step
    first, second = start(cut, kill_at_step=3)
    assert second.end() == -signal.SIGKILL
    begin = time.monotonic()
    assert first.end() != 0 and "Error" in first.tail() and not (cut / "results.json").exists()
    assert time.monotonic() - begin < 300  # seconds on a busy machine; the default timeout is 1800
    assert newest(cut) == 2

    # SIGTERM to the second alone, in the second step after the resume: both save the same step and end
    first, second = start(cut, term_at=2)
    assert [first.end(), second.end()] == [128 + signal.SIGTERM] * 2, first.tail()
    assert newest(cut) == 4

    # the second stands still: the first gives up after the timeout
    first, second = start(cut, "--ddp_timeout", "30")  # seconds; a busy machine starts two processes unevenly
    second.wait_for("step", 2)
    second.kill(signal.SIGSTOP)
    code = first.end()
    second.kill()
    second.end()
    said = first.tail().lower()  # gloo's words depend on the operation and on which side of the pair gave up
    assert code != 0 and ("timed out" in said or "timeout" in said), first.tail()

    for process in start(cut):
        assert process.end() == 0, process.tail()
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (whole, cut))
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    first, second = ([entry for entry in history(folder) if "loss" in entry] for folder in (whole, cut))
    assert first == second and len(first) == 9  # the record of the whole training holds the last process's mean


LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "accelerate": ["-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/two_cpu_processes.yaml"],
}


def worker(launcher: int, rank: int) -> int:
    """The process with this rank among the children of a launcher."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if parent == launcher and f"RANK={rank}".encode() in variables:
            return int(folder.name)
    raise LookupError(f"{launcher} has no child of rank {rank}")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the workers in /proc")
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_names_the_dead_passes_sigterm_on_and_resumes(arguments, tmp_path, name):
    argv = [*arguments, *batch_sizes(3, 4), *STEPWISE, "--resume_from_checkpoint", "true", "--num_train_epochs", "6"]
    argv += ["--output_dir", str(tmp_path), "--ddp_backend", "gloo", "--use_cpu", "true"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, *LAUNCHERS[name], str(REPOSITORY / "train.py"), *argv]
    said, saved = {}, []
    for moment in ("kill", "terminate", "finish"):
        log = tmp_path / f"{moment}.log"
        with open(log, "w", encoding="utf-8") as stream:
            launcher = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=stream, stderr=stream)
        try:
            if moment != "finish":
                goal = max(saved, default=0) + 2
                while not (tmp_path / f"checkpoint-{goal}").is_dir() and launcher.poll() is None:
                    time.sleep(0.1)
            if moment == "kill":
                os.kill(worker(launcher.pid, 1), signal.SIGKILL)
            elif moment == "terminate":
                launcher.send_signal(signal.SIGTERM)
            code = launcher.wait(600)
        finally:
            launcher.kill()
        said[moment] = log.read_text(encoding="utf-8", errors="replace")
        assert (code == 0) == (moment == "finish"), said[moment][-3000:]
        saved.append(newest(tmp_path))
    assert "Signal 9 (SIGKILL)" in said["kill"] and "rank      : 1 " in said["kill"], said["kill"][-3000:]
    assert "SIGTERM: saved" in said["terminate"], said["terminate"][-3000:]
    assert saved[0] < saved[1] < saved[2] == 18 and (tmp_path / "results.json").is_file()
