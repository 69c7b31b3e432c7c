# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws the figures of the README: MA-AVT's architecture, and what the model of examples/digits sees.

python tools/draw_pictures.py --out docs/pictures
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import matplotlib
import torch


matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from modeling_maavt import MAAVTForAudioVisualClassification
from processing import MAAVTProcessor
from processing.clips import load_clip
from processing.generate.clip_writing import write_clip
from training.common.clip_pictures import draw_clip, save_figure, view_clip
from training.maavt.prediction import classify


CLIP = "digit_8.mp4"  # of the README
FROZEN, TRAINED, DATA, LOSS = "#d9dfe8", "#f7b267", "#ffffff", "#bfe3c0"
VIDEO, AUDIO, SHARED, EDGE = "#7fb0e6", "#e88f8f", "#c9a6e4", "#3c4450"


# --- architecture -------------------------------------------------------------------------------------------------------


def box(axes, x, y, width, height, text, color, size=9):
    """A rounded box with centered text; x and y are its lower left corner."""
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.06", fc=color, ec=EDGE, lw=1)
    axes.add_patch(shape)
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color="#1d232b")


def arrow(axes, start, end, color=EDGE, style="-|>"):
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle=style, mutation_scale=11, lw=1.2, color=color, shrinkA=0))


def sequence(axes, x, y, own_color, own_name):
    """One stream's tokens: class token, patches, background token, its own tokens, shared tokens."""
    cells = [("cls", 0.42, TRAINED), ("patches", 1.0, FROZEN), ("bg", 0.36, TRAINED)]
    cells += [(own_name, 0.72, own_color), ("shared", 0.72, SHARED)]
    for name, width, color in cells:
        box(axes, x, y, width, 0.5, name, color, size=8)
        x += width + 0.03
    return x


TOP, BOTTOM, MIDDLE = 3.55, 0.95, 2.5  # heights of the video stream, of the audio stream, and between them


def note(axes, x, y, text, size=8, **style):
    axes.text(x, y, text, ha="center", va="center", fontsize=size, **style)


def draw_architecture(path: Path) -> None:
    """Writes a picture: two streams through the same frozen blocks, the losses between them, the heads after them."""
    figure, axes = plt.subplots(figsize=(12.2, 4.9))
    axes.set(xlim=(0, 12.2), ylim=(0.05, 4.95))
    axes.axis("off")
    for draw_part in (draw_inputs, draw_tokens, draw_blocks, draw_heads, draw_legend):
        draw_part(axes)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.05, dpi=130)
    plt.close(figure)


def draw_inputs(axes):
    box(axes, 0.1, TOP - 0.1, 1.05, 0.7, "frames\n(T, 3, H, W)", DATA)
    box(axes, 0.1, BOTTOM - 0.1, 1.05, 0.7, "spectrograms\n(S, F, W)", DATA, size=8.5)
    box(axes, 1.4, MIDDLE - 0.8, 0.85, 1.6, "patch\nconvolution\n+ positions\n\n(one for\nboth)", FROZEN, size=7.8)
    arrow(axes, (1.15, TOP + 0.1), (1.62, MIDDLE + 0.8))
    arrow(axes, (1.15, BOTTOM + 0.4), (1.62, MIDDLE - 0.8))


def draw_tokens(axes):
    for y, color, name in ((TOP, VIDEO, "visual"), (BOTTOM, AUDIO, "audio")):
        end = sequence(axes, 2.55, y, color, name)
        arrow(axes, (end, y + 0.25), (6.35, y + 0.25))
    arrow(axes, (2.1, MIDDLE + 0.8), (2.53, TOP + 0.2))
    arrow(axes, (2.1, MIDDLE - 0.8), (2.53, BOTTOM + 0.3))
    axes.text(4.2, MIDDLE + 0.42, "learned tokens", ha="center", fontsize=9, weight="bold")
    note(axes, 4.2, MIDDLE + 0.04, "each kind passes its own\nself-attention, once a step (eq. 1);")
    note(axes, 4.2, MIDDLE - 0.4, "the shared tokens start equal\nin both streams")


