# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Data sets that are read as they come: Parquet or WebDataset tar shards, on the Hub, in object storage or here."""

import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
from datasets import (
    Audio,
    ClassLabel,
    Dataset,
    Features,
    IterableDataset,
    List,
    Value,
    Video,
    load_dataset_builder,
)

from processing.clips import ClipError, clip_error, probe_clip

from .clip_rows import table_path
from .clip_splits import SPLIT_NAMES, SPLITS, TEST, TRAIN
from .conventions import AUDIO_SUFFIXES, MODALITIES, VIDEO_SUFFIXES
from .feature_shards import fingerprint
from .media_columns import as_media, source_of, storage
from .prepared_folders import is_prepared
from .remote_files import is_remote, list_files, patiently, with_retries


HUB, BUCKETS = "hf://datasets/", "hf://buckets/"
SEGMENT_COLUMNS = {
    "segment_labels": List(Value("int64")),
    "segment_matched": List(Value("bool")),
    "segment_windows": List(List(Value("float64"))),
}
JSON_FIELDS = {"label": "string", "start": "float64", "end": "float64", "group": "string", "clip_id": "string"}
NO_COLUMN = False


@dataclass(frozen=True)
class RowReader:
    """Makes a row of a clip table (`video`, `audio`, `label`, `start`, `end`, `group`, `clip_id`) of a stream's cells.

    Attributes:
        columns: which cell holds what, by the names above; "json" holds several of them in a WebDataset.
        names: of the classes, in the order of their numbers.
        folder: relative paths count from here, and may not leave it; None for a data set on the Hub.
        several: `label` is a list of classes.
        allow_absolute_paths: see `table_path`.
    """

    columns: Mapping[str, str]
    names: tuple[str, ...] = ()
    folder: str | None = None
    several: bool = False
    allow_absolute_paths: bool = False

    def features(self) -> Features:
        """Types of the columns of the rows."""
        label = ClassLabel(names=list(self.names))
        features = {"video": Video(decode=False), "audio": Audio(decode=False)}
        features |= {"label": List(label) if self.several else label}
        features |= {"start": Value("float64"), "end": Value("float64")}
        features |= {"group": Value("string"), "clip_id": Value("string")}
        return Features(features | {key: kind for key, kind in SEGMENT_COLUMNS.items() if key in self.columns})

    def __call__(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        """Raises ValueError where the label is no class, and ClipError where the row has no clip."""
        # The cells by what they hold; a WebDataset has several in one json.
        values = dict(cells.get(self.columns.get("json", "")) or {})
        values |= {key: cells[column] for key, column in self.columns.items() if key != "json"}
        key = None
        if "__key__" in cells:
            key = f"{os.path.basename(cells['__url__'])}/{cells['__key__']}"
        # Video and audio: two cells, or one file with both.
        row: dict[str, Any] = {"video": values.get("video"), "audio": values.get("audio")}
        if "audio" not in self.columns:
            row["audio"] = row["video"]  # one file holds both
        elif "video" not in self.columns:
            row["video"] = None
        cell = row["video"] or row["audio"]
        if cell is None:
            raise clip_error(key or "a row", "video", "is empty, and so is audio; remove the row")
        source = key or source_of(cell)
        # Window, id and group; the id names file and window.
        for name in ("start", "end"):
            row[name] = None if values.get(name) is None else float(values[name])
        window = ""
        if row["end"] is not None:
            window = f"@{row['start'] or 0:.3f}-{row['end']:.3f}"
        row["clip_id"] = str(values.get("clip_id") or source + window)
        row["group"] = str(source if values.get("group") is None else values["group"])
        # Labels as class indices.
        label = values.get("label")
        if self.several and label is None:
            raise ValueError(f"{row['clip_id']}: no label; give a list of classes, empty for none of them")
        if self.several:
            row["label"] = [self._label(value, row["clip_id"]) for value in label]
        else:
            row["label"] = self._label(label, row["clip_id"])
        # Segments, and cells in the form of a clip table.
        row |= {key: values[key] for key in SEGMENT_COLUMNS if key in self.columns}
        shown = row["clip_id"]
        # Errors name a clip as its shard does, where its id is a digest of the content.
        named = key or values.get("clip_id")
        if cell.get("bytes") is not None and cell.get("path") and not named:
            shown = f"{os.path.basename(cell['path'])} ({shown})"
        for kind in MODALITIES:
            row[kind] = None if row[kind] is None else self._cell(row[kind], shown)
        return row

    def _label(self, value: Any, clip_id: str) -> int:
        if isinstance(value, str) and value in self.names:
            return self.names.index(value)
        if isinstance(value, str) and value.lstrip("-").isdigit():
            value = int(value)
        if isinstance(value, int) and 0 <= value < len(self.names):
            return value
        raise ValueError(
            f"{clip_id}: label {value!r} is none of the {len(self.names)} classes; mend it or the classes"
        )

    def _cell(self, cell: Mapping[str, Any], shown: str) -> dict[str, Any]:
        if cell.get("bytes") is not None:
            return {"path": shown, "bytes": cell["bytes"]}
        path = str(cell["path"])
        if path.startswith("hf://") and self.folder is None:
            return {"path": path, "bytes": None}
        if self.folder is None:
            raise clip_error(shown, "path", "the shard names a file that is not in it; embed the clips")
        return {"path": table_path(self.folder, path, self.allow_absolute_paths), "bytes": None}


@dataclass
class ClipSource:
    """Streams of undecoded rows by split, and what reads them.

    Attributes:
        splits: `datasets.IterableDataset` for each of train, validation and test that is there.
        reader: makes table rows of their cells.
        lengths: rows per split, or None where only reading tells.
        identity: changes whenever the files do.
    """

    splits: dict[str, IterableDataset]
    reader: RowReader
    lengths: dict[str, int | None]
    identity: str
    warnings: list[str] = field(default_factory=list)


def open_source(
    data: str | os.PathLike,
    *,
    label: str = "label",
    start: str | bool | None = None,
    end: str | bool | None = None,
    group: str | bool | None = None,
    class_names: Sequence[str] | str | os.PathLike | None = None,
    test_split: str | None = None,
    allow_absolute_paths: bool = False,
) -> ClipSource:
    """Open a data set without reading it.

    Args:
        data: `hf://datasets/user/name` (or `...@tag`), `user/name`, or a folder of `*.parquet` or `*.tar` shards, here or
            in a store (`s3://bucket/folder`, `gs://bucket/folder`), or one such file. Shards are split by the first word
            of the file or its folder's name: `train-00000-of-00008.parquet`, `test/0001.tar`. Columns `video` and / or
            `audio` and a label; tar members `mp4`, `cls` and / or `json` (label, start, end, group, clip_id), and `wav` or
            the like for audio in a separate file.
        label: column of the class.
        start, end, group: columns; None takes the one of that name if there is one, False takes none.
        class_names: the classes in the order of their numbers, or a file with one a line. Needed where neither the
            column, nor `classes.txt` beside the shards, nor strings in a column say it.
        test_split: the split to test on.
        allow_absolute_paths: shards may name files by their absolute paths, as those of `processing.prepare` do.

    Raises:
        ValueError: no such data, a damaged shard, no clips or no label in it, or classes that nothing names.
    """
    # Tar shards: the members of the first clip say which columns there are.
    folder, builder, options = _builder(str(data))
    files = dict(builder.config.data_files or {})
    _check_footers(files)
    if _is_webdataset(builder):
        fields = _tar_fields(next(iter(files.values()))[0])
        features = {name: _tar_feature(name) for name in [*fields, "__key__", "__url__"]}
        builder = load_dataset_builder(**options, features=Features(features))
        columns, several = _tar_columns(fields, data), False
    splits = dict(builder.as_streaming_dataset())
    # Parquet shards: the columns that are needed, with undecoded media.
    if not _is_webdataset(builder):
        features = next(iter(splits.values())).features
        several = isinstance(features.get(label), List)
        columns = _table_columns(features, {"label": label, "start": start, "end": end, "group": group}, data)
        for kind, feature in (("video", Video(decode=False)), ("audio", Audio(decode=False))):
            if kind in columns:
                splits = {name: part.cast_column(kind, feature) for name, part in splits.items()}
        splits = {name: part.select_columns(sorted(set(columns.values()))) for name, part in splits.items()}
    # Class names, splits, and the number of clips where the source knows it.
    names = _class_names(class_names, folder, str(data)) or _names_in(splits, columns, builder, options, data)
    named = _named_splits(splits, test_split, data)
    lengths = {split: _length(builder, name, files.get(name, [])) for split, name in named.items()}
    # What identifies the data: cached tables of another source are not taken for this one.
    state = [[name, list(part), list(getattr(part, "origin_metadata", None) or [])] for name, part in files.items()]
    return ClipSource(
        {split: splits[name] for split, name in named.items()},
        RowReader(columns, tuple(names), folder, several, allow_absolute_paths or is_prepared(data)),
        lengths,
        fingerprint([str(data), state, columns, list(names)]),
    )


def _check_footers(files: Mapping[str, Sequence]) -> None:
    """Raises ValueError for a Parquet shard of this machine that is cut off or damaged at its end."""
    for shards in files.values():
        for shard in map(str, shards):
            if not shard.endswith(".parquet") or not os.path.isfile(shard):
                continue
            try:
                pyarrow.parquet.read_metadata(shard)
            except (OSError, pyarrow.ArrowException) as error:
                raise ValueError(f"{shard}: cannot be read ({error}); get the file again") from error


def as_table(source: ClipSource, split: str, keep: Any = None, part: str = "") -> Dataset:
    """The undecoded rows of one split, written once to the cache of `datasets` and mapped into memory from there.

    Args:
        keep: function of a row; rows for which it is False are skipped.
        part: names what `keep` keeps: a table that was written under that name is taken as it is.
    """
    table = Dataset.from_generator(
        _rows,
        features=storage(source.reader.features()),
        gen_kwargs={"source": source, "split": split, "keep": keep},
        fingerprint=fingerprint([source.identity, split, part, "streams of each file"]),
    )
    return as_media(table)


def _rows(source: ClipSource, split: str, keep: Any) -> Iterator[dict[str, Any]]:
    for cells in source.splits[split]:
        row = source.reader(cells)
        if keep is None or keep(row):
            yield _with_present_streams(row)


def _with_present_streams(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose one file for both streams lacks one of them has None there, so that evaluation leaves it out."""
    if row["video"] is None or row["video"] != row["audio"]:
        return row
    try:
        info = probe_clip(read_remote(row["video"]))
    except ClipError:
        return row  # whoever reads it says what is wrong
    for kind in MODALITIES:
        if not getattr(info, f"has_{kind}") and (info.has_video or info.has_audio):
            row[kind] = None
    return row


def read_remote(cell: dict[str, Any] | None) -> dict[str, Any] | None:
    """A cell whose file lies on the Hub, with its bytes; any other as it is."""
    if cell is None or cell["bytes"] is not None or "://" not in (cell["path"] or ""):
        return cell

    def read() -> bytes:
        with fsspec.open(cell["path"], "rb") as file:
            return file.read()

    return {"path": cell["path"], "bytes": patiently(read, cell["path"])}


def _builder(data: str) -> tuple[str | None, Any, dict[str, Any]]:
    path = Path(data)
    if data.startswith("hf://") and not data.startswith((HUB, BUCKETS)):
        raise ValueError(f"{data}: is no data set; write hf://datasets/user/name")
    # Shards in object storage, or in a folder here.
    if is_remote(data) and not data.startswith(HUB):
        return _shards([with_retries(file) for file in list_files(data)], None, data)
    if not data.startswith(HUB) and path.exists():
        if path.is_dir():
            return _shards(sorted(str(file) for file in path.rglob("*") if file.is_file()), str(path), data)
        return _shards([data], str(path.parent), data)
    name, _, tag = data.removeprefix(HUB).partition("@")
    options = {"path": name, "revision": tag or None}
    try:
        return None, load_dataset_builder(**options), options
    except FileNotFoundError as error:  # what `datasets` raises for an unknown name too
        raise ValueError(f"{data}: neither a folder here nor a data set on the Hub ({error})") from error


def _shards(files: Sequence[str], folder: str | None, data: str) -> tuple[str | None, Any, dict[str, Any]]:
    for suffix, kind in ((".parquet", "parquet"), (".tar", "webdataset")):
        shards: dict[str, list[str]] = {}
        for file in files:
            path = Path(file)
            if path.suffix == suffix and not path.name.startswith("."):
                shards.setdefault(_split_of(path), []).append(file)
        if shards:
            options = {"path": kind, "data_files": shards}
            return folder, load_dataset_builder(**options), options
    raise ValueError(
        f"{data}: no *.parquet and no *.tar in it to stream; leave streaming off for a folder of clips or a csv"
    )


def _split_of(file: Path) -> str:
    for name in (re.split(r"[-_.]", file.stem)[0], file.parent.name):
        if name.lower() in SPLIT_NAMES:
            return SPLIT_NAMES[name.lower()]
    return TRAIN


def _is_webdataset(builder: Any) -> bool:
    return type(builder).__name__ == "WebDataset"


def _tar_fields(url: str) -> list[str]:
    """The members of the first clip: their names behind the first dot."""
    fields, first = [], None
    with fsspec.open(url, "rb") as file, tarfile.open(fileobj=file, mode="r|*") as archive:
        for member in archive:
            stem, dot, ending = os.path.basename(member.name).partition(".")
            if not member.isfile() or not stem or not dot:
                continue
            if first not in (None, stem):
                break
            first = stem
            fields.append(ending)
    return fields


def _tar_feature(name: str) -> Any:
    """Types are given, not guessed from the first clips: a `start` of 0 there would make all others whole numbers."""
    if f".{name}" in VIDEO_SUFFIXES:
        return Video(decode=False)
    if f".{name}" in AUDIO_SUFFIXES:
        return Audio(decode=False)
    if name == "json":
        return {key: Value(kind) for key, kind in JSON_FIELDS.items()}
    if name in ("__key__", "__url__"):
        return Value("string")
    if name == "cls":
        return Value("int64")
    return Value("binary")


def _tar_columns(fields: Sequence[str], data: Any) -> dict[str, str]:
    columns = {}
    for kind, suffixes in (("video", VIDEO_SUFFIXES), ("audio", AUDIO_SUFFIXES)):
        members = [name for name in fields if f".{name}" in suffixes]
        if members:
            columns[kind] = members[0]
    if "cls" in fields:
        columns["label"] = "cls"
    if "json" in fields:
        columns["json"] = "json"
    if not set(MODALITIES) & set(columns) or not {"label", "json"} & set(columns):
        raise ValueError(f"{data}: the first clip has members {list(fields)}; it needs mp4 or wav, and cls or json")
    return columns


def _table_columns(features: Features, given: Mapping[str, Any], data: Any) -> dict[str, str]:
    columns = {kind: kind for kind in ("video", "audio", "clip_id", *SEGMENT_COLUMNS) if kind in features}
    if not set(MODALITIES) & set(columns):
        raise ValueError(f"{data}: its columns are {list(features)}; it needs `video`, `audio` or both")
    for key, column in given.items():
        if column is NO_COLUMN:
            continue
        name = column if isinstance(column, str) else key
        if name in features:
            columns[key] = name
        elif isinstance(column, str):
            raise ValueError(f"{data}: no column {name!r}; its columns are {list(features)}; name one with {key}=")
    return columns


def _class_names(given: Any, folder: str | None, data: str) -> list[str]:
    """The classes that the caller gives, or that stand beside the shards; none where neither is so."""
    if given is not None and not isinstance(given, (str, os.PathLike)):
        return list(given)
    if given is None and is_remote(data) and not data.startswith(HUB):
        found = list_files(f"{data}/classes.txt")
        given = with_retries(found[0]) if found else None
    elif given is None and folder is not None and (Path(folder) / "classes.txt").is_file():
        given = Path(folder) / "classes.txt"
    if given is None:
        return []
    with fsspec.open(str(given), "rt", encoding="utf-8-sig") as file:  # Windows writes a byte order mark
        return [line.strip() for line in file if line.strip()]


def _names_in(splits: Mapping, columns: Mapping[str, str], builder: Any, options: dict, data: Any) -> list[str]:
    """The classes that the column's type names, or the strings that stand in it (only that column is read)."""
    cure = "write them in classes.txt beside the shards, one a line in the order of their numbers, or pass class_names"
    feature = next(iter(splits.values())).features.get(columns.get("label"))
    if isinstance(feature, List):
        feature = feature.feature
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    if not isinstance(feature, Value) or "string" not in feature.dtype or type(builder).__name__ != "Parquet":
        raise ValueError(f"{data}: nothing names the classes; {cure}")
    alone = load_dataset_builder(**options, columns=[columns["label"]]).as_streaming_dataset()
    cells = [row[columns["label"]] for part in alone.values() for row in part]
    names = set()
    for cell in cells:
        names.update(cell if isinstance(cell, list) else [cell])
    return sorted(names - {None})


def _named_splits(splits: Mapping[str, Any], test_split: str | None, data: Any) -> dict[str, str]:
    """`{"validation": "dev"}`: train, validation and test, and what the source calls them."""
    if test_split is not None and test_split not in splits:
        raise ValueError(f"test_split={test_split!r}: {data} has the splits {sorted(splits)}")
    named = {}
    if test_split:
        named[TEST] = test_split
    for name in splits:
        split = SPLIT_NAMES.get(str(name).lower())
        if split is not None and name != test_split:
            named.setdefault(split, name)
    if TRAIN not in named:
        raise ValueError(f"{data}: its splits are {sorted(splits)}; one has to be called train")
    return {split: named[split] for split in SPLITS if split in named}


def _length(builder: Any, split: str, files: Sequence[str]) -> int | None:
    info = (builder.info.splits or {}).get(split)
    if info is not None and info.num_examples:
        return info.num_examples
    if not files or not all(str(file).endswith(".parquet") for file in files):
        return None
    with ThreadPoolExecutor(16) as pool:  # a store answers many requests at a time
        return sum(pool.map(_num_rows, map(str, files)))


def _num_rows(file: str) -> int:
    with fsspec.open(file, "rb") as stream:
        return pyarrow.parquet.read_metadata(stream).num_rows
