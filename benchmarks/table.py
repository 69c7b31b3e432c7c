# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The Markdown table and the plot of a benchmark's JSON file.

    python -m benchmarks.table [FILE.json] [--page docs/performance.md]

Prints the table of the newest file in benchmarks/results, or of `FILE.json`. With `--page`, replaces what stands between
the two `benchmark table` comments of that page.
"""

import argparse
import re
from pathlib import Path

from processing.data.atomic_writing import atomic_file, write_text

from .figures import FOLDER, read


ROWS = (  # what, key, target ("" for none)
    ("forward, float32: fraction of the product rate", "gemm_fraction.forward.float32", "0.80"),
    ("forward, float32, compiled", "gemm_fraction.forward.float32.compiled", "0.80"),
    ("forward, bfloat16", "gemm_fraction.forward.bfloat16", "0.55"),
    ("forward, bfloat16, compiled", "gemm_fraction.forward.bfloat16.compiled", "0.72"),
    ("forward, float32: times the plain port", "speedup.forward.float32", ""),
    ("forward, bfloat16: times the plain port", "speedup.forward.bfloat16", ""),
    ("forward, bfloat16, compiled: times the plain port", "speedup.forward.bfloat16.compiled", ""),
    ("training step, float32: times the plain port", "speedup.train.float32", "1.1"),
    ("training step, bfloat16: times the plain port", "speedup.train.bfloat16", "2.8"),
    ("memory of a training step, float32: share of the plain port", "memory.train.float32", "at most 0.80"),
    ("memory, bfloat16", "memory.train.bfloat16", "at most 0.48"),
    ("memory, bfloat16, activation checkpointing", "memory.train.checkpointing", "at most 0.31"),
    ("prompts from block 8 of 12, cached block states: times prompts from block 0", "prompts_from_block.speedup", "3"),
    ("the same, from decoded clips to trained weights", "prompts_from_block.speedup.end_to_end", ""),
    ("processor: time over bare PyAV", "processor.overhead.pyav", "at most 0.15"),
    ("processor: time over bare torchcodec", "processor.overhead.torchcodec", "at most 0.15"),
    ("processor on decoded clips: times a usual research pipeline", "processor.speedup", ""),
    ("processor from files: times a usual research pipeline", "processor.speedup.end_to_end", ""),
    ("spectrograms: times librosa", "spectrogram.speedup", "2.5"),
    (
        "10 s clip, 360p, one long GOP: share of the time of bare torchcodec",
        "processor.realistic.360p.long_gop",
        "at most 0.55",
    ),
    ("10 s clip, 720p, one long GOP", "processor.realistic.720p.long_gop", "at most 0.55"),
    ("10 s clip, 1080p, one long GOP", "processor.realistic.1080p.long_gop", "at most 0.75"),
    ("10 s clip, 360p, GOPs of one second", "processor.realistic.360p.second_gop", "at most 0.75"),
    ("10 s clip, 720p, GOPs of one second", "processor.realistic.720p.second_gop", "at most 0.75"),
    ("10 s clip, 1080p, GOPs of one second", "processor.realistic.1080p.second_gop", "at most 0.75"),
    ("training waits for decoded clips: share of the time", "loading.share.decoded", ""),
    ("training waits for cached clips", "loading.share.cached", "at most 0.03"),
    ("import, over PyTorch and Transformers", "import.overhead", "at most 0.15"),
    ("`maavt --help`, seconds", "startup.help_seconds", "at most 2"),
    ("import to first prediction, ViT-B/16, seconds", "startup.first_prediction_seconds", ""),
    ("memory to load a checkpoint: times its size", "load.peak_over_size", "at most 1.15"),
    ("exported model, bfloat16: times float32", "exports.speedup.bfloat16", ""),
    ("int8 weights (torchao)", "exports.speedup.int8", ""),
    ("ONNX Runtime", "exports.speedup.onnx", ""),
    ("ONNX Runtime: predictions equal to float32, share of clips", "exports.agreement.onnx", "1.00"),
    ("two processes: efficiency", "processes.efficiency", ""),
    ("DeepAVFusion, masked encoder: times the plain port", "deepavfusion.masked_factorized", ""),
    ("DeepAVFusion, step of pre-training", "deepavfusion.step_factorized", "1.2"),
    ("DeepAVFusion, dense fusion, unmasked encoder", "deepavfusion.unmasked_dense", "4"),
    ("DeepAVFusion, bfloat16: times float32", "deepavfusion.unmasked_factorized_bf16", "3"),
)
START, END = "<!-- benchmark table -->", "<!-- end of benchmark table -->"
SWEEPS = {"frames": "frames, 1 clip", "batch": "clips, 1 frame", "classes": "classes, 2 clips"}
UNITS = {"seconds": "seconds a step", "mib": "peak MiB"}


def markdown(figures: dict) -> str:
    """The table of the numbers that are in the file, with a column for the other checkout where it was measured."""
    has_before = any(name.startswith("before.") for name in figures)
    header = ["what", "measured", "target"]
    if has_before:
        header.insert(1, "before")
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for what, key, target in ROWS:
        if key not in figures:
            continue
        cells = [what, f"{figures[key]:.2f}", target]
        if has_before:
            before = figures.get(f"before.{key}")
            cells.insert(1, "" if before is None else f"{before:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    versions = f"PyTorch {figures['torch']}, Transformers {figures['transformers']}"
    return "\n".join([f"{figures['hardware']}, {figures['cores']} cores, {versions}", "", *lines]) + "\n"


def write_page(page: Path, table: str) -> None:
    """Put the table between the two comments of a page.

    Raises:
        ValueError: the page does not have both comments.
    """
    text = page.read_text(encoding="utf-8")
    if START not in text or END not in text:
        raise ValueError(f"{page}: needs the lines {START} and {END}")
    before, rest = text.split(START, 1)
    write_text(page, f"{before}{START}\n{table}{END}{rest.split(END, 1)[1]}")


def series(figures: dict, what: str, unit: str) -> list[tuple[int, float]]:
    """Points `(value, amount)` of one sweep, by value."""
    pattern = re.compile(rf"scaling\.{what}\.(\d+)\.{unit}$")
    matches = ((pattern.match(name), amount) for name, amount in figures.items())
    return sorted((int(match[1]), amount) for match, amount in matches if match)


def draw(path: Path) -> Path | None:
    """Draw seconds and memory against frames, clips and classes. None without sweeps or without matplotlib."""
    figures = read(path)
    if not series(figures, "frames", "seconds"):
        return None
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(9, 5), layout="constrained")
    for row, unit in zip(axes, UNITS, strict=True):
        row[0].set_ylabel(UNITS[unit])
        for axis, what in zip(row, SWEEPS, strict=True):
            points = series(figures, what, unit)
            axis.plot(*zip(*points, strict=True), "o", color="tab:blue")
            # the straight line through both ends
            axis.plot(*zip(points[0], points[-1], strict=True), "--", color="gray", linewidth=1)
            axis.set(ylim=(0, None), xlabel=SWEEPS[what])
    blocks = figures.get("scaling.blocks")
    figure.suptitle(
        f"bfloat16 training step, {blocks} blocks of ViT-B/16, {figures['hardware']}, {figures['cores']} cores"
    )
    plot = path.with_suffix(".png")
    with atomic_file(plot) as temporary:
        figure.savefig(temporary, dpi=90)
    pyplot.close(figure)
    return plot


def newest() -> Path:
    """The newest file of `make bench`."""
    files = [file for file in FOLDER.glob("*cores-torch*.json") if not file.name.startswith("deepavfusion")]
    if not files:
        raise SystemExit(f"{FOLDER}: no results yet; run make bench")
    return max(files, key=lambda file: file.stat().st_mtime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--page", type=Path, help="a Markdown file with the two comments")
    options = parser.parse_args()
    table = markdown(read(options.file or newest()))
    print(table)
    if options.page:
        write_page(options.page, table)


if __name__ == "__main__":
    main()
