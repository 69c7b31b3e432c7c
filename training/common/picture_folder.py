# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What `maavt predict --pictures DIR` writes: a picture of each window, audio and masks, a timeline of each long file."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from processing.data.atomic_writing import atomic_file, write_csv, write_text
from processing.processing_deepavfusion import write_wave

from .clip_pictures import BAR, MAP_NAMES, MATCH_BAR, ClipView, chosen, draw_clip
from .map_pictures import new_figure, plain, save_figure


MAX_PICTURES = 24  # of the windows of one file; its timeline has all windows
MAX_LINES = 8  # classes of a timeline's picture; the csv file has all
THUMBNAILS, THUMBNAIL = 10, 96  # frames above a timeline, and pixels of their longer side


@dataclass
class Moment:
    """A window in a timeline."""

    start: float
    end: float
    probabilities: np.ndarray  # [C]
    match_probability: float | None
    frame: np.ndarray | None  # uint8 [h, w, 3], small


class PictureFolder:
    """Takes the windows of files in order and writes them; `finish` writes the timelines.

    Args:
        folder: created if absent.
        top_k: classes in a picture.

    Raises:
        ImportError: matplotlib is not installed.
        FileExistsError: `folder` is a file.
    """

    def __init__(self, folder: str | Path, top_k: int = 5):
        if importlib.util.find_spec("matplotlib") is None:
            raise ImportError(f"{folder}: pictures need matplotlib; pip install matplotlib")
        self.folder, self.top_k = Path(folder), top_k
        self.stems: dict[str, str] = {}  # of files, each its own also where two have one name
        self.labels: Sequence[str] = ()
        self.moments: dict[str, list[Moment]] = {}
        if self.folder.is_file():
            raise FileExistsError(f"{folder}: is a file; give a folder for the pictures")
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, file: str, view: ClipView, start: float | None = None, end: float | None = None) -> list[str]:
        """Writes what belongs to the window from `start` to `end`, None for a whole file; returns the paths."""
        stem = self.stem(file)
        if start is not None:
            stem += f"_{start:08.2f}s"
            if view.probabilities is not None:
                self.labels = view.labels
                self.moments.setdefault(file, []).append(moment(view, start, end))
        if len(self.moments.get(file, ())) > MAX_PICTURES:
            return []
        paths = [save_figure(draw_clip(view, self.top_k), self.folder / f"{stem}.png", description(view))]
        for number, mask in numbered(masks(view)):
            paths.append(save_mask(self.folder / f"{stem}_mask{number}.png", mask))
        for name, waves in view.waveforms.items():
            for number, wave in numbered(waves):
                path = self.folder / f"{stem}_{name}{number}.wav"
                paths.append(write_wave(path, wave, view.extractor.sampling_rate))
        return [str(path) for path in paths]

    def finish(self) -> dict[str, list[str]]:
        """Writes picture, csv file and captions of every file of several windows; returns their paths by file."""
        paths = {}
        for file, moments in self.moments.items():
            if len(moments) > 1:
                stem = self.folder / self.stem(file)
                written = write_timeline(stem, Path(file).name, self.labels, moments)
                paths[file] = [str(path) for path in written]
        return paths

    def stem(self, file: str) -> str:
        """The name of a file's pictures, without ending."""
        if file not in self.stems:
            stem, taken = Path(file).stem, set(self.stems.values())
            number = 2
            while stem in taken:
                stem, number = f"{Path(file).stem}_{number}", number + 1
            self.stems[file] = stem
        return self.stems[file]


def numbered(items: Any) -> list[tuple[str, Any]]:
    """Items with the ends of their names: none where there is one, else `_0`, `_1`, ..."""
    if len(items) == 1:
        return [("", items[0])]
    return [(f"_{number}", item) for number, item in enumerate(items)]


def masks(view: ClipView) -> Sequence[np.ndarray]:
    """Segmentation's masks as uint8 `[H, W]`: the class of a pixel, or 0 to 255 for a probability of 0 to 1."""
    if view.masks is not None:
        return list(view.masks.numpy().astype(np.uint8))
    if view.task == "AudioVisualSegmentation":
        return list((view.frame_maps * 255).round().byte().numpy())
    return []


def description(view: ClipView) -> str:
    """The picture in words."""
    words = [view.title]
    if view.probabilities is not None:
        words += [f"{name} {probability:.3f}" for name, probability in view.predictions()]
    if view.match_probability is not None:
        words.append(f"video and audio match {view.match_probability:.3f}")
    if view.frame_maps is not None or view.spectrogram_maps is not None:
        words.append(f"maps: {MAP_NAMES[view.task]}")
    return "; ".join(words)


def save_mask(path: Path, mask: np.ndarray) -> Path:
    with atomic_file(path) as temporary:
        Image.fromarray(mask).save(temporary)
    return path


# ---- timelines: how the answer changes over a file


