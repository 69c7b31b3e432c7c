# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Class scores, match scores and embeddings of very many clips, in Parquet shards that are written whole or not at all."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from tqdm.auto import tqdm
from transformers import AutoProcessor, ProcessorMixin

from processing.data.atomic_writing import atomic_file, file_digest, write_text
from processing.data.engines import Engine
from processing.data.feature_shards import differences, fingerprint
from processing.data.isolated_calls import TIME_LIMIT, Lost
from training.common.clip_pictures import class_names

from .prediction import PredictionOptions, Predictor, list_windows, load_config, read_window


SHARD_FILES = 256  # what a dying process has to do again
FILE_SECONDS = 60.0  # that a shard's time limit allows for each of its files, decoder and model together
NO_COLUMN = ("batch_size", "top_k")  # options that change nothing in a shard
MODEL_FILES = ("*.safetensors", "*.bin", "*config.json")  # weights, model, processor, adapter
COLUMNS = {
    "file": pa.string(),
    "start": pa.float64(),
    "end": pa.float64(),
    "scores": pa.list_(pa.float32()),
    "match_logit": pa.float32(),
    "match_probability": pa.float32(),
    "video_embedding": pa.list_(pa.float32()),
    "audio_embedding": pa.list_(pa.float32()),
    "error": pa.string(),
}


@dataclass(frozen=True)
class ShardJob:
    """Files whose windows make one shard; `lost` files ended a process, by the reason that stands in their row.

    A job whose files can all be read has no time limit: its model is slow.
    """

    number: int
    files: tuple[str, ...]
    lost: tuple[tuple[str, str], ...] = ()
    limited: bool = True

    @property
    def files_left(self) -> list[str]:
        """The files that are not lost."""
        return [file for file in self.files if file not in dict(self.lost)]


@dataclass
class ShardWriter:
    """Called with a job, writes its shard. Each process loads the model once, at its first job.

    Args:
        checkpoint, device, compile: as for `classify`.
        options: with `scores`, `embeddings` and `skip_broken`.
        folder: of the shards.
        num_shards: of the whole run, for their names.
    """

    checkpoint: str
    device: str | None
    compile: bool
    options: PredictionOptions
    folder: Path
    num_shards: int

    @cached_property
    def predictor(self) -> Predictor:
        return Predictor(self.checkpoint, self.device, self.compile)

    @cached_property
    def processor(self) -> ProcessorMixin:
        """Reads windows without a model."""
        return AutoProcessor.from_pretrained(self.checkpoint)

    def path(self, number: int) -> Path:
        return self.folder / f"predictions-{number:05d}-of-{self.num_shards:05d}.parquet"

    def __call__(self, job: ShardJob) -> int:
        """Writes the shard; returns how many files could not be read."""
        records = self.predictor(job.files_left, self.options)
        records += [{"file": file, "error": f"{file}: {reason}"} for file, reason in job.lost]
        records.sort(key=lambda record: job.files.index(record["file"]))  # the windows of a file stay in order
        columns = {name: pa.array([record.get(name) for record in records], kind) for name, kind in COLUMNS.items()}
        classes = json.dumps(class_names(self.predictor.model), ensure_ascii=False)
        table = pa.table(columns).replace_schema_metadata({"classes": classes})
        with atomic_file(self.path(job.number)) as temporary:
            pa.parquet.write_table(table, temporary)
        return len({record["file"] for record in records if "error" in record})

    def try_listing(self, file: str) -> list[dict]:
        """The windows of a file that can be read, as a job lists them."""
        records = list_windows(file, self.processor, self.options)
        return [record for record in records if "error" not in record]

    def try_window(self, record: dict) -> None:
        """Reads one window as a job does."""
        read_window(record, self.processor, self.options)

    def try_file(self, file: str) -> None:
        """Reads and classifies one file as a job does."""
        self.predictor([file], self.options)


