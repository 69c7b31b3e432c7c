# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What DeepAVFusion's recipes share: build a model, train it, predict, and the loop over seeds that writes the table."""

import dataclasses
import json
import logging
import os
import statistics
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import AutoProcessor, PreTrainedConfig, PreTrainedModel, ProcessorMixin, TrainingArguments, set_seed

from modeling_deepavfusion import DeepAVFusionConfig, deepavfusion_from_vit
from modeling_maavt import MAAVTConfig
from processing import DeepAVFusionProcessor
from processing.data.atomic_writing import write_text
from training.common.commands import shown_command
from training.common.processor_changes import changed_processor
from training.common.results import markdown_table, package_versions
from training.trainer.callbacks import CheckpointFilesCallback, EpochCallback, tell_progress
from training.trainer.checkpoint_trainer import CheckpointTrainer
from training.trainer.checkpoints import checkpoint_to_resume

from .arguments import ModelArguments, SeedArguments, default_of


logger = logging.getLogger(__name__)

Rows = dict[str, dict[str, float]]  # method -> metric -> value

# Options of a recipe on which no result depends, and options of the Trainer on which results depend
NO_SETTINGS = ("seeds", "results", "num_pictures", "cache_gb")
TRAINER_SETTINGS = (
    "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
    "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "optim_args",
    "adam_beta1", "adam_beta2", "adam_epsilon", "label_smoothing_factor", "bf16", "fp16", "dataloader_drop_last",
)  # fmt: skip


def build_processor(task: ModelArguments) -> DeepAVFusionProcessor:
    """The checkpoint's processor, one with the statistics of a plain ViT, or a new one; with the changes of `processor`.

    Raises:
        OSError, ValueError: a processor that is damaged, or changes that the parts refuse.
    """
    changes = task.processor or {}
    if task.model_name_or_path is None:
        return changed_processor(DeepAVFusionProcessor(), changes)
    read = DeepAVFusionProcessor.from_pretrained
    if model_type(task.model_name_or_path) == MAAVTConfig.model_type:
        read = AutoProcessor.from_pretrained
    elif is_plain_vit(task.model_name_or_path):
        read = DeepAVFusionProcessor.from_backbone
    try:
        processor = read(task.model_name_or_path)
    except (OSError, ValueError) as error:
        # Weights alone, as of a converted checkpoint: a new processor, as the paper and the changes have it. The statistics of
        # a plain ViT cannot be guessed.
        damaged = (Path(task.model_name_or_path) / "processor_config.json").is_file()
        if damaged or (is_plain_vit(task.model_name_or_path) and not changes):
            raise
        logger.warning("%s: no processor was read (%s); a new one is made", task.model_name_or_path, error)
        processor = DeepAVFusionProcessor()
    return changed_processor(processor, changes)


def build_model(task: ModelArguments, model_class: type[PreTrainedModel], seed: int, **fields) -> PreTrainedModel:
    """The checkpoint, a plain ViT in both branches, or a new model; the seed fixes the weights that are new.

    Raises:
        ValueError: a field of `model_config` that the configuration does not have, or that a plain ViT contradicts.
    """
    config = DeepAVFusionConfig()
    if unknown := [name for name in task.model_config or {} if not hasattr(config, name)]:
        raise ValueError(f"model_config: unknown fields {unknown}; see the docstring of DeepAVFusionConfig")
    # The order matters: a new model's weights are drawn right after the seed is set.
    set_seed(seed)
    fields = {**(task.model_config or {}), **fields}
    if task.model_name_or_path is None:
        return model_class(DeepAVFusionConfig(**fields))
    if is_plain_vit(task.model_name_or_path):
        return deepavfusion_from_vit(task.model_name_or_path, model_class, seed, **fields)
    return model_class.from_pretrained(task.model_name_or_path, **fields)


def is_plain_vit(name_or_path: str) -> bool:
    """Whether it is a whole checkpoint, not an adapter, of another kind than ours."""
    return model_type(name_or_path) not in (None, DeepAVFusionConfig.model_type, MAAVTConfig.model_type)


def model_type(name_or_path: str) -> str | None:
    """Of a whole checkpoint; None of an adapter alone, or of nothing: `from_pretrained` says which."""
    try:
        fields, _ = PreTrainedConfig.get_config_dict(name_or_path)
    except OSError:
        return None
    return fields.get("model_type")


