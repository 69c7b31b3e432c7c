# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Pre-trains DeepAVFusion by masked reconstruction: clips, model, Trainer, losses, probe, figures.

python -m training.deepavfusion.pretraining configs/deepavfusion/pretrain_grid.yaml --data grid/labels.csv
torchrun --nproc_per_node 8 -m training.deepavfusion.pretraining configs/deepavfusion/pretrain_vggsound.yaml
"""

import json
import math
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import TrainingArguments

from modeling_deepavfusion import DeepAVFusionForPreTraining
from processing.data.atomic_writing import write_text
from processing.data.augmentation import ClipAugmentation
from processing.data.clip_dataset import ClipDataset
from processing.data.clip_tables import build_clip_table, report_text
from processing.data.collators import AudioVisualCollator
from training.common.commands import run_command, shown_command
from training.common.processes import of_first_process
from training.common.results import package_versions
from training.trainer.audio_visual_trainer import AudioVisualTrainer
from training.trainer.callbacks import CheckpointFilesCallback, EpochCallback
from training.trainer.checkpoints import checkpoint_to_resume

from .arguments import AUGMENTATION, PretrainingArguments, default_of, parse_arguments
from .pictures import save_reconstructions
from .probes import NeighborProbe
from .seed_loop import build_model, build_processor, save_model


def main(argv: list[str] | None = None) -> dict:
    """Run the recipe; returns what it writes to `results.json`."""
    task, args = parse_arguments(PretrainingArguments, argv)
    check_schedule(args)
    args.prediction_loss_only = True  # the reconstructions of a whole set would fill the memory

    # Data: one window of a clip, augmented in training.
    options = {"seed": args.seed, **(task.table or {})}
    tables, report = of_first_process(args, lambda: build_clip_table(task.data, **options))
    if args.should_log:
        print(report_text(report), flush=True)
    processor = build_processor(task)
    augmentation = ClipAugmentation(**{**AUGMENTATION, **(task.augmentation or {})})
    options = {"seed": args.seed, "num_frames": 1, "clip_seconds": task.clip_seconds}
    train_set = ClipDataset(tables["train"], processor, training=True, augmentation=augmentation, **options)
    validation_set, test_set = (ClipDataset(tables[split], processor, **options) for split in ("validation", "test"))

    # Model and training, with a probe on the way.
    model = build_model(task, DeepAVFusionForPreTraining, args.seed)
    probe = NeighborProbe(test_set, task.probe_epochs, args.per_device_eval_batch_size, args.dataloader_num_workers)
    trainer = PretrainingTrainer(
        model=model,
        args=args,
        branch_ramp_share=task.branch_ramp,
        data_collator=AudioVisualCollator(),
        train_dataset=train_set,
        eval_dataset=validation_set,
        callbacks=[EpochCallback(train_set), CheckpointFilesCallback(processor), probe],
    )
    training = trainer.train(resume_from_checkpoint=checkpoint_to_resume(args))

    # Losses.
    results = {
        "command": shown_command("training.deepavfusion.pretraining", argv),
        "clips": {split: len(table) for split, table in tables.items()},
        "epochs": training.metrics["epoch"],
        "training_minutes": round(training.metrics["train_runtime"] / 60, 2),
        "validation": losses(trainer, validation_set),
        "test": losses(trainer, test_set),
        "neighbors": probe.history,
        "versions": package_versions(),
    }
    if not args.should_save:
        return results

    # Files and figures.
    output = Path(args.output_dir)
    write_text(output / "results.json", json.dumps(results, indent=1) + "\n")
    model = trainer.accelerator.unwrap_model(trainer.model)
    save_model(model, processor, args)
    shown = torch.linspace(0, len(test_set) - 1, min(task.num_pictures, len(test_set))).long().tolist()
    if shown:
        batch = AudioVisualCollator()([test_set[index] for index in shown])
        save_reconstructions(output / "reconstructions.png", model, batch, processor)
    print(json.dumps({name: results[name] for name in ("validation", "test")}), flush=True)
    return results


def check_schedule(args: TrainingArguments) -> None:
    """Raises ValueError for options that the paper's optimizer and schedule do not read."""
    if args.lr_scheduler_type not in (default_of("lr_scheduler_type"), "cosine"):
        raise ValueError(
            f"lr_scheduler_type: {args.lr_scheduler_type}: pre-training has a warm-up and half a cosine; leave it out"
        )
    if args.optim != default_of("optim"):
        raise ValueError(f"optim: {args.optim}: pre-training has AdamW with four groups of weights; leave it out")


