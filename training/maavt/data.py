# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""From a recipe to clip tables, a processor and data sets."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import AutoProcessor, ProcessorMixin

from modeling_maavt import MAAVTConfig
from processing import MAAVTProcessor
from processing.data.block_state_cache import BlockStateCollator
from processing.data.clip_dataset import ClipDataset
from processing.data.clip_tables import build_clip_table, report_text
from processing.data.collators import AudioVisualCollator
from training.common.processes import of_first_process
from training.common.processor_changes import changed_processor

from .arguments import Recipe, set_values_from_clips
from .feeding import block_state_source, clip_source
from .streams import TrainingStream, make_stream, open_tables


logger = logging.getLogger(__name__)


@dataclass
class Clips:
    """The clips of a run: a table for each split; of a stream only `validation` and `test`, and the stream itself."""

    tables: DatasetDict
    report: dict
    stream: TrainingStream | None = None

    @property
    def label_names(self) -> list[str]:
        return self.report["classes"]

    @property
    def multi_label(self) -> bool:
        return self.report["labels"] == "multi_label"


def read_clips(recipe: Recipe) -> Clips:
    """The tables, in which no group stands in two splits; sets the values of the recipe that follow from them.

    The first process checks the clips, for all of them.
    """
    if recipe.streams:
        with recipe.run.main_process_first(desc="clip table"):
            clips = Clips(*open_tables(recipe))
    else:
        clips = Clips(*of_first_process(recipe.run, lambda: build_tables(recipe)))
    logger.info(report_text(clips.report))
    check_splits(recipe, clips)
    if len(clips.label_names) == 1 and not clips.multi_label:
        raise ValueError(
            f"{recipe.data.data}: all clips that are left are of one class, {clips.label_names[0]!r}; add clips of another"
        )
    set_values_from_clips(recipe, clips.multi_label, clips.report["splits"]["train"]["clips"])
    return clips


def check_splits(recipe: Recipe, clips: Clips) -> None:
    """Raises ValueError where a split that the run needs has no clip."""
    for split in ("train", "validation", recipe.evaluation.evaluation_split):
        if split not in clips.report["splits"]:
            raise ValueError(
                f"{recipe.data.data}: no clip is left for {split}; add clips of other groups, or give each split a share "
                "(validation_fraction, test_fraction)"
            )


def build_tables(recipe: Recipe) -> tuple[DatasetDict, dict]:
    """Tables `train`, `validation` and `test`, and the report of what was skipped. Raises where a split leaks."""
    data = recipe.data
    columns = vars(data.table) | {"segments": _segments(data.table.segments)}
    return build_clip_table(
        data.data,
        **columns,
        require=() if data.on_missing == "none" else tuple(data.modalities),
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
        seed=recipe.split_seed,
        allow_absolute_paths=data.allow_absolute_paths,
        check=data.check,
    )


def _segments(columns: dict | None) -> list[dict[str, str]] | None:
    """`{label column: [start column, end column] or null}` as `build_clip_table` takes it."""
    if not columns:
        return None
    parts = []
    for label, window in columns.items():
        part = {"label": label}
        if window is not None:
            if not isinstance(window, (list, tuple)) or len(window) != 2:
                raise ValueError(f"segments: {label}: give [start column, end column] or null, not {window!r}")
            part["start"], part["end"] = window
        parts.append(part)
    return parts


def build_processor(recipe: Recipe) -> ProcessorMixin:
    """The checkpoint's own processor where it has one, else one made for the backbone; changed as the YAML says.

    Raises:
        OSError: there is neither a processor nor an image processor.
        ValueError: an unknown part or field of `processor`, or a value that a part refuses.
    """
    name, data = recipe.model.model_name_or_path, recipe.data
    revision = recipe.model.revision or "main"
    try:
        processor = AutoProcessor.from_pretrained(name, revision=revision)
    except (OSError, ValueError):
        if (Path(name) / "processor_config.json").is_file():
            raise  # a damaged one must not be replaced by another
        processor = None  # as of most image backbones
    if not hasattr(processor, "video_processor"):  # none, or that of an image backbone such as CLIP
        processor = MAAVTProcessor.from_backbone(name, revision=revision)
    processor = changed_processor(processor, data.processor or {})
    processor.video_processor.frames_per_clip = data.num_frames
    return processor


@dataclass
class RunData:
    """The data sets of a run. Training draws partners, augmentation and noise per epoch; validation and test are fixed."""

    recipe: Recipe
    tables: DatasetDict
    processor: ProcessorMixin
    source: Any  # loads clips: the processor, or a cache in its place
    states: Any  # loads what enters the first prompted block, for `block_states`; else the same as `source`
    collator: Callable
    trains_match_head: bool  # validation and test then have mismatched pairs
    paired: bool  # whether the test clips can be shown in mismatched pairs
    train_set: torch.utils.data.Dataset
    validation_set: ClipDataset

    @property
    def tested(self) -> str:
        """The split that the tables are measured on."""
        return self.recipe.evaluation.evaluation_split

    def has_any_of(self, modalities: tuple[str, ...]) -> bool:
        """Whether a tested clip has one of `modalities`."""
        return any(row[name] is not None for row in self.tables[self.tested] for name in modalities)

    def split(self, name: str, **options) -> ClipDataset:
        """A split for the model; options as for `make_dataset`."""
        return make_dataset(self.recipe, self.tables, self.states, name, **options)

    def clips(self, name: str, **options) -> ClipDataset:
        """A split as frames and spectrograms, also where the model is fed with block states."""
        return make_dataset(self.recipe, self.tables, self.source, name, **options)


