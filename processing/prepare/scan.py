# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Opens every clip once, in several processes, and writes down what is in it; goes on where it was interrupted."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from processing.clips import END_TOLERANCE, ClipRequest, load_clip, probe_clip
from processing.data.atomic_writing import file_digest
from processing.data.clip_checks import SILENCE
from processing.data.engines import Engine
from processing.data.isolated_calls import TIME_LIMIT, Lost

from .fingerprints import audio_hash, largest_change, small_pictures, video_hash


FRAMES = 4  # decoded of each clip; together with all of its audio this finds files that were cut off
LONGER = 1.0  # seconds by which a file passes its annotated window before it counts as the uncut source


@dataclass(frozen=True)
class Job:
    """A clip to look into: files relative to the root, and the seconds that its annotation names."""

    video: str | None
    audio: str | None
    window: tuple[float, float] | None = None


@dataclass
class Facts:
    """What was found in a clip.

    Attributes:
        start, end: the window to use, in seconds; None: the whole file.
        has_video, has_audio: streams that are there.
        silent: nothing is heard in the audio.
        change: the largest change between the frames that were decoded, in gray levels.
        video_hash, audio_hash: what stays of the clip when it is encoded anew.
        error: why the clip cannot be read, or None.
        digests: SHA-256 of the video and the audio file.
    """

    start: float | None = None
    end: float | None = None
    has_video: bool = False
    has_audio: bool = False
    silent: bool = False
    change: float | None = None
    video_hash: str = ""
    audio_hash: str = ""
    error: str | None = None
    digests: tuple[str, ...] = ()


FIELDS = {item.name for item in fields(Facts)}


def check_clip(root: str, job: Job) -> Facts:
    """Reads a clip's files. Never raises for what is in them."""
    facts = Facts()
    try:
        paths = {kind: os.path.join(root, name) for kind, name in (("video", job.video), ("audio", job.audio)) if name}
        facts.digests = tuple(file_digest(path) for path in dict.fromkeys(paths.values()))
        if job.video == job.audio:
            _read(paths["video"], ("video", "audio"), job.window, facts)
        else:
            for kind, path in paths.items():
                _read(path, (kind,), job.window, facts)
    except Exception as error:  # whatever a decoder throws: a broken clip is a line of the report
        text = str(error)
        if not isinstance(error, ValueError | OSError):
            text = f"{type(error).__name__}: {error}"
        # the clip's own file is meant, not a field of the user's
        facts.error = " ".join(text.replace(os.path.join(root, ""), "").replace(": path: ", ": ").split())
    return facts


def scan(
    jobs: Iterable[Job],
    root: Path,
    record: Path,
    *,
    engine: Engine,
    check: Callable[[str, Job], Facts] = check_clip,
) -> dict[Job, Facts]:
    """Checks clips that the record does not know yet.

    Args:
        jobs: clips; each is checked once however often it is named.
        root: folder of the files.
        record: JSON lines, one appended for each clip as soon as it is checked. A line whose files have changed in
            size or time does not count; nor does a last line that was cut off.
        engine: calls the check. A clip that crashes its process or stalls it is broken; a new process takes over.
        check: what looks into a clip.

    Returns:
        the facts of each job.
    """
    # What the record knows of files that have not changed since.
    jobs = list(dict.fromkeys(jobs))
    stamps = {job: file_stamps(root, job) for job in jobs}
    known = read_record(record)
    facts = {job: known[job][1] for job in jobs if job in known and known[job][0] == stamps[job]}
    pending = [job for job in jobs if job not in facts]
    # Check the others; each result is on the disk before the next is asked for.
    record.parent.mkdir(parents=True, exist_ok=True)
    progress = tqdm(total=len(jobs), initial=len(facts), desc="checking clips", unit="clip", disable=None)
    with progress, open(record, "a", encoding="utf-8") as file:
        for job, facts[job] in _check_all(pending, str(root), engine, check):
            file.write(record_line(job, stamps[job], facts[job]))
            file.flush()
            progress.update()
    return facts


def _read(path: str, kinds: tuple[str, ...], window: tuple[float, float] | None, facts: Facts) -> None:
    info = probe_clip(path)
    present = [kind for kind in kinds if getattr(info, f"has_{kind}")]
    if not present:
        return
    # A file longer than its annotated window is the uncut source.
    if window is not None and info.duration > window[1] - window[0] + LONGER:
        facts.start, facts.end = window
        if facts.end > info.duration + END_TOLERANCE and facts.start + LONGER < info.duration:
            facts.end = info.duration
    # Decode a few frames and all audio.
    clip = load_clip(path, ClipRequest(facts.start, facts.end, num_frames=FRAMES, streams=present))
    facts.has_video |= "video" in present
    if clip.frames is not None:
        pictures = small_pictures(clip.frames)
        facts.change, facts.video_hash = largest_change(pictures), video_hash(pictures)
    if "audio" in present:
        facts.has_audio = True
        facts.silent = clip.waveform.numel() == 0 or bool(clip.waveform.abs().max() < SILENCE)
        if not facts.silent:
            facts.audio_hash = audio_hash(clip.waveform, clip.sampling_rate)


def _check_all(
    jobs: list[Job], root: str, engine: Engine, check: Callable[[str, Job], Facts]
) -> Iterator[tuple[Job, Facts]]:
    for job, result in engine.calls(partial(check, root), jobs, TIME_LIMIT):
        if isinstance(result, Lost):
            yield job, Facts(error=f"{job.video or job.audio}: {result.reason}")
        else:
            yield job, result


def record_line(job: Job, stamps: list[list[Any]], facts: Facts) -> str:
    """A line of the record; `stamps` are of the files before they were checked."""
    return json.dumps({"job": asdict(job), "files": stamps, "facts": asdict(facts)}) + "\n"


def file_stamps(root: Path, job: Job) -> list[list[Any]]:
    """Name, size and time of change of each of its files."""
    names = dict.fromkeys(name for name in (job.video, job.audio) if name)
    stats = [(name, os.stat(root / name)) for name in names]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def read_record(record: Path) -> dict[Job, tuple[list[list[Any]], Facts]]:
    """What is known; a last line that was cut off is taken out of the file, so that the next one starts afresh."""
    if not record.is_file():
        return {}
    data = record.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with open(record, "r+b") as file:
            file.truncate(whole)
    known = {}
    for line in data[:whole].splitlines():
        try:
            entry = json.loads(line)
            window = entry["job"].pop("window")
            job = Job(**entry["job"], window=None if window is None else tuple(window))
            if set(entry["facts"]) != FIELDS:
                continue  # of another version
            facts = Facts(**entry["facts"] | {"digests": tuple(entry["facts"]["digests"])})
            known[job] = (entry["files"], facts)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # damaged, or of another version: the clip is checked again
    return known
