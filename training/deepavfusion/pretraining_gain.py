# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What DeepAVFusion's pre-training is worth: the same probes of an encoder before and after it, for several seeds.

python -m training.deepavfusion.pretraining_gain configs/deepavfusion/gain_grid.yaml --data grid/labels.csv --results results/gain
"""

import shlex
import sys
import time
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset as ClipTable
from datasets import DatasetDict
from torch.utils.data import Dataset, default_collate
from transformers import ProcessorMixin, TrainingArguments

from modeling_deepavfusion import DeepAVFusionForPreTraining
from processing.data.clip_dataset import ClipDataset
from processing.data.clip_tables import build_clip_table

from .encoder_probes import Clips, most_frequent_class, probe_encoder, probe_inputs
from .pretraining_trainer import PretrainingTrainer
from .reconstructions import save_reconstructions
from .task_arguments import parse_task_arguments
from .task_runs import Rows, build_model, build_processor, finished_run, record_run, run_facts, write_results


METRICS = ["both", "audio", "video", "neighbor", "image_loss", "audio_loss"]
HEADINGS = ["probe, both", "sound alone", "picture alone", "nearest neighbor", "image loss", "audio loss"]


@dataclass
class GainArguments:
    """Which clips, which model, and what is left behind."""

    data: str = field(metadata={"help": "Folder, csv file or prepared folder of clips, as for train.py."})
    table: dict | str | None = field(
        default=None,
        metadata={"help": "How `data` is read: options of build_clip_table; segments are probed one by one."},
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A start that both encoders share; None: a new model from model_config."}
    )
    model_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of DeepAVFusionConfig, a mapping."}
    )
    processor: dict | str | None = field(
        default=None, metadata={"help": "Changes by part: {feature_extractor: {...}, video_processor: {...}}."}
    )
    frames_per_window: int = field(default=1, metadata={"help": "More where frame_grid joins them in one picture."})
    probe_windows: int = field(
        default=1, metadata={"help": "Windows, evenly spaced, over which the probe averages a clip without segments."}
    )
    pretraining_windows: int = field(
        default=1, metadata={"help": "Windows, evenly spaced, that pre-training sees of a training clip."}
    )
    branch_ramp: float = field(default=0.0, metadata={"help": "Share of the training in which the ViTs thaw."})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "One start and pre-training each."})
    num_pictures: int = field(default=4, metadata={"help": "Test windows drawn in reconstructions.png."})
    results: str | None = field(default=None, metadata={"help": "Write the table here too, as .json and .md."})


class DecodedClips:
    """Processed clips, decoded once for all seeds.

    Args:
        processor: cuts the windows.
        num_frames: of a clip, for all its windows.
    """

    def __init__(self, processor: ProcessorMixin, num_frames: int):
        self.processor, self.num_frames = processor, num_frames
        self.kept: dict[str, Clips] = {}

    def __call__(self, table: ClipTable) -> Clips:
        """Frames `[n, S, 3, H, W]`, spectrograms `[n, S, F, W]` and labels `[n]`, or `[n, S]` of segments."""
        missing = [row for row, name in enumerate(table["clip_id"]) if name not in self.kept]
        if missing:
            part = table.select(missing)
            dataset = ClipDataset(part, self.processor, num_frames=self.num_frames)
            for index, name in enumerate(part["clip_id"]):
                item = dataset[index]
                self.kept[name] = {key: item[key] for key in ("pixel_values_videos", "input_features", "labels")}
        return default_collate([self.kept[name] for name in table["clip_id"]])


class Windows(Dataset):
    """The windows of clips one by one, without labels."""

    def __init__(self, clips: Clips):
        self.frames = clips["pixel_values_videos"].flatten(0, 1)
        self.sound = clips["input_features"].flatten(0, 1)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {
            "pixel_values_videos": self.frames[index][None],
            "input_features": self.sound[index][None],
            "is_matched": torch.tensor(True),
        }


@torch.no_grad()
def reconstruction_losses(
    model: DeepAVFusionForPreTraining, windows: Windows, batch_size: int, seed: int = 0
) -> dict[str, float]:
    """`image_loss` and `audio_loss` over windows; the masks come from the seed."""
    model.eval()
    totals = {"image_loss": 0.0, "audio_loss": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for begin in range(0, len(windows), batch_size):
            batch = default_collate([windows[i] for i in range(begin, min(begin + batch_size, len(windows)))])
            outputs = model(batch["pixel_values_videos"], batch["input_features"], return_dict=True)
            for name in totals:
                totals[name] += outputs[name].item() * len(batch["is_matched"])
    return {name: total / len(windows) for name, total in totals.items()}


def pretrain(
    model: DeepAVFusionForPreTraining, windows: Windows, task: GainArguments, args: TrainingArguments, seed: int
) -> float:
    """Pre-train in place; returns the minutes it took."""
    args = copy(args)
    args.seed = args.data_seed = seed
    args.output_dir = str(Path(args.output_dir) / f"seed_{seed}")
    begin = time.time()
    trainer = PretrainingTrainer(
        model=model,
        args=args,
        branch_ramp_share=task.branch_ramp,
        data_collator=default_collate,
        train_dataset=windows,
    )
    trainer.train()
    minutes = (time.time() - begin) / 60
    print(f"seed {seed}: {trainer.state.global_step} steps, {minutes:.1f} minutes", flush=True)
    return minutes


def measure(
    task: GainArguments,
    args: TrainingArguments,
    seed: int,
    tables: DatasetDict,
    of_probe: DecodedClips,
    of_pretraining: DecodedClips,
) -> Rows:
    """Probes before and after pre-training, their difference, and what needs no encoder."""
    batch_size = args.per_device_eval_batch_size
    sides = {side: of_probe(tables[side]) for side in ("train", "validation", "test")}
    unlabeled = {side: Windows(of_pretraining(without_segments(tables[side]))) for side in ("train", "test")}
    model = build_model(task, DeepAVFusionForPreTraining, seed)

    def probes() -> dict[str, float]:
        found = probe_encoder(model.deepavfusion, sides, batch_size)
        return {**found, **reconstruction_losses(model, unlabeled["test"], batch_size)}

    rows = {"encoder before pre-training": probes()}
    minutes = pretrain(model, unlabeled["train"], task, args, seed)
    rows["encoder after pre-training"] = after = probes()
    before = rows["encoder before pre-training"]
    rows["gain"] = {name: after[name] - before[name] for name in ("both", "audio", "video", "neighbor")}
    rows["inputs themselves"] = probe_inputs(sides, 3 * model.config.hidden_size)
    rows["most frequent class"] = dict.fromkeys(("both", "audio", "video"), most_frequent_class(sides))
    after["minutes"] = minutes
    folder = Path(args.output_dir) / f"seed_{seed}"
    model.save_pretrained(folder / "model")
    of_probe.processor.save_pretrained(folder / "model")
    shown = torch.linspace(0, len(unlabeled["test"]) - 1, task.num_pictures + 2).long()[1:-1].tolist()
    batch = default_collate([unlabeled["test"][index] for index in shown])
    save_reconstructions(folder / "reconstructions.png", model, batch, of_probe.processor)
    return rows


def without_segments(table: ClipTable) -> ClipTable:
    """The clips as wholes."""
    return table.remove_columns([name for name in table.column_names if name.startswith("segment_")])


def processor_of(task: GainArguments, num_windows: int) -> ProcessorMixin:
    """The recipe's processor with so many windows a clip."""
    processor = build_processor(task)
    processor.feature_extractor.num_segments = num_windows
    return processor