def write_predictions(
    checkpoint: str | Path,
    files: Sequence[str | Path],
    folder: str | Path,
    *,
    engine: Engine,
    device: str | None = None,
    compile: bool = False,
    **options: Any,
) -> int:
    """Classifies files into `folder/predictions-00000-of-00040.parquet` and so on; shards that are there are kept.

    Columns: `file`, `start`, `end` (null: the whole file), `scores` [C] (their classes stand in the schema's metadata),
    `match_logit`, `match_probability`, `video_embedding` and `audio_embedding` [D], and `error` where a file cannot be
    read or ends the process that reads it. A DeepAVFusion classifier has neither match scores nor embeddings:
    their columns are null.

    Args:
        checkpoint, device, compile: as for `classify`.
        files: clips; 256 of them make a shard.
        folder: shards, and `settings.json` with what they depend on.
        engine: the processes that classify.
        options: fields of `PredictionOptions`.

    Returns:
        how many files could not be read, of those that were read now.

    Raises:
        ValueError: no checkpoint, or the folder holds predictions of another checkpoint, other files or other options.
        RuntimeError: a shard ends its process, and none of its files does so by itself.
    """
    config = load_config(checkpoint)
    has_embeddings = config.model_type == "maavt"
    chosen = PredictionOptions(**options, embeddings=has_embeddings, scores=True, skip_broken=True)
    folder, names = Path(folder), [str(file) for file in files]
    groups = [tuple(names[first : first + SHARD_FILES]) for first in range(0, len(names), SHARD_FILES)]
    settings = {
        "checkpoint": str(checkpoint),
        "model": model_digests(checkpoint) or {"commit": getattr(config, "_commit_hash", None)},
        "files": fingerprint(names),
        "contents": fingerprint([_size_and_time(name) for name in names]),
        "options": {
            name: value for name, value in json.loads(json.dumps(asdict(chosen))).items() if name not in NO_COLUMN
        },
    }
    _check_settings(folder, settings)
    writer = ShardWriter(str(checkpoint), device, compile, chosen, folder, len(groups))
    jobs = [ShardJob(number, group) for number, group in enumerate(groups) if not writer.path(number).is_file()]
    errors = 0
    done = len(names) - sum(len(job.files) for job in jobs)
    with tqdm(total=len(names), initial=done, desc="classifying", unit="file", disable=None) as progress:
        while jobs:
            again = []
            for job, result in _results(writer, jobs, engine):
                if isinstance(result, Lost):
                    again.append(_without_lost(writer, job, engine, result))
                else:
                    errors += result
                    progress.update(len(job.files))
            jobs = again
    return errors


def _results(writer: ShardWriter, jobs: list[ShardJob], engine: Engine) -> Iterator[tuple[ShardJob, Any]]:
    """What became of each job; those without a time limit come last."""
    limited = [job for job in jobs if job.limited]
    if limited:
        most_files = max(len(job.files) for job in limited)
        yield from engine.calls(writer, limited, 10 * TIME_LIMIT + FILE_SECONDS * most_files)
    unlimited = [job for job in jobs if not job.limited]
    if unlimited:
        yield from engine.calls(writer, unlimited, None)


def _without_lost(writer: ShardWriter, job: ShardJob, engine: Engine, result: Lost) -> ShardJob:
    """The job again: without the files that no process can read, or without a time limit where all can be read.

    Raises:
        RuntimeError: it had no time limit, and each file by itself can be classified.
    """
    if job.limited:
        lost = _unreadable(writer, job.files_left, engine)
        return replace(job, lost=(*job.lost, *sorted(lost.items())), limited=bool(lost))
    results = engine.calls(writer.try_file, job.files_left, None)
    lost = {file: found.reason for file, found in results if isinstance(found, Lost)}
    if not lost:
        name = writer.path(job.number).name
        raise RuntimeError(f"{name}: {result.reason}; each of its files by itself can be classified")
    return replace(job, lost=(*job.lost, *sorted(lost.items())))


def _unreadable(writer: ShardWriter, files: list[str], engine: Engine) -> dict[str, str]:
    """The files that end a process which lists or reads their windows, and the reasons. No model runs.

    The time limit is that of one window, so that a long recording is no worse than a short one.
    """
    lost: dict[str, str] = {}
    windows: list[dict] = []
    for file, listed in engine.calls(writer.try_listing, files, TIME_LIMIT):
        if isinstance(listed, Lost):
            lost[file] = listed.reason
        else:
            windows += listed
    # Once a window of a file is lost, its other windows need not be read.
    pending = (record for record in windows if record["file"] not in lost)
    for record, outcome in engine.calls(writer.try_window, pending, TIME_LIMIT):
        if isinstance(outcome, Lost):
            lost[record["file"]] = outcome.reason
    return lost


def model_digests(checkpoint: str | Path) -> dict[str, str]:
    """SHA-256 of each file of a local checkpoint that predictions depend on; empty for a Hub name."""
    files = [path for pattern in MODEL_FILES for path in sorted(Path(checkpoint).glob(pattern))]
    return {path.name: file_digest(path)[:20] for path in files}


def _size_and_time(file: str) -> list[int] | None:
    """Bytes and time of the last change, which tell a clip from the one that replaces it; None where it is gone."""
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "settings.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        # What earlier settings do not know, or know although it has no effect.
        for name in ("model", "contents"):
            before[name] = before.get(name) or settings[name]
        before["options"] = {name: value for name, value in before["options"].items() if name not in NO_COLUMN}
        changed = differences(before, settings)
        if changed:
            raise ValueError(f"{folder}: holds other predictions ({'; '.join(changed)}); give another folder")
        return
    write_text(path, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
