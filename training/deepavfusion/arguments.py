# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The options of DeepAVFusion's recipes beside those of the Trainer: a YAML file first, the command line second."""

import inspect
import logging
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainingArguments

from processing.data.clip_tables import build_clip_table
from training.common.options import REQUIRED, check_known, option, parse_options


# The paper's augmentation of clips. The spectrogram is not masked twice: pre-training masks patches itself.
AUGMENTATION = {"random_resized_crop_scale": (0.5, 1.0), "gain_db": 6.0, "time_mask": 0.0, "frequency_mask": 0.0}
OPTIMIZERS = ("adamw", "lars", "sgd")


@dataclass(kw_only=True)
class ModelArguments:
    """What every recipe needs: clips, a model and its processor."""

    data: str = option(REQUIRED, "The clips: a folder, a csv file or a prepared folder.")
    model_name_or_path: str | None = option(
        None,
        "A DeepAVFusion checkpoint, or a plain ViT that starts both branches; None: a new model from model_config.",
    )
    model_config: dict | str | None = option(None, "Fields of DeepAVFusionConfig, a mapping.")
    processor: dict | str | None = option(None, "Changes by part: {feature_extractor: {...}, video_processor: {...}}.")


@dataclass(kw_only=True)
class SeedArguments(ModelArguments):
    """What a recipe needs that runs once for every seed."""

    seeds: list[int] = option([0], "One training each; a seed that was measured before is not run again.")
    results: str | None = option(None, "Write the table here too, as .json and .md.")


@dataclass(kw_only=True)
class TaskArguments(SeedArguments):
    """Segmentation, localization and separation."""

    layout: str = option("shapes", "How the folder is read: shapes, s4, ms3, avss, vggss, flickr or pairs.")
    system: str = option("deepavfusion", "Localization: 'deepavfusion' or 'maavt'.")
    supervision: str = option("boxes", "Localization: 'class' (weak: the clip's label alone) or 'boxes'.")
    num_frames: int = option(1, "Separation: frames of a training clip, of which each epoch shows another one.")
    num_pictures: int = option(6, "Test frames that are drawn, or mixtures that are written as wav files.")


@dataclass(kw_only=True)
class ClassificationArguments(SeedArguments):
    """Fine-tuning, or a linear probe."""

    table: dict | str | None = option(None, "How `data` is read: options of build_clip_table (label, split, ...).")
    tuning: str = option("full", "'full', or 'linear_probe': the heads on a frozen encoder.")
    optimizer: str = option("adamw", "adamw, lars or sgd; the paper's linear probe uses lars.")
    layer_decay: float = option(0.75, "Learning rate of a layer over that of the layer above it; 1: one rate.")
    mixup_alpha: float = option(0.0, "Above 0: MixUp; one lambda from Beta(alpha, alpha) for video, audio and label.")
    clip_seconds: float | None = option(3.0, "A random window of this length in training; None: the whole clip.")
    evaluation_windows: int = option(1, "Windows of a test clip, whose logits are averaged; the paper uses 10.")
    cache_gb: float = option(0.0, "Memory for decoded training clips; helps where they have fixed windows.")
    augmentation: dict | str | None = option(None, "Changes to the paper's augmentation: fields of ClipAugmentation.")
    measured_split: str = option("test", "'validation' to choose by, 'test' for the result.")
    regression: bool = option(True, "Also fit a logistic regression on the encoder as it was before training.")

    def check(self, args: TrainingArguments) -> None:
        """Raise where options contradict each other.

        Raises:
            ValueError: names the field and the cure.
        """
        if self.tuning not in ("full", "linear_probe"):
            raise ValueError(f"tuning: {self.tuning!r}; use 'full' or 'linear_probe'")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer: {self.optimizer!r}; use one of {', '.join(OPTIMIZERS)}")
        if self.measured_split not in ("validation", "test"):
            raise ValueError(f"measured_split: {self.measured_split!r}; use 'validation' or 'test'")
        if self.evaluation_windows < 1:
            raise ValueError(f"evaluation_windows: {self.evaluation_windows} must be at least 1")
        if not self.mixup_alpha >= 0:
            raise ValueError(f"mixup_alpha: {self.mixup_alpha} must be at least 0 (0: off)")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay: {self.layer_decay} must be above 0 and at most 1 (1: one rate for all)")
        if args.label_smoothing_factor:
            raise ValueError(
                "label_smoothing_factor: the model smooths its labels itself; set label_smoothing in model_config "
                "instead"
            )
        if args.optim != default_of("optim"):
            raise ValueError(
                f"optim: {args.optim}: this recipe has its own; give --optimizer, one of {', '.join(OPTIMIZERS)}"
            )
        if self.tuning == "linear_probe" and (self.model_config or {}).get("drop_path_rate"):
            raise ValueError("drop_path_rate: would drop parts of a frozen encoder; leave it out of a linear probe")

    def facts(self) -> dict[str, str]:
        """What the figures depend on beside model and schedule."""
        names = ["tuning", "optimizer", "layer_decay", "mixup_alpha", "clip_seconds", "evaluation_windows"]
        if self.tuning == "linear_probe":
            names.remove("layer_decay")
        recipe = ", ".join(f"{name} {getattr(self, name)}" for name in names)
        return {"recipe": recipe, "measured": self.measured_split}


