# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""From the command line to a `Recipe`: options are read, checked and turned into their effective values here alone."""

import json
import logging
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig, TrainingArguments

from processing.data.augmentation import ClipAugmentation
from processing.data.remote_files import is_remote
from training.common.options import check_known, parse_options

from .options import (
    MODALITIES,
    CardOptions,
    DataArguments,
    EvaluationArguments,
    ModelArguments,
    RunOptions,
    StreamOptions,
    TableColumns,
)


logger = logging.getLogger(__name__)

LORA_RANK = 8  # of the baseline, where none is given
MAPPINGS = {"table": TableColumns, "stream_options": StreamOptions, "card": CardOptions}
RECORDED = (str, int, float, bool, list, dict)
CHOSEN_BY = ("top1", "top5", "macro_f1", "map", "mauc", "match_auroc", "match_accuracy", "combined")  # and losses


@dataclass
class RunArguments(RunOptions, TrainingArguments):
    """`TrainingArguments` with the defaults of this recipe and a few fields of its own."""

    def __post_init__(self):
        # TrainingArguments pass `ddp_timeout` on where there is a GPU, and elsewhere wait for a dead process for 30 minutes.
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ
        if self.use_cpu and several and not dist.is_initialized():
            dist.init_process_group(self.ddp_backend or "gloo", timeout=timedelta(seconds=self.ddp_timeout))
        super().__post_init__()
        if str(self.resume_from_checkpoint).lower() in ("false", "none", ""):
            self.resume_from_checkpoint = None
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # it is for copies to a GPU; PyTorch warns for every loader


@dataclass
class Recipe:
    """All options of a run. What they say is what runs: nothing later changes them, except `set_values_from_clips`."""

    model: ModelArguments
    data: DataArguments
    evaluation: EvaluationArguments
    run: RunArguments
    started: float = field(default_factory=time.time)  # seconds since 1970

    @property
    def streams(self) -> bool:
        """Whether training clips are read from shards as they come: asked for, or the data lie on the Hub or in a store."""
        return self.data.streaming or is_remote(self.data.data)

    @property
    def split_seed(self) -> int:
        if self.data.split_seed is None:
            return self.run.seed
        return self.data.split_seed

    @property
    def train_noise(self) -> float | tuple[float, float] | None:
        """The noise on training and validation audio: a level or a range in dB SNR, or none."""
        levels = self.data.train_noise_db
        if levels is None or len(levels) == 2:
            return levels and tuple(levels)
        return levels[0]

    @property
    def augmentation(self) -> ClipAugmentation | None:
        if self.data.augmentation is None:
            return None
        return ClipAugmentation(**self.data.augmentation)

    @property
    def both_modalities(self) -> bool:
        return len(self.data.modalities) == 2


def parse_arguments(argv: Sequence[str] | None = None) -> Recipe:
    """`[config.yaml] [--key value ...]`: the file first, the command line wins. Looks at no other file.

    A mapping on the command line (`--model_config '{temperature: 0.1}'`) changes only the keys that it names.

    Raises:
        FileNotFoundError: no such YAML file.
        ValueError: unknown keys, and values that contradict each other; names the field and the cure.
    """
    groups = (ModelArguments, DataArguments, EvaluationArguments, RunArguments)
    below = [f"{name}.{item.name}" for name, keys in MAPPINGS.items() for item in fields(keys)]
    recipe = Recipe(*parse_options(groups, argv, below=below))
    recipe.data.table = from_mapping("table", recipe.data.table)
    recipe.data.stream_options = from_mapping("stream_options", recipe.data.stream_options)
    recipe.evaluation.card = from_mapping("card", recipe.evaluation.card)
    check_arguments(recipe)
    if recipe.model.tuning == "lora" and not recipe.model.lora_rank:
        recipe.model.lora_rank = LORA_RANK
    if recipe.run.evaluate_only:
        recipe.evaluation.baseline = False  # it is for features of the frozen backbone, which a checkpoint has tuned
    return recipe


def from_mapping(name: str, mapping: Mapping[str, Any] | None) -> Any:
    """The dataclass of a mapping option. Raises ValueError for an unknown key, with the nearest known one."""
    keys = MAPPINGS[name]
    check_known(name, mapping, [item.name for item in fields(keys)])
    return keys(**(mapping or {}))


