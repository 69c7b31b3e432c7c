# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Filling a feature cache: which windows of which files are missing, and the processes that decode them."""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Audio, Dataset, DatasetDict, Video
from tqdm.auto import tqdm

from processing.clips import Clip, ClipError, ClipRequest, clip_error, probe_clip

from .conventions import MODALITIES
from .engines import Engine
from .feature_shards import FeatureShards, fingerprint
from .isolated_calls import TIME_LIMIT, Lost


logger = logging.getLogger(__name__)

SHARD_CLIPS = 64  # what a killed build loses at most, per process


@dataclass
class Source:
    """A file or bytes in a window, and where in the tables it stands (its bytes are not kept)."""

    key: str
    name: str
    start: float | None
    end: float | None
    cell: tuple[str, int, str]
    streams: set[str]


def keyed_tables(tables: Mapping[str, Dataset]) -> tuple[DatasetDict, dict[str, Source]]:
    """Tables whose cells name what is cached instead of files, and each window of each of those by its key."""
    keyed, sources = DatasetDict(), {}
    for split, table in tables.items():
        cells: dict[str, list] = {stream: [] for stream in MODALITIES}
        columns = [*MODALITIES, "start", "end", "clip_id", *({"segment_windows"} & set(table.column_names))]
        for index, row in enumerate(table.select_columns(columns)):
            identity = None
            for stream in MODALITIES:
                cell = row[stream]
                if cell is None:
                    cells[stream].append(None)
                    continue
                if stream == "video" or cell != row["video"]:  # else it is the video's
                    identity = fingerprint(_identity(cell, row["clip_id"]))
                cells[stream].append({"path": identity, "bytes": None})
                name = cell["path"] or row["clip_id"]
                for start, end in row.get("segment_windows") or [(row["start"], row["end"])]:
                    key = window_key(identity, start, end)
                    location = (split, index, stream)
                    sources.setdefault(key, Source(key, name, start, end, location, set())).streams.add(stream)
        for stream, feature in (("video", Video(decode=False)), ("audio", Audio(decode=False))):
            table = table.remove_columns(stream).add_column(stream, cells[stream], feature=feature)
        keyed[split] = table
    return keyed, sources


def window_key(identity: str, start: float | None, end: float | None) -> str:
    return fingerprint([identity, start, end])


def windows_per_clip(tables: Mapping[str, Dataset]) -> int:
    """How many windows share the frames of a clip: those of its segments, or one."""
    for table in tables.values():
        if "segment_windows" in table.column_names and len(table):
            return len(table[0]["segment_windows"])
    return 1


def _identity(cell: Mapping[str, Any], clip_id: str) -> list[Any]:
    if cell["bytes"] is not None:
        return ["bytes", hashlib.sha256(cell["bytes"]).hexdigest()]
    try:
        stat = os.stat(cell["path"])
    except OSError as error:
        raise clip_error(
            f"{clip_id} ({cell['path']})", "path", "no such file; mend the table, or bring it back"
        ) from error
    return ["path", os.path.abspath(cell["path"]), stat.st_size, stat.st_mtime_ns]


def missing_jobs(
    shards: Mapping[str, FeatureShards], sources: Mapping[str, Source]
) -> list[tuple[tuple, list[Source]]]:
    """Jobs of one shard each: the streams that are missing, and of which sources."""
    # Clips that lack the same streams share a job, and a job makes one shard.
    groups: dict[tuple, list[Source]] = {}
    for key, source in sources.items():
        streams = tuple(s for s in MODALITIES if s in shards and s in source.streams and key not in shards[s].clips)
        if streams:
            groups.setdefault(streams, []).append(source)
    return [
        (streams, group[first : first + SHARD_CLIPS])
        for streams, group in groups.items()
        for first in range(0, len(group), SHARD_CLIPS)
    ]


def announce(shards: Mapping[str, FeatureShards], sources: Mapping[str, Source], jobs: list) -> None:
    """Say what is built and why: other settings, changed files."""
    missing = sum(len(group) for _, group in jobs)
    logger.info("feature cache: %d of %d clips are to be decoded", missing, len(sources))
    for shards_of_stream in shards.values():
        if not shards_of_stream.clips:
            for line in shards_of_stream.other_settings():
                logger.warning(
                    "feature cache: %s was made with other settings (%s); it is kept, and a new one built beside it "
                    "in %s: delete it if no run needs it",
                    *line.split(": ", 1),
                    shards_of_stream.folder.name,
                )
        for name, shard in stale_clips(shards_of_stream, sources.values()):
            logger.warning("feature cache: %s has changed since it was cached in %s; it is decoded anew", name, shard)


def stale_clips(shards: FeatureShards, sources: Iterable[Source]) -> list[tuple[str, str]]:
    """(clip, shard file) of what was cached from a file or bytes that have changed since."""
    cached = {(clip.name, clip.start, clip.end): clip for clip in shards.clips.values()}
    stale = []
    for source in sources:
        clip = cached.get((source.name, source.start, source.end))
        if clip is not None and source.key not in shards.clips:
            stale.append((source.name, clip.shard))
    return stale