def main(argv: list[str] | None = None) -> Rows:
    """Runs all seeds that have not been run; returns the table: method -> metric -> value."""
    task, args, _ = parse_task_arguments(argv, GainArguments)
    words = [
        Path(word).name if Path(word).is_absolute() else word for word in (sys.argv[1:] if argv is None else argv)
    ]
    segments = (task.table or {}).get("segments")
    windows = {"probe": task.probe_windows, "pretraining": task.pretraining_windows}
    of_probe = DecodedClips(
        processor_of(task, 1 if segments else task.probe_windows),
        task.frames_per_window * (len(segments) if segments else task.probe_windows),
    )
    of_pretraining = DecodedClips(
        processor_of(task, task.pretraining_windows), task.frames_per_window * task.pretraining_windows
    )
    runs, facts = [], {}
    for seed in task.seeds:
        tables, report = build_clip_table(task.data, **{"seed": seed, **(task.table or {})})
        sizes = {side: f"{len(table)} clips" for side, table in tables.items()}
        facts = run_facts(
            task, args, **sizes, windows=f"{windows['pretraining']} a clip", classes=len(report["classes"])
        )
        run = finished_run(args, seed, facts)
        if run is None:
            run = measure(task, args, seed, tables, of_probe, of_pretraining)
            record_run(args, seed, facts, run)
        print(f"seed {seed}: { ({name: run['gain'][name] for name in METRICS[:4]}) }", flush=True)
        runs.append(run)
    command = f"python -m training.deepavfusion.pretraining_gain {shlex.join(words)}"
    return write_results(task, args, command, runs, METRICS, HEADINGS, facts)


if __name__ == "__main__":
    main()
