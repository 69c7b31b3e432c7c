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

from processing.data.block_state_cache import BlockStateCollator
from processing.data.class_balance import BalancedSampler, sampling_weights
from processing.data.clip_tables import report_text
from processing.data.collators import AudioVisualCollator
from processing.data.mixup import PairMixUp
from training.common.class_reports import write_class_reports
from training.common.plots import plots_of_run
from training.maavt.arguments import parse_arguments
from training.maavt.baseline import baseline_rows, untouched_backbone
from training.maavt.class_weights import balanced_class_weights
from training.maavt.data import build_processor, build_tables, make_dataset
from training.maavt.dry_run import dry_run
from training.maavt.evaluation import evaluation_table, match_threshold, predict, write_results
from training.maavt.feeding import block_state_source, clip_source
from training.maavt.model import build_model, check_classes
from training.maavt.official_scores import official_scores, official_tables
from training.maavt.outputs import clear_checkpoints, describe, save_outputs, upload, whole_model
from training.maavt.retrieval import retrieval_scores
from training.maavt.streams import is_stream, make_stream, open_tables, set_steps
from training.trainer.audio_visual_trainer import AudioVisualTrainer, best_checkpoint, compute_metrics
from training.trainer.callbacks import CheckpointFilesCallback, EpochCallback
from training.trainer.checkpoints import checkpoint_to_resume, stopped_early
from training.trainer.gradient_modulation import GradientModulation
from training.trainer.stream_training import StreamCallback


logger = logging.getLogger("train")


