# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes DeepAVFusion on labeled clips, or probes its frozen encoder: YAML, clips, model, Trainer, table, picture.

python -m training.deepavfusion.classification configs/deepavfusion/classification_shapes.yaml
"""

import copy
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import TrainingArguments

from modeling_deepavfusion import DeepAVFusionForAudioVisualClassification
from processing.data.augmentation import ClipAugmentation
from processing.data.clip_cache import ClipCache
from processing.data.clip_dataset import ClipDataset
from processing.data.clip_tables import build_clip_table, check_leaks, report_text
from processing.data.collators import AudioVisualCollator
from processing.data.mixup import PairMixUp
from training.trainer.callbacks import CheckpointFilesCallback, EpochCallback
from training.trainer.checkpoints import checkpoint_to_resume

from .classification_arguments import ClassificationArguments, check_arguments
from .classification_scores import class_shares, clip_scores, measured, regression_scores, save_confusion
from .classification_trainer import ClassificationTrainer
from .pretraining import AUGMENTATION
from .task_arguments import parse_task_arguments
from .task_runs import (
    OtherSounds,
    Rows,
    build_model,
    build_processor,
    finished_run,
    record_run,
    run_facts,
    write_results,
)


HEADS = {"image_logits": "picture's head", "audio_logits": "sound's head", "fusion_logits": "fusion tokens' head"}


def new_model(
    task: ClassificationArguments, table: Dataset, classes: list[str], multi_label: bool, seed: int
) -> DeepAVFusionForAudioVisualClassification:
    """All of it trained, heads started at the class shares; or the heads alone behind a BatchNorm, on a frozen encoder."""
    probe = task.tuning == "linear_probe"
    fields = {"num_labels": len(classes), "use_pooled_batchnorm": probe}
    fields |= {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}
    fields["problem_type"] = "multi_label_classification" if multi_label else "single_label_classification"
    model = build_model(task, DeepAVFusionForAudioVisualClassification, seed, **fields)
    if probe:
        model.freeze_encoder()
    else:
        model.set_class_frequencies(class_shares(table, len(classes)))
    return model


def train(
    model: DeepAVFusionForAudioVisualClassification,
    dataset: ClipDataset,
    task: ClassificationArguments,
    args: TrainingArguments,
    seed: int,
) -> DeepAVFusionForAudioVisualClassification:
    """Train with the Trainer; the model comes back in evaluation mode."""
    args = copy.copy(args)
    args.seed = args.data_seed = seed
    args.output_dir = str(Path(args.output_dir) / f"seed_{seed}")
    multi_label = model.config.problem_type == "multi_label_classification"
    trainer = ClassificationTrainer(
        model=model,
        args=args,
        optimizer_name=task.optimizer,
        layer_decay=task.layer_decay,
        data_collator=AudioVisualCollator(),
        train_dataset=dataset,
        callbacks=[EpochCallback(dataset), CheckpointFilesCallback(dataset.processor)],
        mixup=PairMixUp(task.mixup_alpha, model.num_labels, seed, multi_label) if task.mixup_alpha else None,
    )
    done = trainer.train(resume_from_checkpoint=checkpoint_to_resume(args))
    print(f"seed {seed}: {done.global_step} steps, {done.metrics['train_runtime'] / 60:.1f} minutes", flush=True)
    return trainer.accelerator.unwrap_model(trainer.model).eval()


def main(argv: list[str] | None = None) -> Rows:
    """Runs the recipe once for every seed; returns the table, in the process that writes it."""
    task, args, command = parse_task_arguments(argv, ClassificationArguments)
    check_arguments(task, args)
    processor = build_processor(task)
    several = copy.deepcopy(processor)  # several windows over the whole clip
    several.feature_extractor.num_segments = task.evaluation_windows
    runs, facts = [], {}
    for seed in task.seeds:
        tables, report = build_clip_table(task.data, **{"seed": seed, **(task.table or {})})
        check_leaks(tables)
        classes, multi_label = report["classes"], report["labels"] == "multi_label"
        if report["labels"] == "segments":
            raise ValueError(
                "segments: DeepAVFusion's recipe classifies whole clips; use train.py for labeled segments"
            )
        counts = {f"{side} rows": len(table) for side, table in tables.items() if side != "validation"}
        facts = run_facts(task, args, **counts) | task.facts()
        run = finished_run(args, seed, facts)
        if run is None:
            print(report_text(report), flush=True)
            augmentation = ClipAugmentation(**{**AUGMENTATION, **(task.augmentation or {})})
            options = {"seed": seed, "num_frames": 1}
            train_set = ClipDataset(
                tables["train"],
                ClipCache(processor, task.cache_gb) if task.cache_gb else processor,
                training=True,
                augmentation=augmentation,
                clip_seconds=task.clip_seconds,
                **options,
            )
            side = tables[task.measured_split]
            test_set = ClipDataset(side, several, **{**options, "num_frames": task.evaluation_windows})
            one_window = ClipDataset(side, processor, **options)
            shares = class_shares(tables["train"], len(classes))
            untrained = new_model(task, tables["train"], classes, multi_label, seed).eval().to(args.device)
            batch_size = args.per_device_eval_batch_size
            run = {"largest class": None}
            if task.regression and args.should_save:
                plain = [ClipDataset(tables[name], processor, **options) for name in ("train", "validation")]
                scores, labels = regression_scores(untrained, [*plain, test_set], batch_size)
                run["logistic regression on the encoder before training"] = measured(scores, labels)
            model = train(untrained, train_set, task, args, seed)
            if not args.should_save:
                continue  # one process measures
            scores, labels = clip_scores(model, test_set, batch_size)
            run = {"DeepAVFusion": measured(scores["logits"], labels)} | run
            run |= {f"DeepAVFusion, {name}": measured(scores[key], labels) for key, name in HEADS.items()}
            if task.evaluation_windows > 1:
                alone, _ = clip_scores(model, one_window, batch_size)
                run["DeepAVFusion, one window"] = measured(alone["logits"], labels)
            swapped, _ = clip_scores(model, OtherSounds(test_set), batch_size)
            run["DeepAVFusion, sound of another clip"] = measured(swapped["logits"], labels)
            run["largest class"] = measured(np.tile(shares.numpy(), (len(labels), 1)), labels)
            output = Path(args.output_dir) / f"seed_{seed}"
            model.save_pretrained(output / "model")
            processor.save_pretrained(output / "model")
            if not multi_label:
                save_confusion(output / "confusion.png", scores["logits"], labels, classes)
            record_run(args, seed, facts, run)
        runs.append(run)

    if not args.should_save:
        return {}
    metrics = [name for name in ("top1", "macro_f1", "map", "mauc") if name in runs[0]["DeepAVFusion"]]
    headings = [{"top1": "top-1", "macro_f1": "macro F1", "map": "mAP", "mauc": "mean AUC"}[name] for name in metrics]
    return write_results(
        task, args, f"python -m training.deepavfusion.classification {command}", runs, metrics, headings, facts
    )


if __name__ == "__main__":
    main()