def draw_blocks(axes):
    """One set of weights, drawn once a stream, and the contrast between the streams after each block."""
    for left, label in ((6.38, "block\n1"), (7.13, "block\n2"), (8.28, "block\nL")):
        for y in (TOP, BOTTOM):
            box(axes, left, y - 0.25, 0.6, 1.0, label, FROZEN)
        # mean of the shared tokens -> projection -> contrast
        center = left + 0.3
        box(axes, left - 0.02, MIDDLE - 0.26, 0.64, 0.52, "contrast", LOSS, size=7.5)
        arrow(axes, (center, TOP - 0.25), (center, MIDDLE + 0.26), color="#8453ad")
        arrow(axes, (center, BOTTOM + 0.75), (center, MIDDLE - 0.26), color="#8453ad")
    for y in (TOP, BOTTOM):
        arrow(axes, (6.98, y + 0.25), (7.13, y + 0.25))
        note(axes, 8.0, y + 0.25, "...", size=12)
        arrow(axes, (8.88, y + 0.25), (9.13, y + 0.25))
        box(axes, 9.13, y - 0.1, 0.62, 0.7, "layer\nnorm", FROZEN, size=8)
    title = "one frozen ViT reads both streams; they never attend to each other"
    axes.text(8.0, 4.6, title, ha="center", fontsize=9, weight="bold")
    contrast = (
        "after each block: mean of the shared tokens, projected;\npairs of one clip attract, others repel (eq. 2)"
    )
    note(axes, 7.63, 0.38, contrast)


def draw_heads(axes):
    box(axes, 10.1, 3.22, 0.95, 0.86, "class head\n[cls ; cls]\n(eq. 3)", TRAINED, size=8)
    box(axes, 10.1, 1.12, 0.95, 0.86, "match head\nbg × bg\n(eq. 6)", TRAINED, size=8)
    for head in (3.65, 1.55):
        arrow(axes, (9.75, TOP + 0.25), (10.1, head + 0.1))
        arrow(axes, (9.75, BOTTOM + 0.25), (10.1, head - 0.1))
        arrow(axes, (11.05, head), (11.25, head))
    axes.text(11.28, 3.65, "classes", va="center", fontsize=10)
    axes.text(11.28, 1.55, "do video\nand audio\nmatch?", va="center", fontsize=10)
    axes.text(11.28, 2.6, "map: attention\nof cls over the\npatches, block L", va="center", fontsize=8, style="italic")


def draw_legend(axes):
    kinds = (
        ("frozen", [FROZEN]),
        ("trained", [TRAINED]),
        ("trained tokens, by kind", [VIDEO, AUDIO, SHARED]),
        ("loss", [LOSS]),
    )
    x = 0.1
    for text, colors in kinds:
        for color in colors:
            box(axes, x, 0.2, 0.2, 0.22, "", color)
            x += 0.23
        axes.text(x + 0.04, 0.31, text, va="center", fontsize=8.5)
        x += 0.25 + 0.075 * len(text)


# --- what the model of examples/digits sees ------------------------------------------------------------------------------


def draw_prediction(example: Path, clip: str, path: Path) -> None:
    """What `maavt predict --pictures` draws of a clip."""
    model = MAAVTForAudioVisualClassification.from_pretrained(example).eval()
    view = view_clip(model, MAAVTProcessor.from_pretrained(example), example / "clips" / clip)
    save_figure(draw_clip(view), path)


def draw_dialed_number(example: Path, path: Path) -> None:
    """The timeline of all clips one after the other, and then once more with the audio of the next clip."""
    clips = [load_clip(clip) for clip in sorted((example / "clips").glob("*.mp4"))]
    waveforms = [clip.waveform for clip in clips]
    frames = torch.cat([clip.frames for clip in clips] * 2).permute(0, 2, 3, 1)  # (T, H, W, 3)
    audio = torch.cat(waveforms + waveforms[1:] + waveforms[:1])  # (n,)
    seconds = clips[0].end - clips[0].start
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "dialed.mp4"
        fps = round(len(clips[0].frames) / seconds)
        write_clip(file, frames.numpy(), audio.numpy(), fps=fps, sampling_rate=clips[0].sampling_rate)
        records = classify(example, [file], window=seconds, pictures=folder)
        shutil.copy(records[0]["timeline"][0], path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", type=Path, default=Path("examples/digits"), help="checkpoint and clips")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="folder to write")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    draw_architecture(options.out / "architecture.png")
    draw_prediction(options.example, CLIP, options.out / "prediction.png")
    draw_dialed_number(options.example, options.out / "timeline.png")
    for path in sorted(options.out.glob("*.png")):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
