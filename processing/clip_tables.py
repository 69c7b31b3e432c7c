# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""From a folder or a table of clips to a `datasets.DatasetDict`, split without leaks, with a report."""

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Value, Video

from .clip_checks import CHECKS, usable_rows
from .clip_splits import SPLIT_NAMES, SPLITS, assign_splits, check_leaks, missing_classes
from .clips import safe_join
from .prepared_folders import load_prepared, read_report


CLIP_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


def build_clip_table(
    data: str | os.PathLike | Dataset | DatasetDict,
    *,
    label: str = "label",
    file_name: str = "file_name",
    start: str | bool | None = None,
    end: str | bool | None = None,
    split: str | bool | None = None,
    group: str | bool | None = None,
    where: Mapping[str, Any] | None = None,
    window: float | None = None,
    require: Sequence[str] = ("video", "audio"),
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    test_split: str | None = None,
    seed: int = 0,
    check: str = "decode",
) -> tuple[DatasetDict, dict[str, Any]]:
    """Read, check and split clips.

    Args:
        data: a folder with one subfolder per class (or with `train/`, `test/` folders of such); a folder with a
            `metadata.csv`; a csv file; a folder written by `processing.prepare` (its sides, classes and clip ids stay)
            or by `save_to_disk`; or a `Dataset` / `DatasetDict` with columns `video` and / or `audio` and a label.
            File names count from the csv's folder and may not leave it.
        label, file_name: the table's columns.
        start, end: columns with the clip's window in seconds. None takes the column of that name if there is one,
            False takes none (as for `split` and `group`); without a window a clip is the whole file.
        split: column with train / validation / test. Sides that it lacks are carved out of train by group.
        group: column that names what was recorded together; by default each file is a group.
        where: keep only rows with these values, such as `{"glitch": 0}`; a list of values is any of them.
        window: take this many seconds around the middle of each clip's window, moved inside the file.
        require: streams without which a clip is left out; with `()` a missing stream is a missing modality.
        validation_fraction, test_fraction: shares to carve out.
        test_split: the table's split to test on; all others train.
        seed: of the split.
        check: "decode" reads every clip's sound and a frame of it (finds silent and damaged files), "probe" reads the
            headers, "none" trusts the table.

    Returns:
        `DatasetDict` with columns `video`, `audio` (undecoded), `label`, `start`, `end` (None: whole file), `group`
        and `clip_id`; and a report that fits into JSON (see `report_text`).

    Raises:
        ValueError: nothing is left, a column or option is wrong, or clips leak between the sides.
        ClipError: a file name leaves its folder.
    """
    if check not in CHECKS:
        raise ValueError(f"check={check!r}; use one of {', '.join(CHECKS)}")
    if window is not None and not window > 0:
        raise ValueError(f"window={window}; give seconds above 0")
    columns = {"label": label, "file_name": file_name, "start": start, "end": end, "split": split, "group": group}
    rows, warnings, names = _read_rows(data, columns)
    total = len(rows)
    prepared = names is not None
    rows, skipped = usable_rows(rows, where=where, window=window, require=require, check=check, prepared=prepared)
    if not rows:
        raise ValueError(f"{_name(data)}: no clip is left of {total}. {_reasons(skipped, warnings)}")
    _check_groups(rows)

    names = names or _class_names(rows)
    labels = [names.index(row["label"]) for row in rows]
    given = [row["split"] for row in rows] if all(row["split"] is not None for row in rows) else None
    if given is None and any(row["split"] is not None for row in rows):
        raise ValueError("split: some rows have a split and some have none; fill the column, or pass split=False")
    sides, origin = assign_splits(
        labels,
        [row["group"] for row in rows],
        given,
        test_split=test_split,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        seed=seed,
    )
    warnings += missing_classes(labels, sides, names)
    table = _as_datasets(rows, sides, names)
    check_leaks(table)
    report = {
        "source": _name(data),
        "rows": total,
        "clips": len(rows),
        "classes": names,
        "split": origin,
        "seed": seed,
        "splits": {side: _count(part, names) for side, part in table.items()},
        "skipped": skipped,
        "skipped_by_reason": dict(Counter(entry["reason"].split(":")[0] for entry in skipped)),
        "warnings": warnings,
    }
    return table, report


def report_text(report: Mapping[str, Any], limit: int = 5) -> str:
    """The report as a few lines of plain text; of the skipped clips at most `limit` per reason are named."""
    lines = [f"{report['source']}: {report['clips']} of {report['rows']} clips, {len(report['classes'])} classes"]
    lines.append(f"split {report['split']}")
    for side, count in report["splits"].items():
        lines.append(f"  {side}: {count['clips']} clips, {count['groups']} groups")
    for reason, number in report["skipped_by_reason"].items():
        lines.append(f"skipped {number}, {reason}")
        of_reason = [entry for entry in report["skipped"] if entry["reason"].split(":")[0] == reason]
        lines += [f"  {entry['file']}: {entry['reason']}" for entry in of_reason[:limit]]
        if len(of_reason) > limit:
            lines.append(f"  and {len(of_reason) - limit} more")
    return "\n".join(lines + [f"warning: {warning}" for warning in report["warnings"]])