class ShardWriter:
    """Called with a job, writes its shard and says what became of it. Other processes get a copy."""

    def __init__(self, processor: Any, tables: Mapping[str, Dataset], shards: Mapping, num_frames: int):
        self.processor, self.tables, self.shards, self.num_frames = processor, tables, shards, num_frames

    def __call__(self, job: tuple[tuple, list[Source]]) -> dict[str, Any]:
        streams, sources = job
        failures: list[str] = []
        decoded = self._decode(streams, sources, failures)
        size = 0
        # Frames first, since they need the room; audio after them.
        if "video" in streams:
            audio_entries = []

            def video_entries() -> Iterator[tuple]:  # frames go to the disk one clip at a time, waveforms are small
                for entry, frames, audio in decoded:
                    audio_entries.append((entry, *audio))
                    yield entry, frames, None

            size += self.shards["video"].write(video_entries())
        else:
            audio_entries = ((entry, *audio) for entry, _, audio in decoded)
        if "audio" in streams:
            size += self.shards["audio"].write(audio_entries)
        return {"clips": len(sources), "bytes": size, "failures": failures}

    def _decode(self, streams: tuple, sources: list[Source], failures: list[str]) -> Iterator[tuple]:
        for source in sources:
            split, index, column = source.cell
            try:
                clip = self._load(self.tables[split][index][column], source, streams)
                frames = None if clip.frames is None else self._frames(clip.frames)
                audio = (None, None) if clip.waveform is None else self._audio(clip.waveform)
            except ClipError as error:
                failures.append(str(error))
                continue
            yield (source.key, source.name, source.start, source.end), frames, audio

    def _load(self, cell: Mapping[str, Any], source: Source, streams: tuple) -> Clip:
        try:
            request = ClipRequest(
                source.start, source.end, num_frames=self.num_frames, streams=streams, on_missing="none"
            )
            return self.processor.load_clip(cell, request)
        except ClipError:
            info = probe_clip(cell)  # a file that is whole but has none of the streams is no failure
            if any(getattr(info, f"has_{stream}") for stream in streams):
                raise
            return Clip()

    def _frames(self, frames: torch.Tensor) -> torch.Tensor:
        if self.shards["video"].settings["frames"] == "decoded":
            return frames
        # As the video processor does it, up to the point where pixels become float.
        resized = self.processor.video_processor(
            videos=[frames], do_rescale=False, do_normalize=False, do_sample_frames=False, return_tensors="pt"
        )["pixel_values_videos"][0]
        if resized.dtype != torch.uint8:
            raise TypeError(f"the video processor resizes to {resized.dtype}, not uint8; leave the feature cache out")
        return resized

    def _audio(self, waveform: torch.Tensor) -> tuple[torch.Tensor, float | None]:
        if self.shards["audio"].settings["audio"] == "spectrogram":
            extractor = self.processor.feature_extractor
            features = extractor([waveform], sampling_rate=extractor.sampling_rate, return_tensors="pt")
            return features["input_features"][0].to(torch.bfloat16), None
        # 16 bits relative to the clip's peak.
        scale = max(float(waveform.abs().max()) if waveform.numel() else 0.0, 1e-30) / 32767
        return (waveform / scale).round().to(torch.int16), scale


def run_jobs(writer: ShardWriter, jobs: list[tuple[tuple, list[Source]]], engine: Engine) -> None:
    """Writes the shards of all jobs.

    Raises:
        ClipError: clips cannot be decoded, or end the process that decodes them; all others are cached by then.
        ValueError: too little room on the disk.
    """
    for shards in writer.shards.values():
        shards.remove_leftovers()
    total, done, written, failures = sum(len(sources) for _, sources in jobs), 0, 0, []
    with tqdm(total=total, desc="feature cache", unit="clip", disable=None) as progress:
        # A shard that ended its process comes a second time clip by clip, which names the clip that did it.
        for time_limit in (10 * TIME_LIMIT, TIME_LIMIT):
            singles = []
            for (streams, sources), result in engine.calls(writer, jobs, time_limit):
                if isinstance(result, Lost) and len(sources) > 1:
                    singles += [(streams, [source]) for source in sources]
                    continue
                if isinstance(result, Lost):
                    result = {"bytes": 0, "failures": [f"{sources[0].name}: {result.reason}"]}
                # Report progress, and stop before the disk is full.
                progress.update(len(sources))
                done, written = done + len(sources), written + result["bytes"]
                failures += result["failures"]
                check_room(next(iter(writer.shards.values())).root, written / done * (total - done), "feature_cache")
            jobs = singles
    for shards in writer.shards.values():
        shards.remove_leftovers()  # of processes that died
        shards.reload()
    if failures:
        shown = "\n".join(f"  {failure}" for failure in failures[:5])
        raise ClipError(
            f"feature cache: {len(failures)} of {total} clips cannot be decoded (the others are cached); leave "
            f"them out, or let check: decode find them:\n{shown}"
        )


def check_room(folder: Path, needed: float, what: str) -> None:
    """Raises ValueError where `needed` bytes more do not fit; the message begins with `what` they are for."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{what}: about {needed / 1e9:.1f} GB more are needed and {free / 1e9:.1f} GB are free in {folder}; "
            "choose another folder, make room (what is written is kept), or lower num_frames"
        )
