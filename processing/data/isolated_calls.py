# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Calls a function in processes that may die: a clip that crashes or stalls its decoder costs one clip, by name."""

import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch


TIME_LIMIT = 300.0  # seconds for one clip; hours of audio take a minute
END = object()


@dataclass
class Lost:
    """Stands for the result of a call that gave none: its process died, or was ended because it took too long."""

    reason: str


def isolated_calls(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    workers: int,
    time_limit: float | None = TIME_LIMIT,
    start_method: str | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Calls `function(item)` for every item in other processes.

    Args:
        function: can be pickled. The processes start as those of a `DataLoader` do, so where that is not by a fork, a
            script needs `if __name__ == "__main__":`.
        items: the arguments.
        workers: number of processes.
        time_limit: seconds after which a call is ended; None: it may take for ever.
        start_method: "fork", "spawn" or "forkserver"; None: the platform's.

    Yields:
        (item, result) in the order in which results come; the result is a `Lost` where there is none.

    Raises:
        Exception: what the function raised.
    """
    waiting = iter(items)
    busy: list[_Worker] = []
    free: list[_Worker] = []
    try:
        while True:
            # A process starts when an item waits for it, so that a small table starts few.
            while len(busy) < workers and (item := next(waiting, END)) is not END:
                worker = free.pop() if free else _Worker(function, start_method)
                worker.give(item, time_limit)
                busy.append(worker)
            if not busy:
                return
            next_deadline = min(worker.deadline for worker in busy)
            seconds_left = None  # it waits for ever
            if next_deadline < math.inf:
                seconds_left = max(0.0, next_deadline - time.monotonic())
            wait([worker.pipe for worker in busy], seconds_left)
            for worker in list(busy):
                if worker.pipe.poll():
                    result = worker.result()
                elif time.monotonic() >= worker.deadline:
                    result = Lost(f"the decoder took more than {time_limit:g} s; convert the file or get it again")
                else:
                    continue
                busy.remove(worker)
                # A process that died or hangs is replaced by a new one.
                if isinstance(result, Lost):
                    worker.end()
                else:
                    free.append(worker)
                yield worker.item, result
    finally:
        for worker in busy + free:
            worker.end()


class _Worker:
    """A process, and the item that it works on."""

    def __init__(self, function: Callable[[Any], Any], start_method: str | None):
        context = multiprocessing.get_context(start_method)
        self.pipe, other_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, other_end, self.pipe), daemon=True)
        self.process.start()
        other_end.close()  # the process has it alone, so its death can be seen in the pipe
        try:
            self.pipe.recv()  # it is there: what it imports before does not count as time of an item
        except EOFError:
            self.process.join()
            raise RuntimeError(
                f"a process cannot start ({_death(self.process.exitcode)}); its output says why"
            ) from None
        self.item: Any = None
        self.deadline = 0.0

    def give(self, item: Any, time_limit: float | None) -> None:
        self.item = item
        self.deadline = math.inf
        if time_limit is not None:
            self.deadline = time.monotonic() + time_limit
        self.pipe.send(item)

    def result(self) -> Any:
        try:
            raised, result = self.pipe.recv()
        except EOFError:
            self.process.join()
            return Lost(f"the decoder crashed ({_death(self.process.exitcode)}); convert the file or get it again")
        if raised:
            raise result
        return result

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(function: Callable[[Any], Any], pipe: Connection, other_end: Connection) -> None:
    """The life of a process: it ends with the one that started it, whose end of the pipe it must not hold open."""
    other_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    pipe.send("ready")
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            answer = (False, function(item))
        except Exception as error:
            answer = (True, error)
        pipe.send(answer)


def _death(exit_code: int) -> str:
    """What ended a process: `SIGSEGV`, or `exit code 7`."""
    if exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"
