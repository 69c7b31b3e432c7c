# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The recipe in a process of its own that starts in no time: forked from a server that has imported everything once."""

import gc
import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

import train as recipe
from training.trainer.audio_visual_trainer import AudioVisualTrainer


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.trainee"])
FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def settle(log: str, environment: dict[str, str] | None) -> None:
    """What every started process does first: its place among the others, its output to a file, one thread."""
    os.environ.update(environment or {})
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    torch.set_num_threads(1)


def train(
    argv: list[str],
    log: str,
    events: Connection,
    *,
    kill_at: int | None = None,
    kill_at_step: int | None = None,
    kill_at_test: bool = False,
    term_at: int | None = None,
    environment: dict[str, str] | None = None,
    record: str | None = None,
) -> None:
    """Runs the recipe; sends "step" and "save" through `events` as these begin.

    Args:
        kill_at: end by SIGKILL just before the so-manieth operation on a file of a checkpoint that is being written,
            renamed or deleted (Python's audit events; `checkpoint-` in the path).
        kill_at_step, term_at: SIGKILL or SIGTERM comes at the beginning of the so-manieth step.
        kill_at_test: SIGKILL comes after training, at the beginning of the first prediction.
        environment: variables that say which process of how many this is.
        record: file for what every batch held: whether it trained, and the labels of the clips that counted.
    """
    settle(log, environment)
    left, steps, saving = kill_at, 0, False
    step, save = AudioVisualTrainer.training_step, AudioVisualTrainer._save_checkpoint

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in FILE_EVENTS and saving and "checkpoint-" in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    batches = []
    compute_loss = AudioVisualTrainer.compute_loss

    def look_and_compute(self, model, inputs, *args, **kwargs):
        counted = inputs["has_video"] | inputs["has_audio"]
        batches.append((model.training, inputs["labels"][counted].tolist()))
        return compute_loss(self, model, inputs, *args, **kwargs)

    def step_and_tell(self, *args, **kwargs):
        nonlocal steps
        events.send("step")
        steps += 1
        for number, moment in ((signal.SIGTERM, term_at), (signal.SIGKILL, kill_at_step)):
            if steps == moment:
                os.kill(os.getpid(), number)
        return step(self, *args, **kwargs)

    def save_and_tell(self, *args, **kwargs):
        nonlocal saving
        events.send("save")
        saving = True
        save(self, *args, **kwargs)
        saving = False

    def die(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    AudioVisualTrainer.training_step = step_and_tell
    AudioVisualTrainer._save_checkpoint = save_and_tell
    if kill_at_test:
        AudioVisualTrainer.predict = die
    if kill_at is not None:
        sys.addaudithook(count)
    if record is not None:
        AudioVisualTrainer.compute_loss = look_and_compute
    recipe.main(argv)
    if record is not None:
        Path(record).write_text(json.dumps(batches), encoding="utf-8")


class Trainee:
    """A started run, killed at the latest by `kill_all`: `events` tells what it does; `end()` waits for it and gives its exit code."""

    started: list["Trainee"] = []

    def __init__(self, argv: list[str], log: Path, target: Callable = train, **options):
        self.log = log
        self.events, theirs = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=target, args=(argv, str(log), theirs), kwargs=options)
        self.process.start()
        theirs.close()
        self.started.append(self)

    def wait_for(self, name: str, times: int = 1, seconds: float = 900) -> bool:
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
        os.kill(self.process.pid, number)

    def end(self, seconds: float = 900) -> int:
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"not ended within {seconds} s; {self.tail()}")
        self.events.close()
        return self.process.exitcode

    @classmethod
    def kill_all(cls) -> None:
        """After a test: nothing of it goes on, and no stopped process keeps the interpreter waiting."""
        while cls.started:
            process = cls.started.pop().process
            process.kill()
            process.join()

    def tail(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:] if self.log.exists() else "no log"


def start_processes(
    argv: list[str], folder: Path, number: int, options: list[dict] | None = None, target: Callable = train
) -> list[Trainee]:
    """One run by several processes that talk by gloo, as torchrun would start them; logs and records in `folder`.

    Args:
        options: for the target, process by process.
        target: `train`, or what takes the same arguments.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    found = []
    for rank in range(number):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **{k: str(v) for k, v in place.items()}}
        record = str(folder / f"batches{rank}.json")
        own = options[rank] if options else {}
        arguments = [*argv, "--ddp_backend", "gloo"] if number > 1 and target is train else argv
        log = folder / f"process{rank}.log"
        environment = environment if number > 1 else {}
        found.append(Trainee(arguments, log, target, environment=environment, record=record, **own))
    return found


gc.freeze()  # what was imported is never garbage; looking through it would take a third of a second at every start
