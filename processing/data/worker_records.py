# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Which file each loader worker reads: a worker that a decoder or the kernel kills cannot say so itself."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import get_worker_info


PLACES, SIZE = 256, 1024  # processes, and bytes for the number of one and the name of its file


class WorkerRecord:
    """Memory that the workers of a process write to. A data set holds it, so that it reaches them however they start.

    There is one in each process: `WorkerRecord.here()`.
    """

    _here: "WorkerRecord | None" = None

    def __init__(self):
        self._memory = torch.zeros(PLACES, SIZE, dtype=torch.uint8).share_memory_()

    @classmethod
    def here(cls) -> "WorkerRecord":
        if cls._here is None:
            cls._here = cls()
        return cls._here

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Say that this worker reads a file. Outside of workers nothing is recorded."""
        if get_worker_info() is None:
            yield
            return
        self._write(name)
        yield
        self._write("")  # not after an exception: it is raised in the main process, with its own words

    def _write(self, name: str) -> None:
        text = f"{os.getpid()} {name}".encode("utf-8", "backslashreplace")[: SIZE - 1]
        place = self._memory[os.getpid() % PLACES].numpy()
        place[: len(text)] = bytearray(text)
        place[len(text)] = 0

    def read_by(self, worker: int) -> str:
        """The file that the process with this number was reading; an empty string: none, or it is not known."""
        text = self._memory[worker % PLACES].numpy().tobytes().split(b"\0")[0].decode("utf-8", "ignore")
        process, _, name = text.partition(" ")
        return name if process == str(worker) else ""
