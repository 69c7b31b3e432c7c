# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""FSDP2 (`fully_shard`) on two gloo processes: losses, gradients, weights and checkpoints of one unsharded process."""

import json
import os
import shutil
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_models import tiny_inputs, tiny_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from toy_run import write_backbone, write_clips, write_config
from trainee import Trainee, settle, start_processes, train

from modeling_maavt import MAAVTForAudioVisualClassification, check_trainable, maavt_peft_config
from modeling_maavt.modeling_maavt import MAAVTEmbeddings, MAAVTLayer, MAAVTPatchEmbeddings


BATCHES = ((6, 3), (6, 3), (3, 2))  # clips of the global batch, and how many of them the first process holds
LOSSES = ("loss", "classification_loss", "matching_loss", "contrastive_loss")
CASES = {
    "adapter": {"tuning": "adapter"},
    "lora": {"tuning": "adapter", "lora_rank": 2},
    "bfloat16 backbone": {"tuning": "adapter", "lora_rank": 2, "dtype": "bfloat16"},
    "full": {"tuning": "full"},
}


def build(folder: Path, tuning: str, lora_rank: int = 0, dtype: str = "float32") -> torch.nn.Module:
    model = MAAVTForAudioVisualClassification.from_pretrained(folder, dtype=getattr(torch, dtype))
    if tuning == "full":
        return model.requires_grad_(True).train()
    torch.manual_seed(1)
    model = get_peft_model(model, maavt_peft_config(model, lora_rank=lora_rank))
    check_trainable(model)
    return model.train()


def shard(model: torch.nn.Module) -> None:
    """Blocks, embeddings and patch convolution apart, as Accelerate does; all the rest together."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for kind in (MAAVTPatchEmbeddings, MAAVTEmbeddings, MAAVTLayer):
        for module in model.modules():
            if isinstance(module, kind):
                fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def work(argv: list[str], log: str, events: Connection, *, environment: dict, record: str, **case) -> None:
    """Three steps of plain gradient descent; writes losses, gradients of the first step, and a checkpoint."""
    settle(log, environment)
    world, rank = int(environment.get("WORLD_SIZE", 1)), int(environment.get("RANK", 0))
    if world > 1:
        dist.init_process_group("gloo", timeout=timedelta(seconds=100))
    model = build(Path(argv[0]), **case)
    if world > 1:
        shard(model)
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    assert all(isinstance(p, DTensor) for _, p in parameters) == (world > 1)
    optimizer = torch.optim.SGD([p for _, p in parameters], lr=0.05)
    losses, gradients = [], {}
    for step, (clips, first) in enumerate(BATCHES):
        inputs = tiny_inputs(clips=clips, frames=2, seed=step)
        inputs["labels"] = torch.arange(clips) % 5
        inputs["is_matched"] = torch.arange(clips) % 3 != 1
        inputs["has_audio"] = torch.arange(clips) != clips - 1
        rows = slice(0, clips) if world == 1 else (slice(0, first) if rank == 0 else slice(first, clips))
        outputs = model(**{name: value[rows] for name, value in inputs.items()})
        outputs.loss.backward()
        values = torch.stack([outputs[name].detach() for name in LOSSES])
        if world > 1:
            dist.all_reduce(values)
        losses.append(values / world)
        if step == 0:
            for name, p in parameters:
                if p.grad is not None:
                    gradients[name] = p.grad.full_tensor() if world > 1 else p.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options) if world > 1 else model.state_dict()
    if rank == 0:
        out = Path(argv[1])
        model.save_pretrained(out, state_dict=state)
        torch.save({"losses": torch.stack(losses), "gradients": gradients}, out / "record.pt")
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()
        os._exit(0)  # gloo's threads sometimes abort the interpreter after the work is done


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], share: float) -> None:
    """Every tensor differs by at most this share of its length."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        distance = (found[name].float() - value.float()).norm()
        assert distance <= share * value.float().norm() + share / 100, f"{name}: {distance} of {value.norm()}"


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    tiny_model(freeze_backbone=True).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_sharded_model_learns_and_saves_as_an_unsharded_one(start, tmp_path, case):
    for number in (1, 2):
        out = tmp_path / str(number)
        out.mkdir()
        try:
            processes = start_processes([str(start), str(out)], out, number, [CASES[case]] * number, work)
            for process in processes:
                assert process.end() == 0, process.tail()
        finally:
            Trainee.kill_all()
    one, two = (torch.load(tmp_path / n / "record.pt", weights_only=True) for n in "12")
    loose = CASES[case].get("dtype") == "bfloat16"  # sums over other batches round differently
    torch.testing.assert_close(two["losses"], one["losses"], rtol=2e-2 if loose else 1e-4, atol=1e-5)
    assert len(one["gradients"]) > 10
    assert_close(two["gradients"], one["gradients"], 3e-2 if loose else 1e-4)

    file = "model.safetensors" if case == "full" else "adapter_model.safetensors"
    first, second = (load_file(tmp_path / n / file) for n in "12")
    assert {name: value.dtype for name, value in first.items()} == {n: value.dtype for n, value in second.items()}
    assert_close(second, first, 1e-2 if loose else 1e-4)

    # the checkpoint of the sharded run is a plain one
    if case == "full":
        loaded = MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "2").eval()
        expected = MAAVTForAudioVisualClassification.from_pretrained(tmp_path / "1").eval()
    else:
        base = [MAAVTForAudioVisualClassification.from_pretrained(start) for _ in range(2)]
        loaded, expected = (PeftModel.from_pretrained(base[i], tmp_path / n).eval() for i, n in enumerate("21"))
    inputs = tiny_inputs(clips=3, frames=2, seed=9)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(**inputs).logits, expected(**inputs).logits, rtol=1e-3, atol=3e-2 if loose else 1e-4
        )


