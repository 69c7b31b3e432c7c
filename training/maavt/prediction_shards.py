# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Class scores, match scores and embeddings of very many clips, in Parquet shards that are written whole or not at all."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from tqdm.auto import tqdm

from processing.data.atomic_writing import atomic_file, file_digest, write_text
from processing.data.engines import Engine
from processing.data.feature_shards import differences, fingerprint
from processing.data.isolated_calls import TIME_LIMIT, Lost
from training.common.clip_pictures import class_names

from .prediction import PredictionOptions, Predictor, load_config


SHARD_FILES = 256  # what a dying process has to do again
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
    """Files whose windows make one shard; `lost` files ended a process, by the reason that stands in their row."""

    number: int
    files: tuple[str, ...]
    lost: tuple[tuple[str, str], ...] = ()


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

    def path(self, number: int) -> Path:
        return self.folder / f"predictions-{number:05d}-of-{self.num_shards:05d}.parquet"

    def __call__(self, job: ShardJob) -> int:
        """Writes the shard; returns how many files could not be read."""
        lost = dict(job.lost)
        records = self.predictor([file for file in job.files if file not in lost], self.options)
        records += [{"file": file, "error": f"{file}: {reason}"} for file, reason in job.lost]
        records.sort(key=lambda record: job.files.index(record["file"]))  # the windows of a file stay in order
        columns = {name: pa.array([record.get(name) for record in records], kind) for name, kind in COLUMNS.items()}
        classes = json.dumps(class_names(self.predictor.model), ensure_ascii=False)
        table = pa.table(columns).replace_schema_metadata({"classes": classes})
        with atomic_file(self.path(job.number)) as temporary:
            pa.parquet.write_table(table, temporary)
        return sum("error" in record for record in records)

    def try_file(self, file: str) -> None:
        """Reads one file as a job does, to find the one that ends the process."""
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
    """
    has_embeddings = load_config(checkpoint).model_type == "maavt"
    chosen = PredictionOptions(**options, embeddings=has_embeddings, scores=True, skip_broken=True)
    folder, names = Path(folder), [str(file) for file in files]
    groups = [tuple(names[first : first + SHARD_FILES]) for first in range(0, len(names), SHARD_FILES)]
    settings = {
        "checkpoint": str(checkpoint),
        "model": model_digests(checkpoint),
        "files": fingerprint(names),
        "options": json.loads(json.dumps(asdict(chosen))),
    }
    _check_settings(folder, settings)
    writer = ShardWriter(str(checkpoint), device, compile, chosen, folder, len(groups))
    jobs = [ShardJob(number, group) for number, group in enumerate(groups) if not writer.path(number).is_file()]
    errors = 0
    done = len(names) - sum(len(job.files) for job in jobs)
    with tqdm(total=len(names), initial=done, desc="classifying", unit="file", disable=None) as progress:
        while jobs:
            again = []
            for job, result in engine.calls(writer, jobs, 10 * TIME_LIMIT):
                if isinstance(result, Lost):
                    again.append(_without_lost(writer, job, engine, result))
                else:
                    errors += result
                    progress.update(len(job.files))
            jobs = again
    return errors


def _without_lost(writer: ShardWriter, job: ShardJob, engine: Engine, result: Lost) -> ShardJob:
    """The job again, with the files named that end the process by themselves.

    Raises:
        RuntimeError: none of them does.
    """
    left = [file for file in job.files if file not in dict(job.lost)]
    results = engine.calls(writer.try_file, left, TIME_LIMIT)
    lost = tuple((file, found.reason) for file, found in results if isinstance(found, Lost))
    if not lost:
        raise RuntimeError(f"{writer.path(job.number).name}: {result.reason}; each of its files by itself can be read")
    return ShardJob(job.number, job.files, (*job.lost, *sorted(lost)))


def model_digests(checkpoint: str | Path) -> dict[str, str]:
    """SHA-256 of each file of a local checkpoint that predictions depend on; empty for a Hub name."""
    files = [path for pattern in MODEL_FILES for path in sorted(Path(checkpoint).glob(pattern))]
    return {path.name: file_digest(path)[:20] for path in files}


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "settings.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        before.setdefault("model", settings["model"])  # settings of version 0.1 know only its path
        changed = differences(before, settings)
        if changed:
            raise ValueError(f"{folder}: holds other predictions ({'; '.join(changed)}); give another folder")
        return
    write_text(path, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
