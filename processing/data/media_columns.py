# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables with columns `video` and `audio` that name media files, built without torchcodec.

`datasets` asks for torchcodec as soon as it encodes an `Audio` cell, even a path that nobody decodes. Build the table
with plain structs, then give the columns their type: `as_media(Dataset.from_dict(columns, features=storage(features)))`.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from datasets import Audio, Dataset, Features, Value, Video


MEDIA = {"video": Video(decode=False), "audio": Audio(decode=False)}


def storage(features: Mapping[str, Any]) -> Features:
    """`features` with the media columns as the structs that they are stored as."""
    cell = {"bytes": Value("binary"), "path": Value("string")}
    return Features({name: cell if name in MEDIA else feature for name, feature in features.items()})


def as_media(table: Dataset) -> Dataset:
    """`table` with its media columns as undecoded `Video` and `Audio`; nothing is copied."""
    for name, feature in MEDIA.items():
        if name in table.column_names:
            table = table.cast_column(name, feature)
    return table


def source_of(cell: Mapping[str, Any]) -> str:
    """What names the recording in a cell: its path, or for an embedded clip, whose path may repeat, a digest of the bytes."""
    if cell.get("bytes") is None:
        return str(cell["path"])
    return hashlib.sha256(cell["bytes"]).hexdigest()[:16]


def shown_source(cell: Mapping[str, Any], source: str) -> str:
    """The source of a cell for messages: a digest follows the file's name, if there is one."""
    if cell.get("bytes") is None or not cell.get("path"):
        return source
    return f"{os.path.basename(cell['path'])} ({source})"


def media_cell(value: Any) -> dict[str, Any] | None:
    """A path as a cell of a media column; None and cells as they are."""
    if value is None or isinstance(value, dict):
        return value
    return {"bytes": None, "path": str(value)}
