# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A preparation in parts for a scheduler: each checks its share of the clips, and the last step joins what they found."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from processing.data.atomic_writing import atomic_folder, remove_leftovers
from processing.data.engines import Engine

from .annotations import PrepareError
from .scan import Facts, Job, file_stamps, read_record, record_line, scan
from .writing import sole_writer


FORMAT = "maavt-part-1"  # in part.json


def parse_part(text: str) -> tuple[int, int]:
    """`"3/8"` as (3, 8). Raises ValueError for anything else."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise ValueError(f"{text!r}: give a number of parts and which one, from 1/8 to 8/8")
    return int(part), int(parts)


def write_part(out: Path, part: tuple[int, int], name: str, jobs: Iterable[Job], root: Path, engine: Engine) -> Path:
    """Checks every so-manieth clip and writes `OUT.parts/3-of-8`: whole or not there. A part that was stopped goes on.

    Returns:
        the folder.

    Raises:
        PrepareError: another process writes this part.
    """
    number, parts = part
    jobs = list(dict.fromkeys(jobs))
    chosen = jobs[number - 1 :: parts]
    folder = _folder(out) / f"{number}-of-{parts}"
    record = _folder(out) / f".{number}-of-{parts}.scan.jsonl"
    with sole_writer(record):
        # Only what has changed since is checked again.
        is_new = not record.is_file() or record.stat().st_size == 0
        if (folder / "facts.jsonl").is_file() and is_new:
            record.write_bytes((folder / "facts.jsonl").read_bytes())
        scan(chosen, root, record, engine=engine)
        known = read_record(record)
        with atomic_folder(folder) as temporary:
            described = {"format": FORMAT, "set": name, "part": number, "parts": parts, "jobs": _digest(jobs)}
            (temporary / "part.json").write_text(json.dumps(described, indent=1) + "\n", "utf-8")
            with open(temporary / "facts.jsonl", "w", encoding="utf-8") as file:
                file.writelines(record_line(job, *known[job]) for job in chosen)
        remove_leftovers(folder.parent, folder.name)
        record.unlink()
    return folder


def join_parts(out: Path, name: str, jobs: Iterable[Job], root: Path) -> dict[Job, Facts]:
    """What all parts found.

    Raises:
        PrepareError: a part is missing, damaged or of other options, or a clip has changed since.
    """
    jobs = list(dict.fromkeys(jobs))
    parent = _folder(out)
    described = {}
    for path in sorted(parent.glob("[!.]*-of-*/part.json")):  # hidden: what a killed process has left
        described[path.parent] = json.loads(path.read_text("utf-8"))
    if not described:
        raise PrepareError(f"{parent}: no parts in it; make them with --part 1/N to --part N/N")
    # All of one cut, and of the same clips.
    counts = {part["parts"] for part in described.values()}
    if len(counts) > 1:
        raise PrepareError(
            f"{parent}: holds parts of {sorted(counts)}; delete those of the number that you do not want"
        )
    (count,) = counts
    present = {part["part"] for part in described.values()}
    missing = [number for number in range(1, count + 1) if number not in present]
    if missing:
        listed = ", ".join(map(str, missing))
        raise PrepareError(f"{parent}: part {listed} of {count} is missing; run --part {missing[0]}/{count}")
    for folder, part in described.items():
        if (part["format"], part["set"], part["jobs"]) != (FORMAT, name, _digest(jobs)):
            command = f"--part {part['part']}/{count}"
            raise PrepareError(f"{folder}: is of other options, annotations or files; run {command} again")
    # Every clip has its line, and its file is what it was.
    facts = {}
    for folder, part in described.items():
        known = read_record(folder / "facts.jsonl")
        for job in jobs[part["part"] - 1 :: count]:
            if job not in known or known[job][0] != file_stamps(root, job):
                command = f"--part {part['part']}/{count}"
                raise PrepareError(
                    f"{folder}: {job.video or job.audio} is missing or has changed; run {command} again"
                )
            facts[job] = known[job][1]
    return facts


def _folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


def _digest(jobs: list[Job]) -> str:
    text = json.dumps([asdict(job) for job in jobs])
    return hashlib.sha256(text.encode()).hexdigest()[:20]
