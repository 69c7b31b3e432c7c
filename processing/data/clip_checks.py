# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Which rows of a clip table cannot be used, and why: no file, no label, duplicate, silent, broken, a bad window."""

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from processing.clips import END_TOLERANCE, ClipError, ClipInfo, ClipRequest, load_clip, probe_clip

from .atomic_writing import file_digest
from .conventions import MODALITIES
from .isolated_calls import TIME_LIMIT, Lost, isolated_calls


PIECE_SECONDS = 60  # of audio that is decoded at a time
SILENCE = 1e-4  # peak of a waveform in -1..1 below which nothing was recorded (-80 dB)
CHECKS = ("decode", "probe", "none")
WINDOWS = ("start", "end", "segment_windows")
READ = (*MODALITIES, *WINDOWS)  # the fields of a row that say what to read
Rows = list[dict[str, Any]]


def complete_rows(
    rows: Rows, *, where: Mapping[str, Any] | None, prepared: bool = False
) -> tuple[Rows, list[dict[str, Any]]]:
    """Sort out rows by what they say, before any file is decoded; options as for `build_clip_table`.

    In a prepared set duplicates are gone, and one window of a file may be two rows (two events of AVE).

    Returns:
        the rows that are left, and for each skipped one its `file`, its `row` in the table and the `reason`.
    """
    skipped: list[dict[str, Any]] = []
    rows = _keep(rows, skipped, lambda row: _row_problem(row, where))
    if not prepared:
        rows = _without_duplicates(rows, skipped)
    return rows, skipped


def readable_rows(
    rows: Rows, *, window: float | None, require: Sequence[str], check: str
) -> tuple[Rows, list[dict[str, Any]]]:
    """Sort out rows by what is in their files, and fill in `start` and `end`; returns what `complete_rows` returns."""
    skipped: list[dict[str, Any]] = []
    if check == "none":
        return _keep(rows, skipped, lambda row: _set_window(row, window, None)), skipped
    return _without_broken(rows, skipped, require, check, window), skipped


def _keep(rows: Rows, skipped: list, problem: Callable[[dict[str, Any]], str | None]) -> Rows:
    kept = []
    for row in rows:
        reason = problem(row)
        if reason is None:
            kept.append(row)
        else:
            skipped.append({"file": row["name"], "row": row["number"], "reason": reason})
    return kept


def _row_problem(row: dict[str, Any], where: Mapping[str, Any] | None) -> str | None:
    if "problem" in row:
        return row["problem"]
    # Rows that the user did not ask for.
    for column, wanted in (where or {}).items():
        if column not in row["cells"]:
            raise ValueError(f"where: no column {column!r}; the columns are {list(row['cells'])}")
        allowed = wanted if isinstance(wanted, (list, tuple, set)) else [wanted]
        if not any(_same(row["cells"][column], value) for value in allowed):
            return f"skipped by where {column}={wanted}"
    # Cells that have to be filled, and files that have to be there.
    if row["label"] is None:
        return "no label: fill the column"
    if row["video"] is None and row["audio"] is None:
        return "no file name: fill the column"
    for cell in (row["video"], row["audio"]):
        if cell is not None and cell["bytes"] is None and not os.path.isfile(cell["path"]):
            return "no such file: check the name"
    # Times as numbers.
    try:
        for key in ("start", "end"):
            row[key] = None if row[key] is None else float(row[key])
        if "segment_windows" in row:
            row["segment_windows"] = [tuple(float(seconds) for seconds in window) for window in row["segment_windows"]]
    except (TypeError, ValueError):
        return "bad window: " + ", ".join(f"{key} is {row[key]!r}" for key in WINDOWS if key in row) + "; give seconds"
    return None


def _same(cell: Any, value: Any) -> bool:
    try:
        return float(cell) == float(value)
    except (TypeError, ValueError):
        return str(cell).strip() == str(value).strip()