def train(model: PreTrainedModel, dataset: Dataset, args: TrainingArguments) -> PreTrainedModel:
    """Train with the plain loss, from a checkpoint where one is asked for; the model comes back in evaluation mode."""
    callbacks = [CheckpointFilesCallback(dataset.processor)]
    if hasattr(dataset, "set_epoch"):
        callbacks.append(EpochCallback(dataset))  # Mixtures: other partners in every epoch
    trainer = CheckpointTrainer(model=model, args=args, train_dataset=dataset, callbacks=callbacks)
    tell_progress(trainer)
    print_training(args, trainer.train(resume_from_checkpoint=checkpoint_to_resume(args)))
    return model.eval()


def print_training(args: TrainingArguments, training: Any) -> None:
    """One line with steps and minutes of what `Trainer.train` returned."""
    minutes = training.metrics["train_runtime"] / 60
    print(f"seed {args.seed}: {training.global_step} steps, {minutes:.1f} minutes", flush=True)


@torch.no_grad()
def predict(model: PreTrainedModel, dataset: Dataset, batch_size: int, **options) -> Iterator[tuple[dict, dict]]:
    """`(example, outputs)` of every example, in order; outputs without the batch axis."""
    device = next(model.parameters()).device
    for begin in range(0, len(dataset), batch_size):
        # One batch; the last one may be smaller.
        examples = [dataset[index] for index in range(begin, min(begin + batch_size, len(dataset)))]
        names = ("pixel_values_videos", "input_features")
        outputs = model(**{name: torch.stack([e[name] for e in examples]).to(device) for name in names}, **options)
        # Scalars, such as a loss, belong to no example.
        tensors = {name: output.cpu() for name, output in outputs.items() if torch.is_tensor(output) and output.ndim}
        for offset, example in enumerate(examples):
            yield example, {name: tensor[offset] for name, tensor in tensors.items()}


class MismatchedAudio(Dataset):
    """Examples with the audio of the example half a set away: shows whether a model listens.

    Args:
        dataset: examples with `input_features`. Neighbors are of one clip or class; those half a set away are not.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        other = (index + len(self) // 2) % len(self)
        return self.dataset[index] | {"input_features": self.dataset[other]["input_features"]}


def save_model(model: PreTrainedModel, processor: ProcessorMixin, args: TrainingArguments) -> None:
    """Model and processor in `model/` of the run's folder."""
    for part in (model, processor):
        part.save_pretrained(Path(args.output_dir) / "model")


def run_seeds(
    module: str,
    argv: list[str] | None,
    task: SeedArguments,
    args: TrainingArguments,
    facts_of: Callable[[int], dict],
    measure: Callable[[TrainingArguments], Rows],
    columns: dict[str, str],
) -> Rows:
    """Run a recipe once for every seed that was not measured before, and write the table over all seeds.

    Args:
        module: the recipe's name under `training.deepavfusion`, and `argv` its command line, for the record.
        facts_of: seed to what its result depends on, beside schedule and model: sizes of the splits, ...
        measure: a seed's arguments (with its seed and its output folder) to what was measured.
        columns: metrics of the table and their headings; a metric that no method has is not shown.

    Returns:
        method -> metric -> mean over seeds, and `<metric>_std`; nothing in a process that writes no files.
    """
    if args.seed != default_of("seed"):
        raise ValueError(f"seed: this recipe runs once for each of `seeds`; give --seeds {args.seed}")
    if len(task.seeds) > 1 and os.path.isdir(str(args.resume_from_checkpoint)):
        raise ValueError(
            "resume_from_checkpoint: is of one seed; give that --seeds, or true for the newest one of each"
        )
    runs, facts = [], {}
    settings = run_settings(task, args)
    for seed in task.seeds:
        # The seed's arguments: its own folder, so that seeds may run at the same time.
        seed_args = copy(args)
        seed_args.seed = seed_args.data_seed = seed
        seed_args.output_dir = str(Path(args.output_dir) / f"seed_{seed}")

        # Measured before under the same facts and settings, or measured now. Only one process writes and keeps the figures.
        facts = run_facts(task, args) | facts_of(seed)
        run = finished_run(seed_args, facts, settings)
        if run is None:
            run = measure(seed_args)
            if args.should_save:
                record = json.dumps({"facts": facts, "settings": settings, "run": run}, indent=1) + "\n"
                write_text(Path(seed_args.output_dir) / "measured.json", record)
        runs.append(run)
    if not args.should_save:
        return {}
    command = shown_command(f"training.deepavfusion.{module}", argv)
    return write_results(command, task, args, facts, runs, columns)


