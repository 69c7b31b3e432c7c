# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The folder that `python -m processing.prepare` writes: how it is known, and how it is opened."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow
from datasets import DatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError


FORMAT = "maavt-prepared-1"  # in report.json


def read_report(folder: Path) -> dict[str, Any] | None:
    """`report.json` of a prepared folder, or None where it is no such folder."""
    try:
        report = json.loads((folder / "report.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and report.get("format") == FORMAT else None


def load_prepared(folder: Path) -> DatasetDict:
    """The tables of a prepared folder, memory-mapped from the `datasets` cache.

    Raises:
        ValueError: no prepared folder, or a shard is missing, cut off or damaged.
    """
    report = read_report(folder)
    if report is None:
        raise ValueError(f"{folder}: no prepared data set; write one with `python -m processing.prepare`")
    files: dict[str, list[str]] = {}
    for name, shard in report["shards"].items():
        path = folder / "data" / name
        if not path.is_file() or path.stat().st_size != shard["bytes"]:
            raise ValueError(f"{path}: missing or cut off; copy the folder again, or prepare it again")
        files.setdefault(name.split("-")[0], []).append(str(path))
    try:
        return load_dataset("parquet", data_files=files)
    except (DatasetGenerationError, pyarrow.ArrowException) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(
            f"{folder}: a shard cannot be read ({reason}); copy the folder again, or prepare it again"
        ) from error


def is_prepared(data: Any) -> bool:
    """Whether `data` is a folder that `processing.prepare` wrote."""
    return isinstance(data, (str, os.PathLike)) and Path(data).is_dir() and read_report(Path(data)) is not None
