# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What a set's own annotation files say, before any clip is opened: rows, classes and splits; and where the files lie."""

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processing.data.clip_rows import is_utf8, printable
from processing.data.clip_splits import TEST, TRAIN, VALIDATION
from processing.data.conventions import MODALITIES, VIDEO_SUFFIXES


PRIORITY = {TEST: 0, VALIDATION: 1, TRAIN: 2}  # what may be in one split only stays with the first of these


class PrepareError(ValueError):
    """A set cannot be prepared. The message names the file or option at fault and the cure."""


@dataclass
class ClipRow:
    """One line of a set's annotations.

    Attributes:
        clip_id: unique within the set.
        labels: class names; one for a single-label set.
        group: what was recorded together (source video, speaker); is in one split only.
        split: train, validation or test.
        expected: name of the file, for reports.
        video, audio: the files that were found (one and the same where it holds both), or None.
        source_window: seconds that the annotation names; used where the file is longer than them by a second.
        segment_labels: one class index per segment, -100: ignored.
        extra: values of the set's own columns.
        excluded: why the set's rules exclude the row, or None.
    """

    clip_id: str
    labels: list[str]
    group: str
    split: str
    expected: str
    video: Path | None = None
    audio: Path | None = None
    source_window: tuple[float, float] | None = None
    segment_labels: list[int] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    excluded: str | None = None


@dataclass
class Annotations:
    """A set's rows and what they have in common.

    Attributes:
        classes: names in the order of their indices.
        multi_label: `label` is a list of classes.
        split: one line that says how the splits came about.
        streams: the files that a row is expected to have.
        extra_features: `datasets` features of the set's own columns.
        warnings: what a user has to know.
        complete: fills in columns that depend on which clips are left.
    """

    rows: list[ClipRow]
    classes: list[str]
    split: str
    multi_label: bool = False
    streams: tuple[str, ...] = MODALITIES
    extra_features: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    complete: Callable[[list[ClipRow]], None] | None = None


class FileIndex:
    """The media files below a folder, found by name without their suffix, however deep they lie."""

    def __init__(self, root: Path, suffixes: Sequence[str] = VIDEO_SUFFIXES):
        self.found: dict[str, list[Path]] = {}
        self.twice: set[str] = set()
        self.not_utf8: list[str] = []
        # Files by their name, and those that cannot be used.
        order = {suffix: number for number, suffix in enumerate(suffixes)}
        for path in _files(root):
            if not is_utf8(str(path)):
                self.not_utf8.append(printable(path.name))
            elif path.suffix.lower() in order:
                self.found.setdefault(path.stem, []).append(path)
        # Of several endings the first counts; of several folders the first path.
        for stem, paths in self.found.items():
            paths.sort(key=lambda path: (order[path.suffix.lower()], path))
            if len(paths) > 1 and paths[0].suffix == paths[1].suffix:
                self.twice.add(stem)

    def find(self, *names: str) -> Path | None:
        """The file of the first name that is there."""
        return next((self.found[name][0] for name in names if name in self.found), None)

    def warnings(self) -> list[str]:
        """A line for files of one name in several folders, and one for names that are not UTF-8."""
        warnings = []
        if self.twice:
            name = self.found[min(self.twice)][0].name
            warnings.append(
                f"{len(self.twice)} file names lie in more than one folder, such as {name}; "
                "the first in the order of their paths is taken"
            )
        if self.not_utf8:
            warnings.append(
                f"{len(self.not_utf8)} files are skipped, since their names are not UTF-8, such as "
                f"{self.not_utf8[0]}; rename them"
            )
        return warnings


def find_annotation(root: Path, name: str) -> Path | None:
    """An annotation file in the root or below it; the one nearest to the root."""
    if (root / name).is_file():
        return root / name
    paths = sorted((path for path in _files(root) if path.name == name), key=lambda path: (len(path.parts), path))
    return paths[0] if paths else None


def require_annotation(root: Path, name: str, where: str) -> Path:
    """As `find_annotation`.

    Raises:
        PrepareError: there is none; says where to get it.
    """
    path = find_annotation(root, name)
    if path is None:
        raise PrepareError(f"{root}: no {name} in it or below; get it from {where}")
    return path


def read_table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, str]]:
    """A csv with a header as dictionaries, stripped, each with its `line` number.

    Raises:
        PrepareError: no such file, no text, or a column is missing.
    """
    with open_text(path) as file:
        # The header, stripped of spaces.
        reader = csv.DictReader(file)
        header = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = header
        missing = [name for name in columns if name not in header]
        if missing:
            raise PrepareError(f"{path}: no column {', '.join(missing)}; its columns are {header}")
        names = [*columns, *(name for name in optional if name in header)]
        rows = []
        for cells in reader:
            rows.append({name: (cells[name] or "").strip() for name in names} | {"line": str(reader.line_num)})
    return rows


def open_text(path: Path):
    """Opens an annotation file; spreadsheets write a byte order mark.

    Raises:
        PrepareError: no such file.
    """
    if not path.is_file():
        raise PrepareError(f"{path}: no such file; check the name")
    return open(path, newline="", encoding="utf-8-sig")


def seconds(text: str, path: Path, line: int | str) -> float:
    """A time in an annotation file.

    Raises:
        PrepareError: it is no number of seconds from 0 on.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise PrepareError(f"{path}, line {line}: {text!r} are no seconds; mend the line")
    return value


def split_by_id(group: str, fractions: Mapping[str, float], seed: int) -> str:
    """The split of a source, drawn from its name and the seed alone: the same whatever else is in the list."""
    # A number in 0..1 from the name and the seed.
    draw = int.from_bytes(hashlib.sha256(f"{seed}:{group}".encode()).digest()[:8], "big") / 2**64
    for split, fraction in fractions.items():
        if draw < fraction:
            return split
        draw -= fraction
    return TRAIN


def carve_by_id(rows: Iterable[ClipRow], fractions: Mapping[str, float], seed: int) -> None:
    """Moves training rows to other splits by their group's name; the shares are of the training groups."""
    for row in rows:
        if row.split == TRAIN:
            row.split = split_by_id(row.group, fractions, seed)


def check_fractions(**fractions: float) -> None:
    """Raises PrepareError for shares that leave nothing to train on."""
    if min(fractions.values()) < 0 or sum(fractions.values()) >= 1:
        given = ", ".join(f"--{name} {value:g}" for name, value in fractions.items())
        raise PrepareError(f"{given}: give shares from 0 on whose sum is below 1")


def _files(root: Path) -> Iterable[Path]:
    """All files below a folder in a fixed order; links to folders are followed once."""
    # Links may lead back to a folder that was visited.
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(folder, name)