def finished_run(args: TrainingArguments, facts: dict, settings: dict) -> Rows | None:
    """What an earlier run with this seed measured, if it came to its end; seeds may run side by side.

    The facts must be the same, and so must the settings. A record of an earlier version has no settings: its facts
    alone are compared.

    Raises:
        ValueError: it ran under other facts or settings.
    """
    path = Path(args.output_dir) / "measured.json"
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["facts"] != facts:
        raise ValueError(
            f"{path}: was measured with {record['facts']}, this run has {facts}; choose another --output_dir"
        )
    # Name the settings that differ; an option that is not recorded had its default.
    recorded = record.get("settings", settings)
    before, now = {}, {}
    for name in sorted(recorded.keys() | settings.keys()):
        values = recorded.get(name, "default"), settings.get(name, "default")
        if values[0] != values[1]:
            before[name], now[name] = values
    if before:
        raise ValueError(f"{path}: was measured with {before}, this run has {now}; choose another --output_dir")
    return record["run"]


def run_settings(task: SeedArguments, args: TrainingArguments) -> dict[str, Any]:
    """Every option on which results depend and that differs from its default, as JSON gives it back."""
    names = [field.name for field in dataclasses.fields(task) if field.name not in NO_SETTINGS]
    settings = {}
    for options, relevant in ((task, names), (args, TRAINER_SETTINGS)):
        for field in dataclasses.fields(options):
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            value = getattr(options, field.name)
            if field.name in relevant and value != default:
                settings[field.name] = value
    return json.loads(json.dumps(settings))


def run_facts(task: SeedArguments, args: TrainingArguments) -> dict[str, str]:
    """Schedule and model, on which every result depends."""
    length = f"{args.num_train_epochs:g} epochs"
    if args.max_steps > 0:
        length = f"{args.max_steps} steps"
    schedule = f"{length} of {args.per_device_train_batch_size}, learning rate {args.learning_rate:g}"
    facts = {"training": schedule, "model": json.dumps(task.model_config or task.model_name_or_path)}
    if task.model_config and task.model_name_or_path is not None:
        facts["checkpoint"] = str(task.model_name_or_path)
    return facts


def summary(runs: list[Rows]) -> Rows:
    """Mean and standard deviation over seeds: method -> metric -> value, and `<metric>_std`."""
    table: Rows = {}
    for method, metrics in runs[0].items():
        table[method] = {}
        for metric in metrics:
            figures = [run[method][metric] for run in runs]  # one a seed
            table[method][metric] = statistics.fmean(figures)
            table[method][f"{metric}_std"] = 0.0
            if len(figures) > 1:
                table[method][f"{metric}_std"] = statistics.stdev(figures)
    return table


def write_results(
    command: str, task: SeedArguments, args: TrainingArguments, facts: dict, runs: list[Rows], columns: dict[str, str]
) -> Rows:
    """`results.json` and `results.md` in the output folder, and under the name `results`; prints the table."""
    table = summary(runs)
    # Everything that the table was made from.
    record = {
        "command": command,
        "seeds": task.seeds,
        "facts": facts,
        "table": table,
        "runs": dict(zip(map(str, task.seeds), runs, strict=True)),
        "versions": package_versions(),
    }

    # One row a method, with the spread where there is one.
    rows = []
    for method, figures in table.items():
        row = {"method": method}
        for metric in columns.keys() & figures.keys():
            row[metric] = figures[metric]
            if spread := figures[f"{metric}_std"]:
                row[metric] = f"{figures[metric]:.3f} ± {spread:.3f}"
        rows.append(row)
    text = f"`{command}`\n\n" + "".join(f"{name}: {fact}  \n" for name, fact in facts.items())
    text += "\n" + markdown_table(rows, {"method": "method"} | columns) + "\n"

    # In the run's folder, and where results are committed.
    stems = [str(Path(args.output_dir) / "results")]
    if task.results:
        stems.append(task.results)
    for stem in stems:
        write_text(Path(f"{stem}.json"), json.dumps(record, indent=1) + "\n")
        write_text(Path(f"{stem}.md"), text)
    print(text)
    return table
