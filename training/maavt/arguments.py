# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The arguments of a run: four dataclasses, filled from a YAML file first and the command line second."""

import difflib
import os
import sys
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from transformers import HfArgumentParser, TrainingArguments

from processing.data.conventions import MODALITIES
from training.common.yaml_text import read_yaml


@dataclass
class ModelArguments:
    """Which network, and which part of it is trained."""

    model_name_or_path: str = field(
        metadata={"help": "A stock ViT (Hub name or folder), a fine-tuned maavt checkpoint, or an adapter folder."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    tuning: Literal["adapter", "full", "linear_probe", "lora", "lavish"] = field(
        default="adapter",
        metadata={
            "help": "adapter: frozen backbone, tokens and heads trained through PEFT. full: everything is trained. "
            "Baselines, without learned tokens, contrast and mining: linear_probe trains only the classifier, lora also "
            "LoRA in the backbone, lavish also LAVISH adapters beside it."
        },
    )
    lora_rank: int = field(
        default=0,
        metadata={"help": "Above 0: LoRA of this rank inside the backbone as well. tuning: lora takes 8 for 0."},
    )
    model_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of MAAVTConfig to change, as a mapping."}
    )
    backbone_dtype: Literal["float32", "bfloat16"] = field(
        default="float32",
        metadata={"help": "Type of the frozen weights. What is trained stays in float32 in either case."},
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = field(
        default="sdpa",
        metadata={"help": "How attention is computed. sdpa: fused. eager: faster backward in bfloat16 without a GPU."},
    )


@dataclass
class DataArguments:
    """Which clips, how they are split, and what a model sees of them."""

    data: str = field(
        metadata={
            "help": "Folder with a subfolder per class, folder with metadata.csv, a csv file, or a saved data set."
        }
    )
    file_name: str = field(default="file_name", metadata={"help": "Column with the file, relative to the table."})
    label: str = field(default="label", metadata={"help": "Column with the class."})
    start: str | None = field(
        default=None, metadata={"help": "Column with the start of the event in the clip, seconds."}
    )
    end: str | None = field(default=None, metadata={"help": "Column with the end of the event in the clip, seconds."})
    split: str | None = field(
        default=None,
        metadata={
            "help": "Column with the split; None: `split` if there is one; 'none': no column. What is missing is made."
        },
    )
    group: str | None = field(
        default=None, metadata={"help": "Column whose equal values never stand on two sides of a split."}
    )
    segments: dict | str | None = field(
        default=None,
        metadata={
            "help": "For clips with several labeled parts: label column -> [start column, end column], or null where the "
            "processor cuts the clip into equal segments."
        },
    )
    label_separator: str | None = field(
        default=None, metadata={"help": "The label cell holds several classes with this between them: multi-label."}
    )
    where: dict | str | None = field(default=None, metadata={"help": "Keep rows whose columns have these values."})
    window: float | None = field(default=None, metadata={"help": "Seconds cut around the middle of [start, end]."})
    test_split: str | None = field(default=None, metadata={"help": "Value of the split column that is the test set."})
    validation_fraction: float = field(default=0.15, metadata={"help": "Share of clips carved out for validation."})
    test_fraction: float = field(
        default=0.15, metadata={"help": "Share of clips for the test where no split is given."}
    )
    split_seed: int | None = field(default=None, metadata={"help": "Seed of the split. None: the run's seed."})
    allow_absolute_paths: bool = field(
        default=False, metadata={"help": "A csv or Parquet table may name files outside its folder by absolute paths"}
    )
    check: Literal["decode", "probe", "none"] = field(
        default="decode",
        metadata={
            "help": "decode: find broken and silent clips before training. probe: read headers only. none: trust."
        },
    )
    modalities: list[str] = field(
        default_factory=lambda: list(MODALITIES), metadata={"help": "What the model is given: video, audio, or both."}
    )
    num_frames: int = field(default=8, metadata={"help": "Frames per clip, evenly spaced by seconds."})
    processor: dict | str | None = field(
        default=None, metadata={"help": "Changes by part: {feature_extractor: {...}, video_processor: {...}}."}
    )
    on_missing: Literal["raise", "none"] = field(
        default="raise", metadata={"help": "none: a clip without sound or picture is used with what it has."}
    )
    mismatch_probability: float = field(
        default=0.2, metadata={"help": "Share of training pairs given the sound or picture of another class's clip."}
    )
    feature_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder for clips decoded ahead of time; later epochs and runs open no decoder. None: off. A run without "
            "random changes keeps resized frames (150 kB each at 224 pixels) and spectrograms; with random crops or flips "
            "the frames as decoded (2.8 MB each at 720p), with noise or gain the waveform. See docs/feeding.md."
        },
    )
    block_states: str | None = field(
        default=None,
        metadata={
            "help": "Folder for what enters block `model_config.prompt_start_layer` (above 0), computed once per clip: "
            "later epochs and runs compute the blocks from there on. Only for a frozen backbone and clips that are the "
            "same in every epoch. Takes feature_cache's folder for the clips, or its own. See docs/feeding.md."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read shards as they come instead of a table: Parquet or WebDataset, in a folder or on the Hub "
            "(hf://datasets/user/name always streams). Partners of mismatched pairs are recent clips. See docs/feeding.md."
        },
    )
    shuffle_buffer: int = field(
        default=100,
        metadata={"help": "Clips, as files in memory, that each loader worker of a stream draws from. 1: in order."},
    )
    class_names: str | None = field(
        default=None,
        metadata={"help": "File with a class a line, for a stream whose labels are bare numbers; None: classes.txt."},
    )
    on_broken: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "skip: clips of a stream that cannot be decoded are logged and left out."}
    )
    cache_gb: float = field(
        default=0.0, metadata={"help": "Memory, per loader worker, for decoded clips; above 0 each is decoded once."}
    )
    train_noise_db: list[float] | None = field(
        default=None,
        metadata={
            "help": "White noise on the training and validation sound: one level, or a range (low high), in dB SNR."
        },
    )
    clean_probability: float = field(
        default=0.0, metadata={"help": "Share of clips that stay clean where train_noise_db is a range."}
    )
    augmentation: dict | str | None = field(
        default=None,
        metadata={"help": "Fields of ClipAugmentation; an empty mapping takes its defaults; None is off."},
    )
    label_torn_pairs: bool = field(
        default=False,
        metadata={
            "help": "Each half of a mismatched training pair keeps the class of its own clip, for the loss of either half "
            "(needs model_config.unimodal_loss_weight above 0). Off: such pairs train the match head alone."
        },
    )
    sampling: Literal["shuffle", "balanced"] = field(
        default="shuffle",
        metadata={
            "help": "balanced: draw training clips so that rare classes are seen as often as common ones, some of them "
            "several times an epoch; by the table's column `weight` where it has one (AudioSet). shuffle: each clip once."
        },
    )
    mixup_alpha: float = field(
        default=0.0,
        metadata={
            "help": "Above 0: MixUp of training clips, lambda from Beta(alpha, alpha), one for picture, sound and label."
        },
    )


