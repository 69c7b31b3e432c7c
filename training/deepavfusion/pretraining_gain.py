# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What DeepAVFusion's pre-training is worth: the same probes of an encoder before and after it, for several seeds.

python -m training.deepavfusion.pretraining_gain configs/deepavfusion/gain_grid.yaml --data grid/labels.csv --results results/gain
"""

import functools
from pathlib import Path

import datasets
import torch
from torch.utils.data import Dataset, default_collate
from transformers import ProcessorMixin, TrainingArguments

from modeling_deepavfusion import DeepAVFusionForPreTraining
from processing.data.clip_dataset import ClipDataset
from processing.data.clip_tables import build_clip_table
from training.common.commands import run_command
from training.trainer.checkpoints import checkpoint_to_resume

from .arguments import GainArguments, parse_arguments
from .pictures import mask_noise, save_reconstructions
from .pretraining import PretrainingTrainer
from .probes import DRAWS, INPUTS, Clips, most_frequent_class, probe_encoder, probe_inputs
from .seed_loop import Rows, build_model, build_processor, print_training, run_seeds, save_model


PROBES = {"both": "probe, both", "audio": "audio alone", "video": "video alone", "neighbor": "nearest neighbor"}
LOSSES = {"image_loss": "image loss", "audio_loss": "audio loss"}


def main(argv: list[str] | None = None) -> Rows:
    """Run the recipe once for every seed; returns the table."""
    task, args = parse_arguments(GainArguments, argv)

    # Data: the probe's windows (or labeled segments), and the windows of pre-training; decoded once for all seeds.
    frames = task.frames_per_window
    segments = (task.table or {}).get("segments")
    if segments:
        of_probe = DecodedClips(processor_of(task, 1), frames * len(segments))
    else:
        of_probe = DecodedClips(processor_of(task, task.probe_windows), frames * task.probe_windows)
    of_pretraining = DecodedClips(processor_of(task, task.pretraining_windows), frames * task.pretraining_windows)

    few = {f"{name}_{k}": f"{name}, {k} a class" for k in task.examples_per_class for name in INPUTS}

    # The split may depend on the seed. Read once a seed: for the facts, then for the run.
    @functools.cache
    def clip_table(seed: int) -> tuple[datasets.DatasetDict, dict]:
        return build_clip_table(task.data, **{"seed": seed, **(task.table or {})})

    def facts_of(seed: int) -> dict:
        tables, report = clip_table(seed)
        sizes = {split: f"{len(table)} clips" for split, table in tables.items()}
        facts = {**sizes, "windows": f"{task.pretraining_windows} a clip", "classes": len(report["classes"])}
        if few:
            facts["fewer training examples"] = f"{task.examples_per_class} a class, mean of {DRAWS} draws"
        return facts

    def measure(args: TrainingArguments) -> Rows:
        tables, _ = clip_table(args.seed)
        splits = {split: of_probe(tables[split]) for split in ("train", "validation", "test")}
        train_set, test_set = (Windows(of_pretraining(without_segments(tables[s]))) for s in ("train", "test"))
        model = build_model(task, DeepAVFusionForPreTraining, args.seed)
        batch_size = args.per_device_eval_batch_size

        # Before.
        before = probe_encoder(model.deepavfusion, splits, batch_size, task.examples_per_class)
        before |= reconstruction_losses(model, test_set, batch_size)

        # Pre-training.
        minutes = pretrain(model, train_set, task.branch_ramp, args)
        save_model(model, of_probe.processor, args)

        # After.
        after = probe_encoder(model.deepavfusion, splits, batch_size, task.examples_per_class)
        after |= reconstruction_losses(model, test_set, batch_size)

        # Figures and table.
        if task.num_pictures:
            shown = torch.linspace(0, len(test_set) - 1, task.num_pictures + 2).long()[1:-1].tolist()
            batch = default_collate([test_set[index] for index in shown])
            save_reconstructions(Path(args.output_dir) / "reconstructions.png", model, batch, of_probe.processor)
        frequent = most_frequent_class(splits)
        run = {
            "encoder before pre-training": before,
            "encoder after pre-training": after | {"minutes": minutes},
            "gain": {name: after[name] - before[name] for name in (*PROBES, *few)},
            "inputs themselves": probe_inputs(splits, 3 * model.config.hidden_size, task.examples_per_class),
            "most frequent class": {"both": frequent, "audio": frequent, "video": frequent},
        }
        print(f"seed {args.seed}: gain {run['gain']}", flush=True)
        return run

    return run_seeds("pretraining_gain", argv, task, args, facts_of, measure, PROBES | few | LOSSES)


def processor_of(task: GainArguments, num_windows: int) -> ProcessorMixin:
    """The recipe's processor with so many windows a clip."""
    processor = build_processor(task)
    processor.feature_extractor.num_segments = num_windows
    return processor


