# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes DeepAVFusion on labeled clips, or probes its frozen encoder: clips, model, Trainer, table, figure.

python -m training.deepavfusion.classification configs/deepavfusion/classification_shapes.yaml
"""

import copy
import functools
from pathlib import Path

import datasets
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainingArguments

from modeling_deepavfusion import DeepAVFusionForAudioVisualClassification
from processing.data.augmentation import ClipAugmentation
from processing.data.clip_cache import ClipCache
from processing.data.clip_dataset import ClipDataset
from processing.data.clip_tables import build_clip_table, report_text
from processing.data.collators import AudioVisualCollator
from processing.data.mixup import PairMixUp
from processing.metrics.classification import ClassReport
from training.common.commands import run_command
from training.common.map_pictures import can_draw
from training.common.regression import fit_regression, regression_probabilities
from training.trainer.audio_visual_trainer import AudioVisualTrainer, class_metrics, multi_label_metrics
from training.trainer.callbacks import CheckpointFilesCallback, EpochCallback
from training.trainer.checkpoints import checkpoint_to_resume
from training.trainer.lars import LARS

from .arguments import AUGMENTATION, ClassificationArguments, parse_arguments
from .probes import STREAMS, pooled_states
from .seed_loop import (
    MismatchedAudio,
    Rows,
    build_model,
    build_processor,
    predict,
    print_training,
    run_seeds,
    save_model,
)


COLUMNS = {"top1": "top-1", "macro_f1": "macro F1", "map": "mAP", "mauc": "mean AUC"}
HEADS = {"image_logits": "video head", "audio_logits": "audio head", "fusion_logits": "head of the fusion tokens"}


def main(argv: list[str] | None = None) -> Rows:
    """Run the recipe once for every seed; returns the table, in the process that writes it."""
    task, args = parse_arguments(ClassificationArguments, argv)
    task.check(args)
    processor = build_processor(task)
    several_windows = copy.deepcopy(processor)  # for the test: windows spaced evenly over the whole clip
    several_windows.feature_extractor.num_segments = task.evaluation_windows

    # The split may depend on the seed. Read once a seed: for the facts, then for the run.
    @functools.cache
    def clip_table(seed: int) -> tuple[datasets.DatasetDict, dict]:
        tables, report = build_clip_table(task.data, **{"seed": seed, **(task.table or {})})
        if report["labels"] == "segments":
            raise ValueError("segments: this recipe classifies whole clips; use train.py for labeled segments")
        return tables, report

    def facts_of(seed: int) -> dict:
        tables, _ = clip_table(seed)
        return {f"{split} rows": len(tables[split]) for split in tables if split != "validation"} | task.facts()

    def measure(args: TrainingArguments) -> Rows:
        # Data: augmented windows to train on, several windows of a clip to measure on.
        tables, report = clip_table(args.seed)
        print(report_text(report), flush=True)
        train_set = training_clips(task, processor, tables["train"], args.seed)
        options = {"seed": args.seed, "num_frames": 1}
        measured = tables[task.measured_split]
        test_set = ClipDataset(measured, several_windows, **{**options, "num_frames": task.evaluation_windows})

        # Model, and what it has to beat: a regression on the encoder before training.
        model = new_model(task, tables["train"], report, args.seed).eval().to(args.device)
        batch_size = args.per_device_eval_batch_size
        regression = {}
        if task.regression and args.should_save:
            fitted_on = [ClipDataset(tables[split], processor, **options) for split in ("train", "validation")]
            probabilities, labels = regression_scores(model, [*fitted_on, test_set], batch_size)
            regression["logistic regression on the encoder before training"] = figures(probabilities, labels)

        # Training; one process measures.
        model = train(model, train_set, task, args)
        if not args.should_save:
            return {}
        save_model(model, processor, args)

        # Test.
        methods, labels = scores_by_method(model, test_set, batch_size)
        if task.evaluation_windows > 1:
            one_window = ClipDataset(measured, processor, **options)
            methods["DeepAVFusion, one window"] = clip_scores(model, one_window, batch_size)[0]["logits"]
        shares = class_shares(tables["train"], model.num_labels)
        methods["largest class"] = np.tile(shares.numpy(), (len(labels), 1))

        # Table and figure.
        if report["labels"] != "multi_label":
            save_confusion(Path(args.output_dir) / "confusion.png", methods["DeepAVFusion"], labels, report["classes"])
        return {name: figures(scores, labels) for name, scores in methods.items()} | regression

    return run_seeds("classification", argv, task, args, facts_of, measure, COLUMNS)


# Data and model


def training_clips(task: ClassificationArguments, processor, table: datasets.Dataset, seed: int) -> ClipDataset:
    """Augmented windows, from memory where `cache_gb` allows it."""
    if task.cache_gb:
        processor = ClipCache(processor, task.cache_gb)
    augmentation = ClipAugmentation(**{**AUGMENTATION, **(task.augmentation or {})})
    return ClipDataset(
        table,
        processor,
        training=True,
        augmentation=augmentation,
        clip_seconds=task.clip_seconds,
        seed=seed,
        num_frames=1,
    )


def new_model(
    task: ClassificationArguments, table: datasets.Dataset, report: dict, seed: int
) -> DeepAVFusionForAudioVisualClassification:
    """All of it trained, heads started at the class shares; or the heads alone behind a BatchNorm, on a frozen encoder."""
    classes, probe = report["classes"], task.tuning == "linear_probe"
    fields = {"num_labels": len(classes), "use_pooled_batchnorm": probe, "problem_type": "single_label_classification"}
    if report["labels"] == "multi_label":
        fields["problem_type"] = "multi_label_classification"
    fields |= {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}
    if probe:
        fields["drop_path_rate"] = 0.0  # also where the checkpoint was fine-tuned with it: the encoder is frozen
    model = build_model(task, DeepAVFusionForAudioVisualClassification, seed, **fields)
    if probe:
        model.freeze_encoder()
    else:
        model.set_class_frequencies(class_shares(table, len(classes)))
    return model


def class_shares(table: datasets.Dataset, num_classes: int) -> torch.Tensor:
    """Share `[C]` of the clips that have each class."""
    counts = torch.zeros(num_classes)
    for label in table["label"]:  # an index, or a list of indices
        counts[torch.as_tensor(label)] += 1
    return counts / max(len(table["label"]), 1)


# Training


def train(
    model: DeepAVFusionForAudioVisualClassification,
    dataset: ClipDataset,
    task: ClassificationArguments,
    args: TrainingArguments,
) -> DeepAVFusionForAudioVisualClassification:
    """Train with the Trainer, from a checkpoint where one is asked for; the model comes back in evaluation mode."""
    mixup = None
    if task.mixup_alpha:
        multi_label = model.config.problem_type == "multi_label_classification"
        mixup = PairMixUp(task.mixup_alpha, model.num_labels, args.seed, multi_label)
    trainer = ClassificationTrainer(
        model=model,
        args=args,
        optimizer_name=task.optimizer,
        layer_decay=task.layer_decay,
        data_collator=AudioVisualCollator(),
        train_dataset=dataset,
        callbacks=[EpochCallback(dataset), CheckpointFilesCallback(dataset.processor)],
        mixup=mixup,
    )
    print_training(args, trainer.train(resume_from_checkpoint=checkpoint_to_resume(args)))
    return trainer.accelerator.unwrap_model(trainer.model).eval()


class ClassificationTrainer(AudioVisualTrainer):
    """`AudioVisualTrainer` with an optimizer by name and a learning rate by layer.

    Args:
        optimizer_name: "adamw" (betas and eps of the arguments), "lars" or "sgd" (momentum 0.9 both).
        layer_decay: factor of the rate from a layer to the one below it; 1 for none.
    """

    def __init__(self, *args, optimizer_name: str = "adamw", layer_decay: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.optimizer_name, self.layer_decay = optimizer_name, layer_decay

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is not None:
            return self.optimizer
        args = self.args
        groups = layer_groups(model or self.model, args.learning_rate, args.weight_decay, self.layer_decay)
        if self.optimizer_name == "adamw":
            betas = (args.adam_beta1, args.adam_beta2)
            self.optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=betas, eps=args.adam_epsilon)
        elif self.optimizer_name == "lars":
            self.optimizer = LARS(groups, lr=args.learning_rate, momentum=0.9)
        else:
            self.optimizer = torch.optim.SGD(groups, lr=args.learning_rate, momentum=0.9)
        return self.optimizer


def layer_groups(model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float) -> list[dict]:
    """Groups of an optimizer: rate times layer_decay^(L + 1 - layer); weight decay for matrices, not for vectors."""
    num_layers = model.config.num_hidden_layers
    parameters: dict[tuple[int, bool], list] = {}
    for name, parameter in model.named_parameters():
        # Biases, norms and single tokens are vectors.
        if parameter.requires_grad:
            parameters.setdefault((layer_of(name, num_layers), parameter.ndim > 1), []).append(parameter)
    groups = []
    for layer, is_matrix in sorted(parameters):
        groups.append(
            {
                "params": parameters[layer, is_matrix],
                "lr": learning_rate * layer_decay ** (num_layers + 1 - layer),
                "weight_decay": weight_decay * is_matrix,
            }
        )
    return groups


def layer_of(name: str, num_layers: int) -> int:
    """The group of a parameter: 0 embeddings and fusion tokens, l + 1 layer l with its fusion block, L + 1 final norms
    and heads. That makes 14 groups for 12 layers."""
    inside = name.removeprefix("module.").removeprefix("deepavfusion.")
    if inside.startswith(("image_embeddings.", "audio_embeddings.", "fusion_tokens.")):
        return 0
    if inside.startswith("layers."):
        return int(inside.split(".")[1]) + 1
    return num_layers + 1


# Test


def scores_by_method(
    model: PreTrainedModel, test_set: ClipDataset, batch_size: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Logits `[n, C]` by method: the mean of the heads, each head alone, and with the audio of another clip; and the labels."""
    logits, labels = clip_scores(model, test_set, batch_size)
    methods = {"DeepAVFusion": logits["logits"]}
    methods |= {f"DeepAVFusion, {head}": logits[name] for name, head in HEADS.items()}
    # A model that listens falls to chance where the audio decides.
    mismatched, _ = clip_scores(model, MismatchedAudio(test_set), batch_size)
    methods["DeepAVFusion, audio of another clip"] = mismatched["logits"]
    return methods, labels


