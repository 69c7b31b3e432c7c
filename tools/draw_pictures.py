# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws the two figures of the README: MA-AVT's architecture, and what the demo's model shows on a clip.

make demo
python tools/draw_pictures.py --out docs/pictures
"""

import argparse
import csv
from pathlib import Path

import matplotlib
import numpy as np
import torch


matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from modeling_maavt import MAAVTForAudioVisualClassification
from processing import MAAVTProcessor
from training.common.map_pictures import displayed_frame


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


def draw_architecture(path: Path) -> None:
    """Writes an SVG: two streams through the same frozen blocks, the losses between them, the heads after them."""
    figure, axes = plt.subplots(figsize=(12.2, 4.9))
    axes.set(xlim=(0, 12.2), ylim=(0.05, 4.95))
    axes.axis("off")
    top, bottom, middle = 3.55, 0.95, 2.5

    # inputs and patches
    box(axes, 0.1, top - 0.1, 1.05, 0.7, "frames\n(T, 3, H, W)", DATA)
    box(axes, 0.1, bottom - 0.1, 1.05, 0.7, "spectrograms\n(S, F, W)", DATA, size=8.5)
    box(axes, 1.4, middle - 0.8, 0.85, 1.6, "patch\nconvolution\n+ positions\n\n(one for\nboth)", FROZEN, size=7.8)
    arrow(axes, (1.15, top + 0.1), (1.62, middle + 0.8))
    arrow(axes, (1.15, bottom + 0.4), (1.62, middle - 0.8))

    # token sequences
    for y, color, name in ((top, VIDEO, "visual"), (bottom, AUDIO, "audio")):
        end = sequence(axes, 2.55, y, color, name)
        arrow(axes, (end, y + 0.25), (6.35, y + 0.25))
    arrow(axes, (2.1, middle + 0.8), (2.53, top + 0.2))
    arrow(axes, (2.1, middle - 0.8), (2.53, bottom + 0.3))
    axes.text(4.2, middle + 0.42, "learned tokens", ha="center", fontsize=9, weight="bold")
    axes.text(
        4.2,
        middle + 0.04,
        "each kind passes its own\nself-attention, once a step (eq. 1);",
        ha="center",
        va="center",
        fontsize=8,
    )
    axes.text(
        4.2, middle - 0.4, "the shared tokens start equal\nin both streams", ha="center", va="center", fontsize=8
    )

    # blocks: one set of weights, drawn once a stream
    lefts = (6.38, 7.13, 8.28)
    labels = ("block\n1", "block\n2", "block\nL")
    for left, label in zip(lefts, labels, strict=True):
        for y in (top, bottom):
            box(axes, left, y - 0.25, 0.6, 1.0, label, FROZEN)
        # mean of the shared tokens -> projection -> contrast
        center = left + 0.3
        box(axes, left - 0.02, middle - 0.26, 0.64, 0.52, "contrast", LOSS, size=7.5)
        arrow(axes, (center, top - 0.25), (center, middle + 0.26), color="#8453ad")
        arrow(axes, (center, bottom + 0.75), (center, middle - 0.26), color="#8453ad")
    for y in (top, bottom):
        arrow(axes, (6.98, y + 0.25), (7.13, y + 0.25))
        axes.text(8.0, y + 0.25, "...", ha="center", va="center", fontsize=12)
        arrow(axes, (8.88, y + 0.25), (9.13, y + 0.25))
        box(axes, 9.13, y - 0.1, 0.62, 0.7, "layer\nnorm", FROZEN, size=8)
    axes.text(
        8.0,
        4.6,
        "one frozen ViT reads both streams; they never attend to each other",
        ha="center",
        fontsize=9,
        weight="bold",
    )
    axes.text(
        7.63,
        0.38,
        "after each block: mean of the shared tokens, projected;\npairs of one clip attract, others repel (eq. 2)",
        ha="center",
        va="center",
        fontsize=8,
    )

    # heads
    box(axes, 10.1, 3.22, 0.95, 0.86, "class head\n[cls ; cls]\n(eq. 3)", TRAINED, size=8)
    box(axes, 10.1, 1.12, 0.95, 0.86, "match head\nbg × bg\n(eq. 6)", TRAINED, size=8)
    for head in (3.65, 1.55):
        arrow(axes, (9.75, top + 0.25), (10.1, head + 0.1))
        arrow(axes, (9.75, bottom + 0.25), (10.1, head - 0.1))
    arrow(axes, (11.05, 3.65), (11.25, 3.65))
    arrow(axes, (11.05, 1.55), (11.25, 1.55))
    axes.text(11.28, 3.65, "classes", va="center", fontsize=10)
    axes.text(11.28, 1.55, "do video\nand audio\nmatch?", va="center", fontsize=10)
    axes.text(11.28, 2.6, "map: attention\nof cls over the\npatches, block L", va="center", fontsize=8, style="italic")

    # legend
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
    figure.savefig(path, bbox_inches="tight", pad_inches=0.05, dpi=130)
    plt.close(figure)


# --- output on a clip ---------------------------------------------------------------------------------------------------


def clip_pairs(folder: Path) -> list[tuple[str, str, str]]:
    """For each of the demo's test clips: its file, the file of the next test clip of another digit, its digit."""
    with open(folder / "metadata.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    pairs = []
    for number, row in enumerate(rows):
        others = (other for other in rows[number + 1 :] if other["label"] != row["label"])
        partner = next(others, None)
        if partner is not None:
            pairs.append((str(folder / row["file_name"]), str(folder / partner["file_name"]), row["label"]))
    return pairs


@torch.no_grad()
def look_at(model, processor, clip: str, other: str) -> dict:
    """What the model computes for a clip and for its frames with the audio of another clip; two rows in every tensor."""
    inputs = processor(clips=[clip, other], return_tensors="pt")
    frames = inputs["pixel_values_videos"][[0, 0]]  # (2, T, 3, H, W)
    spectrograms = inputs["input_features"]  # (2, S, F, W)
    outputs = model(pixel_values_videos=frames, input_features=spectrograms, output_localization=True)
    return {
        "frames": frames,
        "spectrograms": spectrograms,
        "frame_maps": outputs.video_localization,
        "spectrogram_maps": outputs.audio_localization,
        "both": outputs.logits.softmax(-1),
        "video alone": model(pixel_values_videos=frames).logits.softmax(-1),
        "audio alone": model(input_features=spectrograms).logits.softmax(-1),
        "matched": outputs.match_logits.sigmoid(),
    }


def clear_example(model, processor, clips: Path) -> dict:
    """The first test clip whose digit the model names from either modality, and whose mismatched pair it rejects."""
    for clip, other, digit in clip_pairs(clips):
        seen = look_at(model, processor, clip, other)
        label = model.config.label2id[digit]
        right = all(seen[name][0].argmax() == label for name in ("both", "video alone", "audio alone"))
        if right and seen["matched"][0] > 0.5 > seen["matched"][1]:
            print(f"{clip}, with the audio of {other}")
            return seen
    raise ValueError(f"{clips}: the model tells no test clip from its mismatched pair; run `make demo` to its end")


def overlay(axes, image: np.ndarray, values: np.ndarray, **options) -> None:
    """`image` in gray with the map over it, scaled so that its smallest value is clear and its largest is full."""
    values = (values - values.min()) / (values.max() - values.min())
    height, width = image.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    if options.get("origin") == "lower":
        extent = (-0.5, width - 0.5, -0.5, height - 0.5)
    axes.imshow(image, cmap="gray", extent=extent, **options)
    axes.imshow(values, cmap="inferno", alpha=0.65, extent=extent, interpolation="bicubic", **options)


def draw_output(model_path: Path, clips: Path, path: Path) -> None:
    """Writes a PNG with two rows: a clip as it is, and its frames with the audio of another clip."""
    model = MAAVTForAudioVisualClassification.from_pretrained(model_path).eval()
    processor = MAAVTProcessor.from_pretrained(model_path)
    seen = clear_example(model, processor, clips)
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]

    figure, grid = plt.subplots(2, 5, figsize=(12.2, 5.2), width_ratios=[1, 1, 1, 1, 1.75], constrained_layout=True)
    titles = ("frame", "frame with its map", "spectrogram", "spectrogram with its map")
    for axes, title in zip(grid[0], titles, strict=False):
        axes.set_title(title, fontsize=10)
    rows = ("a test clip", "the same frames,\naudio of another clip")
    for number, (row, name) in enumerate(zip(grid, rows, strict=True)):
        frame = displayed_frame(seen["frames"][number, 0], processor.video_processor)
        spectrogram = seen["spectrograms"][number, 0].numpy()  # (F, W), low frequencies first
        row[0].imshow(frame)
        overlay(row[1], frame.mean(-1), seen["frame_maps"][number, 0].numpy())
        row[2].imshow(spectrogram, cmap="magma", origin="lower")
        overlay(row[3], spectrogram, seen["spectrogram_maps"][number, 0].numpy(), origin="lower")
        for axes in row[:4]:
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=10)
        row[2].set(xlabel="time", ylabel="frequency")

        places = np.arange(len(names))
        series = (("both", "#4a4e69"), ("video alone", VIDEO), ("audio alone", AUDIO))
        for offset, (label, color) in zip((-0.27, 0.0, 0.27), series, strict=True):
            row[4].bar(places + offset, seen[label][number], 0.27, label=label, color=color)
        row[4].set(xticks=places, xticklabels=names, ylim=(0, 1.2), yticks=(0, 0.5, 1), xlabel="digit")
        row[4].set_title(f"class probabilities; match probability {seen['matched'][number]:.2f}", fontsize=10)
        row[4].spines[["top", "right"]].set_visible(False)
    grid[0, 4].legend(fontsize=8, frameon=False, loc="upper center", ncols=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("outputs/demo"), help="folder of `make demo`")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="folder to write")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    draw_architecture(options.out / "architecture.png")
    draw_output(options.demo / "run" / "model", options.demo / "clips", options.out / "output.png")
    for path in sorted(options.out.glob("*.png")):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
