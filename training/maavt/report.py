# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""`report.html` of a run: its table, curves, confusion matrix, and a contact sheet of the clips it got most wrong."""

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import ProcessorMixin

from processing.data.atomic_writing import write_text
from processing.data.clip_dataset import ClipDataset
from processing.metrics import IGNORED_LABEL
from training.common.html_pages import html_page
from training.common.map_pictures import displayed_frame
from training.common.results import markdown_table, plain_text

from .arguments import Recipe, condition_level
from .card import results_notes, training_text
from .data import RunData
from .evaluation import INPUTS, Evaluation, Predictions


logger = logging.getLogger(__name__)

REPORT = "report.html"
MAX_CLIPS = 12  # of the contact sheet
MAX_FRAMES = 4  # of a clip on it
HEIGHT = 96  # pixels of its pictures
PLOTS = {
    "training_curves": ("Training", "Losses and validation figures by epoch"),
    "confusion_matrix": ("Confusion matrix", "Rows: true class. Columns: predicted class"),
    "per_class": ("Classes", "F1 of every class"),
}


@dataclass
class Mistake:
    """A clip (or segment) that is classified wrongly: rows of the predictions, classes and probabilities."""

    row: int
    true: list[int]
    predicted: list[int]
    probabilities: np.ndarray  # [C]

    @property
    def true_probability(self) -> float:
        """Of the class that is true; of several the least probable."""
        return float(self.probabilities[self.true].min())


def mistakes(predictions: Predictions) -> list[Mistake]:
    """All clips whose k true classes are not the k most probable, the worst first."""
    probabilities = predictions.probabilities
    wrong = []
    for row, pair in enumerate(predictions.pairs):
        true = np.atleast_1d(pair["label"]).tolist()
        if not pair["is_matched"] or not true or IGNORED_LABEL in true:
            continue
        predicted = np.argsort(-probabilities[row], kind="stable")[: len(true)].tolist()
        if set(predicted) != set(true):
            wrong.append(Mistake(row, true, predicted, probabilities[row]))
    return sorted(wrong, key=lambda mistake: mistake.true_probability)


def frame_strip(frames: torch.Tensor, video_processor: object) -> bytes:
    """`[T, 3, H, W]` of a clip, up to `MAX_FRAMES` of them side by side, as JPEG."""
    shown = torch.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).long()
    gap = np.full((frames.shape[-2], max(1, frames.shape[-2] // 32), 3), 255, np.uint8)  # white
    parts = [part for index in shown for part in (displayed_frame(frames[index], video_processor), gap)]
    strip = np.concatenate(parts[:-1], axis=1)
    return image_file(strip, "JPEG", HEIGHT * strip.shape[1] // strip.shape[0])


def spectrogram_picture(features: torch.Tensor) -> bytes:
    """`[F, W]` as PNG, low frequencies below, the loudest point white."""
    low, high = features.aminmax()
    shades = (features - low) / (high - low).clamp_min(1e-6) * 255
    picture = shades.flip(0).to(torch.uint8).numpy()
    return image_file(picture, "PNG", HEIGHT * features.shape[1] // features.shape[0])


def image_file(pixels: np.ndarray, kind: str, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, HEIGHT), Image.Resampling.BICUBIC).save(buffer, kind, quality=85)
    return buffer.getvalue()


def contact_sheet(
    worst: list[Mistake], predictions: Predictions, dataset: ClipDataset, processor: ProcessorMixin, names: list[str]
) -> tuple[list[dict], dict[str, bytes]]:
    """A row for each mistake, and the pictures that the rows name."""
    segments = 1 + max(pair.get("segment", 0) for pair in predictions.pairs)  # that are judged one by one
    rows, pictures = [], {}
    for number, mistake in enumerate(worst):
        item = dataset[mistake.row // segments]
        segment = mistake.row % segments
        row = {"clip": predictions.pairs[mistake.row]["clip_id"]}
        if segments > 1:
            row["clip"] += f", segment {segment}"
        for column, classes in (("true", mistake.true), ("predicted", mistake.predicted)):
            row[column] = ", ".join(f"{names[one]} ({mistake.probabilities[one]:.2f})" for one in classes)
        row = {column: plain_text(text) for column, text in row.items()}
        if "pixel_values_videos" in item:
            frames = item["pixel_values_videos"]  # (T, 3, H, W)
            pictures[f"frames{number}"] = frame_strip(frames.chunk(segments)[segment], processor.video_processor)
            row["frames"] = f"![frames](frames{number})"
        if "input_features" in item:
            pictures[f"spectrogram{number}"] = spectrogram_picture(item["input_features"][segment])
            row["spectrogram"] = f"![spectrogram](spectrogram{number})"
        rows.append(row)
    return rows, pictures


def write_report(
    directory: Path, results: dict, predictions: Predictions, dataset: ClipDataset, processor: ProcessorMixin
) -> Path:
    """Writes `directory/report.html`, with the plots that are in the folder; returns its path.

    Args:
        predictions: of the clips that are measured, perhaps followed by mismatched pairs.
        dataset: shows the same clips.
    """
    wrong = mistakes(predictions)
    rows, pictures = contact_sheet(wrong[:MAX_CLIPS], predictions, dataset, processor, results["label_names"])
    # What ran, and its figures.
    card = results["card"]
    parts = [f"# {plain_text(card['title'])}", plain_text(card["summary"])]
    if results["steps"]:
        parts.append(plain_text(training_text(results)))
    measured_on = results["arguments"].get("evaluation_split", "test")
    parts += [f"## Results on the {measured_on} clips", markdown_table(results["rows"]), results_notes(results)]
    # Plots.
    for name, (heading, words) in PLOTS.items():
        plot = directory / f"{name}.png"
        if plot.is_file():
            pictures[plot.name] = plot.read_bytes()
            parts += [f"## {heading}", f"![{words}]({plot.name})"]
    # Mistakes.
    judged = sum(pair["is_matched"] for pair in predictions.pairs)
    parts += ["## The clips it got most wrong", f"{len(wrong)} of {judged} are classified wrongly."]
    if rows:
        parts[-1] += (
            " Those with the lowest probability of the true class come first. Numbers are probabilities. "
            "Spectrograms: low frequencies below, loud bright."
        )
        columns = ("clip", "true", "predicted", "frames", "spectrogram")
        parts.append(markdown_table(rows, dict(zip(columns, columns, strict=True))))
    write_text(directory / REPORT, html_page(card["title"], "\n\n".join(filter(None, parts)), pictures))
    return directory / REPORT


def report_of_run(directory: Path, results: dict, measured: Evaluation, recipe: Recipe, data: RunData) -> str:
    """`write_report` at the end of a run, which no report may cost: what fails is logged. Returns a line for `results.md`."""
    name, predictions = next(reversed(measured.predictions.items()))  # of both, where both were measured
    condition = condition_level(recipe.evaluation.evaluation_noise_db[0])
    try:
        dataset = data.clips(data.tested, modalities=INPUTS[name], noise_db=condition)
        write_report(directory, results, predictions, dataset, data.processor)
    except Exception:
        logger.exception("%s: not written", REPORT)
        return ""
    return f"[{REPORT}]({REPORT}): curves, confusion matrix, and the clips it got most wrong"
