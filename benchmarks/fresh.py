# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Parts of the benchmark in a fresh process each: memory and start-up are seen by nothing else."""

import importlib
import json
import multiprocessing
import os
import resource
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


REPOSITORY = Path(__file__).resolve().parent.parent


def in_fresh_process(module: str, *arguments: str, threads: int | None = None, limit: float = 600) -> dict:
    """Run `python -m module arguments` from the repository; the last line that it prints is a JSON object.

    Raises:
        RuntimeError: it failed; with the end of what it wrote.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=limit, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def in_forked_process(module: str, function: str, limit: float | None = None, **options) -> dict:
    """`module.function(**options)` in a process of its own, forked from one that has imported PyTorch and our packages.

    Raises:
        TimeoutError: it took longer than `limit` seconds, and was ended.
        Exception: what the function raised.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.memory"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        future = pool.submit(_call, module, function, options)
        try:
            return future.result(limit)
        except TimeoutError:
            for process in list(pool._processes.values()):
                process.kill()
            raise


def _call(module: str, function: str, options: dict) -> dict:
    return getattr(importlib.import_module(module), function)(**options)


def memory_mib(peak: bool = False) -> float:
    """Resident memory of this process in MiB, now or at its highest."""
    try:
        # not getrusage: its peak includes the process that this one was forked from
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:" if peak else "VmRSS:"))) / 1024
    except (OSError, StopIteration):
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used / (1 << 20 if sys.platform == "darwin" else 1 << 10)


__all__ = ["REPOSITORY", "in_forked_process", "in_fresh_process", "memory_mib"]
