# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What every case of `tools/torture.py` needs: programs in processes of their own, untouched runs, and checks."""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from tiny_sets import ClipCopies, write_ave

import train
from processing.data.atomic_writing import file_digest
from processing.prepare.__main__ import main as prepare
from tests.toy_run import write_backbone, write_clips, write_config
from tests.trainee import FILE_EVENTS, Trainee, settle
from training.common.commands import run_command
from training.trainer.checkpoints import checkpoint_problem, unreadable_weights


PROGRAMS = {"train": train.main, "prepare": prepare}
WAIT = 240  # seconds after which a process counts as hung
OPTIONS = "--check none --baseline false --resume_from_checkpoint true --dataloader_num_workers 1"
FINISHED = "results.md predictions.csv model/README.md model/model.safetensors adapter/README.md"
# Kills at file operations: what is run, and the part of a path that counts.
WATCHED = {
    "SIGKILL at a file operation of prepare": ("prepare", "prepared"),
    "SIGKILL at a file operation of the export": ("train", "unfinished-results"),
    "SIGKILL at a file operation of the feature cache": ("train", "/cache/"),
    "SIGKILL at a file operation of a checkpoint": ("train", "checkpoint-"),
}


def work(argv, log, events, *, program="train", watched="", kill_at=0, environment=None, record=None) -> None:
    """Runs a program in this process; sends "start" first and the number of its file operations last.

    Opening for writing, renaming and deleting counts where `watched` stands in the path. SIGKILL comes just before
    operation `kill_at`.
    """
    settle(log, environment)
    process, count = os.getpid(), 0

    def look(event: str, arguments: tuple) -> None:
        nonlocal count
        reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event not in FILE_EVENTS or reads or not any(watched in str(path) for path in arguments[:2]):
            return
        if os.getpid() == process:  # loader workers have a copy of this hook
            count += 1
            if count == kill_at:
                os.kill(process, signal.SIGKILL)

    sys.addaudithook(look)
    sys.argv = [program, *argv]
    events.send("start")
    try:
        run_command(PROGRAMS[program])
    finally:
        events.send(count)


class Bench:
    """The inputs of all cases, and what the untouched runs gave."""

    def __init__(self, root: Path, seed: int):
        self.root, self.random = root, random.Random(seed)
        self.counts, self.problems, self.number = Counter(), [], 0
        self.config = write_config(root / "toy.yaml", write_clips(root / "data"), write_backbone(root / "vit"))
        self.ave = write_ave(root / "AVE", ClipCopies(root / "copies"))
        self.operations, self.seconds, self.results = {}, {}, {}
        for kind, (program, watched) in WATCHED.items():
            self.finished, begin = self.new_folder(), time.monotonic()
            run = self.start(self.finished, program, watched=watched)
            run.wait_for("start")
            self.operations[kind] = run.events.recv()  # comes at the end
            assert run.end(WAIT) == 0, run.tail()
            self.seconds[program] = time.monotonic() - begin
            self.results[program] = result(self.finished, program)

    def new_folder(self) -> Path:
        self.number += 1
        folder = self.root / f"case{self.number}"
        folder.mkdir()
        return folder

    def start(self, folder: Path, program: str = "train", name: str = "run", **options) -> Trainee:
        argv = ["ave", "--root", self.ave, "--out", folder / "prepared", "--workers", "0"]
        if program == "train":
            folders = ["--output_dir", folder / name, "--feature_cache", folder / "cache"]
            argv = [self.config, *OPTIONS.split(), *folders]
        log = folder / f"log{len(Trainee.started)}.txt"
        return Trainee([str(word) for word in argv], log, work, program=program, **options)

    def check(self, folder: Path, run: Trainee, codes: tuple[int, ...]) -> int:
        """The run ends in time with one of `codes`, says why in one line where it fails, and leaves whole things."""
        code, text = run.end(WAIT), run.log.read_text(encoding="utf-8", errors="replace")
        assert code in codes and "Traceback" not in text, f"code {code}; {text[-1500:]}"
        lines = [line for line in text.splitlines() if line.startswith(("error: ", "prepare "))]
        assert code != 1 or len(lines) == 1, f"{len(lines)} lines say why; {text[-600:]}"
        for output in folder.glob("run*"):
            whole(output)
        return code

    def finish(self, folder: Path, program: str = "train", name: str = "run") -> None:
        """Another run, which nobody touches, gives the result of the untouched one."""
        self.check(folder, self.start(folder, program, name), (0,))
        assert result(folder, program, name) == self.results[program], "another result"
        left = [str(path) for path in folder.rglob("*") if ".part" in path.name or ".adapter-" in path.name]
        assert not left, f"left behind: {left}"


def result(folder: Path, program: str, name: str = "run") -> object:
    """What has to be equal: the table and the weights, or the files of a prepared set."""
    if program == "prepare":
        return [(file.name, file_digest(file)) for file in sorted((folder / "prepared").rglob("*.parquet"))]
    rows = json.loads((folder / name / "results.json").read_text(encoding="utf-8"))["rows"]
    return rows, file_digest(folder / name / "model" / "model.safetensors")


def whole(output: Path) -> None:
    """Checkpoints under their final name are whole; `results.json` stands beside everything else or not at all."""
    for checkpoint in output.glob("checkpoint-*"):
        problem = checkpoint_problem(checkpoint)
        assert problem is None, f"{checkpoint.name}: {problem}"
    if (output / "results.json").is_file():
        missing = [name for name in FINISHED.split() if not (output / name).is_file()]
        assert not missing, f"results.json without {missing}"
        assert unreadable_weights(output) is None, unreadable_weights(output)