def clip_scores(model: PreTrainedModel, dataset: Dataset, batch_size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Logits `[n, C]` of the mean (`logits`) and of each head, averaged over a clip's windows; and the labels."""
    names = ("logits", *HEADS)
    scores: dict[str, list] = {name: [] for name in names}
    labels = []
    for example, outputs in predict(model, dataset, batch_size):
        labels.append(np.asarray(example["labels"]))
        for name in names:
            scores[name].append(outputs[name].float().numpy())  # (C,)
    return {name: np.stack(rows) for name, rows in scores.items()}, np.stack(labels)


def figures(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`top1` and `macro_f1` for class indices `[n]`, `map` and `mauc` for multi-hot labels `[n, C]`."""
    if labels.ndim == 2:
        return multi_label_metrics(scores, labels)
    metrics = class_metrics(scores, labels)
    return {name: metrics[name] for name in ("top1", "macro_f1")}


def regression_scores(
    model: PreTrainedModel, splits: list[ClipDataset], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities `[n, C]` and labels of the last of three splits, by a logistic regression on the pooled states.

    Args:
        model: its encoder as it stands; the mean states of video, audio and fusion tokens are joined.
        splits: to fit on, to choose the penalty on, to score.
    """
    rows, labels = [], []
    for dataset in splits:
        states, of_split = pooled_states(model, dataset, batch_size)
        rows.append(torch.cat([states[stream] for stream in STREAMS], 1).numpy())  # (n, 3 D)
        labels.append(of_split.numpy())
    regression = fit_regression(rows[0], labels[0], rows[1], labels[1])
    return regression_probabilities(regression, rows[2], model.num_labels), labels[2]


def save_confusion(path: Path, scores: np.ndarray, labels: np.ndarray, classes: list[str]) -> None:
    """The confusion matrix as a figure, where matplotlib is installed."""
    if not can_draw(path):
        return
    # Imported here: only this figure needs it.
    from training.common.map_pictures import save_figure
    from training.common.plots import confusion_figure

    report = ClassReport().compute(predictions=scores.argmax(-1), references=labels, label_names=classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(confusion_figure({"input": "both", "noise": "clean", **report}), path)


if __name__ == "__main__":
    run_command(main)
