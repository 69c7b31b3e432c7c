# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Seconds and MiB of a training step against frames, batch and classes, drawn from the JSON of a benchmark.

    python -m benchmarks.scaling_plot benchmarks/results/FILE.json

Writes FILE.png beside it; needs matplotlib.
"""

import argparse
import json
import re
from pathlib import Path

from processing.data.atomic_writing import atomic_file


TITLES = {"frames": "frames, 1 clip", "batch": "clips, 1 frame", "classes": "classes, 2 clips"}
UNITS = {"seconds": "seconds a step", "mib": "peak MiB"}


def series(figures: dict, what: str, unit: str) -> list[tuple[int, float]]:
    """Points `(value, amount)` of one sweep, by value."""
    pattern = re.compile(rf"scaling\.{what}\.(\d+)\.{unit}$")
    found = ((pattern.match(name), amount) for name, amount in figures.items())
    return sorted((int(match[1]), amount) for match, amount in found if match)


def draw(path: Path) -> Path | None:
    """The picture of a JSON file; None where it holds no sweeps or matplotlib is not installed."""
    figures = json.loads(path.read_text(encoding="utf-8"))
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
        for axis, what in zip(row, TITLES, strict=True):
            points = series(figures, what, unit)
            axis.plot(*zip(*points, strict=True), "o", color="tab:blue")
            ends = [points[0], points[-1]]
            axis.plot(*zip(*ends, strict=True), "--", color="gray", linewidth=1)
            axis.set(ylim=(0, None), xlabel=TITLES[what])
    blocks = figures.get("scaling.blocks")
    figure.suptitle(
        f"bfloat16 training step, {blocks} blocks of ViT-B/16, {figures['hardware']}, {figures['cores']} cores"
    )
    picture = path.with_suffix(".png")
    with atomic_file(picture) as temporary:
        figure.savefig(temporary, dpi=90)
    pyplot.close(figure)
    return picture


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    print(draw(parser.parse_args().file) or "nothing drawn: no sweeps in the file, or matplotlib is missing")
