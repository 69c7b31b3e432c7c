# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What every case of `tools/torture.py` needs: programs in processes of their own, untouched runs, and checks."""

import json
import multiprocessing
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
from tests.trainee import CONTEXT, FILE_EVENTS, Trainee, settle
from training.common.commands import run_command
from training.trainer.checkpoints import checkpoint_problem, unreadable_weights


CONTEXT.set_forkserver_preload(["training.maavt.stages", "tests.trainee"])  # a start then takes no time
PROGRAMS = {"train": train.main, "prepare": prepare}
WAIT = 240  # seconds after which a process counts as hung
OPTIONS = "--check none --baseline false --num_train_epochs 2 --resume_from_checkpoint true --dataloader_num_workers"
FINISHED = "results.md predictions.csv model/README.md model/model.safetensors adapter/README.md"
# Kills at file operations: what is run, and the part of a path that counts.
WATCHED = {
    "SIGKILL at a file operation of prepare": ("prepare", "prepared"),
    "SIGKILL at a file operation of the feature cache": ("train", "/cache/"),
    "SIGKILL at a file operation of the block states": ("train", "/states/"),
    "SIGKILL at a file operation of a checkpoint": ("train", "checkpoint-"),
    "SIGKILL at a file operation of the export": ("train", "unfinished-results"),
}


def work(argv, log, events, *, program="train", watched="", kill_at=0, environment=None, record=None) -> None:
    """Runs a program in this process; sends "start" first, and last how many file operations of each kind it made.

    Opening for writing, renaming and deleting counts. SIGKILL comes just before operation `kill_at` with `watched` in
    its path.
    """
    settle(log, environment)
    multiprocessing.set_start_method("fork", force=True)  # of loader workers: the usual way, not that of this process
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
    process, counts = os.getpid(), Counter()

    def look(event: str, arguments: tuple) -> None:
        reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event not in FILE_EVENTS or reads or os.getpid() != process:  # loader workers have a copy of this hook
            return
        for _, part in WATCHED.values():
            if any(part in str(path) for path in arguments[:2]):
                counts[part] += 1
                if part == watched and counts[part] == kill_at:
                    os.kill(process, signal.SIGKILL)

    sys.addaudithook(look)
    sys.modules["matplotlib"] = None  # plots would take a third of a run
    sys.argv = [program, *argv]
    events.send("start")
    try:
        run_command(PROGRAMS[program])
    finally:
        events.send(counts)


class Bench:
    """The inputs of all cases, and what the untouched runs gave."""

    def __init__(self, root: Path, seed: int):
        self.root, self.random = root, random.Random(seed)
        self.counts, self.problems, self.number, self.logs = Counter(), [], 0, 0
        self.config = write_config(root / "toy.yaml", write_clips(root / "data"), write_backbone(root / "vit"))
        self.ave = write_ave(root / "AVE", ClipCopies(root / "copies"))
        self.operations, self.seconds, self.results, self.finished = {}, {}, {}, {}
        for program in PROGRAMS:
            self.finished[program] = folder = self.new_folder()
            run = self.start(folder, program)
            run.wait_for("start")
            begin = time.monotonic()
            counts = run.events.recv()
            assert run.end(WAIT) == 0, run.tail()
            self.seconds[program] = time.monotonic() - begin
            self.results[program] = result(folder, program)
            self.operations |= {kind: counts[part] for kind, (name, part) in WATCHED.items() if name == program}

    def new_folder(self) -> Path:
        self.number += 1
        folder = self.root / f"case{self.number}"
        folder.mkdir()
        return folder

    def arguments(self, folder: Path, program: str = "train", name: str = "run", workers: int = 0) -> list[str]:
        if program == "prepare":
            return ["ave", "--root", str(self.ave), "--out", str(folder / "prepared"), "--workers", "0"]
        folders = {"output_dir": name, "feature_cache": "cache", "block_states": "states"}
        words = [word for option, part in folders.items() for word in (f"--{option}", str(folder / part))]
        options = [*OPTIONS.split(), str(workers), "--model_config", "{prompt_start_layer: 1}"]
        return [str(self.config), *options, *words]

    def start(self, folder: Path, program: str = "train", name: str = "run", workers: int = 0, **options) -> Trainee:
        argv = self.arguments(folder, program, name, workers)
        self.logs += 1  # outside of the folder, which may be full, read-only or gone
        return Trainee(argv, self.root / f"log{self.logs}.txt", work, program=program, **options)

    def check(self, folder: Path, run: Trainee, codes: tuple[int, ...], damaged: Path | None = None) -> int:
        """The run ends in time with one of `codes`, says why in one line where it fails, and leaves whole things, but for
        the checkpoint `damaged` that was damaged before."""
        code, text = run.end(WAIT), run.log.read_text(encoding="utf-8", errors="replace")
        # a loader worker whose parent was killed may end in a traceback of Python's own
        assert code in codes and (code == -signal.SIGKILL or "Traceback" not in text), f"code {code}; {text[-1500:]}"
        lines = [line for line in text.splitlines() if line.startswith(("error: ", "prepare "))]
        assert code != 1 or len(lines) == 1, f"{len(lines)} lines say why; {text[-600:]}"
        for output in folder.glob("run*"):
            whole(output, damaged)
        return code

    def finish(self, folder: Path, program: str = "train", name: str = "run") -> None:
        """Another run, which nobody touches, gives the result of the untouched one."""
        self.check(folder, self.start(folder, program, name), (0,))
        self.compare(folder, program, name)

    def compare(self, folder: Path, program: str = "train", name: str = "run") -> None:
        assert result(folder, program, name) == self.results[program], "another result"
        left = [str(path) for path in folder.rglob("*") if ".part" in path.name or ".adapter-" in path.name]
        assert not left, f"left behind: {left}"


def result(folder: Path, program: str, name: str = "run") -> object:
    """What has to be equal: the table and the weights, or the files of a prepared set."""
    if program == "prepare":
        return [(file.name, file_digest(file)) for file in sorted((folder / "prepared").rglob("*.parquet"))]
    rows = json.loads((folder / name / "results.json").read_text(encoding="utf-8"))["rows"]
    return rows, file_digest(folder / name / "model" / "model.safetensors")


def whole(output: Path, damaged: Path | None = None) -> None:
    """Checkpoints under their final name are whole; `results.json` stands beside everything else or not at all."""
    for checkpoint in output.glob("checkpoint-*"):
        problem = None if checkpoint == damaged else checkpoint_problem(checkpoint)
        assert problem is None, f"{checkpoint.name}: {problem}"
    if (output / "results.json").is_file():
        missing = [name for name in FINISHED.split() if not (output / name).is_file()]
        assert not missing, f"results.json without {missing}"
        assert unreadable_weights(output) is None, unreadable_weights(output)
