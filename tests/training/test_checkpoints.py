# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders: what is whole, what is not, which one is resumed from, and what is left after a kill."""

import json
import logging
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, TrainerCallback

from modeling_maavt.modeling_maavt import MAAVTLayer
from training.maavt.arguments import RunArguments
from training.trainer import checkpoints
from training.trainer.checkpoint_trainer import CheckpointTrainer
from training.trainer.checkpoints import (
    MANIFEST,
    checkpoint_problem,
    checkpoint_to_resume,
    newest_whole_checkpoint,
    publish,
    rotate,
    seal,
    tidy,
)
from training.trainer.termination import TrainingTerminated


def write_files(folder: Path, processes: int = 1) -> Path:
    folder.mkdir(parents=True)
    save_file({"weight": torch.arange(64.0)}, folder / "adapter_model.safetensors")
    states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{i}.pth" for i in range(processes)]
    for name in ("optimizer.pt", "scheduler.pt", *states):
        torch.save({"name": name}, folder / name)
    (folder / "trainer_state.json").write_text("{}")
    (folder / "pytorch_model_fsdp_0").mkdir()
    (folder / "pytorch_model_fsdp_0" / "shard.bin").write_bytes(b"shard")
    return folder


def write_checkpoint(folder: Path, processes: int = 1) -> Path:
    seal(write_files(folder, processes), processes)
    return folder


def arguments(folder: Path, **more) -> RunArguments:
    return RunArguments(output_dir=str(folder), use_cpu=True, report_to="none", **more)


