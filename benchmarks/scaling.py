# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a bfloat16 training step against frames, batch and classes; and what two processes bring.

python -m benchmarks.scaling
"""

import json
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .fresh import REPOSITORY, in_forked_process
from .workload import Step, build_batch, build_model


SWEEPS = {
    "frames": [{"frames": frames, "clips": 1} for frames in (1, 4, 8, 16)],
    "batch": [{"clips": clips} for clips in (1, 4, 8)],
    "classes": [{"num_labels": classes, "clips": 2} for classes in (10, 309, 3000)],
}
NAMES = {"frames": "frames", "batch": "clips", "classes": "num_labels"}


def sweeps(blocks: int) -> dict[str, float]:
    """`scaling.<what>.<value>.seconds` and `.mib`, and the largest deviation from a straight line.

    The deviation is of the middle points from the line through the ends, as a share of the last.
    """
    results = {}
    for what, points in SWEEPS.items():
        found = []
        for point in points:
            measured = in_forked_process("benchmarks.memory", "one", kind="bfloat16", blocks=blocks, steps=4, **point)
            value = point[NAMES[what]]
            found.append((value, measured))
            for unit, amount in measured.items():
                results[f"scaling.{what}.{value}.{unit}"] = amount
        for unit in ("seconds", "mib"):
            line = [(value, measured[unit]) for value, measured in found]
            results[f"scaling.{what}.bend.{unit}"] = bend(line)
    return results


def bend(points: list[tuple[float, float]]) -> float:
    """How far the points lie from the line through the first and the last, as a share of the last."""
    (first, low), *middle, (last, high) = points
    lines = [low + (high - low) * (x - first) / (last - first) for x, _ in middle]
    return max(abs(y - line) for (_, y), line in zip(middle, lines, strict=True)) / high


def processes(blocks: int, clips: int = 2) -> dict[str, float]:
    """Clips a second of two gloo processes over twice those of one, each with one thread and the same local batch."""
    seconds = {}
    for count in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        command += ["-m", __spec__.name, "worker", str(clips), str(blocks)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if not lines:  # gloo may abort at exit after its work is done
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        seconds[count] = json.loads(lines[0])["seconds"]
    return {
        "processes.efficiency": seconds[1] / seconds[2],
        "processes.1.seconds": seconds[1],
        "processes.2.seconds": seconds[2],
    }


def worker(clips: int, blocks: int) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    batch = build_batch(clips, dtype=torch.bfloat16)
    wrapped = DistributedDataParallel(build_model(torch.bfloat16, blocks=blocks))
    step = Step(wrapped, lambda model: model(**batch).loss)
    step()
    seconds = []
    for _ in range(5):
        dist.barrier()
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    if dist.get_rank() == 0:
        print(json.dumps({"seconds": statistics.median(seconds)}), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def measure(blocks: int = 4) -> dict[str, float]:
    return sweeps(blocks) | processes(blocks) | {"scaling.blocks": blocks}


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(*map(int, sys.argv[2:]))
    else:
        print(json.dumps(measure(), indent=1))
