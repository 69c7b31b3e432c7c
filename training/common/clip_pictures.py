# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What a model shows on a clip, gathered and drawn: frames, spectrograms, maps over them, classes, match score.

    view = view_clip(model, processor, "clip.mp4")
    save_figure(draw_clip(view), "clip.png")

`maavt predict --pictures`, the page and the reports draw with these two functions. They take every model of this
project that answers to clips, whether it was loaded by its class or as remote code. `view.predictions()`,
`view.match_probability` and `view.waveforms` are the same answers without a figure.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from processing.clips import Clip, ClipRequest

from .map_pictures import (
    displayed_frame,
    enlarged,
    label_axes,
    label_color_bar,
    new_figure,
    plain,
    save_figure,
    show_map,
    show_spectrogram,
)


# What the maps of a model are, by the end of its class's name.
ATTENTION = "attention, 0 to 1 in each panel"
MAP_NAMES = {
    "AudioVisualClassification": f"class token's {ATTENTION}",
    "SoundSourceLocalization": f"fusion tokens' {ATTENTION}",
    "AudioVisualSegmentation": "probability that a pixel sounds",
    "SoundSourceSeparation": "share of the mixture that belongs to the frame",
}
MAX_FRAMES, MAX_SEGMENTS = 4, 2  # of a figure, evenly chosen
BAR, MATCH_BAR = "#4a4e69", "#5a9e6f"
PANEL, BAR_WIDTH = 2.0, 1.3  # inches, panels