@dataclass
class EvaluationArguments:
    """What is measured after training, and where the result goes."""

    evaluation_noise_db: list[str] = field(
        default_factory=lambda: ["clean"],
        metadata={"help": "Conditions of the test table: 'clean' or a level of white noise in dB SNR."},
    )
    baseline: bool = field(
        default=True, metadata={"help": "Add a logistic regression on the same frozen features to the table."}
    )
    retrieval: bool = field(
        default=False,
        metadata={"help": "Also measure how well picture finds sound, and sound picture, among the test clips."},
    )
    bootstrap_samples: int = field(
        default=1000, metadata={"help": "Resamplings of the groups for the 95 %% interval."}
    )
    model_title: str | None = field(default=None, metadata={"help": "Title of the model card."})
    data_name: str | None = field(default=None, metadata={"help": "Name of the data; None: its folder's."})
    data_description: str | None = field(default=None, metadata={"help": "One sentence on the data, for the card."})
    data_license: str = field(default="not stated", metadata={"help": "License of the data, for the card."})
    backbone_license: str | None = field(
        default=None, metadata={"help": "License of the backbone; None: its own card."}
    )
    hub_upload: Literal["model", "adapter"] = field(
        default="model", metadata={"help": "What push_to_hub uploads: the merged model or the exported adapter."}
    )


