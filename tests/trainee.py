# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The recipe in a process of its own that starts in no time: forked from a server that has imported everything once."""

import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import torch

import train as recipe
from training.trainer import AudioVisualTrainer


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.trainee"])
FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def train(argv: list[str], log: str, events: Connection, kill_at: int | None) -> None:
    """Runs the recipe; sends "step" and "save" through `events` as these begin.

    Args:
        kill_at: end by SIGKILL just before the so-manieth operation on a file of a checkpoint that is being written,
            renamed or deleted (Python's audit events; `checkpoint-` in the path).
    """
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    torch.set_num_threads(1)
    left = kill_at

    def announced(name: str, method):
        def call(self, *args, **kwargs):
            events.send(name)
            return method(self, *args, **kwargs)

        return call

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in FILE_EVENTS and saving and "checkpoint-" in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    saving = False
    save = AudioVisualTrainer._save_checkpoint

    def save_and_tell(self, *args, **kwargs):
        nonlocal saving
        saving = True
        save(self, *args, **kwargs)
        saving = False

    AudioVisualTrainer.training_step = announced("step", AudioVisualTrainer.training_step)
    AudioVisualTrainer._save_checkpoint = announced("save", save_and_tell)
    if kill_at is not None:
        sys.addaudithook(count)
    recipe.main(argv)


class Trainee:
    """A started run: `events` tells what it does; `end()` waits for it and gives its exit code."""

    def __init__(self, argv: list[str], log: Path, kill_at: int | None = None):
        self.log = log
        self.events, theirs = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=train, args=(argv, str(log), theirs, kill_at))
        self.process.start()
        theirs.close()

    def wait_for(self, name: str, times: int = 1, seconds: float = 120) -> bool:
        """Until `name` has begun so many times; False where the process ended before."""
        while times:
            if not self.events.poll(seconds):
                raise TimeoutError(f"no '{name}' within {seconds} s; {self.tail()}")
            try:
                times -= self.events.recv() == name
            except EOFError:
                return False
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process.is_alive():
            os.kill(self.process.pid, number)

    def end(self, seconds: float = 120) -> int:
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"not ended within {seconds} s; {self.tail()}")
        self.events.close()
        return self.process.exitcode

    def tail(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:] if self.log.exists() else "no log"
