# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Result tables as Markdown, and the versions that a result depends on."""

import re
from importlib.metadata import version


# What only a table with mismatched pairs has; AUROC against audio of another class, and of another clip of the same class.
PAIR_COLUMNS = {
    "match_auroc": "match AUROC", "agreement_auroc": "agreement AUROC",
    "match_auroc_same_class": "match AUROC, same class", "agreement_auroc_same_class": "agreement AUROC, same class",
    "combined": "combined", "mismatched_video_class": "other audio: video's class",
    "mismatched_audio_class": "other audio: audio's class",
}  # fmt: skip
COLUMNS = {
    "model": "model", "input": "input", "noise": "audio", "top1": "top-1", "top1_interval": "95 % interval",
    "top5": "top-5", "macro_f1": "macro F1", "map": "mAP", "mauc": "mAUC", "d_prime": "d-prime",
    **PAIR_COLUMNS, "clips": "clips", "groups": "groups",
}  # fmt: skip


ENOUGH_CLIPS = 30  # of fewer test clips a table says little


def cell(name: str, value: object) -> str:
    """A table cell: three decimals for figures, `0 dB` for a level, a dash for what was not measured."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return f"{value[0]:.3f} to {value[1]:.3f}"
    if isinstance(value, float):
        return f"{value:.3f}"
    if name == "noise" and value not in ("clean", "any"):
        return f"{value} dB"
    return table_text(str(value))


def table_text(text: str) -> str:
    """Text that breaks no table and holds no HTML: one line, `|`, `<` and `>` escaped."""
    text = " ".join(text.split())
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def plain_text(text: str) -> str:
    """Text that Markdown shows as it is, such as the name of a class."""
    return re.sub(r"([\\`*_\[\]#~!])", r"\\\1", table_text(text).replace("\\|", "|"))


def markdown_table(rows: list[dict], columns: dict[str, str] = COLUMNS) -> str:
    """Rows of figures as a Markdown table; a key that no row has leaves no column."""
    shown = {key: title for key, title in columns.items() if any(row.get(key) is not None for row in rows)}
    lines = ["| " + " | ".join(shown.values()) + " |", "|" + " --- |" * len(shown)]
    lines += ["| " + " | ".join(cell(key, row.get(key)) for key in shown) + " |" for row in rows]
    return "\n".join(lines)


def small_table_note(rows: list[dict]) -> str:
    """How little a table of few clips says; nothing where there are enough."""
    clips = max((row.get("clips") or 0 for row in rows), default=0)
    if not 0 < clips < ENOUGH_CLIPS:
        return ""
    return (
        f"Only {clips} test clips: one clip more or less changes top-1 by {100 / clips:.0f} points. Rows that differ by a "
        "few clips do not differ; read the intervals."
    )


def package_versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {name: version(name) for name in ("torch", "transformers", "peft", "accelerate", "datasets")}
