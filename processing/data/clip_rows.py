# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The rows of a clip table as they stand in a folder of clips, a csv file or a data set, before anything is checked."""

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Audio, Dataset, DatasetDict, Video

from processing.clips import clip_error, is_absolute, safe_join

from .clip_splits import SPLIT_NAMES
from .conventions import MODALITIES, VIDEO_SUFFIXES
from .media_columns import shown_source, source_of
from .prepared_folders import is_prepared, load_prepared, read_report


SEGMENT_COLUMNS = ("segment_labels", "segment_matched", "segment_windows")


Rows = list[dict[str, Any]]


def read_rows(
    data: Any,
    columns: dict[str, Any],
    *,
    segments: Sequence[Mapping[str, str]] | None = None,
    label_separator: str | None = None,
    allow_absolute_paths: bool = False,
) -> tuple[Rows, list[str]]:
    """Rows of a folder, a csv file or a data set; options as for `build_clip_table`.

    Returns:
        rows with `name`, `label` (a name, or a tuple of names), `video`, `audio`, `group`, `split`, `start`, `end`,
        `cells` (all columns), `number`; of a data set `source` (what names the recording in ids and groups); and where
        segments have labels of their own `segment_labels` (names, None: not known), `segment_matched` and
        `segment_windows`; and warnings.

    Raises:
        ValueError: no such folder or table, or a column is missing.
        ClipError: a file name leaves its folder.
    """
    if isinstance(data, (Dataset, DatasetDict)):
        return _dataset_rows(data, columns), []
    path = Path(data)
    # What the folder is, by the files in it.
    csv_file = path if path.is_file() else path / "metadata.csv"
    if csv_file.is_file():
        return _csv_rows(csv_file, columns, segments, label_separator, allow_absolute_paths), []
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder or table; give a folder of clips or a csv file")
    if is_prepared(path):
        return _dataset_rows(load_prepared(path), columns), list(read_report(path)["warnings"])
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return _dataset_rows(datasets.load_from_disk(str(path)), columns), []
    return _folder_rows(path, columns)


def _folder_rows(folder: Path, columns: dict[str, Any]) -> tuple[Rows, list[str]]:
    """One subfolder per class; under `train/`, `validation/` and `test/` where all subfolders are named so.

    A file that is no clip becomes a row with a `problem`, which is then skipped for that reason.
    """
    rows, warnings = [], []
    tops = _subfolders(folder)
    if not tops:
        raise ValueError(f"{folder}: neither a metadata.csv nor subfolders; make one subfolder per class, or a table")
    by_split = _are_splits(tops)
    # Clips that lie beside the folders of classes have no class.
    for parent in [folder, *(tops if by_split else ())]:
        files = sorted(file for file in parent.iterdir() if file.is_file() and not _hidden(file, folder))
        if loose := [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]:
            name = printable(loose[0].relative_to(folder).as_posix())
            warnings.append(f"{name}: skipped, it is in no folder of a class ({len(loose)} such clips)")
    for top in tops:
        if by_split and top.name.lower() not in SPLIT_NAMES:
            warnings.append(f"{printable(top.name)}: skipped, it is no split beside train, validation and test")
            continue
        split = None
        class_folders = [top]
        if by_split:
            class_folders = _subfolders(top)
            if columns["split"] is not False:
                split = top.name
        for class_folder in class_folders:
            files = sorted(file for file in class_folder.rglob("*") if not file.is_dir() and not _hidden(file, folder))
            if not any(file.suffix.lower() in VIDEO_SUFFIXES for file in files):
                name = printable(class_folder.relative_to(folder).as_posix())
                warnings.append(f"{name}: no clip in it ({', '.join(VIDEO_SUFFIXES)})")
            for file in files:
                # The label is one line, as in a csv. The name of a clip is one line too: it stands in logs and cards.
                label = " ".join(class_folder.name.split())
                row = _row(str(file), file.relative_to(folder).as_posix(), label, split=split)
                rows.append(row | _file_problem(file, row["name"]))
    return rows, warnings


