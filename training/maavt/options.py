# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The options of MA-AVT's recipe: names, defaults and help. Imports no PyTorch, so that `train.py --help` is quick."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from training.common.options import REQUIRED, option, show_help


MODALITIES = ("video", "audio")


@dataclass
class TableColumns:
    """How the table of clips is read: the keys of the option `table`."""

    file_name: str = "file_name"  # column with the file, relative to the table
    label: str = "label"  # column with the class
    label_separator: str | None = None  # between the classes of one cell, which makes the clips multi-label
    start: str | None = None  # column with the start of the event in the clip, seconds; "none": no such column
    end: str | None = None  # column with the end of the event
    split: str | None = None  # column with the split; None: `split` if there is one; "none": the split is made here
    group: str | None = None  # column whose equal values stay in one split
    test_split: str | None = None  # value of the split column that is the test set
    segments: dict | None = None  # {label column: [start column, end column]}, or null for equal segments of the clip
    where: dict | None = None  # keep rows whose columns have these values
    window: float | None = None  # seconds, cut around the middle of [start, end]

    def __post_init__(self):
        for name in ("start", "end", "split", "group"):
            if getattr(self, name) == "none":
                setattr(self, name, False)  # no such column, also where one has the usual name


@dataclass
class StreamOptions:
    """How shards are streamed: the keys of the option `stream_options`."""

    shuffle_buffer: int = 100  # clips, as files in memory, that each loader worker draws from; 1: in order
    on_broken: Literal["raise", "skip"] = "raise"  # skip: clips that cannot be decoded are logged and skipped
    class_names: str | None = None  # file with a class a line, where labels are bare numbers; None: classes.txt


@dataclass
class CardOptions:
    """What the model card cannot know: the keys of the option `card`."""

    title: str | None = None  # None: MA-AVT on the data's name
    data_name: str | None = None  # None: the name of the data's folder
    data_description: str | None = None  # one sentence
    data_license: str = "not stated"
    data_hub: str | None = None  # user/name of the data set on the Hub; None: as in data: hf://datasets/user/name
    data_task: str = "default"  # the task of that data set's eval.yaml whose leaderboard lists the result
    backbone: str | None = None  # its Hub name, or what it is; None: the name or folder that was loaded
    backbone_license: str | None = None  # None: as the backbone's own card says
    license: str | None = None  # of the trained weights, a name that the Hub knows; None: both licenses apply

    def __post_init__(self):
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license):
            raise ValueError(
                f"card: license: {self.license!r} is no name of a license; give one that the Hub knows, such as apache-2.0"
            )


def names(keys: type) -> str:
    return ", ".join(item.name for item in fields(keys))


