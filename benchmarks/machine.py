# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What the machine can do: the rate of a large matrix product in each dtype and the bandwidth of a copy."""

import json
import os
import platform
import re
from pathlib import Path

import torch
import transformers

from .workload import interleaved, median


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def product(dtype: torch.dtype, device: str = "cpu"):
    """A matrix product, 2048^3 on a CPU and 4096^3 on a GPU, and its number of operations."""
    side = 4096 if device == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)

    def multiply() -> None:
        torch.mm(left, right, out=out)
        synchronize(device)

    return multiply, 2 * side**3


def measure(device: str = "cpu") -> dict[str, float]:
    """Rates in GFLOP/s and GB/s (a byte that is read and written counts twice)."""
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    products = {name: product(dtype, device) for name, dtype in dtypes.items()}
    source = torch.randn(64 << 20, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        synchronize(device)

    functions = {name: function for name, (function, _) in products.items()} | {"copy": copy}
    seconds = interleaved(functions, repeats=9)
    results = {
        f"machine.gemm_gflops.{name}": count / median(seconds[name]) / 1e9 for name, (_, count) in products.items()
    }
    results["machine.copy_gb_per_second"] = 2 * source.numel() * 4 / median(seconds["copy"]) / 1e9
    return results


def description(device: str = "cpu") -> dict[str, str | int]:
    """Hardware and versions."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        name = found.group(1).strip() if found else name
    if device == "cuda":
        name = torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "hardware": name,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


__all__ = ["description", "measure", "product", "synchronize"]

if __name__ == "__main__":
    print(json.dumps(measure()))
