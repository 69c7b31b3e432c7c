# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""From judged rows to a folder of Parquet shards with its report: whole or not there, and the same bytes every time."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from datasets.table import embed_table_storage
from tqdm.auto import tqdm

from processing.data.atomic_writing import atomic_folder, remove_leftovers
from processing.data.clip_splits import SPLITS, check_leaks
from processing.data.media_columns import MEDIA, as_media, storage
from processing.data.prepared_folders import read_report

from .annotations import Annotations, ClipRow, PrepareError
from .report import report_text
from .selection import USED, Verdict


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SHARD_ROWS = 100_000  # of a table that only names its clips
SHARD_BYTES = 400 * 2**20  # of the clips in a shard that holds them


def make_tables(annotations: Annotations, verdicts: list[Verdict]) -> DatasetDict:
    """The used rows as `DatasetDict` in the order of the annotations; clips by absolute path.

    Columns: `video`, `audio`, `label`, `segment_labels` where the set has them, `start`, `end`, `group`, `clip_id`,
    then the set's own.

    Raises:
        ValueError: a clip id, a file or a group is in two splits.
    """
    features = _features(annotations)
    parts = {}
    for split in SPLITS:
        rows = [verdict.row for verdict in verdicts if verdict.status == USED and verdict.row.split == split]
        if rows:
            parts[split] = as_media(
                Dataset.from_dict(_columns(rows, features, annotations), features=storage(features))
            )
    tables = DatasetDict(parts)
    check_leaks(tables)
    return tables


def write_folder(out: Path, tables: DatasetDict, report: Mapping[str, Any], *, embed: bool) -> bool:
    """Writes `data/<split>-<shard>-of-<shards>.parquet`, `report.json` and `report.txt`; replaces an earlier folder.

    Args:
        out: the folder. It appears under its name when it is whole.
        embed: put the clips' bytes into the shards.

    Returns:
        False where the folder already holds exactly this.

    Raises:
        PrepareError: `out` holds something else.
    """
    # Nothing to do where the folder holds exactly this.
    check_out(out)
    report = dict(report) | {"fingerprint": _fingerprint(tables, report)}
    if out.exists():  # else one of them may be the folder that was to be replaced
        remove_leftovers(out.parent, out.name)
    if _is_current(out, report):
        return False
    # A reader sees the old folder or the whole new one.
    with atomic_folder(out) as folder:
        (folder / "data").mkdir()
        report["shards"] = {}
        for split, part in tables.items():
            for name, shard in _shards(split, part, embed):
                path = folder / "data" / name
                with _quiet():
                    shard.to_parquet(path)
                report["shards"][name] = {"rows": len(shard), "bytes": path.stat().st_size}
        (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
        (folder / "report.txt").write_text(report_text(report), "utf-8")
    remove_leftovers(out.parent, out.name)
    return True


@contextmanager
def sole_writer(record: Path) -> Iterator[None]:
    """Keeps other preparations with this record out. Without `fcntl` (Windows) it does not.

    Raises:
        PrepareError: there is one already.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    with open(record, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PrepareError(f"{record}: another process prepares this set; wait for it") from None
        yield


def check_out(out: Path) -> None:
    """Raises PrepareError where writing to `out` would delete what is not a prepared set."""
    if out.is_dir() and any(out.iterdir()) and read_report(out) is None:
        raise PrepareError(f"{out}: holds files that are not a prepared set; give a new or an empty folder as --out")
    if out.exists() and not out.is_dir():
        raise PrepareError(f"{out}: is a file; give a folder as --out")


@contextmanager
def _quiet() -> Iterator[None]:
    """`datasets` would show a bar for each shard."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _features(annotations: Annotations) -> Features:
    label = ClassLabel(names=annotations.classes)
    features = dict(MEDIA)
    features["label"] = List(label) if annotations.multi_label else label
    if any(row.segment_labels is not None for row in annotations.rows):
        features["segment_labels"] = List(Value("int64"))
    features |= {"start": Value("float64"), "end": Value("float64")}
    features |= {"group": Value("string"), "clip_id": Value("string")}
    return Features(features | annotations.extra_features)


def _columns(rows: list[ClipRow], features: Features, annotations: Annotations) -> dict[str, list]:
    # Classes as indices, windows as two columns.
    index = {name: number for number, name in enumerate(annotations.classes)}
    labels = [[index[label] for label in row.labels] for row in rows]
    if not annotations.multi_label:
        labels = [classes[0] for classes in labels]
    windows = [row.source_window or (None, None) for row in rows]
    columns = {
        "video": [_cell(row.video) for row in rows],
        "audio": [_cell(row.audio) for row in rows],
        "label": labels,
        "segment_labels": [row.segment_labels for row in rows],
        "start": [start for start, _ in windows],
        "end": [end for _, end in windows],
        "group": [row.group for row in rows],
        "clip_id": [row.clip_id for row in rows],
    }
    columns |= {name: [row.extra.get(name) for row in rows] for name in annotations.extra_features}
    return {name: columns[name] for name in features}


def _cell(path: Path | None) -> dict[str, Any] | None:
    return None if path is None else {"path": str(path), "bytes": None}


def _shards(split: str, part: Dataset, embed: bool) -> Iterator[tuple[str, Dataset]]:
    """Names and shards, one after the other: only one shard of bytes is in memory."""
    # Where shards begin: by the bytes of their clips, or by rows.
    starts, size = [0], 0
    for number, row in enumerate(part if embed else ()):
        paths = {cell["path"] for cell in (row["video"], row["audio"]) if cell is not None}
        size += sum(os.path.getsize(path) for path in paths)
        if size > SHARD_BYTES and number > starts[-1]:
            starts.append(number)
            size = 0
    if not embed:
        starts = list(range(0, len(part), SHARD_ROWS))
    # Write one after the other: only one shard of bytes is in memory.
    ends = [*starts[1:], len(part)]
    bounds = tqdm(list(zip(starts, ends, strict=True)), desc=f"writing {split}", unit="shard", disable=None)
    for number, (start, end) in enumerate(bounds):
        shard = part.select(range(start, end))
        if embed:
            shard = Dataset(embed_table_storage(shard.flatten_indices().data), info=part.info)
        yield f"{split}-{number:05d}-of-{len(starts):05d}.parquet", shard


def _fingerprint(tables: DatasetDict, report: Mapping[str, Any]) -> str:
    """SHA-256 of everything that the folder says, with the size and time of each clip's file."""
    digest = hashlib.sha256(json.dumps([datasets.__version__, report], sort_keys=True).encode())
    for split, part in tables.items():
        digest.update(f"{split} {part.features}".encode())
        for row in part:
            digest.update(repr(row).encode())
            for cell in (row["video"], row["audio"]):
                if cell is not None:
                    stat = os.stat(cell["path"])
                    digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def _is_current(out: Path, report: Mapping[str, Any]) -> bool:
    old = read_report(out)
    if old is None or old.get("fingerprint") != report["fingerprint"] or not (out / "report.txt").is_file():
        return False
    files = [(out / "data" / name, shard["bytes"]) for name, shard in old["shards"].items()]
    return all(path.is_file() and path.stat().st_size == size for path, size in files)
