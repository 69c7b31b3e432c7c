# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""One global batch on one process and on two (gloo): equal losses and equal gradients, also for uneven halves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


REPOSITORY = Path(__file__).resolve().parents[2]

WORKER = """
import os, sys, torch
import torch.distributed as dist
from datetime import timedelta
from torch.nn.parallel import DistributedDataParallel
from tiny_models import tiny_inputs, tiny_model

split, frames, segments, kind, out = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
torch.set_num_threads(1)
world = int(os.environ.get("WORLD_SIZE", 1))
rank = int(os.environ.get("RANK", 0))
if world > 1:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
fields = {
    "by label": {"contrastive_positives": "label"},
    # at first the adapters make background tokens so alike that the variances of "bilinear" are mostly rounding
    "lavish": {"lavish_config": {}, "match_head": "mlp"},
    "audio on one process": {"unimodal_loss_weight": 0.5},
}.get(kind, {})
model = tiny_model(**fields).train()
if kind == "by label":
    model.set_class_weights(torch.tensor([0.5, 2.0, 1.0, 3.0, 1.0]))
inputs = tiny_inputs(clips=8, frames=frames, segments=segments)
inputs["labels"] = torch.tensor([0, 1, 2, 3, -100, 0, -100, 1])
inputs["is_matched"] = torch.tensor([True, True, True, True, False, True, False, True])
inputs["has_audio"] = torch.tensor([True, False, True, True, True, True, True, True])
if kind == "audio on one process":
    inputs["has_audio"] = torch.arange(8) < split
rows = slice(0, 8) if world == 1 else (slice(0, split) if rank == 0 else slice(split, 8))
wrapped = DistributedDataParallel(model, find_unused_parameters=True) if world > 1 else model
batch = {name: value[rows] for name, value in inputs.items()}
if not batch["has_audio"].any():  # as the collator does
    del batch["input_features"]
outputs = wrapped(**batch)
outputs.loss.backward()
names = ["loss", "classification_loss", "matching_loss", "contrastive_loss"]
if model.config.unimodal_loss_weight:
    names.append("unimodal_loss")
losses = torch.stack([outputs[name].detach() for name in names])
if world > 1:
    dist.all_reduce(losses)
    losses /= world
gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
if rank == 0:
    torch.save({"losses": losses, "gradients": gradients}, out)
if world > 1:
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort the interpreter after the work is done
"""

# Validation of DeepAVFusion: the clips of the second half have no audio.
DEEPAVFUSION_WORKER = """
import os, sys, torch
import torch.distributed as dist
from datetime import timedelta
from modeling_deepavfusion import DeepAVFusionForAudioVisualClassification, DeepAVFusionForPreTraining
from tiny_deepavfusion import tiny_inputs, tiny_model

task, out = sys.argv[1:]
torch.set_num_threads(1)
world = int(os.environ.get("WORLD_SIZE", 1))
rank = int(os.environ.get("RANK", 0))
if world > 1:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
inputs = tiny_inputs(clips=4)
inputs["has_audio"] = torch.tensor([True, True, False, False])
names = ["loss"]
if task == "classification":
    model = tiny_model(DeepAVFusionForAudioVisualClassification, classifier_loss="separate")
    inputs["labels"] = torch.arange(4)
else:
    model = tiny_model(DeepAVFusionForPreTraining)
    inputs |= {"image_noise": torch.rand(4, 16), "audio_noise": torch.rand(4, 6)}
    names += ["image_loss", "audio_loss"]
rows = slice(4) if world == 1 else slice(2 * rank, 2 * rank + 2)
batch = {name: value[rows] for name, value in inputs.items()}
if not batch["has_audio"].any():  # as the collator does
    del batch["input_features"]
with torch.no_grad():
    outputs = model(**batch)
losses = torch.stack([outputs[name] for name in names])
if world > 1:
    dist.all_reduce(losses)
    losses /= world
if rank == 0:
    torch.save(losses, out)
if world > 1:
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort the interpreter after the work is done
"""


def run(processes: int, arguments: list[str], folder: Path, worker: str = WORKER):
    script = folder / "worker.py"
    script.write_text(worker)
    launcher = (
        [] if processes == 1 else ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
    )
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}", "OMP_NUM_THREADS": "1"}
    out = folder / f"{processes}.pt"
    done = subprocess.run(
        [sys.executable, *launcher, str(script), *arguments, str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize(
    ("split", "frames", "segments", "kind"),
    [
        (4, 1, 1, "plain"),
        (3, 2, 2, "plain"),
        (7, 1, 1, "plain"),
        (4, 1, 1, "by label"),  # contrast by label, and class weights
        (3, 2, 2, "by label"),
        (3, 2, 1, "lavish"),
        (4, 1, 1, "audio on one process"),
    ],
)
def test_gradient_does_not_depend_on_the_split(tmp_path, split, frames, segments, kind):
    arguments = [str(split), str(frames), str(segments), kind]
    one, two = run(1, arguments, tmp_path), run(2, arguments, tmp_path)
    torch.testing.assert_close(two["losses"], one["losses"], atol=1e-6, rtol=1e-5)
    assert one["gradients"].keys() == two["gradients"].keys()
    for name, expected in one["gradients"].items():
        distance = (two["gradients"][name] - expected).norm()
        assert distance <= 1e-4 * expected.norm() + 1e-6, f"{name}: {distance} of {expected.norm()}"


@pytest.mark.parametrize("task", ["classification", "pre-training"])
def test_validation_loss_does_not_depend_on_the_split(tmp_path, task):
    one, two = (run(processes, [task], tmp_path, DEEPAVFUSION_WORKER) for processes in (1, 2))
    torch.testing.assert_close(two, one, atol=1e-6, rtol=1e-5)


SHARING_WORKER = """
import os, sys, torch
import torch.distributed as dist
from datetime import timedelta
from types import SimpleNamespace
from processing.clips import clip_error
from training.common.processes import of_first_process

dist.init_process_group("gloo", timeout=timedelta(seconds=60))
args = SimpleNamespace(world_size=2, process_index=dist.get_rank(), ddp_timeout=60)
calls = []

class Picky(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")

def work(error):
    calls.append(1)
    if error is not None:
        raise error
    return {"rank": dist.get_rank()}

assert of_first_process(args, lambda: work(None)) == {"rank": 0}
for error, kind in ((clip_error("a.mp4", "path", "is gone"), ValueError), (Picky("no", "clip"), RuntimeError)):
    try:
        of_first_process(args, lambda: work(error))
    except kind as raised:
        assert str(raised) == str(error), raised
    else:
        raise AssertionError("nothing was raised")
every = torch.tensor([len(calls)])
dist.all_reduce(every)
if dist.get_rank() == 0:
    torch.save(every, sys.argv[1])
dist.barrier()
sys.stdout.flush()
os._exit(0)
"""


def test_what_the_first_process_finds_or_refuses_reaches_all(tmp_path):
    assert run(2, [], tmp_path, SHARING_WORKER).item() == 3  # the other one did no work
