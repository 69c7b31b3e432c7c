# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Run parts of the benchmark in processes of their own, because memory and start-up cannot be measured otherwise."""

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
    result = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=limit, check=False
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def in_forked_process(module: str, function: str, limit: float | None = None, **options) -> dict:
    """`module.function(**options)` in a process of its own, forked from one that has imported PyTorch and the model packages.

    Raises:
        TimeoutError: it took longer than `limit` seconds, and was ended.
        Exception: what the function raised.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.scaling"])
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
        # getrusage would include the peak of the process that this one was forked from
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:" if peak else "VmRSS:"))) / 1024
    except (OSError, StopIteration):
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used / (1 << 20 if sys.platform == "darwin" else 1 << 10)


class OtherCheckout:
    """The model of another checkout of the repository, measured by this checkout's benchmark in a fresh process.

    Args:
        folder: the root of the other checkout; its `modeling_maavt` is imported.
        blocks: blocks of the model.
        clips: clips of a batch.
    """

    def __init__(self, folder: str | os.PathLike, blocks: int, clips: int):
        code = "import modeling_maavt, sys; sys.path.insert(0, sys.argv[1]); from benchmarks.speed import serve; "
        code += "serve(int(sys.argv[2]), int(sys.argv[3]))"
        command = [sys.executable, "-c", code, str(REPOSITORY), str(blocks), str(clips)]
        # with -c, Python looks for modules in the working directory first
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(folder).resolve())}
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, name: str) -> None:
        """Run one of the functions of `benchmarks.speed.functions_of` once, and wait for its end.

        Raises:
            RuntimeError: the process ended.
        """
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        if self._process.stdout.readline().strip() != name:
            raise RuntimeError(f"the process of the other checkout ended at {name}; its errors are above")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
