# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""One run at a time in an output folder."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK_NAME = ".run.lock"


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Holds the lock of `folder`, which is made where it is missing. The system frees it when the process ends.

    It is a record lock: loader workers that are forked do not hold it. Without `fcntl` (Windows) there is no lock.

    Raises:
        BlockingIOError: another process has it; the message names that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    with open(folder / LOCK_NAME, "a+", encoding="utf-8") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            owner = stream.read().strip() or "another process"
            raise BlockingIOError(
                f"output_dir: {folder} is in use by {owner}; wait for it, or choose another --output_dir"
            ) from None
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        yield