def _without_duplicates(rows: Rows, skipped: list) -> Rows:
    """Skip the same window of the same bytes; only files of one size are read and compared."""
    # Only files of one size can be equal, so only these are read.
    by_size = defaultdict(set)
    for row in rows:
        for cell in (row["video"], row["audio"]):
            if cell is not None and cell["bytes"] is None:
                by_size[os.path.getsize(cell["path"])].add(cell["path"])
    digest = {}
    for size, paths in by_size.items():
        if size and len(paths) > 1:  # empty files are broken, each by itself
            for path in paths:
                with suppress(OSError):  # the check of the clip names a file that cannot be read
                    digest[path] = file_digest(path)
    seen: dict[Any, dict[str, Any]] = {}

    def problem(row: dict[str, Any]) -> str | None:
        sources = []
        for cell in (row["video"], row["audio"]):
            if cell is not None and cell["bytes"] is not None:
                sources.append(hashlib.sha256(cell["bytes"]).hexdigest())
            else:
                sources.append(cell and digest.get(cell["path"], cell["path"]))
        windows = tuple(row.get("segment_windows") or ())
        first = seen.setdefault((*sources, row["start"], row["end"], windows), row)
        if first is row:
            return None
        if first["label"] == row["label"]:
            return f"duplicate: same clip as {first['name']}"
        labels = f"which is labeled {first['label']} and not {row['label']}"
        return f"duplicate: same clip as {first['name']}, {labels}"

    return _keep(rows, skipped, problem)


def _without_broken(rows: Rows, skipped: list, require: Sequence[str], check: str, window: float | None) -> Rows:
    """Skip what cannot be read. Clips are read in processes of their own, which a decoder may crash or stall."""
    check_row = partial(_check_row, require=tuple(require), check=check, window=window)
    items = ((number, {key: row[key] for key in READ if key in row}) for number, row in enumerate(rows))
    workers = min(8, os.cpu_count() or 1)
    results = isolated_calls(check_row, items, workers=workers, time_limit=TIME_LIMIT)
    problems: dict[int, str | None] = {}
    for (number, _), result in tqdm(results, total=len(rows), desc="checking clips", disable=None):
        row = rows[number]
        if isinstance(result, Lost):
            problems[number] = f"broken: {row['name']}: {result.reason}"
        else:
            problems[number], changes = result
            row.update(changes)
    ordered = iter([problems[number] for number in range(len(rows))])
    return _keep(rows, skipped, lambda row: next(ordered))


def _check_row(item: tuple[int, dict[str, Any]], *, require: Sequence[str], check: str, window: float | None) -> tuple:
    """-> (what is wrong with a row or None, its fields that change: the windows, and the streams that it lacks)."""
    _, row = item
    try:
        problem = _clip_problem(row, require, check, window)
    except ClipError as error:
        problem = f"broken: {error}"
    return problem, {key: cell for key, cell in row.items() if key in WINDOWS or cell is None}


def _clip_problem(row: dict[str, Any], require: Sequence[str], check: str, window: float | None) -> str | None:
    one_file = row["video"] is row["audio"] or row["video"] == row["audio"]
    # Read the headers, and forget streams that a file does not have.
    infos = {"video": row["video"] and probe_clip(row["video"])}
    if one_file:
        infos["audio"] = infos["video"]
    else:
        infos["audio"] = row["audio"] and probe_clip(row["audio"])
    for kind in MODALITIES:
        if infos[kind] is None or not getattr(infos[kind], f"has_{kind}"):
            row[kind] = None
            if kind in require:
                return f"no {kind} stream: needed for training on it"
    present = [kind for kind in MODALITIES if row[kind] is not None]
    if not present:
        return "no stream: neither video nor audio in it"
    # The window has to lie inside the file, or inside the shorter one of two.
    problem = _set_window(row, window, min(infos[kind].duration for kind in present))
    if problem:
        return problem
    # Forget a stream that ends too early for it.
    for kind in present:
        problem = _early_end(row, kind, infos[kind])
        if problem:
            row[kind] = None
            if kind in require or (row["video"] is None and row["audio"] is None):
                return problem
    if check != "decode":
        return None
    # Decode a frame and all audio: this finds damaged files and silent ones.
    if row["video"] is not None:
        load_clip(row["video"], ClipRequest(row["start"], row["end"], num_frames=1, streams=("video",)))
    if row["audio"] is not None:
        peak = audio_peak(row["audio"], row["start"], row["end"], infos["audio"].stream_window("audio")[1])
        if peak < SILENCE:
            row["audio"] = None
            if "audio" in require or row["video"] is None:
                return "silent: nothing is heard in it"
    return None