# Checks that need nothing but the options


def check_arguments(recipe: Recipe) -> None:
    """Raises ValueError for values that contradict each other; names the field and the cure."""
    check_ranges(recipe)
    model, data, run = recipe.model, recipe.data, recipe.run
    model_config = model.model_config or {}
    if model.lora_rank and model.tuning not in ("adapter", "lora"):
        raise ValueError(
            f"lora_rank: {model.lora_rank} needs tuning: adapter or lora, not {model.tuning}; give --lora_rank 0"
        )
    if model.tuning == "lavish" and not recipe.both_modalities:
        raise ValueError(f"tuning: lavish joins video and audio, but modalities is {data.modalities}; give both")
    if recipe.evaluation.retrieval and not recipe.both_modalities:
        raise ValueError(f"retrieval: needs video and audio, but modalities is {data.modalities}; give both")
    if data.label_mismatched_pairs and not model_config.get("unimodal_loss_weight"):
        raise ValueError("label_mismatched_pairs: only the unimodal loss reads them; set unimodal_loss_weight above 0")
    if data.mixup_alpha and model_config.get("contrastive_positives") == "label":
        raise ValueError("mixup_alpha: mixed clips have several classes; it needs contrastive_positives: pair")
    if data.mixup_alpha and run.gradient_modulation:
        raise ValueError("mixup_alpha: gradient modulation needs one class a clip; switch one of the two off")
    if run.label_smoothing_factor:
        raise ValueError(
            "label_smoothing_factor: Trainer would drop the matching and contrastive losses; give "
            f"model_config: {{label_smoothing: {run.label_smoothing_factor}}}"
        )
    if run.evaluate_only and run.push_to_hub:
        raise ValueError(
            "evaluate_only: writes no model that could be uploaded; `maavt push RUN you/name` uploads the run that has "
            "written the one in model_name_or_path (RUN: its output folder)"
        )
    if run.evaluate_only and (run.dry_run or run.resume_from_checkpoint):
        raise ValueError("evaluate_only: trains nothing; leave dry_run and resume_from_checkpoint out")
    metric = (run.metric_for_best_model or "loss").removeprefix("eval_")
    if metric not in CHOSEN_BY and not metric.endswith("loss") and not metric.startswith(("top1_", "map_")):
        raise ValueError(f"metric_for_best_model: {metric} is not measured; take one of {', '.join(CHOSEN_BY)}, loss")
    if run.load_best_model_at_end and run.eval_strategy == "no":
        raise ValueError("load_best_model_at_end: needs eval_strategy steps or epoch, the best one is chosen by it")
    if run.early_stopping_patience and run.eval_strategy == "no":
        raise ValueError("early_stopping_patience: needs eval_strategy steps or epoch, it counts evaluations")
    if data.feature_cache and data.cache_gb:
        raise ValueError("feature_cache: shards are kept in memory by the system already; leave cache_gb at 0")
    if run.push_to_hub and recipe.evaluation.hub_upload == "adapter" and model.tuning in ("full", "linear_probe"):
        raise ValueError(f"hub_upload: tuning: {model.tuning} makes no adapter; give model")
    if data.block_states:
        check_block_states(recipe)
    if recipe.streams:
        check_streaming(recipe)


