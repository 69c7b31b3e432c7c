# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What the recipes of segmentation, localization and separation share: build, train, a table over seeds, files."""

import json
import os
import statistics
import time
from collections.abc import Iterator
from copy import copy
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments, set_seed

from modeling_deepavfusion import DeepAVFusionConfig
from processing import DeepAVFusionFeatureExtractor, DeepAVFusionProcessor, DeepAVFusionVideoProcessor
from training.common.results import package_versions

from .task_arguments import TaskArguments


Rows = dict[str, dict[str, float]]  # method -> metric -> value


def build_processor(task: TaskArguments) -> DeepAVFusionProcessor:
    """The checkpoint's processor, or a new one, with the changes of `processor`."""
    changes = task.processor or {}
    if task.model_name_or_path is not None and not changes:
        return DeepAVFusionProcessor.from_pretrained(task.model_name_or_path)
    return DeepAVFusionProcessor(
        DeepAVFusionFeatureExtractor(**changes.get("feature_extractor", {})),
        DeepAVFusionVideoProcessor(**changes.get("video_processor", {})),
    )


def build_model(task: TaskArguments, model_class: type[PreTrainedModel], seed: int, **fields) -> PreTrainedModel:
    """The checkpoint with a new decoder where it has none, or a new model; the seed fixes what is new."""
    set_seed(seed)
    values = {**(task.model_config or {}), **fields}
    if task.model_name_or_path is not None:
        return model_class.from_pretrained(task.model_name_or_path, **values)
    return model_class(DeepAVFusionConfig(**values))


class PartnerCallback(TrainerCallback):
    """Tells a data set which epoch begins."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(int(state.epoch or 0))


def train(model: PreTrainedModel, dataset: Dataset, args: TrainingArguments, seed: int) -> PreTrainedModel:
    """Train with the Trainer; the model comes back in evaluation mode."""
    args = copy(args)
    args.seed = args.data_seed = seed
    args.output_dir = str(Path(args.output_dir) / f"seed_{seed}")
    begin = time.time()
    trainer = Trainer(model=model, args=args, train_dataset=dataset, callbacks=[PartnerCallback(dataset)])
    trainer.train()
    print(f"seed {seed}: {trainer.state.global_step} steps, {(time.time() - begin) / 60:.1f} minutes", flush=True)
    return model.eval()


@torch.no_grad()
def predict(model: PreTrainedModel, dataset: Dataset, batch_size: int, **options) -> Iterator[tuple[int, dict, dict]]:
    """`(index, example, output)` for every example; outputs without the batch axis."""
    device = next(model.parameters()).device
    for begin in range(0, len(dataset), batch_size):
        examples = [dataset[index] for index in range(begin, min(begin + batch_size, len(dataset)))]
        names = ("pixel_values_videos", "input_features")
        inputs = {name: torch.stack([example[name] for example in examples]).to(device) for name in names}
        outputs = model(**inputs, **options)
        for offset, example in enumerate(examples):
            own = {
                name: value[offset].cpu()
                for name, value in outputs.items()
                if isinstance(value, torch.Tensor) and value.ndim
            }
            yield begin + offset, example, own


class OtherSounds(Dataset):
    """Examples with the sound of the one half a set away: shows whether a model listens.

    Args:
        dataset: examples with `input_features`; neighbors are of one clip or class, those half a set away are not.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        other = (index + len(self) // 2) % len(self)
        return self.dataset[index] | {"input_features": self.dataset[other]["input_features"]}


def finished_run(args: TrainingArguments, seed: int, facts: dict) -> dict[str, dict[str, float]] | None:
    """What an earlier run with this seed and these facts measured, if it came to its end; seeds may run side by side."""
    path = Path(args.output_dir) / f"seed_{seed}" / "measured.json"
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["facts"] != facts:
        raise ValueError(
            f"{path}: was measured with {record['facts']}, this run has {facts}; choose another --output_dir"
        )
    return record["run"]


def record_run(args: TrainingArguments, seed: int, facts: dict, run: dict[str, dict[str, float]]) -> None:
    """Write what this seed measured."""
    path = Path(args.output_dir) / f"seed_{seed}" / "measured.json"
    write_text(path, json.dumps({"facts": facts, "run": run}, indent=1) + "\n")


def run_facts(task: TaskArguments, args: TrainingArguments, **facts) -> dict:
    """What a result depends on, for its table."""
    schedule = f"{args.max_steps} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    schedule += f" of {args.per_device_train_batch_size}, learning rate {args.learning_rate:g}"
    return {"training": schedule, "model": json.dumps(task.model_config or task.model_name_or_path), **facts}


def summary(runs: list[Rows]) -> Rows:
    """Mean and standard deviation over seeds: method -> metric -> value, and metric_std."""
    table: Rows = {}
    for method in runs[0]:
        table[method] = {}
        for metric in runs[0][method]:
            values = [run[method][metric] for run in runs]
            table[method][metric] = statistics.fmean(values)
            table[method][f"{metric}_std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return table


def markdown(table: Rows, metrics: list[str], headings: list[str]) -> str:
    """A table with a method a line; a dash where a method has no such metric."""
    lines = [f"| method | {' | '.join(headings)} |", "| --- |" + " --- |" * len(metrics)]
    for method, values in table.items():
        cells = []
        for metric in metrics:
            spread = values.get(f"{metric}_std", 0.0)
            cell = f"{values[metric]:.3f}" if metric in values else "-"
            cells.append(cell + (f" ± {spread:.3f}" if spread else ""))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_text(path: str | Path, text: str) -> None:
    """Under a temporary name first, which is then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_results(
    task: TaskArguments,
    args: TrainingArguments,
    command: str,
    runs: list[Rows],
    metrics: list[str],
    headings: list[str],
    facts: dict,
) -> Rows:
    """`results.json` and `results.md` in the output folder, and under the name `results`; prints the table."""
    table = summary(runs)
    record = {
        "command": command,
        "seeds": task.seeds,
        "facts": facts,
        "table": table,
        "runs": dict(zip(map(str, task.seeds), runs, strict=True)),
        "versions": package_versions(),
    }
    text = f"`{command}`\n\n" + "".join(f"{name}: {value}  \n" for name, value in facts.items())
    text += "\n" + markdown(table, metrics, headings)
    for stem in filter(None, (str(Path(args.output_dir) / "results"), task.results)):
        write_text(f"{stem}.json", json.dumps(record, indent=1) + "\n")
        write_text(f"{stem}.md", text)
    print(text)
    return table