# Accelerate offers FSDP on GPUs only; everything behind that check runs on gloo as well.
ACCELERATE = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "MAAVTLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def train_sharded(argv: list[str], log: str, events: Connection, *, environment: dict, **options) -> None:
    """The recipe with Accelerate's FSDP2, as `configs/accelerate/eight_gpus_fsdp2.yaml` sets it up, on the CPU."""
    settled = AcceleratorState.__init__

    def settle_on_fsdp(self, *args, **kwargs):
        settled(self, *args, **kwargs)
        plugin = kwargs.get("fsdp_plugin") or getattr(self, "fsdp_plugin", None)
        if plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin

    if environment:
        AcceleratorState.__init__ = settle_on_fsdp
        environment = environment | ACCELERATE
        argv = [*argv, "--ddp_backend", "gloo"]
    train(argv, log, events, environment=environment, **options)


@pytest.mark.parametrize(
    ("tuning", "processes"),
    [
        (["--lora_rank", "2"], 2),
        pytest.param(["--tuning", "full"], 2, marks=pytest.mark.slow),
        pytest.param(["--lora_rank", "2"], 4, marks=pytest.mark.slow),
    ],
    ids=["lora", "full", "four processes"],
)
def test_recipe_sharded(tmp_path, tuning, processes):
    """Training, best checkpoint, resume, table and saved model of the whole recipe on several sharding processes."""
    clips = write_clips(tmp_path / "data")
    config = write_config(tmp_path / "toy.yaml", clips, write_backbone(tmp_path / "vit"))
    # a large epsilon, lest Adam turns a rounding error in a vanishing gradient into a full step
    options = ["--check", "none", "--baseline", "false", "--num_train_epochs", "2"]
    options += ["--learning_rate", "0.02", "--adam_epsilon", "0.1"]
    argv = [str(config), *options, *tuning]

    def run(name: str, number: int, sizes: tuple[int, int], *more: str) -> Path:
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        batch = ["--per_device_train_batch_size", str(sizes[0]), "--per_device_eval_batch_size", str(sizes[1])]
        try:
            everything = [*argv, *batch, *more, "--output_dir", str(out)]
            for process in start_processes(everything, out, number, target=train_sharded):
                assert process.end() == 0, process.tail()
        finally:
            Trainee.kill_all()
        return out

    # 15 clips in global batches of 6, or of 8
    train_size, steps = (3, 3) if processes == 2 else (2, 2)  # of a process, and of an epoch
    sizes = (train_size, 8 // processes)
    one, two = run("one", 1, (processes * train_size, 8)), run("two", processes, sizes)
    shutil.copytree(two, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / f"checkpoint-{2 * steps}")
    again = run("again", processes, sizes, "--resume_from_checkpoint", "true")
    files = [{path.name for path in (folder / f"checkpoint-{steps}").iterdir()} for folder in (one, two)]
    random_states = {f"rng_state_{rank}.pth" for rank in range(processes)}
    assert files[1] - files[0] == {*random_states, "optimizer.bin", "pytorch_model_fsdp.bin"}
    assert files[0] - files[1] == {"rng_state.pth", "optimizer.pt"}
    if "full" in tuning:
        assert MAAVTForAudioVisualClassification.from_pretrained(two / f"checkpoint-{steps}").config.num_labels == 3
        assert "FSDP" not in (two / f"checkpoint-{steps}" / "config.json").read_text()
    states = [json.loads((folder / "trainer_state.json").read_text()) for folder in (one, two, again)]
    losses = [[entry[k] for entry in s["log_history"] for k in ("loss", "eval_loss") if k in entry] for s in states]
    assert (
        losses[1] == pytest.approx(losses[0], rel=1e-3) and losses[2] == losses[1] and len(losses[0]) == 2 * steps + 2
    )
    first, second, third = (load_file(folder / "model" / "model.safetensors") for folder in (one, two, again))
    assert_close(second, first, 1e-3)
    for name, value in second.items():
        assert torch.equal(value, third[name]), name