@dataclass
class ClipView:
    """What a model is given and what it says of one window. A field is None where the clip or the model has no such thing.

    Attributes:
        file, start, end: the clip's name, and the seconds that the model is given.
        task: the end of the model's class's name, such as "SoundSourceSeparation"; `MAP_NAMES` says what its maps are.
        extractor: the feature extractor, which knows the axes of the spectrograms.
        frames: uint8 `[T, H, W, 3]`, as the model sees them; `frame_times`: their seconds, T numbers.
        spectrograms: `[S, F, W]`, low frequencies first; `spectrogram_starts`: their first seconds, S numbers.
        frame_maps: `[T, H, W]` in 0..1, and `spectrogram_maps`: `[S, F, W]` in 0..1.
        masks: int `[T, H, W]`, the class of every pixel (segmentation with several classes).
        labels, probabilities: the names of the C classes, and `[C]`.
        match_probability: that video and audio belong together.
        waveforms: name ("mixture", "separated", "rest") to `[S, n]` (separation).
        separated: `[S, F, W]`, the spectrograms of "separated".
    """

    file: str | None
    start: float
    end: float
    task: str
    extractor: Any
    frames: np.ndarray | None = None
    frame_times: Sequence[float] | None = None
    spectrograms: torch.Tensor | None = None
    spectrogram_starts: Sequence[float] = ()
    frame_maps: torch.Tensor | None = None
    spectrogram_maps: torch.Tensor | None = None
    masks: torch.Tensor | None = None
    labels: Sequence[str] = ()
    probabilities: torch.Tensor | None = None
    match_probability: float | None = None
    waveforms: dict[str, torch.Tensor] = field(default_factory=dict)
    separated: torch.Tensor | None = None

    def predictions(self, top_k: int = 5) -> list[tuple[str, float]]:
        """(class, probability), the best first."""
        best = self.probabilities.topk(min(top_k, len(self.probabilities)))
        return [(self.labels[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]

    @property
    def title(self) -> str:
        return f"{Path(self.file or 'clip').name}, {self.start:.2f} to {self.end:.2f} s"


# ---- what the model says


def view_clip(
    model: Any,
    processor: Any,
    clip: Any,
    start: float | None = None,
    end: float | None = None,
    modalities: Sequence[str] = ("video", "audio"),
) -> ClipView:
    """Decodes a clip and runs the model on it.

    Args:
        model, processor: of one checkpoint, of either system.
        clip: a file or a decoded `Clip`; one that lacks video or audio is judged by what it has.
        start, end: seconds of a file; None is its start or its end.
        modalities: what the model is given.

    Raises:
        ClipError, ValueError: the clip cannot be read, or the model cannot answer without what it lacks.
    """
    if not hasattr(clip, "waveform"):
        clip = processor.load_clip(clip, ClipRequest(start, end, streams=tuple(modalities), on_missing="none"))
    inputs = processor(clips=[clip], on_missing="none", return_tensors="pt").to(model.device)
    with torch.inference_mode():
        outputs = model(**inputs, output_localization=True)
    return gather_view(model, processor, clip, inputs, outputs, 0)


def gather_view(model: Any, processor: Any, clip: Clip, inputs: Any, outputs: Any, row: int) -> ClipView:
    """The view of one clip of a batch, in `row` of what the processor made of the batch and of what the model said.

    MA-AVT has maps only when called with `output_localization=True`.
    """
    task = type(model).__name__.partition("For")[2]
    view = ClipView(clip.path, clip.start, clip.end, task, processor.feature_extractor)
    add_inputs(view, processor, clip, inputs, row)
    if task == "AudioVisualSegmentation":
        add_masks(view, model, outputs.logits[row].float().cpu())
    elif task == "SoundSourceLocalization":
        view.frame_maps = outputs.logits[row].float().cpu()  # (S, H, W)
    elif task == "SoundSourceSeparation":
        add_separation(view, processor, clip, outputs.logits[row].float().cpu())
    else:
        add_classes(view, model, outputs, row)
    return view


def add_inputs(view: ClipView, processor: Any, clip: Clip, inputs: Any, row: int) -> None:
    """Adds frames and spectrograms as the model is given them."""
    if inputs["has_video"][row]:
        pixels = inputs["pixel_values_videos"][row].float().cpu()  # (T, 3, H, W)
        view.frames = np.stack([displayed_frame(frame, processor.video_processor) for frame in pixels])
        # Several frames may share an image (frame_grid).
        if len(clip.frame_times) == len(pixels):
            view.frame_times = clip.frame_times.tolist()
    if inputs["has_audio"][row]:
        view.spectrograms = upright(inputs["input_features"][row].float().cpu(), view.extractor)
        windows = view.extractor.segment_windows(clip.end - clip.start)
        view.spectrogram_starts = [clip.start + first for first, _ in windows]


def add_classes(view: ClipView, model: Any, outputs: Any, row: int) -> None:
    """Adds class probabilities, the match score, and the maps where the model gives them."""
    view.labels = class_names(model)
    view.probabilities = class_probabilities(model, outputs.logits[[row]])[0].cpu()
    # A clip with one modality has no match score.
    match = getattr(outputs, "match_logits", None)
    if match is not None and view.frames is not None and view.spectrograms is not None:
        view.match_probability = match[row].float().mean().sigmoid().item()
    maps = getattr(outputs, "video_localization", None)
    if maps is not None and view.frames is not None:
        view.frame_maps = enlarged(maps[row].cpu(), view.frames.shape[1:3])
    maps = getattr(outputs, "audio_localization", None)
    if maps is not None and view.spectrograms is not None:
        view.spectrogram_maps = enlarged(upright(maps[row].cpu(), view.extractor), view.spectrograms.shape[1:])


def add_masks(view: ClipView, model: Any, logits: torch.Tensor) -> None:
    """Adds the mask of `[S, K, H, W]`: a probability where there is one class, else the class of every pixel."""
    if logits.shape[1] == 1:
        view.frame_maps = logits[:, 0].sigmoid()
        return
    view.labels = class_names(model)
    view.masks = logits.argmax(1)


def add_separation(view: ClipView, processor: Any, clip: Clip, logits: torch.Tensor) -> None:
    """Adds the mask `[S, F, W]`, and the audio of the source in the frame and of the rest."""
    view.spectrogram_maps = logits.sigmoid()
    mixture = processor.mixture_windows([clip.waveform])[0]  # (S, n)
    separated = processor.post_process_separation(logits[None], mixture[None], renormalize=True)[0]
    view.waveforms = {"mixture": mixture, "separated": separated, "rest": mixture - separated}
    features = view.extractor(list(separated), sampling_rate=view.extractor.sampling_rate)["input_features"]
    view.separated = torch.as_tensor(np.stack(features))[:, 0].float()  # (S, F, W)


def upright(spectrograms: torch.Tensor, extractor: Any) -> torch.Tensor:
    """`[S, F, W]`, also where the model reads them with time first."""
    return spectrograms.transpose(-1, -2) if extractor.time_first else spectrograms


def class_names(model: Any) -> list[str]:
    """The names of the classes, in the order of their numbers."""
    return [model.config.id2label[index] for index in range(len(model.config.id2label))]


def class_probabilities(model: Any, logits: torch.Tensor) -> torch.Tensor:
    """[B, C]: of one class among all, or of each class by itself where a clip may have several."""
    logits = logits.float()
    if model.config.problem_type == "multi_label_classification":
        return logits.sigmoid()
    return logits.softmax(-1)


# ---- how it is drawn


def draw_clip(view: ClipView, top_k: int = 5, narrow: bool = False) -> Any:
    """A matplotlib figure: inputs above, the same with the maps below, and bars for the classes and the match score.

    Args:
        top_k: classes.
        narrow: one panel below the other, for a phone or a column of text.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows = layout(view, narrow)
    widths = [BAR_WIDTH if name.startswith("classes") and not narrow else 1.0 for name in rows[0]]
    figure = new_figure(PANEL * sum(widths) + 0.6, PANEL * len(rows) + 1.1)
    panels = figure.subplot_mosaic(rows, width_ratios=widths)
    figure.suptitle(plain(view.title), fontsize=10)

    # A panel's name says what it shows, and of which frame or segment.
    map_panels, image = [], None
    for name, axes in panels.items():
        kind, _, index = name.rpartition(" ")
        axes.set_xticks([])
        axes.set_yticks([])
        if kind == "classes":
            draw_classes(axes, view, top_k)
        elif kind.endswith("map"):
            image = DRAW[kind](axes, view, int(index))
            map_panels.append(axes)
        else:
            DRAW[kind](axes, view, int(index))
    if image is not None:
        bar = figure.colorbar(image, ax=map_panels, location="bottom", shrink=0.8, aspect=40, pad=0.03)
        columns = len({name for name in rows[-1] if name.endswith("map")})
        label_color_bar(bar, textwrap.fill(f"{MAP_NAMES[view.task]} (output)", 32 * max(columns, 1)))
    return figure


def layout(view: ClipView, narrow: bool) -> list[list[str]]:
    """The names of the panels, row by row; a name that stands several times is one wide panel."""
    below_frames = "mask" if view.masks is not None else "frame map"
    fields = {
        "frame": view.frames,
        below_frames: view.frame_maps if view.masks is None else view.masks,
        "spectrogram": view.spectrograms,
        "spectrogram map": view.spectrogram_maps,
        "separated": view.separated,
    }
    given = [kind for kind, items in fields.items() if items is not None]
    # A dense task in a wide figure: one row for each window, from left to right.
    if view.probabilities is None and not narrow:
        return [[f"{kind} {index}" for kind in given] for index in chosen(fields[given[0]], MAX_SEGMENTS)]

    # One row a kind.
    frames = chosen(view.frames, MAX_FRAMES // 2 if narrow else MAX_FRAMES)
    segments = chosen(view.spectrograms, 1 if narrow else MAX_SEGMENTS)
    video = [[f"{kind} {i}" for i in frames] for kind in given if kind in ("frame", below_frames)]
    audio = [[f"{kind} {i}" for i in segments] for kind in given if kind not in ("frame", below_frames)]
    bars = ["classes 0"] if view.probabilities is not None else []
    if narrow:
        width = max(len(frames), 1)
        return video + [row * width for row in audio] + [bars * width] * 2 * len(bars)
    # Video beside audio.
    height = max(len(video), len(audio))
    for rows, count in ((video, len(frames)), (audio, len(segments))):
        rows += [["."] * count] * (height - len(rows))
    return [left + right + bars for left, right in zip(video, audio, strict=True)]


def chosen(items: Any, count: int) -> list[int]:
    """Indices of at most `count` items, evenly spread; none of None."""
    if items is None:
        return []
    return np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int).tolist()


def draw_frame(axes: Any, view: ClipView, index: int) -> None:
    axes.imshow(view.frames[index])
    when = f" at {view.frame_times[index]:.2f} s" if view.frame_times else f" {index + 1}"
    axes.set_title(f"frame{when}\n(input)", fontsize=8)


def draw_frame_map(axes: Any, view: ClipView, index: int) -> Any:
    return show_map(axes, view.frame_maps[index], view.frames[index])


def draw_mask(axes: Any, view: ClipView, index: int) -> None:
    """The class of every pixel in color, class 0 (background) left clear, with a legend of the classes that are there."""
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    mask, gray = view.masks[index].numpy(), view.frames[index].mean(-1, keepdims=True) / 255
    palette = np.array(colormaps["tab20"].colors)
    colors = palette[(mask - 1) % len(palette)]  # (H, W, 3)
    axes.imshow(np.where(mask[..., None] > 0, 0.35 * gray + 0.65 * colors, gray))
    found = [label for label in np.unique(mask).tolist() if label > 0]
    patches = [Patch(color=palette[(label - 1) % len(palette)], label=plain(view.labels[label])) for label in found]
    if patches:
        axes.legend(
            handles=patches, fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.02), title="mask (output)"
        )


def draw_spectrogram(axes: Any, view: ClipView, index: int) -> None:
    spectrogram = view.spectrograms[index]
    show_spectrogram(axes, spectrogram, limits(spectrogram), view.extractor)
    heading = "mixture" if view.waveforms else "spectrogram"
    axes.set_title(f"{heading}, bright: loud\n(input)", fontsize=8)
    label_axes(axes, view.extractor, view.spectrogram_starts[index])
    if index > 0:  # the first one says it for all
        axes.set_yticks([])
        axes.set_ylabel("")


def draw_spectrogram_map(axes: Any, view: ClipView, index: int) -> Any:
    """The map over the spectrogram, in the colors of the maps over frames."""
    spectrogram = view.spectrograms[index]
    image = show_spectrogram(axes, spectrogram, limits(spectrogram), view.extractor)
    values = view.spectrogram_maps[index].numpy()
    options = {"extent": image.get_extent(), "origin": "lower", "aspect": "auto"}
    return axes.imshow(values, cmap="inferno", vmin=0, vmax=1, alpha=0.65, **options)


def draw_separated(axes: Any, view: ClipView, index: int) -> None:
    """The separated audio, with the brightness of the mixture."""
    show_spectrogram(axes, view.separated[index], limits(view.spectrograms[index]), view.extractor)
    axes.set_title("separated\n(output)", fontsize=8)


def draw_classes(axes: Any, view: ClipView, top_k: int) -> None:
    """Bars from the likeliest class down, each under its name, and below them one for the match score."""
    names, values = map(list, zip(*view.predictions(top_k), strict=True))
    places, colors = list(range(len(names))), [BAR] * len(names)
    if view.match_probability is not None:
        names.append("video and audio match")
        values.append(view.match_probability)
        places.append(len(places) + 0.4)
        colors.append(MATCH_BAR)
    bars = axes.barh(places, values, height=0.4, color=colors)
    axes.bar_label(bars, [f"{value:.2f}" for value in values], fontsize=8, padding=2)
    for place, name in zip(places, names, strict=True):
        axes.text(0.01, place - 0.25, plain(textwrap.shorten(name, 40, placeholder="...")), fontsize=8, va="bottom")
    axes.set_ylim(places[-1] + 0.4, -0.8)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=8)
    axes.set_xlim(0, 1.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("probability\n(output)", fontsize=8)


def limits(spectrogram: torch.Tensor) -> list[float]:
    """The quietest and the loudest value, for the shades."""
    return [float(limit) for limit in spectrogram.aminmax()]


DRAW = {
    "frame": draw_frame,
    "frame map": draw_frame_map,
    "mask": draw_mask,
    "spectrogram": draw_spectrogram,
    "spectrogram map": draw_spectrogram_map,
    "separated": draw_separated,
}


__all__ = ["ClipView", "draw_clip", "gather_view", "save_figure", "view_clip"]