def _are_splits(tops: Sequence[Path]) -> bool:
    """Whether the folders of a data set are its splits, with a folder per class in each; otherwise they are its classes.

    Raises:
        ValueError: a split without class folders, or a folder that looks like a split and has another name.
    """
    names = ", ".join(sorted(SPLIT_NAMES))
    named = [top for top in tops if top.name.lower() in SPLIT_NAMES]
    several = len({SPLIT_NAMES[top.name.lower()] for top in named}) > 1
    if several:
        for top in named:
            if not _subfolders(top):
                raise ValueError(
                    f"{top}: no folders of classes in this split; make {top.name}/CLASS/clip.mp4, or a table"
                )
    # A class may be called `train`: one such folder makes no split if the others are not like it.
    classes = {part.name for top in named for part in _subfolders(top)}
    others = [top for top in tops if top not in named]
    for top in others:
        if classes & {part.name for part in _subfolders(top)}:
            raise ValueError(
                f"{top}: has the class folders of {named[0].name} and is no split; call it one of {names}"
            )
    return several or bool(classes and not others)


def _file_problem(file: Path, name: str) -> dict[str, str]:
    """The name that can be printed, and why the file cannot be a clip if so."""
    fields = {"name": printable(name), "group": printable(name)}
    if not is_utf8(name):
        fields["problem"] = "name is not UTF-8: rename it"
    elif file.suffix.lower() not in VIDEO_SUFFIXES:
        fields["problem"] = f"no clip: the name ends in none of {', '.join(VIDEO_SUFFIXES)}"
    elif not file.is_file():
        fields["problem"] = "no file: a pipe, a device or a link to nothing; remove it, or put the clip there"
    return fields


def printable(name: str) -> str:
    """A file's name as one line of text: `\\n` for a line break, and `\\xe9` for a byte that is not UTF-8."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f\u2028\u2029]", lambda match: match[0].encode("unicode_escape").decode(), text)


def is_utf8(name: str) -> bool:
    """False for a file's name with other bytes, which pyarrow and JSON refuse."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _csv_rows(
    path: Path,
    columns: dict[str, Any],
    segments: Sequence[Mapping[str, str]] | None = None,
    label_separator: str | None = None,
    allow_absolute_paths: bool = False,
) -> Rows:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            reader = csv.DictReader(file)
            table = list(reader)
            header = list(reader.fieldnames or [])
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    if segments:
        columns = columns | {"label": segments[0]["label"]}
        for part in segments:
            _find_columns(header, dict(part), tuple(part), path.name)
    column_of = _find_columns(header, columns, ("file_name", "label"), path.name)
    # Line 1 is the header.
    rows = []
    for number, cells in enumerate(table, start=2):
        values = {key: _cell(cells, column) for key, column in column_of.items()}
        # A file's name stands as it is: it may have several spaces, or rare ones.
        name = (cells.get(column_of["file_name"]) or "").strip(" \t\r\n") or None
        source = None if name is None else table_path(path.parent, name, allow_absolute_paths)
        label = values["label"]
        parts = _csv_segments(cells, segments or ())
        if segments:
            # The first known label stands for the clip where only one is needed.
            label = next((part for part in parts["segment_labels"] if part is not None), None)
        if label is not None and label_separator:
            label = tuple(sorted({part.strip() for part in label.split(label_separator)} - {""})) or None
        row = _row(source, printable(name or f"row {number}"), label)
        row |= {key: values.get(key) for key in ("start", "end", "split")}
        row |= {"group": values.get("group") or row["group"], "number": number, "cells": cells}
        rows.append(row | parts)
    return rows


def table_path(folder: str | os.PathLike, name: str, allow_absolute_paths: bool) -> str:
    """The file that a csv table or a Parquet shard names, by one rule: it lies in the table's folder.

    Raises:
        ClipError: the name is absolute and may not be, or leaves the folder.
    """
    if not is_absolute(name):
        return safe_join(folder, name)
    if not allow_absolute_paths:
        raise clip_error(name, "path", "is absolute; give a path inside the table's folder, or allow_absolute_paths")
    return os.path.normpath(name)


def _cell(cells: Mapping[str, str], column: str) -> str | None:
    """One line of text: labels go into tables, cards and file names."""
    return " ".join((cells.get(column) or "").split()) or None


