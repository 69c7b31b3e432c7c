# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Memory of a training step beside the plain port; time and memory against frames, clips and classes; two processes.

    python -m benchmarks.scaling          # everything, each step in a process of its own
    python -m benchmarks.scaling float32  # one kind of training step, in this process

Memory is the highest resident size of a new process minus its size after the imports.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .fresh import REPOSITORY, in_forked_process, memory_mib
from .plain_port import PlainPort
from .workload import BATCH, Step, build_batch, build_model


KINDS = ("plain", "float32", "bfloat16", "checkpointing")  # the last in bfloat16
SWEEPS = {
    "frames": [{"frames": frames, "clips": 1} for frames in (1, 4, 8, 16)],
    "batch": [{"clips": clips} for clips in (1, 4, 8)],
    "classes": [{"num_labels": classes, "clips": 2} for classes in (10, 309, 3000)],
}
NAMES = {"frames": "frames", "batch": "clips", "classes": "num_labels"}


def training_step(
    kind: str, clips: int = BATCH, frames: int = 1, num_labels: int = 309, blocks: int = 12, steps: int = 2
) -> dict[str, float]:
    """Peak MiB of `steps` training steps, and seconds of the fastest. The first is not counted."""
    before = memory_mib()
    dtype = torch.float32 if kind in ("plain", "float32") else torch.bfloat16
    model = build_model(dtype, blocks=blocks, num_labels=num_labels)
    batch = build_batch(clips, frames, num_labels=num_labels, dtype=dtype)
    if kind == "checkpointing":
        model.gradient_checkpointing_enable()
    if kind == "plain":
        model = PlainPort(model)
        step = Step(model, lambda model: model(*batch.values())["loss"])
    else:
        step = Step(model, lambda model: model(**batch).loss)
    del model
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {"mib": memory_mib(peak=True) - before, "seconds": min(seconds[1:])}


def memory(blocks: int = 12) -> dict[str, float]:
    """Peaks in MiB, and as fractions of the plain port's."""
    peaks = {}
    for kind in KINDS:
        measured = in_forked_process("benchmarks.scaling", "training_step", kind=kind, blocks=blocks)
        peaks[kind] = measured["mib"]
    results = {f"memory.train.{kind}": peaks[kind] / peaks["plain"] for kind in KINDS[1:]}
    return results | {f"memory.train.mib.{kind}": peak for kind, peak in peaks.items()}


def sweeps(blocks: int) -> dict[str, float]:
    """`scaling.<what>.<value>.seconds` and `.mib`, and the largest deviation from a straight line.

    The deviation is of the middle points from the line through the ends, as a share of the last.
    """
    results = {}
    for what, points in SWEEPS.items():
        points_measured = []
        for point in points:
            measured = in_forked_process(
                "benchmarks.scaling", "training_step", kind="bfloat16", blocks=blocks, steps=4, **point
            )
            value = point[NAMES[what]]
            points_measured.append((value, measured))
            for unit, amount in measured.items():
                results[f"scaling.{what}.{value}.{unit}"] = amount
        for unit in ("seconds", "mib"):
            line = [(value, measured[unit]) for value, measured in points_measured]
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
        command += ["-m", "benchmarks.scaling", "worker", str(clips), str(blocks)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        result = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
        if not lines:  # gloo may abort at exit after its work is done
            raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr[-2000:]}")
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


def measure(blocks: int = 12, sweep_blocks: int = 4) -> dict[str, float]:
    """Memory of the whole model; sweeps and two processes on a model of `sweep_blocks` blocks."""
    results = memory(blocks) | sweeps(sweep_blocks) | processes(sweep_blocks)
    return results | {"scaling.blocks": sweep_blocks}


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(*map(int, sys.argv[2:]))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="?", choices=KINDS)
    kind = parser.parse_args().kind
    print(json.dumps(training_step(kind) if kind else measure(), indent=1))