def truncate(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder: Path) -> None:
    data = bytearray((folder / "optimizer.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "optimizer.pt").write_bytes(data)


DAMAGES = {
    "lacks a file": (lambda f: (f / "scheduler.pt").unlink(), "scheduler.pt is missing"),
    "lacks a file in a folder": (
        lambda f: shutil.rmtree(f / "pytorch_model_fsdp_0"),
        "pytorch_model_fsdp_0/shard.bin",
    ),
    "is cut short": (truncate, "adapter_model.safetensors has"),
    "holds a flipped bit": (flip, "optimizer.pt holds other bytes"),
    "was not finished": (lambda f: (f / MANIFEST).unlink(), f"has no {MANIFEST}"),
    "has half a manifest": (lambda f: (f / MANIFEST).write_text('{"files": {'), f"{MANIFEST} cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_named_set_aside_and_the_one_before_taken(tmp_path, caplog, damage):
    whole, newest = write_checkpoint(tmp_path / "checkpoint-9"), write_checkpoint(tmp_path / "checkpoint-10")
    assert checkpoint_problem(newest) is None and newest_whole_checkpoint(tmp_path) == newest
    spoil, message = DAMAGES[damage]
    spoil(newest)
    assert message in checkpoint_problem(newest)
    with caplog.at_level(logging.WARNING):
        assert newest_whole_checkpoint(tmp_path) == whole
    assert str(newest) in caplog.text and message in caplog.text
    assert (tmp_path / "damaged-checkpoint-10").is_dir() and not newest.exists()
    with pytest.raises(ValueError, match="no folder|damaged|written|missing|bytes|read"):
        checkpoint_to_resume(arguments(tmp_path, resume_from_checkpoint=str(tmp_path / "damaged-checkpoint-10")))


def test_a_damaged_best_checkpoint_is_found_before_the_end_of_a_resumed_run(tmp_path, caplog):
    """Its weights would be those of the result."""
    first, best, newest = (tmp_path / f"checkpoint-{step}" for step in (8, 9, 10))
    for folder in (first, best, newest):
        write_files(folder)
        state = {} if folder == first else {"best_model_checkpoint": f"elsewhere/{best.name}"}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        seal(folder, 1)
    assert newest_whole_checkpoint(tmp_path) == newest
    flip(best)
    with caplog.at_level(logging.WARNING):
        assert newest_whole_checkpoint(tmp_path) == first
    assert "checkpoint-9, the best one so far, optimizer.pt holds other bytes" in caplog.text
    assert (tmp_path / "damaged-checkpoint-10").is_dir() and (tmp_path / "damaged-checkpoint-9").is_dir()


def test_a_missing_best_checkpoint_is_found_too(tmp_path, caplog):
    for step in (8, 10):
        folder = write_files(tmp_path / f"checkpoint-{step}")
        best = {"best_model_checkpoint": str(tmp_path / "checkpoint-9")} if step == 10 else {}
        (folder / "trainer_state.json").write_text(json.dumps(best))
        seal(folder, 1)
    with caplog.at_level(logging.WARNING):
        assert newest_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-8"
    assert "checkpoint-9, the best one so far, is missing" in caplog.text


def test_files_that_were_added_later_do_no_harm(tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint-1")
    (folder / "notes.txt").write_text("best so far")
    assert checkpoint_problem(folder) is None


def test_seal_refuses_what_cannot_be_resumed(tmp_path):
    folder = write_files(tmp_path / "a", processes=2)
    (folder / "rng_state_1.pth").unlink()
    with pytest.raises(FileNotFoundError, match="rng_state_1.pth was not written; output_dir has to be one folder"):
        seal(folder, 2)
    folder = write_files(tmp_path / "b")
    truncate(folder)
    with pytest.raises(ValueError, match="adapter_model.safetensors cannot be read"):
        seal(folder, 1)
    assert not (folder / MANIFEST).exists()


def test_resume_arguments(tmp_path, caplog):
    for word in (None, "false", "none", "true", "auto"):
        assert checkpoint_to_resume(arguments(tmp_path / "nothing", resume_from_checkpoint=word)) is None
    folder = write_checkpoint(tmp_path / "checkpoint-3", processes=2)
    for word in ("true", "True", str(folder)):
        with caplog.at_level(logging.WARNING):
            assert checkpoint_to_resume(arguments(tmp_path, resume_from_checkpoint=word)) == str(folder)
        assert "written by 2 processes and is resumed by 1" in caplog.text
    with pytest.raises(FileNotFoundError, match="checkpoint-4: is no folder"):
        checkpoint_to_resume(arguments(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-4")))


def test_what_a_kill_leaves_is_finished_or_deleted(tmp_path):
    write_files(tmp_path / "tmp-checkpoint-1" / "checkpoint-1")  # killed while writing
    write_checkpoint(tmp_path / "tmp-checkpoint-2" / "checkpoint-2")  # killed before the renaming
    (tmp_path / "tmp-checkpoint-3").mkdir()  # killed after it
    write_checkpoint(tmp_path / "checkpoint-3")
    write_checkpoint(tmp_path / "tmp-removed-checkpoint-0")  # killed while deleting
    (tmp_path / "tmp-removed-checkpoint-0" / MANIFEST).unlink()
    tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    assert all(checkpoint_problem(path) is None for path in tmp_path.iterdir())


def test_replacing_a_checkpoint_loses_none_wherever_it_is_cut(tmp_path, monkeypatch):
    """A second save of one step (the end of an epoch after a save by steps), cut at each of its file operations."""

    class Cut(BaseException):
        pass

    calls = ("replace", "fsync")
    for cut in range(1, 9):
        run = tmp_path / str(cut)
        folder = write_checkpoint(run / "checkpoint-5")
        staged = write_checkpoint(run / "tmp-checkpoint-5" / "checkpoint-5")
        left = cut

        def counted(function):
            def call(*args, **kwargs):
                nonlocal left
                left -= 1
                if left == 0:
                    raise Cut
                return function(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in calls:
                patch.setattr(os, name, counted(getattr(os, name)))
            patch.setattr(checkpoints.shutil, "rmtree", counted(shutil.rmtree))
            try:
                publish(staged, folder)
                done = True
            except Cut:
                done = False
        assert newest_whole_checkpoint(run) == folder
        assert [path.name for path in run.iterdir()] == ["checkpoint-5"]
    assert done and cut > 5


def test_checkpoints_are_written_on_windows(tmp_path, monkeypatch):
    """Which opens no folder, and flushes no file that is open for reading alone."""
    opened, windows = {}, SimpleNamespace(**vars(os))

    def open_file(path, flags):
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        descriptor = os.open(path, flags)
        opened[descriptor] = flags
        return descriptor

    def fsync(descriptor):
        if not opened[descriptor] & os.O_RDWR:
            raise OSError(9, "Bad file descriptor")
        os.fsync(descriptor)

    monkeypatch.setattr(checkpoints, "ON_WINDOWS", True)
    windows.open, windows.fsync = open_file, fsync
    monkeypatch.setattr(checkpoints, "os", windows)
    folder, staged = tmp_path / "checkpoint-5", tmp_path / "tmp-checkpoint-5" / "checkpoint-5"
    publish(write_checkpoint(staged), folder)
    assert opened and checkpoint_problem(folder) is None


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    def after(limit, best, steps=(2, 4, 10, 12)):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        for step in steps:
            write_checkpoint(tmp_path / "run" / f"checkpoint-{step}")
        rotate(tmp_path / "run", limit, best and str(tmp_path / "run" / best))
        return sorted(int(path.name.rpartition("-")[2]) for path in (tmp_path / "run").iterdir())

    assert after(None, None) == after(0, None) == [2, 4, 10, 12]
    assert after(2, None) == [10, 12] and after(1, None) == [12]
    assert after(2, "checkpoint-2") == [2, 12] and after(1, "checkpoint-2") == [2, 12]
    assert after(3, "checkpoint-4") == [4, 10, 12] and after(2, "checkpoint-12") == [10, 12]
    assert after(2, "checkpoint-99") == [10, 12] and after(9, None) == [2, 4, 10, 12]


class TinyConfig(PreTrainedConfig):
    model_type = "tiny_line"


class TinyLine(PreTrainedModel):
    config: TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.line = nn.Linear(2, 1)
        self.post_init()

    def forward(self, x, labels=None):
        return {"loss": (self.line(x)[:, 0] - labels).square().mean()}


class _Look(TrainerCallback):
    def __init__(self):
        self.seen = []

    def write_files(self, directory, model):
        (directory / "extra.txt").write_text(type(model).__name__)

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        assert checkpoint_problem(folder) is None and (folder / "extra.txt").read_text() == "TinyLine"
        recorded = json.loads((folder / "trainer_state.json").read_text())
        self.seen.append((state.global_step, recorded["best_model_checkpoint"]))


def line_trainer(folder: Path, **more) -> tuple[CheckpointTrainer, _Look]:
    generator = torch.Generator().manual_seed(0)
    rows = [{"x": torch.randn(2, generator=generator), "labels": torch.tensor(1.0)} for _ in range(16)]
    look = _Look()
    options = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1} | more
    options = {
        "label_names": ["labels"],
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "disable_tqdm": True,
    } | options
    args = arguments(folder, max_steps=4, per_device_train_batch_size=4, save_total_limit=2, **options)
    torch.manual_seed(0)
    return CheckpointTrainer(
        TinyLine(TinyConfig()), args, train_dataset=rows, eval_dataset=rows, callbacks=[look]
    ), look


def test_best_checkpoint_has_its_final_name_in_every_state(tmp_path):
    trainer, look = line_trainer(tmp_path, learning_rate=1.0, lr_scheduler_type="constant")
    trainer.train()
    history = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    best = [min(range(i + 1), key=lambda j: history[j]) + 1 for i in range(4)]
    assert look.seen == [(i + 1, str(tmp_path / f"checkpoint-{best[i]}")) for i in range(4)]
    kept = {path.name for path in tmp_path.glob("*checkpoint-*")}
    assert kept == {"checkpoint-4", f"checkpoint-{best[-1]}" if best[-1] != 4 else "checkpoint-3"}
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best[-1]}")


def test_a_signal_ends_the_run_after_all_callbacks_have_saved(tmp_path):
    """Also after one that was added late, as the position of a stream is."""

    class Late(TrainerCallback):
        saved = []

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        def on_save(self, args, state, control, **kwargs):
            self.saved.append(state.global_step)

    trainer, _ = line_trainer(tmp_path, save_strategy="no", load_best_model_at_end=False, enable_jit_checkpoint=True)
    late = Late()
    trainer.add_callback(late)
    with pytest.raises(TrainingTerminated):
        trainer.train()
    assert late.saved == [trainer.state.global_step]


@pytest.mark.parametrize("name", ["save_only_model", "save_on_each_node"])
def test_half_checkpoints_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}: checkpoints hold all"):
        line_trainer(tmp_path, **{name: True})


CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "accelerate"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_configs_parse_and_say_how_to_launch_them(path):
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for word in ("Needs:", "Launch:", "Override:", f"configs/accelerate/{path.name}"):
        assert any(word in line for line in head), f"header without '{word}'"
    config = load_config_from_file(str(path))
    assert config.num_processes % config.num_machines == 0
    if config.fsdp_config:
        assert config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"] == MAAVTLayer.__name__
