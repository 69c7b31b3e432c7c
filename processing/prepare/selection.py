# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Which rows go into the table, and what is wrong with the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from processing.data.conventions import MODALITIES

from .annotations import PRIORITY, Annotations, ClipRow
from .scan import Facts, Job


USED = "used"
# the order of the report's columns; a row has the first that holds
PROBLEMS = ("excluded", "duplicate", "other_split", "missing", "corrupt", "no_video", "no_audio", "silent")
MEANING = {
    "excluded": "excluded by the set's rules",
    "duplicate": "listed twice, or the same content as another clip",
    "other_split": "its source is in another split too",
    "missing": "no such file",
    "corrupt": "cannot be decoded",
    "no_video": "no video stream in it",
    "no_audio": "no audio stream in it",
    "silent": "an audio stream in which nothing is heard",
}


@dataclass
class Verdict:
    """A row, whether its files are there, its status (`USED` or one of `PROBLEMS`) and what to say of it."""

    row: ClipRow
    found: bool
    status: str = USED
    reason: str = ""


def select_rows(
    annotations: Annotations, jobs: Mapping[int, Job], facts: Mapping[Job, Facts], require: Sequence[str]
) -> list[Verdict]:
    """Judges every row of a set, in the order of the annotations.

    Where a clip id, a content or a group is in two splits, it stays in test rather than in validation, and there
    rather than in train. Groups are compared whether or not their files are there, so that the splits of two users
    agree however many clips each of them has. A row loses a file that has nothing for it (a missing modality).

    Args:
        jobs: the job of each row by its number; rows without files have none.
        facts: what was found.
        require: streams without which a clip is not used.
    """
    # Test clips are judged first: what is in two splits stays in test.
    verdicts = [Verdict(row, not _absent(row, annotations.streams, require)) for row in annotations.rows]
    order = sorted(range(len(verdicts)), key=lambda number: (PRIORITY[verdicts[number].row.split], number))
    _judge_listing([verdicts[number] for number in order])
    # Then the files: missing, unreadable, without a stream, or equal to another.
    contents: dict[tuple, Verdict] = {}
    for number in order:
        verdict = verdicts[number]
        if verdict.status == USED and not verdict.found:
            absent = _absent(verdict.row, annotations.streams, require)
            reason = f"{verdict.row.expected}: no such file"
            if len(absent) < len(annotations.streams):
                reason += f" for the {absent[0]}"
            verdict.status, verdict.reason = "missing", reason
        if verdict.status == USED:
            _judge_content(verdict, facts[jobs[number]], require, contents)
    return verdicts


def make_job(row: ClipRow, root: Path, streams: Sequence[str], require: Sequence[str]) -> Job | None:
    """What to look into for a row; None where a required file is not there, or its rules leave it out."""
    if row.excluded or _absent(row, streams, require):
        return None
    files = {"video": row.video, "audio": row.audio}
    names = {kind: path and path.relative_to(root).as_posix() for kind, path in files.items()}
    return Job(names["video"], names["audio"], row.source_window)


def _absent(row: ClipRow, streams: Sequence[str], require: Sequence[str]) -> list[str]:
    """Streams without a file, where the row cannot be used for that."""
    absent = [kind for kind in streams if getattr(row, kind) is None]
    if len(absent) == len(streams) or set(absent) & set(require):
        return absent
    return []


def _judge_listing(verdicts: list[Verdict]) -> None:
    """What the annotations alone tell; the verdicts come in the order of their priority."""
    first: dict[str, ClipRow] = {}
    split_of_group: dict[str, str] = {}
    for verdict in verdicts:
        row = verdict.row
        if row.excluded:
            verdict.status, verdict.reason = "excluded", row.excluded
            continue
        # Twice in the list, or its source in two splits.
        earlier = first.setdefault(row.clip_id, row)
        split = split_of_group.setdefault(row.group, row.split)
        if earlier is not row:
            verdict.status, verdict.reason = "duplicate", f"{row.clip_id}: listed twice{_differences(row, earlier)}"
        elif split != row.split:
            verdict.status, verdict.reason = "other_split", f"{row.clip_id}: {row.group} is in {split} too"


def _judge_content(verdict: Verdict, facts: Facts, require: Sequence[str], contents: dict[tuple, Verdict]) -> None:
    row = verdict.row
    row.source_window = None if facts.start is None else (facts.start, facts.end)
    if facts.error is not None:
        verdict.status, verdict.reason = "corrupt", facts.error
        return
    # A stream without content counts as missing.
    has = {"video": facts.has_video, "audio": facts.has_audio and not facts.silent}
    lacks = {"video": "no_video", "audio": "silent" if facts.has_audio else "no_audio"}
    for kind in MODALITIES:
        if not has[kind] and (kind in require or not any(has.values())):
            verdict.status, verdict.reason = lacks[kind], f"{row.expected}: {MEANING[lacks[kind]]}"
            return
    if not has["video"]:
        row.video = None
    if not has["audio"]:
        row.audio = None
    # Equal bytes in an equal window are one clip.
    same = contents.setdefault((facts.digests, facts.start, facts.end), verdict)
    if same is not verdict and (same.row.video, same.row.audio) != (row.video, row.audio):
        differs = _differences(row, same.row)
        verdict.status, verdict.reason = "duplicate", f"{row.expected}: same content as {same.row.expected}{differs}"


def _differences(row: ClipRow, other: ClipRow) -> str:
    parts = []
    if row.labels != other.labels:
        parts.append(f", but labeled {' + '.join(row.labels)} and not {' + '.join(other.labels)}")
    if row.split != other.split:
        parts.append(f"; it stays in {other.split}")
    return "".join(parts)
