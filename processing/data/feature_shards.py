# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A folder of cached arrays, in shards that are there whole or not at all.

A folder holds what one setting makes of one stream:

    video-3f9a1c.../settings.json       the settings whose fingerprint names the folder
    video-3f9a1c.../<shard>.arrow       one record batch per clip
    video-3f9a1c.../<shard>.json        its clips, their checksums and its size, written last: a shard without it does
                                        not count
"""

import functools
import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from .atomic_writing import write_text


FORMAT = 1
SCHEMA = pa.schema(
    {"data": pa.large_binary(), "shape": pa.list_(pa.int32()), "type": pa.string(), "scale": pa.float32()}
)
OPEN_SHARDS = 128  # per process; each takes a file handle


@dataclass(frozen=True)
class CachedClip:
    """Where a clip's array stands. `start` and `end` are the window in seconds; None is the file's own limit.

    `checksum` is that of `_checksum`; None in a cache of version 0.1.
    """

    key: str
    name: str
    start: float | None
    end: float | None
    shard: str
    row: int
    checksum: int | None = None


def fingerprint(value: Any) -> str:
    """20 hexadecimal digits of what fits into JSON, the same in every process."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class FeatureShards:
    """Arrays of one stream, settings by the key of their clip.

    Holds names only, so that it can be pickled; files are opened by the process that reads.

    Args:
        root: folder of the cache; this stream's own folder in it is named by stream and fingerprint.
        stream: "video" or "audio".
        settings: what the arrays depend on beside the clips; has to fit into JSON.
    """

    def __init__(self, root: str | os.PathLike, stream: str, settings: Mapping[str, Any]):
        self.root, self.stream = Path(root), stream
        self.settings = json.loads(json.dumps({"format": FORMAT, **settings}, sort_keys=True, default=str))
        self.folder = self.root / f"{stream}-{fingerprint(self.settings)}"
        self.clips: dict[str, CachedClip] = {}
        self.reload()

    def reload(self) -> None:
        """Read which clips the whole shards hold.

        Raises:
            ValueError: a shard that was whole is not any more; the message names the file.
        """
        self.clips = {}
        for listing in sorted(self.folder.glob("*.json")) if self.folder.is_dir() else ():
            if listing.name == "settings.json" or listing.name.startswith("."):  # the latter: of a killed build
                continue
            try:
                described = json.loads(listing.read_text(encoding="utf-8"))
                size, clips = described["bytes"], described["clips"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{listing}: the file is damaged; delete it and its shard is built anew") from None
            shard = listing.with_suffix(".arrow")
            if not shard.is_file() or shard.stat().st_size != size:
                raise ValueError(f"{shard}: the file is cut off or gone; delete {listing.name} and it is built anew")
            for row, (key, name, start, end, *checksum) in enumerate(clips):
                self.clips.setdefault(key, CachedClip(key, name, start, end, str(shard), row, *checksum))

    def read(self, clip: CachedClip) -> torch.Tensor | None:
        """The array of a clip in the type that it was written in; None where the file lacks the stream.

        Raises:
            ValueError: the shard holds other bytes than were written.
        """
        try:
            batch = _open_shard(clip.shard, os.getpid()).get_batch(clip.row)
            batch.validate(full=True)
            whole = clip.checksum is None or clip.checksum == _checksum(batch)
        except (OSError, pa.ArrowException):
            whole = False
        if not whole:
            listing = Path(clip.shard).with_suffix(".json").name
            raise ValueError(f"{clip.shard}: the file is damaged; delete {listing} and it is built anew")
        data, shape, kind, scale = (batch.column(name)[0] for name in SCHEMA.names)
        if not data.is_valid:
            return None
        values = torch.frombuffer(bytearray(data.as_buffer()), dtype=getattr(torch, kind.as_py()))
        values = values.reshape(shape.as_py())
        return values.float() * scale.as_py() if scale.is_valid else values

    def write(self, clips: Iterable[tuple[tuple, torch.Tensor | None, float | None]]) -> int:
        """Write one shard of `((key, name, start, end), array, scale)`, clip by clip as they come.

        Returns its size in bytes; no clip leaves no file. With an exception nothing is left but a temporary file,
        which the next build removes.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_json(self.folder / "settings.json", self.settings)
        listed = []
        # One shard under a temporary name; clips are written as they come.
        temporary = self.folder / f".{secrets.token_hex(8)}.arrow.part"  # other machines may write here too
        with open(temporary, "wb") as file:
            with pa.ipc.new_file(file, SCHEMA) as writer:
                for entry, array, scale in clips:
                    batch = _batch(array, scale)
                    writer.write_batch(batch)
                    listed.append((*entry, _checksum(batch)))
            file.flush()
            os.fsync(file.fileno())
        if not listed:
            temporary.unlink()
            return 0
        # The name is the content's. The list comes last: a shard without one is a leftover.
        shard = self.folder / f"{fingerprint(sorted(entry[0] for entry in listed))}.arrow"
        size = temporary.stat().st_size
        os.replace(temporary, shard)
        self._write_json(shard.with_suffix(".json"), {"bytes": size, "clips": listed})
        return size

    def remove_leftovers(self) -> None:
        """Delete what a build that was killed left half done. Only for who holds the cache's lock."""
        for file in [*self.folder.glob(".*.part*"), *self.folder.glob("*.arrow")]:
            if ".part" in file.suffixes or not file.with_suffix(".json").is_file():
                file.unlink()

    def other_settings(self) -> list[str]:
        """One line for each folder that holds this stream made with other settings, and which they are."""
        lines = []
        for file in sorted(self.root.glob(f"{self.stream}-*/settings.json")):
            if file.parent == self.folder:
                continue
            try:
                changes = differences(json.loads(file.read_text(encoding="utf-8")), self.settings)
            except (ValueError, AttributeError):
                changes = ["its settings.json is damaged"]
            lines.append(f"{file.parent.name}: {'; '.join(changes)}")
        return lines

    @staticmethod
    def _write_json(path: Path, value: Any) -> None:
        write_text(path, json.dumps(value, ensure_ascii=False))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`name: old, now new` for each field in which two settings differ."""
    lines = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            lines.append(f"{prefix}{name}: {before}, now {after}")
    return lines


def _batch(array: torch.Tensor | None, scale: float | None) -> pa.RecordBatch:
    row: dict[str, Any] = {"data": None, "shape": None, "type": None, "scale": scale}
    if array is not None:
        array = array.contiguous()
        bits = array.view(torch.int16) if array.dtype == torch.bfloat16 else array  # NumPy has no bfloat16
        row |= {"data": np.asarray(bits).tobytes(), "shape": list(array.shape)}
        row["type"] = str(array.dtype).removeprefix("torch.")
    return pa.RecordBatch.from_pylist([row], schema=SCHEMA)


def _checksum(batch: pa.RecordBatch) -> int:
    """CRC-32 of all that is kept of a clip."""
    data, *described = (batch.column(name)[0] for name in SCHEMA.names)
    checksum = zlib.crc32(repr([value.as_py() for value in described]).encode())
    return zlib.crc32(data.as_buffer(), checksum) if data.is_valid else checksum


@functools.lru_cache(maxsize=OPEN_SHARDS)
def _open_shard(path: str, process: int) -> pa.ipc.RecordBatchFileReader:
    """`process` keeps a forked worker from sharing its parent's open file."""
    return pa.ipc.open_file(pa.memory_map(path))
