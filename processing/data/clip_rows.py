# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The rows of a clip table as they stand in a folder of clips, a csv file or a data set, before anything is checked."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Audio, Dataset, DatasetDict, Video

from processing.clips import safe_join

from .clip_splits import SPLIT_NAMES
from .prepared_folders import is_prepared, load_prepared, read_report


CLIP_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".flv")
SEGMENT_COLUMNS = ("segment_labels", "segment_matched", "segment_windows")


Rows = list[dict[str, Any]]


def read_rows(
    data: Any,
    columns: dict[str, Any],
    *,
    segments: Sequence[Mapping[str, str]] | None = None,
    label_separator: str | None = None,
) -> tuple[Rows, list[str]]:
    """Rows of a folder, a csv file or a data set; options as for `build_clip_table`.

    Returns:
        rows with `name`, `label` (a name, or a tuple of names), `video`, `audio`, `group`, `split`, `start`, `end`,
        `cells` (all columns), `number`, and where segments have labels of their own `segment_labels` (names, None: not
        known), `segment_matched` and `segment_windows`; and warnings.

    Raises:
        ValueError: no such folder or table, or a column is missing.
        ClipError: a file name leaves its folder.
    """
    if isinstance(data, (Dataset, DatasetDict)):
        return _dataset_rows(data, columns), []
    path = Path(data)
    csv_file = path if path.is_file() else path / "metadata.csv"
    if csv_file.is_file():
        return _csv_rows(csv_file, columns, segments, label_separator), []
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder or table; give a folder of clips or a csv file")
    if is_prepared(path):
        return _dataset_rows(load_prepared(path), columns), list(read_report(path)["warnings"])
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return _dataset_rows(datasets.load_from_disk(str(path)), columns), []
    return _folder_rows(path, columns)


def _folder_rows(folder: Path, columns: dict[str, Any]) -> tuple[Rows, list[str]]:
    """One subfolder per class; under `train/`, `validation/` and `test/` where all subfolders are named so."""
    rows, warnings = [], []
    tops = _subfolders(folder)
    by_split = bool(tops) and all(top.name.lower() in SPLIT_NAMES and _subfolders(top) for top in tops)
    for top in tops:
        for class_folder in _subfolders(top) if by_split else [top]:
            files = sorted(file for file in class_folder.rglob("*") if file.is_file() and not _hidden(file, folder))
            clips = [file for file in files if file.suffix.lower() in CLIP_SUFFIXES]
            if not clips:
                warnings.append(f"{class_folder.relative_to(folder)}: no clip in it ({', '.join(CLIP_SUFFIXES)})")
            given = top.name if by_split and columns["split"] is not False else None
            for file in clips:
                name = file.relative_to(folder).as_posix()
                rows.append(_row(str(file), name, class_folder.name, split=given))
    if not tops:
        raise ValueError(f"{folder}: neither a metadata.csv nor subfolders; make one subfolder per class, or a table")
    return rows, warnings


def _csv_rows(
    path: Path,
    columns: dict[str, Any],
    segments: Sequence[Mapping[str, str]] | None = None,
    label_separator: str | None = None,
) -> Rows:
    with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
        reader = csv.DictReader(file)
        table = list(reader)
        header = list(reader.fieldnames or [])
    if segments:
        columns = columns | {"label": segments[0]["label"]}
        for part in segments:
            _find_columns(header, dict(part), tuple(part), path.name)
    found = _find_columns(header, columns, ("file_name", "label"), path.name)
    rows = []
    for number, cells in enumerate(table, start=2):
        values = {key: _cell(cells, column) for key, column in found.items()}
        name = values["file_name"]
        source = None if name is None else safe_join(path.parent, name)
        label = values["label"]
        if label is not None and label_separator:
            label = tuple(sorted({part.strip() for part in label.split(label_separator)} - {""})) or None
        row = _row(source, name or f"row {number}", label)
        row |= {key: values.get(key) for key in ("start", "end", "split")}
        row |= {"group": values.get("group") or row["group"], "number": number, "cells": cells}
        rows.append(row | _csv_segments(cells, segments or ()))
    return rows


def _cell(cells: Mapping[str, str], column: str) -> str | None:
    return (cells.get(column) or "").strip() or None


def _csv_segments(cells: Mapping[str, str], segments: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    if not segments:
        return {}
    found = {"segment_labels": [_cell(cells, part["label"]) for part in segments]}
    if all("start" in part and "end" in part for part in segments):
        found["segment_windows"] = [(_cell(cells, part["start"]), _cell(cells, part["end"])) for part in segments]
    return found


def _dataset_rows(data: Dataset | DatasetDict, columns: dict[str, Any]) -> Rows:
    parts = data if isinstance(data, DatasetDict) else {None: data}
    rows = []
    for side, part in parts.items():
        kinds = [kind for kind in ("video", "audio") if kind in part.column_names]
        if not kinds:
            raise ValueError(f"the data set has columns {part.column_names}; it needs `video`, `audio` or both")
        found = _find_columns(part.column_names, columns | {"file_name": False}, ("label",), "the data set")
        for kind, feature in (("video", Video(decode=False)), ("audio", Audio(decode=False))):
            if kind in part.column_names:
                part = part.cast_column(kind, feature)
        names = class_names(part, found["label"])
        for number, cells in enumerate(part):
            video = cells[kinds[0]] if "video" in kinds else None
            audio = cells["audio"] if "audio" in kinds else video  # one file holds both
            path = next((cell["path"] for cell in (video, audio) if cell is not None and cell["path"]), None)
            name = path or f"{side or 'row'} {number}"
            value = cells[found["label"]]
            several = isinstance(value, (list, tuple))
            label = (
                tuple(sorted({_name_of(one, names) for one in value})) or None if several else _name_of(value, names)
            )
            if several and len(tags := cells.get("modalities") or ()) == len(value):  # VGGSounder: one for each label
                cells = cells | {
                    "modalities": [
                        tag for _, tag in sorted(zip((_name_of(one, names) for one in value), tags, strict=True))
                    ]
                }
            row = _row(None, name, label, video=video, audio=audio)
            row |= {key: cells[found[key]] for key in ("start", "end", "split", "group") if key in found}
            row |= {key: cells[key] for key in SEGMENT_COLUMNS if key in part.column_names}
            if "segment_labels" in row:
                row["segment_labels"] = [_name_of(one, names) for one in row["segment_labels"]]
            if side is not None and len(parts) > 1 and "split" not in found and columns["split"] is not False:
                row["split"] = side
            row |= {"group": name if row["group"] is None else str(row["group"]), "cells": cells, "number": number}
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
    return names[value] if names and isinstance(value, int) and value < len(names) else str(value)


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
    found = {}
    for key, column in columns.items():
        if column is False:
            continue
        name = key if column is None or column is True else column
        if name in header:
            found[key] = name
        elif key in required or column not in (None, False):
            raise ValueError(f"{source}: no column {name!r}; its columns are {list(header)}; name one with {key}=")
    return found


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)