def check_ranges(recipe: Recipe) -> None:
    """Raises ValueError for a value that makes no sense by itself."""
    data, run = recipe.data, recipe.run
    if run.num_train_epochs <= 0 and run.max_steps <= 0 and not run.evaluate_only:
        raise ValueError(f"num_train_epochs: {run.num_train_epochs:g} trains nothing; give more than 0")
    if recipe.evaluation.bootstrap_samples < 1:
        raise ValueError(f"bootstrap_samples: {recipe.evaluation.bootstrap_samples} must be at least 1")
    check_known("augmentation", data.augmentation, [item.name for item in fields(ClipAugmentation)])
    unknown = [name for name in data.modalities if name not in MODALITIES]
    if unknown or not data.modalities or len(set(data.modalities)) != len(data.modalities):
        raise ValueError(f"modalities: {data.modalities} must be one or both of {list(MODALITIES)}")
    if not 0 <= data.mismatch_probability < 1:
        raise ValueError(f"mismatch_probability: {data.mismatch_probability} must be at least 0 and below 1")
    if data.num_frames < 1:
        raise ValueError(f"num_frames: {data.num_frames} must be at least 1")
    if data.train_noise_db is not None and len(data.train_noise_db) not in (1, 2):
        raise ValueError(f"train_noise_db: give one level or a range (low high), got {data.train_noise_db}")
    if not data.mixup_alpha >= 0:
        raise ValueError(f"mixup_alpha: {data.mixup_alpha} must be at least 0 (0: off)")
    stream = data.stream_options
    if stream.shuffle_buffer < 1:
        raise ValueError(f"stream_options: shuffle_buffer: {stream.shuffle_buffer} must be at least 1")
    if stream.on_broken not in ("raise", "skip"):
        raise ValueError(f"stream_options: on_broken: {stream.on_broken!r} must be raise or skip")
    for condition in recipe.evaluation.evaluation_noise_db:
        condition_level(condition)


def check_block_states(recipe: Recipe) -> None:
    """Raises ValueError where a clip's inputs, or the blocks below the tokens, change during the run; names the cure."""
    model, data = recipe.model, recipe.data
    noisy = [level for level in recipe.evaluation.evaluation_noise_db if str(level) != "clean"]
    changing_clips = {
        "augmentation": data.augmentation is not None,
        "train_noise_db": data.train_noise_db is not None,
        "evaluation_noise_db": bool(noisy),
        "mixup_alpha": bool(data.mixup_alpha),
    }
    changing_blocks = {"lora_rank": bool(model.lora_rank), "tuning": model.tuning != "adapter"}
    reasons = {"clips that never change": changing_clips, "blocks that stay frozen": changing_blocks}
    for reason, changing in reasons.items():
        for name, changes in changing.items():
            if changes:
                raise ValueError(
                    f"block_states: states are kept of {reason}, but {name} is set; leave {name} or block_states out"
                )
    if data.cache_gb:
        raise ValueError("block_states: shards are kept in memory by the system already; leave cache_gb at 0")


def check_streaming(recipe: Recipe) -> None:
    """Raises ValueError for what only a table can give; names the field and the cure."""
    data, table = recipe.data, recipe.data.table
    needs_table = {
        "feature_cache": data.feature_cache,
        "block_states": data.block_states,
        "cache_gb": data.cache_gb,
        "table.where": table.where,
        "table.window": table.window,
        "table.split": table.split not in (None, False, "split"),
        "table.segments": table.segments,
        "class_weights": recipe.run.class_weights != "none",
        "sampling": data.sampling != "shuffle",
        "label_mismatched_pairs": data.label_mismatched_pairs,
    }
    for name, value in needs_table.items():
        if value:
            raise ValueError(f"{name}: is not for a stream; leave it out, prepare the data with it, or drop streaming")


def condition_level(condition: str) -> float | None:
    """'clean' to None, '-5' to -5.0 dB. Raises ValueError for anything else."""
    if str(condition) == "clean":
        return None
    try:
        return float(condition)
    except ValueError:
        raise ValueError(f"evaluation_noise_db: '{condition}' is neither 'clean' nor a level in dB") from None


# Checks that look at files, before any clip is decoded


def check_files_and_backbone(recipe: Recipe) -> None:
    """Cheap checks of folders and backbone, and the effective values that follow from the backbone.

    Raises:
        FileNotFoundError, OSError: no such data, no such backbone, an output folder that cannot be written.
        FileExistsError: checkpoints of an earlier run would be mixed with those of this run.
    """
    data, run = recipe.data, recipe.run
    if not is_remote(data.data) and not Path(data.data).exists():
        hint = (
            f"; a data set of the Hub is hf://datasets/{data.data}"
            if re.fullmatch(r"[\w.-]+/[\w.-]+", data.data)
            else ""
        )
        raise FileNotFoundError(f"data: {data.data}: no such file or folder{hint}")
    if not run.dry_run:
        check_output_folder(run)
    if run.evaluate_only:
        use_checkpoint_processor(recipe)
    config = backbone_config(recipe.model)
    if not has_match_head(recipe, config):
        data.mismatch_probability = 0.0  # a mismatched pair would teach nothing
        if run.metric_for_best_model in ("combined", "match_auroc", "match_accuracy"):
            logger.warning("metric_for_best_model: %s needs a match head; top1 is used", run.metric_for_best_model)
            run.metric_for_best_model = "top1"
    elif not run.evaluate_only:
        head = (recipe.model.model_config or {}).get("match_head", getattr(config, "match_head", None))
        if head == "patches":
            check_patches(recipe)