def losses(trainer: AudioVisualTrainer, dataset: ClipDataset) -> dict[str, float]:
    """Total, image and audio loss over a data set; the masks are drawn from the seed of the run."""
    # The run goes on with the random numbers that it would have had.
    with torch.random.fork_rng():
        torch.manual_seed(trainer.args.seed)
        trainer.evaluate(dataset)
    record = next(entry for entry in reversed(trainer.state.log_history) if "eval_loss" in entry)
    # The newest entry of the log is this evaluation.
    names = ("loss", "image_loss", "audio_loss")
    return {name: record[f"eval_{name}"] for name in names if f"eval_{name}" in record}


# The paper's schedule: warm-up, half a cosine, and ViT branches that start frozen


class PretrainingTrainer(AudioVisualTrainer):
    """AdamW with a learning rate of its own for the ViT branches; biases, norms and vectors without weight decay.

    Args:
        branch_ramp_share: the branches' rate rises from 0 to the full one over this share of the steps; 0 for none.
    """

    def __init__(self, *args, branch_ramp_share: float = 0.5, **kwargs):
        super().__init__(*args, **kwargs)
        if not 0 <= branch_ramp_share <= 1:
            raise ValueError(f"branch_ramp: {branch_ramp_share} is a share of the training; give 0 to 1")
        self.branch_ramp_share = branch_ramp_share

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is not None:
            return self.optimizer
        parameters: dict[tuple[bool, bool], list] = {}
        for name, parameter in (model or self.model).named_parameters():
            if parameter.requires_grad:
                parameters.setdefault((is_of_branch(name), parameter.ndim > 1), []).append(parameter)
        # Four groups: branch or not, decayed or not.
        args, groups = self.args, []
        for branch, is_matrix in sorted(parameters):
            decay = args.weight_decay * is_matrix
            groups.append({"params": parameters[branch, is_matrix], "weight_decay": decay, "branch": branch})
        betas = (args.adam_beta1, args.adam_beta2)
        self.optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=betas, eps=args.adam_epsilon)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.lr_scheduler is not None:
            return self.lr_scheduler
        optimizer = optimizer or self.optimizer
        schedule = {
            "warmup_steps": self.args.get_warmup_steps(num_training_steps),
            "total_steps": num_training_steps,
        }
        shares = []
        for group in optimizer.param_groups:
            # Only the branches thaw.
            ramp = self.branch_ramp_share * num_training_steps * group["branch"]
            shares.append(partial(rate_share, ramp=ramp, **schedule))
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, shares)
        return self.lr_scheduler


def rate_share(step: int, warmup_steps: int, total_steps: int, ramp: float) -> float:
    """Share of the learning rate at a step: the schedule, times the ramp where there is one."""
    return warmup_then_cosine(step, warmup_steps, total_steps) * branch_ramp(step, ramp)


def warmup_then_cosine(step: int, warmup_steps: int, total_steps: int) -> float:
    """Share of the learning rate: linear to 1 over the warm-up, then half a cosine to 0."""
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return 0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0))


def branch_ramp(step: int, ramp_steps: float) -> float:
    """0.5 - 0.5 cos(pi e / E) for e < E, then 1: pre-trained branches start frozen and thaw while the fusion learns."""
    if step >= ramp_steps:
        return 1.0
    return 0.5 - 0.5 * math.cos(math.pi * step / ramp_steps)


def is_of_branch(name: str) -> bool:
    """Whether a parameter of DeepAVFusion belongs to one of its two ViTs; decoders and fusion blocks do not."""
    inside = name.removeprefix("module.").removeprefix("deepavfusion.")
    if inside.startswith(("image_embeddings.", "audio_embeddings.", "image_layernorm.", "audio_layernorm.")):
        return True
    parts = inside.split(".")
    return parts[0] == "layers" and parts[2] in ("image", "audio")


if __name__ == "__main__":
    run_command(main)
