# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Four gloo processes under the launchers: the losses of one process, and the end of a job whose rank dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_two_processes import REPOSITORY, STEPWISE, batch_sizes, history, newest, worker
from toy_run import write_backbone, write_clips, write_config


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the workers in /proc"),
]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--num_processes", "4", "--config_file"]
DDP = [*ACCELERATE, "configs/accelerate/two_cpu_processes.yaml", "train.py"]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    """15 training clips in global batches of 8 and 7: the last one is shared out unevenly."""
    folder = tmp_path_factory.mktemp("four")
    config = write_config(folder / "toy.yaml", write_clips(folder / "data"), write_backbone(folder / "vit"))
    # plain gradient descent: Adam turns a rounding error in a vanishing gradient into a full step
    options = "--check none --baseline false --num_train_epochs 3 --optim sgd --learning_rate 0.05 --use_cpu true"
    return [str(config), *options.split()]


def start(command: list[str], log: Path, **variables: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    environment |= variables
    with open(log, "w", encoding="utf-8") as stream:
        return subprocess.Popen(
            [sys.executable, *command], env=environment, cwd=REPOSITORY, stdout=stream, stderr=stream
        )


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while not path.is_dir():
        assert process.poll() is None and time.monotonic() < deadline, path
        time.sleep(0.1)


def tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-3000:]


@pytest.fixture(scope="module")
def one(arguments, tmp_path_factory) -> Path:
    """The run of one process."""
    output = tmp_path_factory.mktemp("one")
    command = ["train.py", *arguments, *batch_sizes(8, 8), "--output_dir", str(output)]
    process = start(command, output / "log")
    assert process.wait(900) == 0, tail(output / "log")
    return output


def test_accelerate_launch_gives_the_losses_of_one(arguments, one, tmp_path):
    options = [*batch_sizes(2, 2), "--ddp_backend", "gloo", "--output_dir", str(tmp_path)]
    process = start([*DDP, *arguments, *options], tmp_path / "log")
    assert process.wait(1500) == 0, tail(tmp_path / "log")
    first, four = history(one), history(tmp_path)
    assert len(first) == len(four) == 6 + 3 + 1
    for entry, other in zip(first, four, strict=True):
        assert entry.keys() == other.keys()
        for name, value in entry.items():
            assert other[name] == pytest.approx(value, rel=1e-3, abs=1e-3), (name, entry, other)
    weights, others = (load_file(folder / "model" / "model.safetensors") for folder in (one, tmp_path))
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_a_dead_rank_ends_the_job(arguments, tmp_path):
    options = [*batch_sizes(2, 2), *STEPWISE, "--ddp_backend", "gloo", "--num_train_epochs", "500"]
    command = [*TORCHRUN, "train.py", *arguments, *options, "--output_dir", str(tmp_path)]
    process = start(command, tmp_path / "log")
    try:
        wait_for(tmp_path / "checkpoint-2", process)
        rank = worker(process.pid, 2)
        begin = time.monotonic()
        os.kill(rank, signal.SIGKILL)
        assert process.wait(600) != 0
        seconds = time.monotonic() - begin
    finally:
        process.kill()
    print(f"the job ended after {seconds:.0f} s")
    assert seconds < 60, tail(tmp_path / "log")
    newest(tmp_path)  # the checkpoints are whole


def test_a_stalled_rank_ends_the_job(arguments, tmp_path):
    """A process that stands still is given up after `--ddp_timeout` seconds."""
    options = [*batch_sizes(2, 2), *STEPWISE, "--ddp_backend", "gloo", "--num_train_epochs", "500"]
    command = [*TORCHRUN, "train.py", *arguments, *options, "--ddp_timeout", "20", "--output_dir", str(tmp_path)]
    process = start(command, tmp_path / "log")
    rank = None
    try:
        wait_for(tmp_path / "checkpoint-2", process)
        rank = worker(process.pid, 2)
        begin = time.monotonic()
        os.kill(rank, signal.SIGSTOP)
        # torchrun asks the stalled one to end, and kills it after 30 s.
        assert process.wait(600) != 0
        seconds = time.monotonic() - begin
    finally:
        process.kill()
        if rank is not None and Path(f"/proc/{rank}").exists():
            os.kill(rank, signal.SIGKILL)
    print(f"the job ended after {seconds:.0f} s")
    assert 15 < seconds < 20 + 30 + 30, tail(tmp_path / "log")
    newest(tmp_path)


def test_torchrun_starts_a_killed_job_again(arguments, tmp_path):
    """`--max-restarts` and `--resume_from_checkpoint true` give the weights of a run that nobody touched."""
    options = [*batch_sizes(2, 2), *STEPWISE, "--ddp_backend", "gloo", "--num_train_epochs", "8"]
    command = [*TORCHRUN, "--max-restarts", "1", "train.py", *arguments, *options, "--resume_from_checkpoint", "true"]

    def run(name: str) -> subprocess.Popen:
        # Without the variable, PyTorch 2.14 lets the new processes look for the ports of the old ones.
        log, variables = tmp_path / f"{name}.log", {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        return start([*command, "--output_dir", str(tmp_path / name)], log, **variables)

    process = run("whole")
    assert process.wait(600) == 0, tail(tmp_path / "whole.log")
    process = run("killed")
    try:
        wait_for(tmp_path / "killed" / "checkpoint-2", process)
        os.kill(worker(process.pid, 2), signal.SIGKILL)
        assert process.wait(600) == 0, tail(tmp_path / "killed.log")
    finally:
        process.kill()
    assert "failed (exitcode: -9) local_rank: 2" in (tmp_path / "killed.log").read_text()
    whole, killed = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    for name, value in whole.items():
        torch.testing.assert_close(killed[name], value, rtol=0, atol=0, msg=name)
