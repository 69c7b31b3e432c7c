# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What was found and what was skipped, per split and class, for programs (JSON) and for people (text)."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from processing.data.clip_splits import SPLITS
from processing.data.prepared_folders import FORMAT

from .annotations import Annotations
from .fingerprints import FLAGS
from .selection import MEANING, PROBLEMS, USED, Verdict


def make_report(
    name: str,
    annotations: Annotations,
    verdicts: list[Verdict],
    flags: list[dict[str, Any]],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """JSON-able: settings, counts per split and class, every clip that is not used with its reason, and flagged clips.

    `listed` rows are in the annotations; of them `found` have their file; `used` go into the table. In a multi-label
    set a clip counts in each of its classes.
    """
    present = [split for split in SPLITS if any(verdict.row.split == split for verdict in verdicts)]
    # Every clip that is not used, with its reason.
    problems = [
        {"clip_id": v.row.clip_id, "split": v.row.split, "status": v.status, "reason": v.reason}
        for v in verdicts
        if v.status != USED
    ]
    # Counts per class and per split.
    per_class = {split: {} for split in present}
    for split in present:
        of_split = [verdict for verdict in verdicts if verdict.row.split == split]
        members = {}
        for verdict in of_split:
            for label in verdict.row.labels:
                members.setdefault(label, []).append(verdict)
        per_class[split] = {label: _count(members[label]) for label in annotations.classes if label in members}
    splits = {split: _count([v for v in verdicts if v.row.split == split]) for split in present}
    warnings = annotations.warnings + _lost(splits, per_class)
    for split in SPLITS:
        if split not in present:
            warnings.append(f"{split}: no clip is listed for it or was drawn; training draws it out of train by group")
    return {
        "format": FORMAT,
        "set": name,
        "settings": dict(settings),
        "split": annotations.split,
        "multi_label": annotations.multi_label,
        "classes": annotations.classes,
        "total": _count(verdicts),
        "splits": splits,
        "per_class": per_class,
        "problems": problems,
        "flags": flags,
        "warnings": warnings,
    }


def report_text(report: Mapping[str, Any]) -> str:
    """The report as plain text; of the clips that are not used the first of each reason are named."""
    # Totals, and a table of splits.
    statuses = [status for status in PROBLEMS if report["total"][status]]
    total = report["total"]
    lines = [
        f"{report['set']}: {total['used']} of {total['listed']} clips, {len(report['classes'])} classes",
        f"split: {report['split']}",
        "",
    ]
    columns = ["listed", "found", *statuses, "used"]
    table = [["split", *columns]] + [[split, *(c[k] for k in columns)] for split, c in report["splits"].items()]
    lines += _align(table)
    # Reasons, each with its first clips.
    for status in statuses:
        lines += ["", f"{status}: {total[status]} ({MEANING[status]})"]
        reasons = [problem["reason"] for problem in report["problems"] if problem["status"] == status]
        lines += _first(reasons)
    # Clips that are used, and worth a look.
    for flag, meaning in FLAGS.items():
        reasons = [flagged["reason"] for flagged in report["flags"] if flagged["flag"] == flag]
        if reasons:
            lines += ["", f"{flag}: {len(reasons)} used all the same ({meaning})", *_first(reasons)]
    lines += [""] + [f"warning: {warning}" for warning in report["warnings"]]
    # A table of classes.
    splits = list(report["splits"])
    table = [["class", *(f"{split} used/listed" for split in splits)]]
    for name in report["classes"]:
        row = [name]
        for split in splits:
            count = report["per_class"][split].get(name)
            row.append("-" if count is None else f"{count['used']}/{count['listed']}")
        table.append(row)
    return "\n".join([*lines, "", *_align(table)]).replace("\n\n\n", "\n\n") + "\n"


def _first(reasons: list[str], limit: int = 5) -> list[str]:
    lines = [f"  {reason}" for reason in reasons[:limit]]
    if len(reasons) > limit:
        lines.append(f"  and {len(reasons) - limit} more, see report.json")
    return lines


def _count(verdicts: list[Verdict]) -> dict[str, int]:
    statuses = Counter(verdict.status for verdict in verdicts)
    counts = {"listed": len(verdicts), "found": sum(verdict.found for verdict in verdicts), "used": statuses[USED]}
    return counts | {status: statuses[status] for status in PROBLEMS}


def _lost(splits: dict, per_class: dict) -> list[str]:
    """A line for each split that lost all clips of a class, or all clips."""
    lines = []
    for split, count in splits.items():
        if not count["used"]:
            lines.append(f"{split}: no clip is left of {count['listed']}")
            continue
        lost = [name for name, c in per_class[split].items() if not c["used"] and c["listed"] > c["excluded"]]
        if lost:
            lines.append(f"{split}: no clip is left of {', '.join(lost)}")
    return lines


def _align(table: list[list[Any]]) -> list[str]:
    """Lines with the first column to the left, and the others to the right."""
    width, *widths = (max(len(str(cell)) for cell in column) for column in zip(*table, strict=True))
    lines = []
    for first, *others in table:
        cells = [str(cell).rjust(w) for cell, w in zip(others, widths, strict=True)]
        lines.append("  ".join([str(first).ljust(width), *cells]))
    return lines
