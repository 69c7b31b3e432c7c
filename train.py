# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes MA-AVT on clips: YAML, data, model, PEFT, Trainer, table, card, Hub.

python train.py configs/folder.yaml --data my_clips --learning_rate 1e-3
torchrun --nproc_per_node 2 train.py configs/folder.yaml --data my_clips
accelerate launch train.py configs/folder.yaml --data my_clips
"""

import logging
import time
from functools import partial
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record
from transformers import EarlyStoppingCallback, set_seed

from modeling_maavt import GradientModulation
from processing.clip_tables import report_text
from processing.collators import AudioVisualCollator
from training.arguments import parse_arguments
from training.baseline import baseline_rows, untouched_backbone
from training.callbacks import CheckpointFilesCallback, EpochCallback
from training.checkpoints import checkpoint_to_resume, stopped_early
from training.clip_cache import ClipCache
from training.clips import build_processor, build_tables, make_dataset
from training.dry_run import dry_run
from training.evaluation import evaluation_table, markdown_table, match_threshold, write_results
from training.outputs import clear_checkpoints, describe, save_outputs, upload, whole_model
from training.trainer import AudioVisualTrainer, compute_metrics
from training.tuning import build_model


logger = logging.getLogger("train")


def main(argv: list[str] | None = None) -> dict:
    """Runs the recipe; returns what it writes to `results.json`."""
    begin = time.time()
    arguments = model_args, data_args, eval_args, args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO if args.should_log else logging.WARNING, format="%(message)s")
    set_seed(args.seed)

    # Clips: one table per split, no group on two sides. Every process builds the same one.
    with args.main_process_first(desc="clip table"):
        tables, report = build_tables(data_args, args.seed)
    label_names = report["classes"]
    logger.info(report_text(report))

    # Data sets: training draws partners, augmentation and noise per epoch; validation and test are fixed.
    processor = build_processor(model_args, data_args)
    source = ClipCache(processor, data_args.cache_gb) if data_args.cache_gb else processor
    dataset = partial(make_dataset, tables, source, data_args, args.seed)
    train_set = dataset("train", training=True)
    mining = data_args.mismatch_probability > 0 and len(data_args.modalities) == 2
    validation_set = dataset("validation", noise_db=data_args.train_noise_db, mismatched_copies=mining)

    # Model: a frozen backbone with trainable tokens and heads, or what `tuning` says.
    build = partial(build_model, model_args, label_names, data_args.modalities, args.seed)
    model = build()

    if args.dry_run:
        return dry_run(model, train_set, report, args)

    # Training: the best checkpoint on validation is the one that goes on.
    checkpoint = checkpoint_to_resume(args)
    if checkpoint is None and args.should_save:
        clear_checkpoints(args)
    if checkpoint is not None and (step := stopped_early(checkpoint, args.early_stopping_patience)):
        args.max_steps = step  # that run had come to its end
    callbacks = [EpochCallback(train_set), CheckpointFilesCallback(processor)]
    if args.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
    if args.gradient_modulation:
        callbacks.append(GradientModulation(alpha=args.gradient_modulation))
    trainer = AudioVisualTrainer(
        model=model,
        args=args,
        data_collator=AudioVisualCollator(),
        train_dataset=train_set,
        eval_dataset=validation_set,
        compute_metrics=compute_metrics,
        callbacks=callbacks,
    )
    training = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_state()

    # Test: audio only, video only, both, under every noise condition; the threshold comes from validation.
    threshold = match_threshold(trainer, validation_set) if mining else None
    rows, records = evaluation_table(
        trainer,
        partial(dataset, "test"),
        label_names,
        conditions=eval_args.evaluation_noise_db,
        modalities=data_args.modalities,
        threshold=threshold,
        bootstrap_samples=eval_args.bootstrap_samples,
        seed=args.seed,
    )
    if eval_args.baseline and args.should_save:
        rows += baseline_rows(
            untouched_backbone(model_args.model_name_or_path, model_args.revision).to(args.device),
            dataset,
            len(label_names),
            conditions=eval_args.evaluation_noise_db,
            train_noise=data_args.train_noise_db,
            modalities=data_args.modalities,
            batch_size=args.per_device_eval_batch_size,
            num_workers=args.dataloader_num_workers,
            bootstrap_samples=eval_args.bootstrap_samples,
            seed=args.seed,
        )

    # Results, checkpoint, adapter, card.
    whole = whole_model(trainer, build)
    results = describe(arguments, model, report)
    results |= {
        "rows": rows,
        "threshold": threshold,
        "epochs": training.metrics["epoch"],
        "training_minutes": round(training.metrics["train_runtime"] / 60, 2),
        "minutes": round((time.time() - begin) / 60, 2),
    }
    if args.should_save:
        output = Path(args.output_dir)
        write_results(output, results, records)
        paths = save_outputs(output, whole, processor, results, args.hub_model_id)
        if args.push_to_hub:
            upload(paths[eval_args.hub_upload], args)
        print(markdown_table(rows))
        print("\n".join(f"{kind}: {path}" for kind, path in paths.items()))
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    return results


if __name__ == "__main__":
    record(main)()  # under torchrun the failed process's error stands in the launcher's report
