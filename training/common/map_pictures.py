# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""How frames, maps and spectrograms are drawn, and a grid of them with headings, scales and a legend.

Every figure of this project is made of these: those of the recipes, of `maavt predict --pictures`, of the page.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from processing.data.atomic_writing import atomic_file


PANEL = 1.9  # inches of a panel's height


def displayed_frame(pixels: torch.Tensor, video_processor: Any) -> np.ndarray:
    """Normalized `[3, H, W]` back to uint8 `[H, W, 3]`."""
    if getattr(video_processor, "do_normalize", True):
        mean, std = (
            torch.tensor(getattr(video_processor, name))[:, None, None] for name in ("image_mean", "image_std")
        )
        pixels = pixels * std + mean
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def can_draw(path: str | Path) -> bool:
    """Whether matplotlib is installed; if not, one line says which figure is not drawn."""
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    print(f"{path}: not drawn, matplotlib is not installed; pip install matplotlib", flush=True)
    return False


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure of so many inches, without pyplot: no window, no global state, no backend of the user's changed.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


class PictureGrid:
    """A figure of rows of panels under headings, with a legend below (needs matplotlib, see `can_draw`).

    Args:
        num_rows: of panels.
        headings: one for each column; what it shows, and whether it is input, truth or output.
        legend: one or two sentences under the panels; they are kept in the file's `Description` too.
        widths: of the columns, in heights of a row; default 1 each.
    """

    def __init__(self, num_rows: int, headings: Sequence[str], legend: str, widths: Sequence[float] | None = None):
        widths = list(widths or [1.0] * len(headings))
        self.figure = new_figure(PANEL * sum(widths) + 1.0, (PANEL + 0.15) * num_rows + 1.0)
        self.headings, self.legend = headings, legend
        self.axes = self.figure.subplots(num_rows, len(headings), squeeze=False, width_ratios=widths)
        # No axes but those that a caller labels.
        for axes in self.axes.flat:
            axes.set_xticks([])
            axes.set_yticks([])
        for axes, heading in zip(self.axes[0], headings, strict=True):
            axes.set_title(heading, fontsize=8)
        self.figure.supxlabel(legend, fontsize=8, wrap=True)

    def color_bar(self, image: Any, label: str) -> None:
        """The scale of all panels that `image`, one of theirs, stands for; the label has the unit."""
        bar = self.figure.colorbar(image, ax=self.axes, shrink=min(1.0, 2.0 / len(self.axes)), pad=0.01)
        label_color_bar(bar, label)

    def save(self, path: str | Path) -> None:
        """Write a png file."""
        description = " | ".join(heading.replace("\n", " ") for heading in self.headings) + f". {self.legend}"
        save_figure(self.figure, path, description)


def label_color_bar(bar: Any, label: str) -> None:
    """What a scale is of. Its colors are full: maps are laid over gray, the bar over white."""
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.solids.set_alpha(1)


def save_figure(figure: Any, path: str | Path, description: str = "") -> Path:
    """Write a png file; `description` is kept in it as text, for readers who cannot see it."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Description": description})
    return Path(path)


def plain(text: str) -> str:
    """Text as matplotlib shall show it: a pair of dollars would start a formula."""
    return text.replace("$", r"\$")


def enlarged(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Maps `[N, h, w]`, each scaled to 0..1 and enlarged to `[N, *size]`; a constant map becomes zeros."""
    maps = maps.float()
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    maps = (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
    return torch.nn.functional.interpolate(maps[:, None], size=tuple(size), mode="bilinear")[:, 0]


def show_frame(axes: Any, pixels: torch.Tensor, video_processor: Any) -> None:
    """Draw normalized pixels `[3, H, W]`; hidden patches (NaN) are gray."""
    frame = displayed_frame(pixels.nan_to_num(), video_processor).copy()
    frame[pixels.isnan().any(0).numpy()] = 128
    axes.imshow(frame)


def show_map(axes: Any, values: torch.Tensor, frame: np.ndarray) -> Any:
    """Draw a map `[H, W]` in 0..1 over the gray frame `[H, W, 3]`; the image, for a color bar, is returned."""
    axes.imshow(frame.mean(-1), cmap="gray", vmin=0, vmax=255)
    return axes.imshow(values.float().clamp(0, 1).numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.65)


def seconds_shown(extractor: Any) -> float:
    """How long a spectrogram is."""
    return extractor.num_frames * extractor.hop_length / extractor.sampling_rate


def show_spectrogram(axes: Any, features: torch.Tensor, limits: Sequence[float], extractor: Any) -> Any:
    """Draw `[F, W]` over seconds, low frequencies below, loud bright, hidden patches (NaN) blue; returns the image."""
    axes.set_facecolor((0.16, 0.24, 0.47))
    extent = (0, seconds_shown(extractor), 0, features.shape[0])
    low, high = limits
    return axes.imshow(
        features.numpy(), origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, cmap="gray"
    )


def label_axes(axes: Any, extractor: Any, start: float = 0.0) -> None:
    """Seconds and Hz at one spectrogram, for all of them; the first column is second `start`."""
    seconds = seconds_shown(extractor)
    axes.set_xticks([0, seconds], [f"{start:.3g}", f"{start + seconds:.3g}"], fontsize=7)
    axes.set_xlabel("seconds", fontsize=7)
    lowest, highest, scale = (
        extractor.min_frequency,
        extractor.max_frequency or extractor.sampling_rate / 2,
        "mel scale",
    )
    if extractor.transform == "log_stft":
        lowest, highest, scale = 0, extractor.sampling_rate / 2, "linear"
    axes.set_yticks([0, extractor.num_bins], [f"{lowest:g}", f"{highest:g}"], fontsize=7)
    axes.set_ylabel(f"Hz ({scale})", fontsize=7)


def save_maps(
    path: str | Path,
    rows: Sequence[tuple[torch.Tensor, Sequence[torch.Tensor]]],
    video_processor: Any,
    headings: Sequence[str],
    scale: str,
    legend: str,
) -> None:
    """Write one figure (png): for each row the frame, then its maps over it, left to right.

    Args:
        rows: (`[3, H, W]` normalized pixels, maps `[H, W]` in 0..1) for each frame.
        video_processor: whose mean and deviation the pixels have.
        headings: of the maps, such as "truth", "output".
        scale: what 0 to 1 means, for the color bar.
        legend: see `PictureGrid`.
    """
    if not rows or not can_draw(path):
        return
    grid = PictureGrid(len(rows), ["frame\n(input)", *headings], legend)
    for axes, (pixels, maps) in zip(grid.axes, rows, strict=True):
        frame = displayed_frame(pixels, video_processor)
        axes[0].imshow(frame)
        for axis, values in zip(axes[1:], maps, strict=True):
            image = show_map(axis, values, frame)
    grid.color_bar(image, scale)
    grid.save(path)