def without_segments(table: datasets.Dataset) -> datasets.Dataset:
    """The clips as wholes."""
    return table.remove_columns([name for name in table.column_names if name.startswith("segment_")])


class DecodedClips:
    """Processed clips, decoded once for all seeds.

    Args:
        processor: cuts the windows.
        num_frames: of a clip, for all its windows.
    """

    def __init__(self, processor: ProcessorMixin, num_frames: int):
        self.processor, self.num_frames = processor, num_frames
        self.kept: dict[str, Clips] = {}

    def __call__(self, table: datasets.Dataset) -> Clips:
        """Frames `[n, S, 3, H, W]`, spectrograms `[n, S, F, W]` and labels `[n]`, or `[n, S]` of segments."""
        missing = table.select([row for row, name in enumerate(table["clip_id"]) if name not in self.kept])
        if len(missing):
            dataset = ClipDataset(missing, self.processor, num_frames=self.num_frames)
            for index, name in enumerate(missing["clip_id"]):
                item = dataset[index]
                self.kept[name] = {key: item[key] for key in ("pixel_values_videos", "input_features", "labels")}
        return default_collate([self.kept[name] for name in table["clip_id"]])


class Windows(Dataset):
    """The windows of clips one by one, without labels."""

    def __init__(self, clips: Clips):
        self.frames = clips["pixel_values_videos"].flatten(0, 1)  # (n S, 3, H, W)
        self.spectrograms = clips["input_features"].flatten(0, 1)  # (n S, F, W)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {
            "pixel_values_videos": self.frames[index][None],
            "input_features": self.spectrograms[index][None],
            "is_matched": torch.tensor(True),
        }


def pretrain(
    model: DeepAVFusionForPreTraining, windows: Windows, branch_ramp: float, args: TrainingArguments
) -> float:
    """Pre-train in place, from a checkpoint where one is asked for; returns the minutes it took."""
    trainer = PretrainingTrainer(
        model=model,
        args=args,
        branch_ramp_share=branch_ramp,
        data_collator=default_collate,
        train_dataset=windows,
    )
    training = trainer.train(resume_from_checkpoint=checkpoint_to_resume(args))
    print_training(args, training)
    return training.metrics["train_runtime"] / 60


@torch.no_grad()
def reconstruction_losses(model: DeepAVFusionForPreTraining, windows: Windows, batch_size: int) -> dict[str, float]:
    """`image_loss` and `audio_loss` over windows; the masks are the same at every call."""
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    totals = {"image_loss": 0.0, "audio_loss": 0.0}
    for begin in range(0, len(windows), batch_size):
        batch = default_collate([windows[i] for i in range(begin, min(begin + batch_size, len(windows)))])
        frames, spectrograms = batch["pixel_values_videos"].to(device), batch["input_features"].to(device)
        outputs = model(frames, spectrograms, **mask_noise(model, len(frames), generator), return_dict=True)
        for name in totals:  # a mean over the batch, whose last one may be smaller
            totals[name] += outputs[name].item() * len(frames)
    return {name: total / len(windows) for name, total in totals.items()}


if __name__ == "__main__":
    run_command(main)