def check_patches(recipe: Recipe) -> None:
    """Raises ValueError for clips that the match head on patches cannot be trained on; names the cure."""
    data = recipe.data
    # In the batch it takes every other clip for a mismatch.
    if data.mixup_alpha:
        raise ValueError("mixup_alpha: mixed clips share their content; it needs model_config.match_head: bilinear")
    if data.sampling == "balanced":
        raise ValueError(
            "sampling: balanced draws a clip more than once into a batch; it needs model_config.match_head: bilinear"
        )
    # Noise hides which clip is heard: on GRID words the head learns little from noisy clips (docs/evidence.md).
    if recipe.train_noise is not None and not (isinstance(recipe.train_noise, tuple) and data.clean_probability):
        raise ValueError(
            "train_noise_db: match_head: patches learns from clips without noise; give a range and a clean_probability "
            "above 0, such as 0.5"
        )


def backbone_config(model: ModelArguments) -> PreTrainedConfig:
    """The configuration of the backbone or checkpoint. Raises OSError that names the field where there is none."""
    try:
        return AutoConfig.from_pretrained(model.model_name_or_path, revision=model.revision or "main")
    except OSError as error:
        raise unreachable(model) from error


def use_checkpoint_processor(recipe: Recipe) -> None:
    """A checkpoint is measured as it was trained: its processor wins over the YAML file, with a warning."""
    data = recipe.data
    try:
        processor = AutoProcessor.from_pretrained(
            recipe.model.model_name_or_path, revision=recipe.model.revision or "main"
        )
    except (OSError, ValueError):
        return  # no processor beside the weights: the YAML file says all
    if not hasattr(processor, "video_processor"):
        return  # of a plain ViT
    num_frames = processor.video_processor.frames_per_clip
    if num_frames != data.num_frames:
        logger.warning(
            "num_frames: %d is set, the checkpoint was trained with %d; %d are used",
            *(data.num_frames, num_frames, num_frames),
        )
        data.num_frames = num_frames
    for part, changes in (data.processor or {}).items():
        for name, value in changes.items():
            if getattr(getattr(processor, part, None), name, value) != value:
                logger.warning("processor: %s.%s is as in the checkpoint, not as in the recipe", part, name)
    data.processor = None


def unreachable(model: ModelArguments) -> OSError:
    return OSError(
        f"model_name_or_path: {model.model_name_or_path} is no folder with a ViT checkpoint, and cannot be had "
        "from the Hub or its cache; give a folder with config.json and weights, or a name of the Hub"
    )


def has_match_head(recipe: Recipe, config: PreTrainedConfig) -> bool:
    """Whether the model will have a match head, which learns from mismatched pairs."""
    if not recipe.both_modalities or recipe.model.tuning not in ("adapter", "full"):
        return False
    default = getattr(config, "background_mining", True)
    return bool((recipe.model.model_config or {}).get("background_mining", default))


def check_output_folder(run: RunArguments) -> None:
    """Raises OSError where `output_dir` cannot be written, FileExistsError where an earlier run left checkpoints."""
    folder = Path(run.output_dir)
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise OSError(f"output_dir: {existing} is no folder that can be written; choose another --output_dir")
    checkpoints = sorted(folder.glob("checkpoint-*"))
    goes_on = run.resume_from_checkpoint or run.evaluate_only or run.overwrite_output_dir
    if run.evaluate_only and run.should_save and was_trained(folder):
        raise FileExistsError(
            f"output_dir: {folder} holds the record of a training run, which evaluate_only would replace; give another "
            f"one, such as --output_dir {folder / 'evaluation'}"
        )
    if checkpoints and run.should_save and not goes_on:
        raise FileExistsError(
            f"output_dir: {folder} holds {len(checkpoints)} checkpoints of an earlier run; go on from them with "
            "--resume_from_checkpoint true, start over with --overwrite_output_dir, or choose another --output_dir"
        )