def _early_end(row: dict[str, Any], kind: str, info: ClipInfo) -> str | None:
    """What is wrong where a stream ends before the middle of a window, which every feature extractor hears."""
    _, stream_end = info.stream_window(kind)
    for start, end in row.get("segment_windows") or [(row["start"], row["end"])]:
        first, last = start or 0.0, info.duration if end is None else end
        if stream_end < (first + last) / 2:
            problem = f"it ends at {stream_end:.2f} s, before the middle of {first:g} s to {last:g} s"
            return f"window past the end of the {kind}: {problem}; give start and end"
    return None


def audio_peak(source: Any, start: float | None, end: float | None, audio_end: float) -> float:
    """The largest sample of a window in absolute value. Long audio is decoded in pieces of a minute.

    Args:
        source: as for `load_clip`.
        start, end: the window in seconds; None is the start of the file or the end of its audio.
        audio_end: the second at which the audio of the file ends; the window may pass it.

    Raises:
        ClipError: a piece cannot be decoded.
    """
    first, last = start or 0.0, audio_end if end is None else min(end, audio_end)
    if last - first <= 2 * PIECE_SECONDS:
        pieces = [(first, last)]
    else:
        # the last piece is never a short rest
        bounds = [first + PIECE_SECONDS * number for number in range(int((last - first) // PIECE_SECONDS))]
        pieces = list(zip(bounds, [*bounds[1:], last], strict=True))
    peak = 0.0
    for piece in pieces:
        waveform = load_clip(source, ClipRequest(*piece, streams=("audio",))).waveform
        if waveform.numel():
            peak = max(peak, float(waveform.abs().max()))
    return peak


def _set_window(row: dict[str, Any], window: float | None, duration: float | None) -> str | None:
    """Fill in `start` and `end`, and the windows of segments, as `_placed` says; or what is wrong with them."""
    try:
        if "segment_windows" in row:
            row["segment_windows"] = [_placed(*ends, window, duration) for ends in row["segment_windows"]]
            starts, ends = zip(*row["segment_windows"], strict=True)
            row["start"], row["end"] = min(starts), max(ends)
        elif (row["start"], row["end"], window) != (None, None, None):
            row["start"], row["end"] = _placed(row["start"], row["end"], window, duration)
    except ValueError as error:
        return str(error)
    return None


def _placed(
    first: float | None, last: float | None, window: float | None, duration: float | None
) -> tuple[float, float]:
    """The window in seconds; with `window` that many around its middle, moved inside the file. ValueError: a bad one."""
    if duration is None and last is None:
        raise ValueError("no window: the table gives no end, and check='none' does not look into the file")
    first, last = first or 0.0, duration if last is None else last
    if not (math.isfinite(first) and math.isfinite(last)) or first < 0 or last <= first:
        raise ValueError(f"bad window: {first:g} s to {last:g} s")
    if duration is not None and last > duration + END_TOLERANCE:
        raise ValueError(f"window past the end: {first:g} s to {last:g} s of {duration:.2f} s")
    if window is None:
        return first, last
    middle, limit = (first + last) / 2, math.inf if duration is None else duration
    first = max(0.0, min(middle - window / 2, limit - window))
    return first, min(first + window, limit)
