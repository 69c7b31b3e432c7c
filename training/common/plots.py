# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Plots of a finished run, from the files in its folder: confusion matrix, per-class bars, training curves.

python -m training.common.plots outputs/demo

Needs matplotlib; nothing is shown on a screen.
"""

import argparse
import importlib.util
import json
import logging
from pathlib import Path

import numpy as np

from .class_reports import class_reports
from .commands import run_command
from .map_pictures import new_figure, plain, save_figure
from .results import cell


logger = logging.getLogger(__name__)

MAX_BARS = 60  # of more classes the bars show the lowest and the highest
MAX_NAMES = 60  # beyond, the axes of the confusion matrix carry no names
MAX_COUNTS = 15  # beyond, its cells carry no counts
NOT_METRICS = ("runtime", "samples_per_second", "steps_per_second", "threshold", "model_preparation_time")


def save_plots(directory: str | Path, state: Path | None = None) -> list[Path]:
    """Draws what the run's files allow: `predictions.csv` and `results.json`, `trainer_state.json` (or `state`).

    Returns the plots' paths; none, and one line in the log, without matplotlib.
    """
    directory = Path(directory)
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning("no plots are drawn: matplotlib is not installed; pip install matplotlib")
        return []
    figures = {}
    if (directory / "predictions.csv").is_file() and (directory / "results.json").is_file():
        reports = class_reports(directory)
        if reports:
            figures["confusion_matrix"] = confusion_figure(reports[0])
            figures["per_class"] = class_figure(reports[0])
    state = state or directory / "trainer_state.json"
    if state.is_file():
        history = json.loads(state.read_text(encoding="utf-8"))["log_history"]
        if curves(history, ""):
            figures["training_curves"] = curve_figure(history)
    return [save_figure(figure, directory / f"{name}.png") for name, figure in figures.items()]


def plots_of_run(directory: str | Path, state: Path | None = None) -> list[Path]:
    """`save_plots` for the end of a training run, which no plot may cost: what fails is logged and skipped."""
    try:
        return save_plots(directory, state)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        logger.warning("plots: not drawn (%s); python -m training.common.plots RUN tries again", reason)
        return []


def curves(history: list[dict], prefix: str) -> dict[str, tuple[list[float], list[float]]]:
    """Curves of the Trainer's log: name to (epochs, values).

    Args:
        history: `log_history` of the trainer's state.
        prefix: "" for training losses, "eval_" for everything measured on validation.
    """
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for record in history:
        if f"{prefix}loss" not in record:
            continue
        for name, value in record.items():
            short = name.removeprefix(prefix)
            of_training = not prefix and (name == "loss" or name.endswith("_loss")) and not name.startswith("eval_")
            of_validation = prefix and name.startswith(prefix) and short not in NOT_METRICS
            if (of_training or of_validation) and isinstance(value, (int, float)):
                epochs, values = lines.setdefault(short, ([], []))
                epochs.append(float(record.get("epoch", record.get("step", len(epochs)))))
                values.append(float(value))
    return lines


def curve_figure(history: list[dict]):
    """Left: the loss and its parts, in training (line) and on validation (dashed). Right: validation metrics."""
    training, validation = curves(history, ""), curves(history, "eval_")
    metrics = {name: line for name, line in validation.items() if not name.endswith("loss")}
    figure, axes = _figure(11 if metrics else 6, 4, 2 if metrics else 1)
    # A loss has one color in training and validation.
    for name in dict.fromkeys([*training, *(name for name in validation if name.endswith("loss"))]):
        color = None
        for lines, style, mark in ((training, "-", None), (validation, "--", "o")):
            if name in lines:
                label = name if lines is training else f"{name}, validation"
                (line,) = axes[0].plot(*lines[name], style, color=color, marker=mark, markersize=3, label=label)
                color = line.get_color()
    axes[0].set_ylabel("loss")
    if metrics:
        for name, (epochs, values) in metrics.items():
            axes[1].plot(epochs, values, marker="o", markersize=3, label=name)
        axes[1].set_ylabel("validation")
        if all(0 <= value <= 1 for _, values in metrics.values() for value in values):
            axes[1].set_ylim(0, 1.02)
    # Axes and legends.
    for one in axes:
        one.set_xlabel("epoch")
        one.grid(alpha=0.3)
        one.legend(fontsize=7)
    return figure


def confusion_figure(report: dict):
    """Rows: the true class, columns: the predicted one; colors are shares of a row, cells hold counts."""
    names = [row["label"] for row in report["classes"]]
    counts = np.array(report["confusion_matrix"])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = min(16.0, 3 + 0.3 * len(names))
    figure, (axes,) = _figure(size + 1, size, 1)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the true class")
    axes.set(xlabel="predicted", ylabel="true", title=_title(report))
    if len(names) <= MAX_NAMES:
        axes.set_xticks(range(len(names)), [plain(name) for name in names], rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), [plain(name) for name in names], fontsize=7)
    if len(names) <= MAX_COUNTS:
        for row, column in np.argwhere(counts > 0):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=7, color=color)
    return figure


def class_figure(report: dict):
    """F1 of every class that has clips, sorted; of many classes the lowest and the highest."""
    rows = sorted((row for row in report["classes"] if row["support"]), key=lambda row: row["f1"])
    title = _title(report)
    if len(rows) > MAX_BARS:
        title += f"\n{MAX_BARS // 2} lowest and {MAX_BARS // 2} highest of {len(rows)} classes"
        rows = rows[: MAX_BARS // 2] + rows[-(MAX_BARS // 2) :]
    figure, (axes,) = _figure(7, 1.5 + 0.2 * len(rows), 1)
    bars = axes.barh(range(len(rows)), [row["f1"] for row in rows])
    axes.bar_label(bars, [f"{row['f1']:.2f}" for row in rows], fontsize=6, padding=2)
    labels = [f"{plain(row['label'])} ({row['support']})" for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.set(xlim=(0, 1.1), xlabel="F1 (number of clips in parentheses)", title=title)
    return figure


def _title(report: dict) -> str:
    return f"input: {report['input']}, audio: {cell('noise', report['noise'])}, {report['num_clips']} clips"


def _figure(width: float, height: float, columns: int):
    """A figure and its panels, side by side."""
    figure = new_figure(width, height)
    return figure, [figure.add_subplot(1, columns, i + 1) for i in range(columns)]


def main(argv: list[str] | None = None) -> list[Path]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="output folder of a run of train.py")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    directory = parser.parse_args(argv).directory
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such folder; give the output_dir of a run of train.py")
    paths = save_plots(directory)
    print("\n".join(map(str, paths)) or f"{directory}: nothing to draw")
    return paths


if __name__ == "__main__":
    run_command(main)
