# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""From a folder or a table of clips to a `datasets.DatasetDict`, split without leaks, with a report."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, List, Value

from processing.metrics import IGNORED_LABEL

from .clip_checks import CHECKS, complete_rows, readable_rows
from .clip_rows import read_rows
from .clip_splits import SPLITS, assign_splits, check_leaks, missing_classes, named_splits
from .clip_targets import ClipTargets
from .conventions import MODALITIES
from .media_columns import MEDIA, as_media, media_cell, source_of, storage
from .prepared_folders import is_prepared, read_report


NAMED_CLIPS = 100  # of the skipped ones, for each reason


def build_clip_table(
    data: str | os.PathLike | Dataset | DatasetDict,
    *,
    label: str = "label",
    file_name: str = "file_name",
    start: str | bool | None = None,
    end: str | bool | None = None,
    split: str | bool | None = None,
    group: str | bool | None = None,
    segments: Sequence[Mapping[str, str]] | None = None,
    label_separator: str | None = None,
    where: Mapping[str, Any] | None = None,
    window: float | None = None,
    require: Sequence[str] = MODALITIES,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    test_split: str | None = None,
    seed: int = 0,
    check: str = "decode",
    allow_absolute_paths: bool = False,
) -> tuple[DatasetDict, dict[str, Any]]:
    """Read, check and split clips.

    Args:
        data: a folder with one subfolder per class (or with `train/`, `test/` folders of such); a folder with a
            `metadata.csv`; a csv file; a folder written by `processing.prepare` (its splits, classes and clip ids stay)
            or by `save_to_disk`; or a `Dataset` / `DatasetDict` with columns `video` and / or `audio` and a label.
            File names count from the csv's folder and may not leave it.
        label, file_name: the table's columns.
        start, end: columns with the clip's window in seconds. None takes the column of that name if there is one,
            False takes none (as for `split` and `group`); without a window a clip is the whole file.
        split: column with train / validation / test. Splits that it lacks are carved out of train by group.
        group: column that names what was recorded together; by default each file is a group.
        segments: for a csv whose clips have S labeled segments: S mappings such as
            `{"label": "word1", "start": "word1_start", "end": "word1_end"}`; without start and end the processor cuts the
            clip into S equal segments. Data sets bring a column `segment_labels` instead.
        label_separator: the label cell of a csv holds several classes with this between them: a multi-label set.
        where: keep only rows with these values, such as `{"glitch": 0}`; a list of values is any of them.
        window: take this many seconds around the middle of each clip's (or segment's) window, moved inside the file.
        require: streams without which a clip is skipped; with `()` a missing stream is a missing modality. So is one that
            ends before the middle of the clip's window.
        validation_fraction, test_fraction: shares to carve out.
        test_split: the table's split to test on; all others train.
        seed: of the split.
        check: "decode" reads every clip's audio and a frame of it (finds silent and damaged files), "probe" reads the
            headers, "none" trusts the table.
        allow_absolute_paths: a csv may name files outside its folder by their absolute paths.

    Returns:
        `DatasetDict` with columns `video`, `audio` (undecoded), `label` (a class, or a list of classes), `start`, `end`
        (None: whole file), `group` and `clip_id`, and for labeled segments `segment_labels`, `segment_matched`,
        `segment_windows` (see `ClipTargets`); and a report that fits into JSON (see `report_text`).

    Raises:
        ValueError: nothing is left, a column or option is wrong, or clips leak between the splits.
        ClipError: a file name leaves its folder.
    """
    # Read every row that the source lists.
    _check_options(check, window)
    columns = {"label": label, "file_name": file_name, "start": start, "end": end, "split": split, "group": group}
    listed, warnings = read_rows(
        data, columns, segments=segments, label_separator=label_separator, allow_absolute_paths=allow_absolute_paths
    )
    # The checks change the rows: they remove streams that a file turns out not to have.
    with_both = {row["number"] for row in listed if row["video"] is not None and row["audio"] is not None}

    # Skip the rows that cannot be used. What is wrong with the splits is said before any clip is decoded.
    prepared = is_prepared(data)
    rows, skipped = complete_rows(listed, where=where, prepared=prepared)
    complete = rows
    shares = {
        "test_split": test_split,
        "validation_fraction": validation_fraction,
        "test_fraction": test_fraction,
    }
    if rows:
        _check_splits(rows, shares)
        rows, broken = readable_rows(rows, window=window, require=require, check=check)
        skipped += broken
    if not rows:
        raise ValueError(f"{_name(data)}: no clip is left of {len(listed)}. {_reasons(skipped, warnings)}")
    warnings += _lost_classes(complete, rows)
    warnings += _one_modality([row for row in rows if row["number"] in with_both])

    table, report = _split_table(rows, seed, shares)
    report |= {"source": _name(data), "rows": len(listed), "clips": len(rows), "seed": seed}
    report |= _skipped_report(skipped, data, prepared)
    return table, report | {"warnings": warnings + report["warnings"]}


