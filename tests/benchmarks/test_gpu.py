# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The GPU benchmark runs in its small form on a CPU, with few packages."""

import json
import subprocess
import sys

from benchmarks.fresh import REPOSITORY


RUN = """
import sys

for name in ("datasets", "evaluate", "av", "torchcodec", "librosa", "matplotlib"):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
from benchmarks import gpu

sys.exit(gpu.main(["--device", "cpu", "--small", "--seconds", "600", "--out", sys.argv[1]]))
"""


def test_small_form_runs_every_step(tmp_path):
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=500)
    (file,) = tmp_path.glob("gpu-*.json")
    figures = json.loads(file.read_text())
    problems = {name: value for name, value in figures.items() if str(value).startswith(("failed", "skipped"))}
    assert not problems and result.returncode == 0, result.stderr[-2000:]
    assert figures["gpu.float16_step.finite"] == 1
    assert abs(figures["gpu.fsdp2_step.loss"] - figures["gpu.fsdp2_step.unsharded_loss"]) < 0.2
    for setting in ("eager.batch3", "compiled.batch2"):
        for what in ("forward", "train"):
            assert figures[f"gpu.sdpa.{setting}.frames1.{what}.gemm_fraction"] > 0
    assert "| sdpa.compiled.batch2.frames1.train |" in result.stdout
