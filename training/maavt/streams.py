# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A run on a stream: held-back tables, the number of steps, batches for the Trainer, and where to go on."""

import hashlib
import logging
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict
from transformers import ProcessorMixin, TrainingArguments

from processing.data.augmentation import ClipAugmentation
from processing.data.clip_splits import TEST, TRAIN, VALIDATION, check_leaks
from processing.data.clip_streams import ClipStream
from processing.data.stream_sources import HUB, ClipSource, as_table, open_source

from .arguments import DataArguments, RunArguments


logger = logging.getLogger(__name__)


def is_stream(data: DataArguments) -> bool:
    """Whether this run streams: it says so, or its data lie on the Hub."""
    return data.streaming or data.data.startswith(HUB)


@dataclass(frozen=True)
class Share:
    """Keeps the rows of one side of a split that is made by a number drawn from (seed, group): the same in every pass."""

    seed: int
    low: float
    high: float

    def __call__(self, row: dict[str, Any]) -> bool:
        digest = hashlib.blake2b(f"{self.seed}/{row['group']}".encode(), digest_size=8).digest()
        return self.low <= int.from_bytes(digest, "big") / 2**64 < self.high


def open_tables(data: DataArguments, seed: int) -> tuple[DatasetDict, dict, ClipSource, Share | None]:
    """The clips to validate and test on as tables, the report, and what is left to be streamed.

    A side that the data set lacks is carved out of its training split by group, for which that is read once as a whole.

    Raises:
        ValueError: no such data, a side without clips, or clips that stand on two sides.
    """
    source = open_source(
        data.data,
        label=data.label,
        **{name: _column(getattr(data, name)) for name in ("start", "end", "group")},
        class_names=data.class_names,
        test_split=data.test_split,
        allow_absolute_paths=data.allow_absolute_paths,
    )
    seed = seed if data.split_seed is None else data.split_seed
    tables, carved, origin = DatasetDict(), 0.0, []
    for side, fraction in ((VALIDATION, data.validation_fraction), (TEST, data.test_fraction)):
        if side in source.splits:
            tables[side] = as_table(source, side)
            continue
        share = Share(seed, carved, carved + fraction)
        logger.info("%s: no such split; every clip of train is read once to carve it out", side)
        tables[side] = as_table(source, TRAIN, keep=share, part=repr(share))
        carved += fraction
        origin.append(side)
    for side, table in tables.items():
        if not len(table):
            raise ValueError(f"{data.data}: no clip for {side}; give it a split of that name, or a {side}_fraction")
    check_leaks(tables)
    keep = Share(seed, carved, 1.0) if carved else None
    length = source.lengths[TRAIN]
    if length is not None:
        length -= sum(len(tables[side]) for side in origin)
    names = list(source.reader.names)
    made = f", {' and '.join(origin)} out of train by group (seed {seed})" if origin else ""
    report = {
        "source": Path(data.data).name,
        "rows": (length or 0) + sum(len(table) for table in tables.values()),
        "clips": (length or 0) + sum(len(table) for table in tables.values()),
        "classes": names,
        "labels": _kind(tables[TEST], source),
        "split": f"by the data set{made}; train is streamed",
        "seed": seed,
        "splits": {TRAIN: {"clips": length, "groups": None}}
        | {side: _counts(table, names) for side, table in tables.items()},
        "skipped": [],
        "skipped_by_reason": {},
        "warnings": [],
    }
    return tables, report, source, keep


def make_stream(
    source: ClipSource,
    keep: Share | None,
    tables: DatasetDict,
    processor: ProcessorMixin,
    data: DataArguments,
    run: TrainingArguments,
) -> ClipStream:
    """The training clips, as `make_dataset` gives them from a table."""
    noise = data.train_noise_db
    if isinstance(noise, list):
        noise = tuple(noise) if len(noise) == 2 else noise[0]
    held_out = {value for table in tables.values() for name in ("clip_id", "group") for value in table[name]}
    return ClipStream(
        source.splits[TRAIN],
        source.reader,
        processor,
        seed=run.seed,
        mismatch_probability=data.mismatch_probability if len(data.modalities) == 2 else 0.0,
        modalities=tuple(data.modalities),
        num_frames=data.num_frames,
        augmentation=None if data.augmentation is None else ClipAugmentation(**data.augmentation),
        noise_db=noise,
        clean_probability=data.clean_probability,
        on_missing=data.on_missing,
        shuffle_buffer=data.shuffle_buffer,
        on_broken=data.on_broken,
        rank=run.process_index,
        world_size=run.world_size,
        keep=keep,
        held_out=held_out,
    )


def set_steps(run: RunArguments, length: int | None) -> None:
    """Count in steps what the run counts in epochs: a stream has no end by itself.

    Raises:
        ValueError: the number of clips is not known, and something is counted in epochs.
    """
    per_step = run.train_batch_size * run.world_size * run.gradient_accumulation_steps
    steps = None if length is None else max(1, math.ceil(length / per_step))
    unknown = "streaming: how many clips there are is not known (WebDataset shards do not say)"
    if run.max_steps <= 0:
        if steps is None:
            raise ValueError(f"{unknown}; set max_steps in place of num_train_epochs")
        run.max_steps = math.ceil(run.num_train_epochs * steps)
    for kind in ("eval", "save", "logging"):
        strategy = getattr(run, f"{kind}_strategy")
        if str(getattr(strategy, "value", strategy)) == "epoch":
            if steps is None:
                raise ValueError(f"{unknown}; set {kind}_strategy: steps and {kind}_steps in place of epoch")
            setattr(run, f"{kind}_strategy", type(strategy)("steps"))
            setattr(run, f"{kind}_steps", min(steps, run.max_steps))


def _column(name: str | None) -> str | bool | None:
    return False if name == "none" else name


def _kind(table: Any, source: ClipSource) -> str:
    if source.reader.several:
        return "multi_label"
    return "segments" if "segment_labels" in table.column_names else "clip"


def _counts(table: Any, names: list[str]) -> dict[str, Any]:
    labels = table["segment_labels" if "segment_labels" in table.column_names else "label"]
    counts = Counter(np.concatenate([np.atleast_1d(label) for label in labels]).tolist())
    classes = {name: counts[index] for index, name in enumerate(names)}
    return {"clips": len(table), "groups": len(set(table["group"])), "per_class": classes}
