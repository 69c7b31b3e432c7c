# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The arguments of DeepAVFusion's classification, beside those of the Trainer."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from .classification_trainer import OPTIMIZERS


@dataclass
class ClassificationArguments:
    """Which clips, which model, how it is tuned, and what is left behind."""

    data: str = field(metadata={"help": "Folder, csv file or prepared folder of clips, as for train.py."})
    table: dict | str | None = field(
        default=None, metadata={"help": "How `data` is read: options of build_clip_table (label, split, group, ...)."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A DeepAVFusion checkpoint; None: a new model from model_config."}
    )
    model_config: dict | str | None = field(
        default=None,
        metadata={"help": "Fields of DeepAVFusionConfig: drop_path_rate, label_smoothing, classifier_loss, ..."},
    )
    processor: dict | str | None = field(
        default=None, metadata={"help": "Changes by part: {feature_extractor: {...}, video_processor: {...}}."}
    )
    tuning: str = field(default="full", metadata={"help": "'full', or 'linear_probe': the heads on a frozen encoder."})
    optimizer: str = field(default="adamw", metadata={"help": "adamw, lars or sgd; published: lars for the probe."})
    layer_decay: float = field(
        default=0.75, metadata={"help": "Rate of a layer over that of the layer above it (full tuning); 1: one rate."}
    )
    mixup_alpha: float = field(
        default=0.0,
        metadata={"help": "Above 0: MixUp, one lambda from Beta(alpha, alpha) for picture, sound and label."},
    )
    clip_seconds: float | None = field(
        default=3.0, metadata={"help": "A random window of this length in training; None: the whole clip."}
    )
    evaluation_windows: int = field(
        default=1,
        metadata={"help": "Windows spaced evenly over a test clip, whose logits are averaged; published 10."},
    )
    cache_gb: float = field(
        default=0.0, metadata={"help": "Memory for decoded training clips; helps where they have fixed windows."}
    )
    augmentation: dict | str | None = field(
        default=None, metadata={"help": "Changes to the published augmentation: fields of ClipAugmentation."}
    )
    measured_split: str = field(default="test", metadata={"help": "'validation' to choose by, 'test' for the result."})
    regression: bool = field(
        default=True, metadata={"help": "Also fit a logistic regression on the encoder as it was before training."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "One training each."})
    results: str | None = field(default=None, metadata={"help": "Write the table here too, as .json and .md."})

    def facts(self) -> dict[str, str]:
        """What the figures depend on beside model and schedule."""
        names = ("tuning", "optimizer", "layer_decay", "mixup_alpha", "clip_seconds", "evaluation_windows")
        told = {name: getattr(self, name) for name in names}
        if self.tuning == "linear_probe":
            told.pop("layer_decay")
        return {
            "recipe": ", ".join(f"{name} {value}" for name, value in told.items()),
            "measured": self.measured_split,
        }


def check_arguments(task: ClassificationArguments, args: TrainingArguments) -> None:
    """Raise where options contradict each other.

    Raises:
        ValueError: names the field and the cure.
    """
    if task.tuning not in ("full", "linear_probe"):
        raise ValueError(f"tuning: {task.tuning!r}; use 'full' or 'linear_probe'")
    if task.optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer: {task.optimizer!r}; use one of {', '.join(OPTIMIZERS)}")
    if task.measured_split not in ("validation", "test"):
        raise ValueError(f"measured_split: {task.measured_split!r}; use 'validation' or 'test'")
    if task.evaluation_windows < 1:
        raise ValueError(f"evaluation_windows: {task.evaluation_windows} must be at least 1")
    if not task.mixup_alpha >= 0:
        raise ValueError(f"mixup_alpha: {task.mixup_alpha} must be at least 0 (0: off)")
    if args.label_smoothing_factor:
        raise ValueError(
            "label_smoothing_factor: the model smooths its labels itself; set label_smoothing in model_config instead"
        )
    if task.tuning == "linear_probe" and (task.model_config or {}).get("drop_path_rate"):
        raise ValueError("drop_path_rate: would drop parts of a frozen encoder; leave it out of a linear probe")