def _check_options(check: str, window: float | None) -> None:
    if check not in CHECKS:
        raise ValueError(f"check={check!r}; use one of {', '.join(CHECKS)}")
    if window is not None and not window > 0:
        raise ValueError(f"window={window}; give seconds above 0")


def _split_table(rows: list[dict[str, Any]], seed: int, shares: dict[str, Any]) -> tuple[DatasetDict, dict[str, Any]]:
    """Tables by split, and the report's part on labels and splits: how the splits came about, and what is in them."""
    names = _class_names(rows)
    groups = [row["group"] for row in rows]
    splits, origin = assign_splits(_balanced_by(rows, names), groups, _given_splits(rows), seed=seed, **shares)
    # They are checked as any other source is checked.
    table = _as_datasets(rows, splits, names)
    check_leaks(table)
    return table, {
        "classes": names,
        "labels": ClipTargets(next(iter(table.values()))).kind,
        "split": origin,
        "splits": {split: split_counts(part, names) for split, part in table.items()},
        "warnings": missing_classes([_classes_of(row, names) for row in rows], splits, names),
    }


def _lost_classes(complete: list[dict[str, Any]], readable: list[dict[str, Any]]) -> list[str]:
    """A warning for each class whose clips are all skipped."""
    before, after = ({name for row in rows for name in _all_names(row)} for rows in (complete, readable))
    return [f"class {name}: no clip is left, all are skipped" for name in sorted(before - after)]


def _skipped_report(skipped: list[dict[str, Any]], data: Any, prepared: bool) -> dict[str, Any]:
    """The report's part on skipped clips: each of them, and how many for each reason."""
    return {
        "skipped": skipped,
        "skipped_in_preparation": _skipped_before(data, prepared),
        "skipped_by_reason": dict(Counter(entry["reason"].split(":")[0] for entry in skipped)),
    }


def _given_splits(rows: list[dict[str, Any]]) -> list[str] | None:
    given = [row["split"] for row in rows]
    if all(split is None for split in given):
        return None
    if None in given:
        raise ValueError(
            "split: some rows have a split and some have none; fill the column, or pass split=False (--table '{split: none}')"
        )
    return given


