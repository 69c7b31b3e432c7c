# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips of one instrument each, to be mixed: MUSIC's solo lists and VGGSound's classes; pairs that stay the same."""

import csv
import json
import os
from pathlib import Path

import numpy as np

from processing.clips import safe_join


def read_music(list_file: str | os.PathLike, folder: str | os.PathLike) -> tuple[list[str], list[str]]:
    """MUSIC's json (`{"videos": {instrument: [YouTube id, ...]}}`): files `<folder>/[<instrument>/]<id>.mp4`, instruments.

    Clips that are not there are left out.

    Raises:
        ValueError: another format, or not one clip.
    """
    list_file = Path(list_file)
    try:
        instruments = json.loads(list_file.read_text(encoding="utf-8"))["videos"]
        named = [(str(name), instrument) for instrument, names in instruments.items() for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{list_file}: no {{"videos": {{instrument: [id]}}}} ({error!r}); give a list of MUSIC'
        ) from error
    return _present(named, folder, list_file)


def read_class_list(
    table: str | os.PathLike, folder: str | os.PathLike, classes: set[str] | None = None, split: str | None = None
) -> tuple[list[str], list[str]]:
    """VGGSound's csv without a header (id, start second, class, split): files `<folder>/[<class>/]<id>_<start>.mp4`, classes.

    `classes` keeps some of them (the instruments). Clips that are not there are left out.

    Raises:
        ValueError: another format, or not one clip.
    """
    table = Path(table)
    if not table.is_file():
        raise ValueError(f"{table}: no such table; give VGGSound's vggsound.csv")
    named = []
    with open(table, newline="", encoding="utf-8") as file:
        for number, cells in enumerate(csv.reader(file), 1):
            if len(cells) != 4 or not cells[1].strip().isdigit():
                raise ValueError(f"{table}: line {number}: {cells}; it needs id, start second, class, split")
            if (classes is None or cells[2] in classes) and split in (None, cells[3].strip()):
                named.append((f"{cells[0]}_{int(cells[1]):06d}", cells[2]))
    return _present(named, folder, table)


def fixed_pairs(groups: list[str], count: int, seed: int = 0) -> list[tuple[int, int]]:
    """`count` pairs of clips of different groups, the same for the same seed; no pair twice.

    Raises:
        ValueError: fewer such pairs than are asked for.
    """
    codes = np.unique(groups, return_inverse=True)[1]
    first, second = np.triu_indices(len(groups), 1)
    different = np.flatnonzero(codes[first] != codes[second])
    if len(different) < count:
        raise ValueError(f"count={count}, but {len(groups)} clips make {len(different)} pairs of different groups")
    chosen = np.random.default_rng(seed).permutation(different)[:count]
    return list(zip(first[chosen].tolist(), second[chosen].tolist(), strict=True))


def _present(named: list[tuple[str, str]], folder: str | os.PathLike, source: Path) -> tuple[list[str], list[str]]:
    files, groups = [], []
    for name, group in named:
        for place in (f"{name}.mp4", f"{group}/{name}.mp4"):
            path = safe_join(folder, place)
            if os.path.isfile(path):
                files.append(path)
                groups.append(group)
                break
    if not files:
        raise ValueError(f"{folder}: none of the {len(named)} clips of {source.name} is here; give their folder")
    return files, groups