def moment(view: ClipView, start: float, end: float) -> Moment:
    """What a timeline keeps of a window: a small frame from its middle, and the figures."""
    frame = None
    if view.frames is not None:
        frame = view.frames[len(view.frames) // 2]
        step = max(1, max(frame.shape[:2]) // THUMBNAIL)
        frame = frame[::step, ::step].copy()
    return Moment(start, end, view.probabilities.numpy(), view.match_probability, frame)


def write_timeline(stem: Path, title: str, labels: Sequence[str], moments: list[Moment]) -> list[Path]:
    """`<stem>_timeline.png`, `<stem>_timeline.csv`, and `<stem>.vtt`: captions for a player. Returns the paths."""
    picture, table = (stem.with_name(f"{stem.name}_timeline{ending}") for ending in (".png", ".csv"))
    captions = stem.with_name(f"{stem.name}.vtt")
    save_figure(draw_timeline(title, labels, moments), picture, f"{title}: class probabilities and match over seconds")
    columns = ["start_seconds", "end_seconds", "match_probability", *labels]
    write_csv(table, [table_row(each, labels) for each in moments], columns)
    write_text(captions, caption_text(labels, moments))
    return [picture, table, captions]


def table_row(moment: Moment, labels: Sequence[str]) -> dict[str, Any]:
    """Seconds and probabilities as text of fixed length."""
    match = "" if moment.match_probability is None else f"{moment.match_probability:.6f}"
    row = {"start_seconds": f"{moment.start:.3f}", "end_seconds": f"{moment.end:.3f}", "match_probability": match}
    return row | {label: f"{p:.6f}" for label, p in zip(labels, moment.probabilities.tolist(), strict=True)}


def caption_text(labels: Sequence[str], moments: list[Moment]) -> str:
    """WebVTT: the likeliest class of each window and its match score, until the next window begins."""
    cues = ["WEBVTT"]
    for index, each in enumerate(moments):
        # Windows may overlap; captions do not.
        end = each.end
        if index + 1 < len(moments):
            end = min(end, moments[index + 1].start)
        best = int(each.probabilities.argmax())
        text = f"{labels[best]} {each.probabilities[best]:.2f}"
        if each.match_probability is not None:
            text += f", match {each.match_probability:.2f}"
        text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        cues.append(f"{clock(each.start)} --> {clock(end)}\n{text}")
    return "\n\n".join(cues) + "\n"


def clock(seconds: float) -> str:
    """`00:01:02.500`."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def draw_timeline(title: str, labels: Sequence[str], moments: list[Moment]) -> Any:
    """A matplotlib figure over the seconds of a file: frames, the probabilities of its likeliest classes, match score."""
    figure = new_figure(10, 4.6)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[1, 2.2, 1])
    top.set_title(plain(f"{title}: {len(moments)} windows"), fontsize=10)
    first, last = moments[0].start, moments[-1].end

    # Frames, each over the middle of its window.
    frames = [each for each in moments if each.frame is not None]
    for index in chosen(frames, THUMBNAILS):
        each = frames[index]
        center, width = (each.start + each.end) / 2, (last - first) / THUMBNAILS * 0.9
        top.imshow(each.frame, extent=(center - width / 2, center + width / 2, 0, 1), aspect="auto")
    top.set_yticks([])
    top.set_ylabel("frames\n(input)", fontsize=8)

    # The classes that are the likeliest somewhere, then those with the highest peaks. A value stands until the next window.
    edges = [each.start for each in moments] + [last]
    probabilities = np.stack([each.probabilities for each in moments])  # (windows, C)
    peaks = probabilities.max(0) + (np.bincount(probabilities.argmax(1), minlength=len(labels)) > 0)
    for label in np.argsort(-peaks, kind="stable")[:MAX_LINES].tolist():
        middle.stairs(probabilities[:, label], edges, baseline=None, label=plain(labels[label]), linewidth=1.8)
    middle.set_ylabel("class probability\n(output)", fontsize=8)
    middle.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), title="class", title_fontsize=8)

    match = np.array([each.match_probability for each in moments], dtype=float)  # (windows,), NaN where there is none
    bottom.stairs(match, edges, baseline=None, color=MATCH_BAR, linewidth=1.8)
    if np.isnan(match).all():
        bottom.text(
            0.5, 0.6, "none: one modality, or no match head", transform=bottom.transAxes, ha="center", fontsize=8
        )
    bottom.axhline(0.5, color=BAR, linewidth=0.7, linestyle=":")
    bottom.set_ylabel("match probability\n(output)", fontsize=8)
    bottom.set_xlabel("seconds", fontsize=8)
    bottom.set_xlim(first, last)
    for axes in (middle, bottom):
        axes.set_ylim(0, 1.04)
    for axes in (top, middle, bottom):
        axes.tick_params(labelsize=8)
    return figure