@dataclass
class ModelArguments:
    """Which network, and which part of it is trained."""

    model_name_or_path: str = option(
        REQUIRED,
        "A ViT, DeiT, DINOv2, CLIP, MAE or MSN checkpoint (docs/maavt.md, 10), a fine-tuned maavt checkpoint, or an adapter: "
        "Hub name or folder.",
        section="Model",
    )
    revision: str | None = option(None, "Branch, tag or commit of a Hub model.")
    tuning: Literal["adapter", "full", "linear_probe", "lora", "lavish"] = option(
        "adapter",
        "adapter: frozen backbone, tokens and heads trained through PEFT. full: everything is trained. Baselines, without "
        "learned tokens, contrastive loss and match head: linear_probe trains only the classifier, lora also LoRA in the backbone, "
        "lavish also LAVISH adapters beside it.",
    )
    lora_rank: int = option(
        0, "Above 0: LoRA of this rank inside the backbone as well. tuning: lora takes 8 where none is given."
    )
    model_config: dict | str | None = option(None, "Fields of MAAVTConfig to change, as a mapping.")
    backbone_dtype: Literal["float32", "bfloat16"] = option(
        "float32", "Type of the frozen weights. What is trained stays in float32 in either case."
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = option(
        "sdpa", "How attention is computed. sdpa: fused. eager: faster backward in bfloat16 without a GPU."
    )


@dataclass
class DataArguments:
    """Which clips, how they are split, and what a model sees of them."""

    data: str = option(
        REQUIRED,
        "Folder with a subfolder per class, folder with metadata.csv, a csv file, a saved data set, or shards.",
        section="Data",
    )
    table: dict | str | None = option(
        None, f"How the table is read, a mapping: {names(TableColumns)}. See docs/datasets.md."
    )
    allow_absolute_paths: bool = option(
        False, "A csv or Parquet table may name files outside its folder by absolute paths."
    )
    validation_fraction: float = option(0.15, "Share of the clips that becomes validation, where no split is given.")
    test_fraction: float = option(0.15, "Share of the clips that becomes test, where no split is given.")
    split_seed: int | None = option(None, "Seed of the split. None: the run's seed.")
    check: Literal["decode", "probe", "none"] = option(
        "decode", "decode: find broken and silent clips before training. probe: read headers only. none: trust."
    )

    modalities: list[str] = option(
        list(MODALITIES), "What the model is given: video, audio, or both.", section="Clips"
    )
    num_frames: int = option(8, "Video frames of a clip: centers of equal parts of what the spectrograms cover.")
    processor: dict | str | None = option(None, "Changes by part: {feature_extractor: {...}, video_processor: {...}}.")
    on_missing: Literal["raise", "none"] = option(
        "raise", "none: a clip without audio or video is used with what it has."
    )
    augmentation: dict | str | None = option(
        None, "Fields of ClipAugmentation; an empty mapping takes its defaults; None is off."
    )
    train_noise_db: list[float] | None = option(
        None, "White noise on the training and validation audio: one level, or a range (low high), in dB SNR."
    )
    clean_probability: float = option(0.0, "Share of clips that stay clean where train_noise_db is a range.")

    mismatch_probability: float = option(
        0.2,
        "Share of training pairs whose video or audio comes from a clip of another class and another group. 0 without a match "
        "head.",
        section="Pairs and sampling",
    )
    label_mismatched_pairs: bool = option(
        False,
        "The video and the audio of a mismatched pair keep the class of their own clips, for the unimodal loss (needs "
        "model_config.unimodal_loss_weight above 0). Off: such pairs train the match head alone.",
    )
    sampling: Literal["shuffle", "balanced"] = option(
        "shuffle",
        "balanced: draw training clips so that rare classes are seen as often as common ones, some of them several times "
        "an epoch; by the table's column `weight` where it has one (AudioSet). shuffle: each clip once.",
    )
    mixup_alpha: float = option(
        0.0, "Above 0: MixUp of training clips, lambda from Beta(alpha, alpha), one for video, audio and label."
    )

    cache_gb: float = option(
        0.0,
        "Memory, per loader worker, for decoded clips; above 0 each is decoded once.",
        section="Caches and streams (docs/feeding.md)",
    )
    feature_cache: str | None = option(
        None,
        "Folder for clips decoded ahead of time; later epochs and runs open no decoder. A run without random changes keeps "
        "resized frames (150 kB each at 224 pixels) and spectrograms; with random crops or flips the frames as decoded "
        "(2.8 MB each at 720p), with noise or gain the waveform.",
    )
    cache_engine: Literal["process", "ray"] = option(
        "process",
        "Who fills feature_cache. process: as many processes as dataloader_num_workers. ray: the cluster that RAY_ADDRESS "
        "names, or all cores of this machine (docs/scale.md).",
    )
    block_states: str | None = option(
        None,
        "Folder for what enters block `model_config.prompt_start_layer` (above 0), computed once per clip: later epochs and "
        "runs compute the blocks from there on. Only for a frozen backbone and clips that are the same in every epoch. "
        "Takes feature_cache's folder for the clips, or its own.",
    )
    streaming: bool = option(
        False,
        "Read shards as they come instead of a table: Parquet or WebDataset, in a folder or on the Hub "
        "(hf://datasets/user/name always streams). Partners of mismatched pairs are recent clips.",
    )
    stream_options: dict | str | None = option(None, f"Of a stream, a mapping: {names(StreamOptions)}.")


@dataclass
class EvaluationArguments:
    """What is measured after training, and what the card says."""

    evaluation_noise_db: list[str] = option(
        ["clean"],
        "Conditions of the test table: 'clean' or a level of white noise in dB SNR.",
        section="Evaluation",
    )
    evaluation_split: Literal["test", "validation"] = option(
        "test", "Clips of the table. validation: while a recipe is being chosen; the baseline is skipped then."
    )
    baseline: bool = option(True, "Add a logistic regression on the same frozen features to the table.")
    retrieval: bool = option(False, "Also measure how well video finds audio, and audio video, among the test clips.")
    bootstrap_samples: int = option(1000, "Resamplings of the groups for the 95 %% interval.")

    card: dict | str | None = option(
        None, f"What the model card cannot know, a mapping: {names(CardOptions)}.", section="Card and Hub"
    )
    hub_upload: Literal["model", "adapter"] = option(
        "model", "What push_to_hub uploads: the merged model or the exported adapter."
    )


@dataclass
class RunOptions:
    """The Trainer's options that have other defaults here, and our additions to them."""

    output_dir: str | None = option("outputs/run", "Everything the run writes.", section="Run")
    overwrite_output_dir: bool = option(False, "Delete the checkpoints of an earlier run in output_dir.")
    evaluate_only: bool = option(
        False, "Measure the maavt checkpoint in model_name_or_path on the test clips; train nothing, write no model."
    )
    dry_run: bool = option(False, "Print counts, one batch, memory and a time estimate; train nothing.")

    early_stopping_patience: int | None = option(
        None, "Stop after this many evaluations without a better metric.", section="Training"
    )
    class_weights: Literal["none", "balanced"] = option(
        "none", "balanced: rare classes weigh more in the loss, by their counts among the training clips."
    )
    gradient_modulation: float | None = option(
        None, "Alpha of OGM-GE gradient modulation (the paper of OGM-GE takes 0.1). None: off."
    )
    metric_for_best_model: str | None = option(
        "top1", "Validation metric that picks the checkpoint. Clips with several labels take map in place of top1."
    )

    eval_strategy: str = option(
        "epoch", "When validation runs: no, steps or epoch.", section="Trainer's options with other defaults here"
    )
    save_strategy: str = option("epoch", "When checkpoints are written.")
    save_total_limit: int | None = option(2, "Checkpoints kept: the best and the last.")
    load_best_model_at_end: bool = option(True, "Go on with the best checkpoint on validation.")
    enable_jit_checkpoint: bool = option(True, "SIGTERM and Ctrl-C save a checkpoint, then end the run.")
    restore_callback_states_from_checkpoint: bool = option(True, "A resumed run goes on counting for early stopping.")
    remove_unused_columns: bool = option(False, "Must stay off: the data set makes tensors.")
    label_names: list[str] | None = option(["labels", "is_matched"], "Targets that the metrics see.")
    hub_strategy: str = option("end", "One upload at the end, with code and card.")


OPTIONS = (ModelArguments, DataArguments, RunOptions, EvaluationArguments)


def show_help_if_asked(description: str, argv: Sequence[str] | None) -> None:
    """Prints our options, grouped, and ends the process where `--help` is given."""
    show_help(OPTIONS, description, argv, trainer="training.maavt.arguments:RunArguments")
