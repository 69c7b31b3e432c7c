# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Split clips by group: what was recorded together stays together, classes stay balanced, one seed gives one split."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .conventions import MODALITIES
from .media_columns import shown_source, source_of


TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
SPLIT_NAMES = {"train": TRAIN, "training": TRAIN, "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION}
SPLIT_NAMES |= {"dev": VALIDATION, "test": TEST, "testing": TEST, "eval": TEST}


def split_by_group(
    labels: Sequence[Any], groups: Sequence[str], fractions: Mapping[str, float], seed: int = 0
) -> list[str]:
    """Assign every clip to a split; all clips of a group go to one split.

    Groups are taken in a seeded order, large ones first, and each goes to the split where it brings the class counts
    and the size nearest to the wanted fractions. Where a class has enough groups, no split is left without it.

    Args:
        labels: the class of each clip.
        groups: the group of each clip.
        fractions: share of the clips in each split, such as `{"train": 0.7, "validation": 0.15, "test": 0.15}`.
        seed: of the order.

    Returns:
        the split of each clip.
    """
    # Clips per class of each group.
    splits = [split for split, fraction in fractions.items() if fraction > 0]
    classes = {label: index for index, label in enumerate(sorted(set(labels), key=str))}
    counts = defaultdict(lambda: np.zeros(len(classes)))  # group -> clips per class
    for label, group in zip(labels, groups, strict=True):
        counts[group][classes[label]] += 1
    names = sorted(counts)
    total = np.sum([counts[name] for name in names], axis=0)
    groups_of_class = np.sum([counts[name] > 0 for name in names], axis=0)
    # Wanted clips per split and class; a class with enough groups gets at least one group in each split.
    share = np.array([fractions[split] for split in splits]) / sum(fractions[split] for split in splits)
    target = share[:, None] * total  # [splits, classes]
    floor = np.where(groups_of_class >= len(splits), total / np.maximum(groups_of_class, 1), 0)
    target = np.maximum(target, floor)
    target[0] = np.maximum(total - target[1:].sum(0), floor)
    # Large groups first: small ones then even out what is left.
    order = np.random.default_rng(seed).permutation(len(names))
    order = sorted(order, key=lambda index: -counts[names[index]].sum())  # stable: the seeded order among equals
    have = np.zeros_like(target)
    split_of = {}
    for index in order:
        group = counts[names[index]]
        # growth of the squared distance to the targets: each class in units of its size, plus the split's size
        by_class = (group * (2 * (have - target) + group) / np.maximum(total, 1)).sum(1)
        size, gap = group.sum(), (have - target).sum(1)
        best = int(np.argmin(by_class + size * (2 * gap + size) / total.sum()))
        have[best] += group
        split_of[names[index]] = splits[best]
    return [split_of[group] for group in groups]


def assign_splits(
    labels: Sequence[Any],
    groups: Sequence[str],
    given: Sequence[str | None] | None,
    *,
    test_split: str | None,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> tuple[list[str], str]:
    """The split of each clip: as the table says, with what is missing carved out of the training clips by group.

    Args:
        labels, groups: of each clip.
        given: the table's split of each clip, or None.
        test_split: the table's name of the clips to test on; all others then train, and validation is carved out.
        validation_fraction, test_fraction: shares of what is carved out; 0 makes no such split.
        seed: of the split by group.

    Returns:
        splits, and one line that says how they came about.

    Raises:
        ValueError: fractions out of range, an unknown split name, no training clips.
    """
    # What the table says.
    splits = named_splits(given, len(labels), test_split, validation_fraction, test_fraction)
    missing = {
        split: fraction
        for split, fraction in ((VALIDATION, validation_fraction), (TEST, test_fraction))
        if split not in splits and fraction > 0
    }
    # What it lacks is carved out of the training clips.
    origin = ""
    if given is not None and set(splits) != {TRAIN}:
        origin = "by the table"
    if missing:
        train = [index for index, split in enumerate(splits) if split == TRAIN]
        if not train:
            raise ValueError(
                "split: no clip is for training; name one split `train`, or pass split=False (--table '{split: none}')"
            )
        fractions = {TRAIN: 1 - sum(missing.values())} | missing
        carved = split_by_group([labels[i] for i in train], [groups[i] for i in train], fractions, seed)
        for index, split in zip(train, carved, strict=True):
            splits[index] = split
        made = " and ".join(missing)
        if origin:
            origin = f"{origin}, {made} out of train by group (seed {seed})"
        else:
            origin = f"by group (seed {seed})"
    return splits, origin or "all clips train"


def check_leaks(table: Mapping[str, Any], kinds: Sequence[str] = ("clip id", "source", "group")) -> None:
    """Make sure that no clip, no source file and no group is in two splits.

    Args:
        table: `DatasetDict` as `build_clip_table` gives it, or any mapping of split to rows with those columns.
        kinds: what is looked at.

    Raises:
        ValueError: names what is in which two splits.
    """
    for kind in kinds:
        seen: dict[str, str] = {}
        for split, rows in table.items():
            for value, shown in _leak_keys(rows, kind).items():
                if seen.setdefault(value, split) != split:
                    raise ValueError(
                        f"{kind} {shown!r} is in {seen[value]} and in {split}: what is tested on would have been "
                        "trained on; mend the `split` or `group` column, or split by group: split=False, --table '{split: none}'"
                    )


def missing_classes(classes: Sequence[Sequence[int]], splits: Sequence[str], names: Sequence[str]) -> list[str]:
    """One line per split that lacks classes which the table has; `classes` holds those of each clip."""
    present = {split: Counter() for split in splits}
    for of_clip, split in zip(classes, splits, strict=True):
        present[split].update(of_clip)
    lines = []
    for split in sorted(present, key=lambda split: SPLITS.index(split)):
        absent = [name for index, name in enumerate(names) if not present[split][index]]
        if absent:
            lines.append(f"{split} has no clip of {', '.join(absent)}")
    return lines


def named_splits(
    given: Sequence[str | None] | None,
    count: int,
    test_split: str | None,
    validation_fraction: float,
    test_fraction: float,
) -> list[str]:
    """The split of each of `count` clips as the table names it, train where it names none; see `assign_splits`."""
    if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
        raise ValueError(
            f"validation_fraction={validation_fraction} and test_fraction={test_fraction}: "
            "both must be 0 or more and their sum below 1"
        )
    if given is None:
        if test_split is not None:
            raise ValueError(f"test_split={test_split!r}, but the table has no split column; name it with split=")
        return [TRAIN] * count
    names = [str(value).strip() for value in given]
    if test_split is not None:
        if test_split not in names:
            raise ValueError(f"test_split={test_split!r} is not in the table; its splits are {sorted(set(names))}")
        return [TEST if name == test_split else TRAIN for name in names]
    unknown = sorted({name for name in names if name.lower() not in SPLIT_NAMES})
    if unknown:
        raise ValueError(f"split: {unknown} are no split names; use train, validation and test")
    return [SPLIT_NAMES[name.lower()] for name in names]


def _leak_keys(rows: Any, kind: str) -> dict[str, str]:
    """What may not be in two splits, and how messages name it."""
    if kind == "clip id":
        return {name: name for name in rows["clip_id"]}
    if kind == "group":
        return {name: name for name in rows["group"]}
    keys = {}
    for column in MODALITIES:
        for cell in rows[column]:
            if cell is not None:
                source = source_of(cell)
                keys[source] = shown_source(cell, source)
    return keys
