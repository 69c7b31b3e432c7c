# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The file of a benchmark: one flat JSON object with the machine, the versions and every number, ratios first."""

import json
import os
import platform
import re
from pathlib import Path

import torch
import transformers


FOLDER = Path(__file__).resolve().parent / "results"
RATIOS = re.compile(
    r"speedup|^change|fraction|overhead|realistic|memory\.train\.(?!mib)|efficiency|share|over_size|^deepav\w+\.\w+_"
)


def description(device: str = "cpu") -> dict[str, str | int]:
    """Hardware and versions."""
    hardware = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        model_name = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if model_name:
            hardware = model_name.group(1).strip()
    if device == "cuda":
        hardware = torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "hardware": hardware,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def file_name(machine: dict) -> str:
    """The name of the file for a `description`."""
    hardware = re.sub(r"[^A-Za-z0-9]+", "-", str(machine["hardware"])).strip("-").lower()
    torch_version = str(machine["torch"]).split("+")[0]
    return f"{hardware}-{machine['cores']}cores-torch{torch_version}-transformers{machine['transformers']}.json"


def ordered(figures: dict) -> dict:
    """Ratios first, then everything else, each by name."""
    return dict(sorted(figures.items(), key=lambda item: (RATIOS.search(item[0]) is None, item[0])))


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def write_figures(path: Path, figures: dict) -> None:
    # imported here: the GPU benchmark needs only the model package
    from processing.data.atomic_writing import write_text

    write_text(path, json.dumps(ordered(figures), indent=1) + "\n")