def check_best_metric(recipe: Recipe, clips: Clips, trains_match_head: bool, config: MAAVTConfig) -> None:
    """Raises ValueError, before training, where the validation of this run does not measure the metric that chooses."""
    run, first = recipe.run, "map" if clips.multi_label else "top1"
    measured = [first, "mauc" if clips.multi_label else "macro_f1"]
    if len(clips.label_names) > 5 and not clips.multi_label:
        measured.append("top5")
    if recipe.both_modalities and config.lavish is None and not run.torch_compile:
        measured += [f"{first}_video", f"{first}_audio"]
    if trains_match_head:
        measured += ["match_auroc", "match_accuracy"]
        if not clips.multi_label:
            measured.append("combined")
    metric = (run.metric_for_best_model or "loss").removeprefix("eval_")
    chooses = run.eval_strategy != "no" and not run.evaluate_only
    if chooses and metric not in measured and not metric.endswith("loss"):
        raise ValueError(
            f"metric_for_best_model: {metric} is not measured in this run; take one of {', '.join(measured)}, loss"
        )


def build_data(recipe: Recipe, clips: Clips, model: nn.Module) -> RunData:
    """Processor, caches and data sets. The model says whether mismatched pairs teach anything."""
    data = recipe.data
    draws_pairs = data.mismatch_probability > 0 or model.config.in_batch_mismatches > 0
    trains_match_head = recipe.both_modalities and model.config.background_mining and draws_pairs
    check_best_metric(recipe, clips, trains_match_head, model.config)
    processor = build_processor(recipe)
    source, tables = clip_source(recipe, processor, clips.tables)

    # With block states the model reads states in place of frames and spectrograms.
    states, collator = source, AudioVisualCollator()
    if data.block_states and not recipe.run.dry_run:
        states, collator = block_state_source(recipe, source, model), BlockStateCollator()

    mark_noise = trains_match_head and model.config.match_head == "patches" and recipe.train_noise is not None
    if clips.stream is not None:
        train_set = make_stream(recipe, clips.stream, tables, processor, mark_noise)
    else:
        train_set = make_dataset(recipe, tables, states, "train", training=True, mark_noise=mark_noise)

    validation = {"noise_db": recipe.train_noise, "mismatched_copies": trains_match_head}
    validation_set = make_dataset(recipe, tables, states, "validation", **validation)
    if clips.stream is None:  # what is wrong with the test clips shall be known before training
        make_dataset(recipe, tables, states, recipe.evaluation.evaluation_split, mismatched_copies=trains_match_head)
    paired = trains_match_head or (recipe.both_modalities and has_partners(recipe, tables, states))
    return RunData(
        recipe, tables, processor, source, states, collator, trains_match_head, paired, train_set, validation_set
    )


def has_partners(recipe: Recipe, tables: DatasetDict, source: Any) -> bool:
    """Whether every test clip has one of another class and another group to be mismatched with."""
    try:
        make_dataset(recipe, tables, source, recipe.evaluation.evaluation_split, mismatched_copies=True)
    except ValueError:
        return False
    return True


def rows_with_any_of(table: Dataset, modalities: Sequence[str]) -> list[int]:
    """The rows of the clips that have at least one of `modalities`."""
    return [i for i, row in enumerate(table) if any(row[name] is not None for name in modalities)]


def make_dataset(
    recipe: Recipe,
    tables: DatasetDict,
    source: Any,
    split: str,
    *,
    training: bool = False,
    modalities: tuple[str, ...] | None = None,
    noise_db: float | tuple[float, float] | None = None,
    mismatched_copies: bool = False,
    same_class_copies: bool = False,
    mark_noise: bool = False,
    change_frames: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> ClipDataset:
    """One split as a data set.

    Args:
        source: loads clips: a processor, or a cache in its place.
        modalities: what the clips are shown by; those that have none of them are left out. None: as in the recipe.
        training: with mismatched pairs, augmentation and the noise of training.
        noise_db: a level or a range, outside training.
        mismatched_copies: show every clip a second time with the audio of another class.
        same_class_copies: and a third time with that of another clip of its class.
        mark_noise: say which training clips have noise, which the match head on patches does not learn from.
        change_frames: what is done to the frames of every clip, such as a blur.

    Raises:
        ValueError: names the split and what is wrong with it.
    """
    data = recipe.data
    # Only training clips are mismatched and augmented.
    drawn = {}
    if training:
        noise_db = recipe.train_noise
        drawn = {
            "mismatch_probability": data.mismatch_probability,
            "label_mismatched_pairs": data.label_mismatched_pairs,
            "augmentation": recipe.augmentation,
        }
    table = tables[split]
    if modalities is not None and data.on_missing == "none":
        table = table.select(rows_with_any_of(table, modalities))
    try:
        return ClipDataset(
            table,
            source,
            seed=recipe.run.seed,
            training=training,
            mismatched_copies=mismatched_copies,
            same_class_copies=same_class_copies,
            mark_noise=mark_noise,
            modalities=tuple(modalities or data.modalities),
            num_frames=data.num_frames,
            noise_db=noise_db,
            clean_probability=data.clean_probability,
            on_missing=data.on_missing,
            change_frames=change_frames,
            **drawn,
        )
    except ValueError as error:
        raise ValueError(f"{split}: {error}") from None
