# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Pre-trains DeepAVFusion by masked reconstruction: YAML, clips, model, Trainer, probe, pictures.

python -m training.deepavfusion.pretraining configs/deepavfusion/pretrain_grid.yaml --data grid/labels.csv
torchrun --nproc_per_node 8 -m training.deepavfusion.pretraining configs/deepavfusion/pretrain_vggsound.yaml
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel

from modeling_deepavfusion import DeepAVFusionForPreTraining
from processing.data.augmentation import ClipAugmentation
from processing.data.clip_dataset import ClipDataset
from processing.data.clip_tables import build_clip_table, check_leaks, report_text
from processing.data.collators import AudioVisualCollator
from training.common.results import package_versions
from training.trainer.callbacks import CheckpointFilesCallback, EpochCallback
from training.trainer.checkpoints import checkpoint_to_resume

from .neighbors import NeighborProbe
from .pretraining_trainer import PretrainingTrainer
from .reconstructions import save_reconstructions
from .task_arguments import parse_task_arguments
from .task_runs import build_model, build_processor, write_text


# as published; the sound's spectrogram is not masked twice
AUGMENTATION = {"random_resized_crop_scale": (0.5, 1.0), "gain_db": 6.0, "time_mask": 0.0, "frequency_mask": 0.0}


@dataclass
class PretrainingArguments:
    """Which clips, which model, and what is left behind."""

    data: str = field(metadata={"help": "Folder, csv file or prepared folder of clips, as for train.py."})
    table: dict | str | None = field(
        default=None, metadata={"help": "How `data` is read: options of build_clip_table (label, split, group, ...)."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "A converted start (docs/deepavfusion.md, 6); None: a new model from model_config."},
    )
    model_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of DeepAVFusionConfig, a mapping."}
    )
    processor: dict | str | None = field(
        default=None, metadata={"help": "Changes by part: {feature_extractor: {...}, video_processor: {...}}."}
    )
    clip_seconds: float = field(
        default=3.0, metadata={"help": "A window: random in training, the middle in evaluation."}
    )
    augmentation: dict | str | None = field(
        default=None, metadata={"help": "Changes to the published augmentation: fields of ClipAugmentation."}
    )
    branch_ramp: float = field(
        default=0.5, metadata={"help": "Share of the training in which the ViTs thaw; 0 for ViTs that start new."}
    )
    probe_epochs: int = field(
        default=10, metadata={"help": "Nearest-neighbor probe every so many epochs; 0: at the end."}
    )
    num_pictures: int = field(default=6, metadata={"help": "Test clips whose reconstruction is drawn."})


def main(argv: list[str] | None = None) -> dict:
    """Runs the recipe; returns what it writes to `results.json`."""
    task, args, command = parse_task_arguments(argv, PretrainingArguments)
    args.prediction_loss_only = True  # reconstructions of a whole set fill no memory
    with args.main_process_first(desc="clip table"):
        tables, report = build_clip_table(task.data, seed=args.seed, **(task.table or {}))
        check_leaks(tables)
    if args.should_log:
        print(report_text(report), flush=True)
    processor = build_processor(task)
    augmentation = ClipAugmentation(**{**AUGMENTATION, **(task.augmentation or {})})
    options = {"seed": args.seed, "num_frames": 1, "clip_seconds": task.clip_seconds}
    train_set = ClipDataset(tables["train"], processor, training=True, augmentation=augmentation, **options)
    validation_set, test_set = (ClipDataset(tables[side], processor, **options) for side in ("validation", "test"))
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
    results = {
        "command": f"python -m training.deepavfusion.pretraining {command}",
        "clips": {side: len(table) for side, table in tables.items()},
        "epochs": training.metrics["epoch"],
        "training_minutes": round(training.metrics["train_runtime"] / 60, 2),
        "validation": losses(trainer, validation_set),
        "test": losses(trainer, test_set),
        "neighbors": probe.history,
        "versions": package_versions(),
    }
    if args.should_save:
        output = Path(args.output_dir)
        write_text(output / "results.json", json.dumps(results, indent=1) + "\n")
        whole: PreTrainedModel = trainer.accelerator.unwrap_model(trainer.model)
        whole.save_pretrained(output / "model")
        processor.save_pretrained(output / "model")
        shown = torch.linspace(0, len(test_set) - 1, min(task.num_pictures, len(test_set))).long().tolist()
        batch = AudioVisualCollator()([test_set[index] for index in shown])
        save_reconstructions(output / "reconstructions.png", whole, batch, processor)
        print(json.dumps({name: results[name] for name in ("validation", "test")}), flush=True)
    return results


def losses(trainer: PretrainingTrainer, dataset: ClipDataset) -> dict[str, float]:
    """Total, image and audio loss over a data set; the masks are drawn from the seed of the run."""
    with torch.random.fork_rng(devices=None if torch.cuda.is_available() else []):
        torch.manual_seed(trainer.args.seed)
        trainer.evaluate(dataset)
    record = next(entry for entry in reversed(trainer.state.log_history) if "eval_loss" in entry)
    names = ("loss", "image_loss", "audio_loss")
    return {name: record[f"eval_{name}"] for name in names if f"eval_{name}" in record}


if __name__ == "__main__":
    main()