def _read_rows(data: Any, columns: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str], list[str] | None]:
    """-> rows, warnings, and the class names in their order where the data say it."""
    if isinstance(data, (Dataset, DatasetDict)):
        return _dataset_rows(data, columns), [], None
    path = Path(data)
    if path.is_file():
        return _csv_rows(path, columns), [], None
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder or table; give a folder of clips or a csv file")
    if (path / "metadata.csv").is_file():
        return _csv_rows(path / "metadata.csv", columns), [], None
    if (report := read_report(path)) is not None:
        table = load_prepared(path)
        return _dataset_rows(table, columns), list(report["warnings"]), _label_names(table, columns["label"])
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return _dataset_rows(datasets.load_from_disk(str(path)), columns), [], None
    return *_folder_rows(path, columns), None


def _folder_rows(folder: Path, columns: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
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


def _csv_rows(path: Path, columns: dict[str, Any]) -> list[dict[str, Any]]:
    with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
        reader = csv.DictReader(file)
        table = list(reader)
        header = list(reader.fieldnames or [])
    found = _find_columns(header, columns, ("file_name", "label"), path.name)
    rows = []
    for number, cells in enumerate(table, start=2):
        values = {key: (cells.get(column) or "").strip() or None for key, column in found.items()}
        name = values["file_name"]
        source = None if name is None else safe_join(path.parent, name)
        row = _row(source, name or f"row {number}", values["label"])
        row |= {key: values.get(key) for key in ("start", "end", "split")}
        row |= {"group": values.get("group") or row["group"], "number": number, "cells": cells}
        rows.append(row)
    return rows


def _dataset_rows(data: Dataset | DatasetDict, columns: dict[str, Any]) -> list[dict[str, Any]]:
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
        names = getattr(part.features[found["label"]], "names", None)
        for number, cells in enumerate(part):
            video = cells[kinds[0]] if "video" in kinds else None
            audio = cells["audio"] if "audio" in kinds else video  # one file holds both
            path = next((cell["path"] for cell in (video, audio) if cell is not None and cell["path"]), None)
            value = cells[found["label"]]
            value = names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value
            name = path or f"{side or 'row'} {number}"
            row = _row(None, name, None if value is None else str(value), video=video, audio=audio)
            row |= {key: cells[found[key]] for key in ("start", "end", "split", "group") if key in found}
            if side is not None and len(parts) > 1 and "split" not in found and columns["split"] is not False:
                row["split"] = side
            row |= {"group": name if row["group"] is None else str(row["group"]), "cells": cells, "number": number}
            row["clip_id"] = None if cells.get("clip_id") is None else str(cells["clip_id"])
            rows.append(row)
    return rows


def _label_names(table: DatasetDict, column: str) -> list[str]:
    """The class names that a prepared set's label column declares, also those without a clip."""
    features = next(iter(table.values())).features
    names = getattr(features.get(column), "names", None)
    if names is None:
        single = [name for name, feature in features.items() if hasattr(feature, "names")]
        raise ValueError(f"label={column!r} holds no single class per clip; columns that do: {single or 'none'}")
    return names


def _row(source: str | None, name: str, label: str | None, *, split=None, video=None, audio=None) -> dict[str, Any]:
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


def _check_groups(rows: list[dict[str, Any]]) -> None:
    group_of = {}
    for row in rows:
        for cell in (row["video"], row["audio"]):
            if cell is not None and cell["path"] and group_of.setdefault(cell["path"], row["group"]) != row["group"]:
                raise ValueError(
                    f"{row['name']}: stands in the groups {group_of[cell['path']]!r} and {row['group']!r}; one file "
                    "belongs to one group, mend the `group` column"
                )


def _class_names(rows: list[dict[str, Any]]) -> list[str]:
    names = {row["label"] for row in rows}
    whole = all(name.lstrip("-").isdigit() for name in names)
    return sorted(names, key=int) if whole else sorted(names)


def _as_datasets(rows: list[dict[str, Any]], sides: list[str], names: list[str]) -> DatasetDict:
    features = Features(
        {
            "video": Video(decode=False),
            "audio": Audio(decode=False),
            "label": ClassLabel(names=names),
            "start": Value("float64"),
            "end": Value("float64"),
            "group": Value("string"),
            "clip_id": Value("string"),
        }
    )
    parts = {}
    for side in SPLITS:
        chosen = [row for row, of in zip(rows, sides, strict=True) if of == side]
        if not chosen:
            continue
        columns = {key: [row[key] for row in chosen] for key in ("video", "audio", "start", "end", "group")}
        columns["label"] = [names.index(row["label"]) for row in chosen]
        columns["clip_id"] = [_clip_id(row) for row in chosen]
        parts[side] = Dataset.from_dict({key: columns[key] for key in features}, features=features)
    return DatasetDict(parts)


def _clip_id(row: dict[str, Any]) -> str:
    if row.get("clip_id"):
        return row["clip_id"]
    return row["name"] if row["end"] is None else f"{row['name']}@{row['start']:.3f}-{row['end']:.3f}"


def _count(part: Dataset, names: list[str]) -> dict[str, Any]:
    per_class = Counter(part["label"])
    classes = {name: per_class[index] for index, name in enumerate(names)}
    return {"clips": len(part), "groups": len(set(part["group"])), "per_class": classes}


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _name(data: Any) -> str:
    return Path(data).name if isinstance(data, (str, os.PathLike)) else type(data).__name__


def _reasons(skipped: list[dict[str, Any]], warnings: list[str]) -> str:
    reasons = Counter(entry["reason"].split(":")[0] for entry in skipped)
    lines = [f"{number} {reason}" for reason, number in reasons.items()] + warnings
    return "; ".join(lines) or "It holds none."