def was_trained(folder: Path) -> bool:
    """Whether a finished training run has written its `results.json` there."""
    record = folder / "results.json"
    return record.is_file() and json.loads(record.read_text(encoding="utf-8")).get("steps", 0) > 0


# Effective values that follow from the clips


def set_values_from_clips(recipe: Recipe, multi_label: bool, num_clips: int | None) -> None:
    """The metric that picks the checkpoint, and, for a stream, steps in place of epochs.

    Args:
        multi_label: whether a clip has several classes, which leaves top-1 undefined.
        num_clips: training clips; None where a stream does not know.

    Raises:
        ValueError: a stream of unknown length, and something is counted in epochs.
    """
    run = recipe.run
    if multi_label and run.metric_for_best_model == "top1":
        run.metric_for_best_model = "map"
    if recipe.streams:
        count_in_steps(run, num_clips)


def count_in_steps(run: RunArguments, num_clips: int | None) -> None:
    """Count in steps what the run counts in epochs: a stream has no end by itself."""
    per_step = run.train_batch_size * run.world_size * run.gradient_accumulation_steps
    unknown = "streaming: how many clips there are is not known (WebDataset shards do not say)"
    if run.max_steps <= 0:
        if num_clips is None:
            raise ValueError(f"{unknown}; set max_steps in place of num_train_epochs")
        run.max_steps = math.ceil(run.num_train_epochs * max(1, math.ceil(num_clips / per_step)))
    for kind in ("eval", "save", "logging"):
        strategy = getattr(run, f"{kind}_strategy")
        if str(getattr(strategy, "value", strategy)) != "epoch":
            continue
        if num_clips is None:
            raise ValueError(f"{unknown}; set {kind}_strategy: steps and {kind}_steps in place of epoch")
        setattr(run, f"{kind}_strategy", type(strategy)("steps"))
        setattr(run, f"{kind}_steps", min(max(1, math.ceil(num_clips / per_step)), run.max_steps))


# The record


class _Defaults(RunArguments):
    """Default values, without the look for devices that makes Accelerate forget the processes of the run."""

    _setup_devices = torch.device("cpu")


def recorded_arguments(recipe: Recipe) -> dict:
    """What differs from the defaults, JSON-able: no secrets, and folders by their last part only."""
    defaults = (ModelArguments(None), DataArguments(None), EvaluationArguments(), _Defaults())
    record = {}
    for group, default_group in zip((recipe.model, recipe.data, recipe.evaluation, recipe.run), defaults, strict=True):
        for item in fields(group):
            value, default = getattr(group, item.name), getattr(default_group, item.name, None)
            if is_dataclass(value):
                value, default = changed_keys(value), {}
            if isinstance(value, Enum):
                value, default = value.value, getattr(default, "value", default)
            if value is None or value == default or not item.init or item.name.endswith("token"):
                continue
            if type(value) in RECORDED:
                record[item.name] = without_folders(value)
    return dict(sorted(record.items()))


def changed_keys(options: Any) -> dict:
    """The keys of a mapping option that differ from their defaults."""
    defaults = asdict(type(options)())
    return {name: value for name, value in asdict(options).items() if value != defaults[name]}


def without_folders(value: Any) -> Any:
    """The value, also a mapping or a list, with the last part alone of each absolute path."""
    if isinstance(value, dict):
        return {name: without_folders(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    if isinstance(value, str) and Path(value.removeprefix("file://")).is_absolute():
        return Path(value).name
    return value


def training_record(run: RunArguments, max_steps: int) -> dict:
    """The schedule that ran, also where it is the default."""
    return {
        "epochs": run.num_train_epochs,
        "steps": max_steps,
        "batch_size": run.train_batch_size * run.world_size * run.gradient_accumulation_steps,
        "learning_rate": run.learning_rate,
        "scheduler": str(getattr(run.lr_scheduler_type, "value", run.lr_scheduler_type)),
        "warmup_steps": run.get_warmup_steps(max_steps),
        "optimizer": str(getattr(run.optim, "value", run.optim)),
        "weight_decay": run.weight_decay,
        "seed": run.seed,
    }
