# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A run on a stream: held-back tables, the number of steps, batches for the Trainer, and where to go on."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from transformers import ProcessorMixin

from processing.data.clip_splits import TEST, TRAIN, VALIDATION, check_leaks
from processing.data.clip_streams import ClipStream
from processing.data.clip_tables import split_counts
from processing.data.stream_sources import ClipSource, as_table, open_source

from .arguments import Recipe


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """Keeps the rows of one part of a split that is made by a number drawn from (seed, group): the same in every pass."""

    seed: int
    low: float
    high: float

    def __call__(self, row: dict[str, Any]) -> bool:
        digest = hashlib.blake2b(f"{self.seed}/{row['group']}".encode(), digest_size=8).digest()
        return self.low <= int.from_bytes(digest, "big") / 2**64 < self.high


@dataclass(frozen=True)
class TrainingStream:
    """What is left to be streamed: the source, and which rows of its training split stay in training (None: all)."""

    source: ClipSource
    keep: Share | None


def open_tables(recipe: Recipe) -> tuple[DatasetDict, dict, TrainingStream]:
    """The clips to validate and test on as tables, the report, and what is left to be streamed.

    A split that the data set lacks is carved out of its training split by group, for which that is read once as a whole.

    Raises:
        ValueError: no such data, a split without clips, or clips that stand in two splits.
    """
    data, table = recipe.data, recipe.data.table
    source = open_source(
        data.data,
        label=table.label,
        start=table.start,
        end=table.end,
        group=table.group,
        class_names=data.stream_options.class_names,
        test_split=table.test_split,
        allow_absolute_paths=data.allow_absolute_paths,
    )
    # Validation and test become tables: the source's splits, or shares of its training clips.
    tables, carved, carved_splits = DatasetDict(), 0.0, []
    for split, fraction in ((VALIDATION, data.validation_fraction), (TEST, data.test_fraction)):
        if split in source.splits:
            tables[split] = as_table(source, split)
            continue
        share = Share(recipe.split_seed, carved, carved + fraction)
        logger.info("The stream has no split %s: every clip of train is read once to carve it out.", split)
        tables[split] = as_table(source, TRAIN, keep=share, part=repr(share))
        carved += fraction
        carved_splits.append(split)
    for split, clips in tables.items():
        if not len(clips):
            raise ValueError(f"{data.data}: no clip for {split}; give it a split of that name, or a {split}_fraction")
    check_leaks(tables)
    # The stream keeps the rest of the training clips.
    keep = None
    if carved:
        keep = Share(recipe.split_seed, carved, 1.0)
    return tables, stream_report(recipe, source, tables, carved_splits), TrainingStream(source, keep)


def stream_report(recipe: Recipe, source: ClipSource, tables: DatasetDict, carved_splits: list[str]) -> dict:
    """The report of a stream, in the form of `build_clip_table`'s; `clips` of train is None where it is not known."""
    # The source counts the carved clips to train.
    num_train = source.lengths[TRAIN]
    if num_train is not None:
        num_train -= sum(len(tables[split]) for split in carved_splits)
    num_clips = (num_train or 0) + sum(len(table) for table in tables.values())
    names = list(source.reader.names)
    made = ""
    if carved_splits:
        made = f", {' and '.join(carved_splits)} out of train by group (seed {recipe.split_seed})"
    splits = {TRAIN: {"clips": num_train, "groups": None}}
    splits |= {split: split_counts(table, names) for split, table in tables.items()}
    return {
        "source": Path(recipe.data.data).name,
        "rows": num_clips,
        "clips": num_clips,
        "classes": names,
        "labels": _kind(tables[TEST], source),
        "split": f"by the data set{made}; train is streamed",
        "seed": recipe.split_seed,
        "splits": splits,
        "skipped": [],
        "skipped_by_reason": {},
        "warnings": [],
    }


def make_stream(
    recipe: Recipe, stream: TrainingStream, tables: DatasetDict, processor: ProcessorMixin, mark_noise: bool = False
) -> ClipStream:
    """The training clips, as `make_dataset` gives them from a table; no clip or group of `tables` is among them."""
    data, run = recipe.data, recipe.run
    held_out = {value for table in tables.values() for name in ("clip_id", "group") for value in table[name]}
    return ClipStream(
        stream.source.splits[TRAIN],
        stream.source.reader,
        processor,
        seed=run.seed,
        mismatch_probability=data.mismatch_probability,
        modalities=tuple(data.modalities),
        num_frames=data.num_frames,
        augmentation=recipe.augmentation,
        noise_db=recipe.train_noise,
        clean_probability=data.clean_probability,
        mark_noise=mark_noise,
        on_missing=data.on_missing,
        shuffle_buffer=data.stream_options.shuffle_buffer,
        on_broken=data.stream_options.on_broken,
        rank=run.process_index,
        world_size=run.world_size,
        keep=stream.keep,
        held_out=held_out,
    )


def _kind(table: Any, source: ClipSource) -> str:
    if source.reader.several:
        return "multi_label"
    return "segments" if "segment_labels" in table.column_names else "clip"