def main(argv: list[str] | None = None) -> dict:
    """Runs the recipe; returns what it writes to `results.json`."""
    begin = time.time()
    arguments = model_args, data_args, eval_args, args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO if args.should_log else logging.WARNING, format="%(message)s")
    set_seed(args.seed)

    # Clips: one table per split, no group on two sides. Every process builds the same one.
    streaming = is_stream(data_args)
    with args.main_process_first(desc="clip table"):
        if streaming:  # validation and test are tables; the training clips come as they are needed
            tables, report, *stream = open_tables(data_args, args.seed)
        else:
            tables, report = build_tables(data_args, args.seed)
    label_names = report["classes"]
    logger.info(report_text(report))
    multi_label = report["labels"] == "multi_label"
    if multi_label and args.metric_for_best_model == "top1":
        args.metric_for_best_model = "map"  # top-1 is undefined where a clip has several classes

    # Model: a frozen backbone with trainable tokens and heads, or what `tuning` says.
    build = partial(build_model, model_args, label_names, data_args.modalities, args.seed, report["labels"])
    model = build()
    if args.evaluate_only:
        check_classes(model_args, label_names)
    if not model.config.background_mining:
        data_args.mismatch_probability = 0.0  # without a match head a mismatched pair would teach nothing

    # Data sets: training draws partners, augmentation and noise per epoch; validation and test are fixed.
    processor = build_processor(model_args, data_args)
    source, tables = clip_source(processor, tables, data_args, eval_args, args)
    clips_of = partial(make_dataset, tables, source, data_args, args.seed)
    dataset, collator = clips_of, AudioVisualCollator()
    if data_args.block_states and not args.dry_run:  # the model then reads states in place of frames and spectrograms
        states = block_state_source(source, model, data_args, args)
        dataset, collator = partial(make_dataset, tables, states, data_args, args.seed), BlockStateCollator()
    if streaming:
        set_steps(args, report["splits"]["train"]["clips"])
        train_set = make_stream(*stream, tables, processor, data_args, args)
    else:
        train_set = dataset("train", training=True)
    mining = len(data_args.modalities) == 2 and (
        data_args.mismatch_probability > 0 or (model.config.background_mining and model.config.in_batch_mismatches > 0)
    )
    validation_set = dataset("validation", noise_db=data_args.train_noise_db, mismatched_copies=mining)
    if not streaming:
        dataset("test", mismatched_copies=mining)  # what is wrong with it shall be known before training

    if args.class_weights == "balanced":  # of the loss alone: no checkpoint holds them
        model.set_class_weights(balanced_class_weights(tables["train"], len(label_names)))

    if args.dry_run:
        return dry_run(model, train_set, report, args)

    # Training: the best checkpoint on validation is the one that goes on.
    checkpoint = checkpoint_to_resume(args)
    if checkpoint is None and args.should_save and not args.evaluate_only:
        clear_checkpoints(args)
    if checkpoint is not None and (step := stopped_early(checkpoint, args.early_stopping_patience)):
        args.max_steps = step  # that run had come to its end
    feeding = StreamCallback(checkpoint) if streaming else EpochCallback(train_set)
    callbacks = [feeding, CheckpointFilesCallback(processor)]
    if args.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
    if args.gradient_modulation:
        callbacks.append(GradientModulation(alpha=args.gradient_modulation))
    trainer = AudioVisualTrainer(
        model=model,
        args=args,
        data_collator=collator,
        train_dataset=train_set,
        eval_dataset=validation_set,
        compute_metrics=compute_metrics,
        callbacks=callbacks,
        train_sampler=BalancedSampler(sampling_weights(tables["train"]), args.seed)
        if data_args.sampling == "balanced"
        else None,
        mixup=PairMixUp(data_args.mixup_alpha, len(label_names), args.seed, multi_label)
        if data_args.mixup_alpha
        else None,
    )
    if args.evaluate_only:
        trained = {"epochs": 0.0, "training_minutes": 0.0}
    else:
        done = trainer.train(resume_from_checkpoint=checkpoint).metrics
        trained = {"epochs": done["epoch"], "training_minutes": round(done["train_runtime"] / 60, 2)}
        trainer.save_state()
        logger.info("%.1f epochs; on goes %s", done["epoch"], best_checkpoint(trainer) or "the last step")

    # Test: audio only, video only, both, under every noise condition; the threshold comes from validation.
    threshold = match_threshold(trainer, validation_set) if mining else None
    rows, records, predictions = evaluation_table(
        trainer,
        partial(dataset, "test"),
        label_names,
        conditions=eval_args.evaluation_noise_db,
        modalities=data_args.modalities,
        threshold=threshold,
        bootstrap_samples=eval_args.bootstrap_samples,
        seed=args.seed,
    )
    on_validation = partial(predict, trainer, dataset("validation", noise_db=data_args.train_noise_db))
    official = official_scores(predictions, tables["test"], label_names, on_validation)
    if eval_args.baseline and args.should_save and not streaming:  # it is fitted on a table
        rows += baseline_rows(
            untouched_backbone(model_args.model_name_or_path, model_args.revision).to(args.device),
            clips_of,
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
    results |= (
        official
        | trained
        | {
            "rows": rows,
            "threshold": threshold,
            "best": best_checkpoint(trainer),
            "minutes": round((time.time() - begin) / 60, 2),
        }
    )
    if eval_args.retrieval and args.should_save:
        sizes = args.per_device_eval_batch_size, args.dataloader_num_workers
        results["retrieval"] = retrieval_scores(whole.to(args.device), clips_of("test"), *sizes)
        logger.info("retrieval among the test clips: %s", results["retrieval"])
    if args.should_save:
        output = Path(args.output_dir)
        write_results(output, results, records, official_tables(official))
        write_class_reports(output)
        plots_of_run(output)
        paths = {} if args.evaluate_only else save_outputs(output, whole, processor, results, args.hub_model_id)
        if args.push_to_hub:
            upload(paths[eval_args.hub_upload], args)
        print((output / "results.md").read_text(encoding="utf-8"))
        print("\n".join(f"{kind}: {path}" for kind, path in paths.items()))
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    return results


if __name__ == "__main__":
    record(main)()  # under torchrun the failed process's error stands in the launcher's report