@dataclass(kw_only=True)
class PretrainingArguments(ModelArguments):
    """Masked reconstruction."""

    table: dict | str | None = option(None, "How `data` is read: options of build_clip_table (label, split, ...).")
    clip_seconds: float = option(3.0, "Length of a window: a random one in training, the middle one in evaluation.")
    augmentation: dict | str | None = option(None, "Changes to the paper's augmentation: fields of ClipAugmentation.")
    branch_ramp: float = option(0.5, "Share of the training in which the ViTs thaw; 0 for ViTs that start new.")
    probe_epochs: int = option(10, "Nearest-neighbor probe every so many epochs; 0: at the end.")
    num_pictures: int = option(6, "Test clips whose reconstruction is drawn.")


@dataclass(kw_only=True)
class GainArguments(SeedArguments):
    """Probes of one encoder before and after its pre-training."""

    table: dict | str | None = option(
        None, "How `data` is read: options of build_clip_table; segments are probed one by one."
    )
    frames_per_window: int = option(1, "More where the video processor's frame_grid tiles them into one.")
    probe_windows: int = option(1, "Evenly spaced windows over which the probe averages a clip without segments.")
    pretraining_windows: int = option(1, "Evenly spaced windows that pre-training sees of a training clip.")
    branch_ramp: float = option(0.0, "Share of the training in which the ViTs thaw.")
    examples_per_class: list[int] = option([], "Numbers of training examples of a class for further probes: 1 5 10.")
    num_pictures: int = option(4, "Test windows drawn in reconstructions.png.")


def default_of(name: str) -> Any:
    """The default of a field of `TrainingArguments`."""
    return TrainingArguments.__dataclass_fields__[name].default


def parse_arguments(group: type[ModelArguments], argv: list[str] | None) -> tuple[Any, TrainingArguments]:
    """`config.yaml [--key value ...]` to `group` and the Trainer's arguments.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown key, also of `table`.
    """
    defaults = {"remove_unused_columns": False, "report_to": "none"}
    defaults["dataloader_pin_memory"] = torch.cuda.is_available()  # without a GPU PyTorch warns for every loader
    task, args = parse_options((group, TrainingArguments), argv, defaults)
    # `table` holds options of `build_clip_table`, after the clips.
    check_known("table", getattr(task, "table", None), list(inspect.signature(build_clip_table).parameters)[1:])
    level = logging.WARNING
    if args.should_log:
        level = logging.INFO
    logging.basicConfig(level=level, format="%(message)s")
    return task, args
