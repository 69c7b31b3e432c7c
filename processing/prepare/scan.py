# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Opens every clip once, in several processes, and writes down what is in it; goes on where it was interrupted."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from processing.clips import END_TOLERANCE, ClipRequest, load_clip, probe_clip
from processing.data.atomic_writing import file_digest
from processing.data.clip_checks import SILENCE


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
        error: why the clip cannot be read, or None.
        digests: SHA-256 of the video and the audio file.
    """

    start: float | None = None
    end: float | None = None
    has_video: bool = False
    has_audio: bool = False
    silent: bool = False
    error: str | None = None
    digests: tuple[str, ...] = ()


def check_clip(root: str, job: Job) -> Facts:
    """Reads a clip's files. Never raises for what is in them."""
    facts = Facts()
    try:
        paths = {kind: os.path.join(root, name) for kind, name in (("video", job.video), ("audio", job.audio)) if name}
        facts.digests = tuple(file_digest(path) for path in dict.fromkeys(paths.values()))
        one_file = job.video == job.audio
        for kinds in [("video", "audio")] if one_file else [(kind,) for kind in paths]:
            _read(paths[kinds[0]], kinds, job.window, facts)
    except Exception as error:  # whatever a decoder throws: a broken clip is a line of the report
        known = isinstance(error, ValueError | OSError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        # the clip's own file is meant, not a field of the user's
        facts.error = " ".join(text.replace(os.path.join(root, ""), "").replace(": path: ", ": ").split())
    return facts


def scan(
    jobs: Iterable[Job],
    root: Path,
    record: Path,
    *,
    workers: int,
    check: Callable[[str, Job], Facts] = check_clip,
) -> dict[Job, Facts]:
    """Checks clips that the record does not know yet.

    Args:
        jobs: clips; each is checked once however often it is named.
        root: folder of the files.
        record: JSON lines, one appended for each clip as soon as it is checked. A line whose files have changed in
            size or time does not count; nor does a last line that was cut off.
        workers: processes; 0 checks in this one. A process that a clip crashes is replaced, and the clip is broken.
        check: what looks into a clip.

    Returns:
        the facts of each job.
    """
    jobs = list(dict.fromkeys(jobs))
    stamps = {job: _stamp(root, job) for job in jobs}
    known = _read_record(record)
    facts = {job: known[job][1] for job in jobs if job in known and known[job][0] == stamps[job]}
    pending = [job for job in jobs if job not in facts]
    record.parent.mkdir(parents=True, exist_ok=True)
    progress = tqdm(total=len(jobs), initial=len(facts), desc="checking clips", unit="clip", disable=None)
    with progress, open(record, "a", encoding="utf-8") as file:
        for job, found in _check_all(pending, str(root), workers, check):
            facts[job] = found
            line = {"job": asdict(job), "files": stamps[job], "facts": asdict(found)}
            file.write(json.dumps(line) + "\n")
            file.flush()
            progress.update()
    return facts


def _read(path: str, kinds: tuple[str, ...], window: tuple[float, float] | None, facts: Facts) -> None:
    info = probe_clip(path)
    present = [kind for kind in kinds if getattr(info, f"has_{kind}")]
    if not present:
        return
    if window is not None and info.duration > window[1] - window[0] + LONGER:
        facts.start, facts.end = window
        if facts.end > info.duration + END_TOLERANCE and facts.start + LONGER < info.duration:
            facts.end = info.duration
    clip = load_clip(path, ClipRequest(facts.start, facts.end, num_frames=FRAMES, streams=present))
    facts.has_video |= "video" in present
    if "audio" in present:
        facts.has_audio = True
        facts.silent = clip.waveform.numel() == 0 or bool(clip.waveform.abs().max() < SILENCE)


def _check_all(
    jobs: list[Job], root: str, workers: int, check: Callable[[str, Job], Facts]
) -> Iterator[tuple[Job, Facts]]:
    if workers == 0 or not jobs:
        for job in jobs:
            yield job, check(root, job)
        return
    waiting = iter(jobs)
    suspects: list[Job] = []  # were being checked when a process died: one of them is to blame
    while True:
        try:
            yield from _check_in_pool(waiting, root, workers, check, suspects)
            return
        except BrokenProcessPool:
            yield from _check_one_by_one(suspects, root, check)
            suspects.clear()


def _check_in_pool(
    waiting: Iterator[Job], root: str, workers: int, check: Callable, running: list[Job]
) -> Iterator[tuple[Job, Facts]]:
    """Yields as results come; `running` holds what is not yet known, also when a process dies."""
    with _pool(workers) as pool:
        futures: dict[Future, Job] = {}
        try:
            while True:
                for job in waiting:
                    running.append(job)
                    futures[pool.submit(check, root, job)] = job
                    if len(futures) >= 4 * workers:  # few enough to check again one by one
                        break
                if not futures:
                    return
                for future in wait(futures, return_when=FIRST_COMPLETED).done:
                    job = futures.pop(future)
                    found = future.result()
                    running.remove(job)
                    yield job, found
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check_one_by_one(jobs: list[Job], root: str, check: Callable) -> Iterator[tuple[Job, Facts]]:
    """In a process that has nothing else to do: when it dies, its clip is to blame."""
    left = list(jobs)
    while left:
        with _pool(1) as pool:
            try:
                while left:
                    found = pool.submit(check, root, left[0]).result()
                    yield left.pop(0), found
            except BrokenProcessPool:
                job = left.pop(0)
                yield job, Facts(error=f"{job.video or job.audio}: the decoder crashed on it; convert or get it again")


def _pool(workers: int) -> ProcessPoolExecutor:
    """Processes that start from a fresh one: decoders and their threads do not survive a fork of this one."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__])  # imported once, not by every process
    return ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,))


def _stamp(root: Path, job: Job) -> list[list[Any]]:
    names = dict.fromkeys(name for name in (job.video, job.audio) if name)
    stats = [(name, os.stat(root / name)) for name in names]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def _read_record(record: Path) -> dict[Job, tuple[list[list[Any]], Facts]]:
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
            facts = Facts(**entry["facts"] | {"digests": tuple(entry["facts"]["digests"])})
            known[job] = (entry["files"], facts)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # damaged, or of another version: the clip is checked again
    return known