def _csv_segments(cells: Mapping[str, str], segments: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    if not segments:
        return {}
    labels_and_windows = {"segment_labels": [_cell(cells, part["label"]) for part in segments]}
    if all("start" in part and "end" in part for part in segments):
        labels_and_windows["segment_windows"] = [
            (_cell(cells, part["start"]), _cell(cells, part["end"])) for part in segments
        ]
    return labels_and_windows


def _dataset_rows(data: Dataset | DatasetDict, columns: dict[str, Any]) -> Rows:
    parts = {None: data}
    if isinstance(data, DatasetDict):
        parts = data
    rows = []
    for split, part in parts.items():
        kinds = [kind for kind in MODALITIES if kind in part.column_names]
        if not kinds:
            raise ValueError(f"the data set has columns {part.column_names}; it needs `video`, `audio` or both")
        column_of = _find_columns(part.column_names, columns | {"file_name": False}, ("label",), "the data set")
        # Cells stay undecoded: a path, bytes, or both.
        for kind, feature in (("video", Video(decode=False)), ("audio", Audio(decode=False))):
            if kind in part.column_names:
                part = part.cast_column(kind, feature)
        part = part.with_format(None)  # the cells of another format, such as "torch", are no plain values
        # One row for each clip, with names in place of class indices.
        names = class_names(part, column_of["label"])
        for number, cells in enumerate(part):
            video = cells[kinds[0]] if "video" in kinds else None
            audio = cells["audio"] if "audio" in kinds else video  # one file holds both
            path = next((cell["path"] for cell in (video, audio) if cell is not None and cell["path"]), None)
            name = path or f"{split or 'row'} {number}"
            # An embedded clip, whose path may repeat, is known by its content.
            source = name
            embedded = next((cell for cell in (video, audio) if cell is not None), {})
            if embedded.get("bytes") is not None:
                source = source_of(embedded)
                if path is not None:
                    name = shown_source({**embedded, "path": path}, source)
            value = cells[column_of["label"]]
            several = isinstance(value, (list, tuple))
            if several:
                labels = [_name_of(one, names) for one in value]
                label = tuple(sorted(set(labels))) or None
                # VGGSounder has a modality for each label, which follows its label's place.
                tags = cells.get("modalities") or ()
                if len(tags) == len(value):
                    cells = cells | {"modalities": [tag for _, tag in sorted(zip(labels, tags, strict=True))]}
            else:
                label = _name_of(value, names)
            row = _row(None, name, label, video=video, audio=audio) | {"group": source, "source": source}
            row |= {key: cells[column_of[key]] for key in ("start", "end", "split", "group") if key in column_of}
            row |= {key: cells[key] for key in SEGMENT_COLUMNS if key in part.column_names}
            if "segment_labels" in row:
                row["segment_labels"] = [_name_of(one, names) for one in row["segment_labels"]]
            # The parts of a DatasetDict are splits, unless a column says so.
            if split is not None and len(parts) > 1 and "split" not in column_of and columns["split"] is not False:
                row["split"] = split
            row |= {"group": source if row["group"] is None else str(row["group"]), "cells": cells, "number": number}
            if cells.get("clip_id") is not None:
                row["clip_id"] = str(cells["clip_id"])
            rows.append(row | {"class_names": names})
    return rows


def class_names(part: Dataset, column: str = "label") -> list[str] | None:
    """The names that a data set gives to its classes, in its order; None where labels are plain values."""
    feature = part.features[column]
    return getattr(getattr(feature, "feature", feature), "names", None)


def _name_of(value: Any, names: Sequence[str] | None) -> str | None:
    if value is None or (names and isinstance(value, int) and value < 0):
        return None
    if names and isinstance(value, int) and value < len(names):
        return names[value]
    return str(value)


def _row(
    source: str | None, name: str, label: str | tuple[str, ...] | None, *, split=None, video=None, audio=None
) -> dict[str, Any]:
    if source is not None:
        video = audio = {"path": source, "bytes": None}
    row = {"name": name, "label": label, "video": video, "audio": audio, "group": name, "split": split}
    return row | {"start": None, "end": None, "cells": {}, "number": None}


def _find_columns(
    header: Sequence[str], columns: dict[str, Any], required: Sequence[str], source: str
) -> dict[str, str]:
    column_of = {}
    for key, column in columns.items():
        if column is False:
            continue
        name = column
        if column is None:
            name = key
        if name in header:
            column_of[key] = name
        elif key in required or column not in (None, False):
            raise ValueError(f"{source}: no column {name!r}; its columns are {list(header)}; name one with {key}=")
    return column_of


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)