def _one_modality(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning for each stream that clips turned out not to have: they are kept, and teach the other one."""
    warnings = []
    for kind, problem in (
        ("video", "no video in their window"),
        ("audio", "no audio in their window, or a silent one"),
    ):
        names = [row["name"] for row in rows if row[kind] is None]
        if names:
            named = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
            warnings.append(f"{len(names)} clips have {problem} and are kept without: {named}; mend or remove them")
    return warnings


def report_text(report: Mapping[str, Any]) -> str:
    """The report as a few lines of plain text; of the skipped clips at most `NAMED_CLIPS` per reason are named."""
    lines = [f"{report['source']}: {report['clips']} of {report['rows']} clips, {len(report['classes'])} classes"]
    lines.append(f"split {report['split']}")
    for split, count in report["splits"].items():
        lines.append(f"  {split}: {count['clips']} clips, {count['groups']} groups")
    # Skipped clips by reason, with the first of each.
    for reason, number in report["skipped_by_reason"].items():
        lines.append(f"skipped {number}, {reason}")
        of_reason = [entry for entry in report["skipped"] if entry["reason"].split(":")[0] == reason]
        for entry in of_reason[:NAMED_CLIPS]:
            # an error names the file again, by its whole path
            _, named, problem = entry["reason"].partition(f"{entry['file']}: ")
            lines.append(f"  {entry['file']}: {problem if named else entry['reason']}")
        if len(of_reason) > NAMED_CLIPS:
            lines.append(f"  and {len(of_reason) - NAMED_CLIPS} more")
    return "\n".join(lines + [f"warning: {warning}" for warning in report["warnings"]])


def _check_splits(rows: list[dict[str, Any]], options: dict[str, Any]) -> None:
    """Raises ValueError where files, groups and the splits that the table names contradict each other."""
    _check_groups(rows)
    given = _given_splits(rows)
    splits = named_splits(given, len(rows), **options)
    table = {}
    for split, row in zip(splits, rows, strict=True):
        columns = table.setdefault(split, {"group": [], **{kind: [] for kind in MODALITIES}})
        for name, cells in columns.items():
            cells.append(row[name])
    check_leaks(table, kinds=("source", "group"))


def _check_groups(rows: list[dict[str, Any]]) -> None:
    group_of = {}
    for row in rows:
        for cell in (row["video"], row["audio"]):
            if cell is None:
                continue
            group = group_of.setdefault(source_of(cell), row["group"])
            if group != row["group"]:
                raise ValueError(
                    f"{row['name']}: stands in the groups {group!r} and {row['group']!r}; one file belongs to one group, "
                    "mend the `group` column"
                )


def _all_names(row: dict[str, Any]) -> list[str]:
    label = row["label"]
    of_segments = [name for name in row.get("segment_labels", ()) if name is not None]
    if isinstance(label, tuple):
        return [*label, *of_segments]
    return [label, *of_segments]


def _class_names(rows: list[dict[str, Any]]) -> list[str]:
    """The data set's own names in its order where it has them, else what the rows name, sorted."""
    names = {name for row in rows for name in _all_names(row)}
    # The order of a data set's own class names is kept: a model may have been trained with it.
    known = rows[0].get("class_names")
    if known and names <= set(known):
        return list(known)
    # Classes that are numbers sort as numbers.
    if all(name.lstrip("-").isdigit() for name in names):
        return sorted(names, key=int)
    return sorted(names)


def _classes_of(row: dict[str, Any], names: list[str]) -> list[int]:
    """Every class that the row asks for; of labeled segments those alone."""
    wanted = row.get("segment_labels") or _all_names(row)
    return sorted({names.index(name) for name in wanted if name is not None})


def _balanced_by(rows: list[dict[str, Any]], names: list[str]) -> list[int]:
    """One class a row, by which a split is balanced: its label, or of several the one that is rarest in the table."""
    counts = Counter(index for row in rows for index in _classes_of(row, names))
    classes = []
    for row in rows:
        label = row["label"]
        if isinstance(label, tuple):
            classes.append(min((names.index(name) for name in label), key=lambda index: (counts[index], index)))
        else:
            classes.append(names.index(label))
    return classes


def _as_datasets(rows: list[dict[str, Any]], splits: list[str], names: list[str]) -> DatasetDict:
    # Columns that every table has.
    several = isinstance(rows[0]["label"], tuple)
    features = {
        **MEDIA,
        "label": List(ClassLabel(names=names)) if several else ClassLabel(names=names),
        "start": Value("float64"),
        "end": Value("float64"),
        "group": Value("string"),
        "clip_id": Value("string"),
    }
    # Columns of labeled segments.
    of_segments = {
        "segment_labels": Value("int64"),
        "segment_matched": Value("bool"),
        "segment_windows": List(Value("float64")),
    }
    for key, kind in of_segments.items():
        if key in rows[0]:
            features[key] = List(kind)
    # What sampling (`weight`) and VGGSounder's evaluation (`modalities`: A, V or AV for each label) read
    if all(_is_number(row["cells"].get("weight")) for row in rows):
        features["weight"] = Value("float64")
    if several and all(isinstance(row["cells"].get("modalities"), list) for row in rows):
        features["modalities"] = List(Value("string"))
    # One table for each split, with class indices in place of names.
    parts = {}
    for split in SPLITS:
        chosen = [row for row, of in zip(rows, splits, strict=True) if of == split]
        if not chosen:
            continue
        columns = {key: [row.get(key) for row in chosen] for key in features}
        if several:
            columns["label"] = [[names.index(name) for name in row["label"]] for row in chosen]
        else:
            columns["label"] = [names.index(row["label"]) for row in chosen]
        columns["clip_id"] = [_clip_id(row) for row in chosen]
        if "weight" in features:
            columns["weight"] = [float(row["cells"]["weight"]) for row in chosen]
        if "modalities" in features:
            columns["modalities"] = [row["cells"]["modalities"] for row in chosen]
        if "segment_labels" in features:
            index_of = {name: index for index, name in enumerate(names)} | {None: IGNORED_LABEL}
            columns["segment_labels"] = [[index_of[name] for name in row["segment_labels"]] for row in chosen]
        for name in MEDIA:
            columns[name] = [media_cell(value) for value in columns[name]]
        parts[split] = as_media(Dataset.from_dict(columns, features=storage(features)))
    return DatasetDict(parts)


def _skipped_before(folder: Any, prepared: bool) -> dict[str, int]:
    """How many clips `processing.prepare` skipped, by status."""
    if not prepared:
        return {}
    total = read_report(Path(folder))["total"]
    return {status: number for status, number in total.items() if status not in ("listed", "found", "used") and number}


def _is_number(cell: Any) -> bool:
    try:
        return cell is not None and isinstance(float(cell), float)
    except (TypeError, ValueError):
        return False


def _clip_id(row: dict[str, Any]) -> str:
    if row.get("clip_id"):
        return row["clip_id"]
    source = row.get("source", row["name"])
    if row["end"] is None:
        return source
    return f"{source}@{row['start']:.3f}-{row['end']:.3f}"


def split_counts(part: Dataset, names: list[str]) -> dict[str, Any]:
    """Clips, groups and examples of each class of one split."""
    per_class = ClipTargets(part).class_counts()
    classes = {name: int(per_class[index]) for index, name in enumerate(names)}
    return {"clips": len(part), "groups": len(set(part["group"])), "per_class": classes}


def _name(data: Any) -> str:
    return Path(data).name if isinstance(data, (str, os.PathLike)) else type(data).__name__


def _reasons(skipped: list[dict[str, Any]], warnings: list[str]) -> str:
    reasons = Counter(entry["reason"].split(":")[0] for entry in skipped)
    first = {}
    for entry in skipped:
        first.setdefault(entry["reason"].split(":")[0], f"{entry['file']}: {entry['reason']}")
    lines = [f"{number} {reason} (first: {first[reason]})" for reason, number in reasons.items()] + warnings
    return "; ".join(lines) or "It holds none."