@dataclass
class RunArguments(TrainingArguments):
    """`TrainingArguments` with the defaults of this recipe and a few fields of its own."""

    output_dir: str | None = field(default="outputs/run", metadata={"help": "Everything the run writes."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay off: the data set makes tensors."})
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels", "is_matched"], metadata={"help": "Targets that the metrics see."}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When validation runs: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When checkpoints are written."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept: the best and the last."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Go on with the best one on validation."})
    metric_for_best_model: str | None = field(default="top1", metadata={"help": "Validation metric that picks it."})
    enable_jit_checkpoint: bool = field(default=True, metadata={"help": "SIGTERM saves a checkpoint, then ends."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run goes on counting for early stopping."}
    )
    hub_strategy: str = field(default="end", metadata={"help": "One upload at the end, with code and card."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations without a better metric."}
    )
    gradient_modulation: float | None = field(
        default=None, metadata={"help": "Alpha of OGM-GE gradient modulation (0.1 as published). None: off."}
    )
    class_weights: Literal["none", "balanced"] = field(
        default="none",
        metadata={"help": "balanced: rare classes weigh more in the loss, by their counts among the training clips."},
    )
    evaluate_only: bool = field(
        default=False,
        metadata={
            "help": "Measure the maavt checkpoint in model_name_or_path on the test clips; train nothing, write no model."
        },
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Print counts, one batch, memory and a time estimate; train nothing."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Delete the checkpoints of an earlier run in output_dir."}
    )

    def __post_init__(self):
        # TrainingArguments pass `ddp_timeout` on where there is a GPU, and elsewhere wait for a dead process for 30 minutes.
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ
        if self.use_cpu and several and not dist.is_initialized():
            dist.init_process_group(self.ddp_backend or "gloo", timeout=timedelta(seconds=self.ddp_timeout))
        super().__post_init__()


ArgumentTuple = tuple[ModelArguments, DataArguments, EvaluationArguments, RunArguments]
_CLASSES = (ModelArguments, DataArguments, EvaluationArguments, RunArguments)
_RECORDED = (str, int, float, bool, list, dict)
_MAPPINGS = ("model_config", "segments", "where", "processor", "augmentation")


def read_config(path: str | Path) -> dict:
    """A run's YAML file as a flat mapping. Raises ValueError for unknown keys, naming the nearest known one."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such configuration file; the ready ones are in configs/")
    values = read_yaml(path.read_text(encoding="utf-8")) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected `key: value` lines, found {type(values).__name__}")
    known = [f.name for cls in _CLASSES for f in fields(cls) if f.init]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise ValueError(f"{path}: unknown key '{key}'" + (f"; did you mean '{near[0]}'?" if near else ""))
    return values


def merge(base: dict, changes: dict) -> dict:
    """`base` with `changes` on top, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def parse_arguments(argv: list[str] | None = None) -> ArgumentTuple:
    """`[config.yaml] [--key value ...]` to the four dataclasses: YAML first, the command line wins.

    A mapping given on the command line (`--model_config '{temperature: 0.1}'`) changes only the keys it names.
    Raises ValueError for unknown keys, on either side, and for values that contradict each other.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    config = read_config(argv.pop(0)) if argv and argv[0].endswith((".yaml", ".yml")) else {}
    parser = HfArgumentParser(_CLASSES, allow_abbrev=False)
    for action in parser._actions:
        action.required = action.required and action.dest not in config
    # Scalars go through argparse as text, so that a wrong type in the YAML is refused like one on the command line.
    plain = (int, float)
    parser.set_defaults(
        **{k: str(v) if isinstance(v, plain) and not isinstance(v, bool) else v for k, v in config.items()}
    )
    *groups, unknown = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        near = difflib.get_close_matches(unknown[0].lstrip("-"), [a.dest for a in parser._actions], n=1)
        raise ValueError(f"unknown argument '{unknown[0]}'" + (f"; did you mean '--{near[0]}'?" if near else ""))
    for group in groups:
        for name in _MAPPINGS:
            if isinstance(text := getattr(group, name, None), str):
                given = read_yaml(text)
                if given is not None and not isinstance(given, dict):
                    raise ValueError(f"--{name}: expected a mapping such as '{{key: value}}', got {text!r}")
                setattr(group, name, given if given is None else merge(config.get(name) or {}, given))
    check_arguments(*groups)
    return tuple(groups)


def check_arguments(
    model: ModelArguments, data: DataArguments, evaluation: EvaluationArguments, run: RunArguments
) -> None:
    """Raises ValueError for values that contradict each other; names the field and the cure."""
    unknown = [m for m in data.modalities if m not in MODALITIES]
    if unknown or not data.modalities or len(set(data.modalities)) != len(data.modalities):
        raise ValueError(f"modalities: {data.modalities} must be one or both of {list(MODALITIES)}")
    if not 0 <= data.mismatch_probability < 1:
        raise ValueError(f"mismatch_probability: {data.mismatch_probability} must be at least 0 and below 1")
    if data.num_frames < 1:
        raise ValueError(f"num_frames: {data.num_frames} must be at least 1")
    if data.train_noise_db is not None and len(data.train_noise_db) not in (1, 2):
        raise ValueError(f"train_noise_db: give one level or a range (low high), got {data.train_noise_db}")
    if model.lora_rank and model.tuning not in ("adapter", "lora"):
        raise ValueError(f"lora_rank: {model.lora_rank} needs tuning: adapter or lora, not {model.tuning}")
    if model.tuning == "lavish" and len(data.modalities) == 1:
        raise ValueError(f"tuning: lavish lets picture and sound meet, but modalities is {data.modalities}; give both")
    if data.label_torn_pairs and not (model.model_config or {}).get("unimodal_loss_weight"):
        raise ValueError("label_torn_pairs: only the loss of either half reads them; set unimodal_loss_weight above 0")
    if not data.mixup_alpha >= 0:
        raise ValueError(f"mixup_alpha: {data.mixup_alpha} must be at least 0 (0: off)")
    if data.mixup_alpha and (model.model_config or {}).get("contrastive_positives") == "label":
        raise ValueError("mixup_alpha: mixed clips have several classes; it needs contrastive_positives: pair")
    if data.mixup_alpha and run.gradient_modulation:
        raise ValueError("mixup_alpha: gradient modulation needs one class a clip; switch one of the two off")
    if run.evaluate_only and (run.dry_run or run.push_to_hub or run.resume_from_checkpoint):
        raise ValueError("evaluate_only: trains and writes no model; leave dry_run, push_to_hub and resume out")
    if evaluation.retrieval and len(data.modalities) == 1:
        raise ValueError(f"retrieval: needs picture and sound, but modalities is {data.modalities}; give both")
    for condition in evaluation.evaluation_noise_db:
        condition_level(condition)
    if run.load_best_model_at_end and run.eval_strategy == "no":
        raise ValueError("load_best_model_at_end: needs eval_strategy steps or epoch, the best one is chosen by it")
    if data.feature_cache and data.cache_gb:
        raise ValueError("feature_cache: shards are kept in memory by the system already; leave cache_gb at 0")
    if data.block_states:
        check_block_states(model, data, evaluation)
    if data.streaming or data.data.startswith("hf://"):
        check_streaming(data, run)


def check_block_states(model: ModelArguments, data: DataArguments, evaluation: EvaluationArguments) -> None:
    """Raises ValueError where a clip's inputs, or the blocks below the tokens, change during the run; names the cure."""
    changing = {
        "augmentation": data.augmentation is not None,
        "train_noise_db": data.train_noise_db is not None,
        "evaluation_noise_db": any(str(level) != "clean" for level in evaluation.evaluation_noise_db),
        "mixup_alpha": bool(data.mixup_alpha),
        "lora_rank": bool(model.lora_rank),
        "tuning": model.tuning != "adapter",
    }
    for name, changes in changing.items():
        if changes:
            reason = "blocks that stay frozen" if name in ("lora_rank", "tuning") else "clips that never change"
            raise ValueError(
                f"block_states: states are kept of {reason}, but {name} is set; leave {name} or block_states out"
            )
    if data.cache_gb:
        raise ValueError("block_states: shards are kept in memory by the system already; leave cache_gb at 0")


def check_streaming(data: DataArguments, run: RunArguments) -> None:
    """Raises ValueError for what only a table can give; names the field and the cure."""
    needs_table = {
        "feature_cache": data.feature_cache,
        "block_states": data.block_states,
        "cache_gb": data.cache_gb,
        "where": data.where,
        "window": data.window,
        "split": data.split not in (None, "none", "split"),
        "segments": getattr(data, "segments", None),
        "class_weights": getattr(run, "class_weights", "none") != "none",
        "sampling": data.sampling != "shuffle",
        "label_torn_pairs": data.label_torn_pairs,
    }
    for name, value in needs_table.items():
        if value:
            raise ValueError(f"{name}: is not for a stream; leave it out, prepare the data with it, or drop streaming")
    if data.shuffle_buffer < 1:
        raise ValueError(f"shuffle_buffer: {data.shuffle_buffer} must be at least 1")


def condition_level(condition: str) -> float | None:
    """'clean' to None, '-5' to -5.0 dB. Raises ValueError for anything else."""
    if str(condition) == "clean":
        return None
    try:
        return float(condition)
    except ValueError:
        raise ValueError(f"evaluation_noise_db: '{condition}' is neither 'clean' nor a level in dB") from None


class _Defaults(RunArguments):
    """Default values, without the look for devices that makes Accelerate forget the processes of the run."""

    _setup_devices = torch.device("cpu")


def recorded_arguments(groups: ArgumentTuple) -> dict:
    """What makes this run differ from a default one, JSON-able: no secrets, and folders by their last part only."""
    record = {}
    for group in groups:
        defaults = _Defaults() if isinstance(group, RunArguments) else None
        for item in fields(group):
            value = getattr(group, item.name)
            changed = value is not None and (defaults is None or value != getattr(defaults, item.name))
            if changed and item.init and not item.name.endswith("token") and type(value) in _RECORDED:
                local = isinstance(value, str) and Path(value).is_absolute()
                record[item.name] = Path(value).name if local else value
    return dict(sorted(record.items()))
