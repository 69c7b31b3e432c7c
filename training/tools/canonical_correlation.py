# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A linear baseline for the match score: canonical correlation between frames and spectrograms, without a backbone.

python -m training.tools.canonical_correlation configs/grid_words.yaml --data grid/labels.csv \
    --model_name_or_path deit_tiny --seeds 0 1 2 --out results/canonical_correlation_grid_words

Principal components of what the processor gives, then canonical correlation of the training clips (Hotelling, *Relations
between two sets of variates*, Biometrika 1936). The score of a pair is the cosine of its two projections. How many components
are kept is chosen on validation. The pairs are those of every run of `train.py`, without noise; every other argument is one of
`train.py`; of the backbone only the size of its patches is used. Writes `<out>.json` and `<out>.md`.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch.utils.data import DataLoader

from processing.data.atomic_writing import write_text
from training.common.commands import run_command
from training.common.results import PAIR_COLUMNS, markdown_table
from training.maavt.data import RunData
from training.maavt.evaluation import described_pairs, is_copy, pair_scores, part_of
from training.maavt.stages import read_recipe

from .regression import data_of
from .repeated_runs import result_file, shown, with_spread, write_record


COLUMNS = {"model": "model", **PAIR_COLUMNS, "components": "components", "seeds": "seeds", "pairs": "matched pairs"}
SIZE = (32, 32)  # pixels of a frame, and bins and frames of a spectrogram, after averaging
PRINCIPAL, CANONICAL = (30, 60, 120, 200, 300), (10, 20, 50)


def main(argv: list[str] | None = None) -> dict:
    """Fit and test; returns what is written to `<out>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file of the run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True, help="result files without suffix")
    options, rest = parser.parse_known_args(argv)
    begin = time.time()

    # One row for each seed.
    keyed = []
    for seed in options.seeds:
        data = data_of(read_recipe([options.config, *rest, "--seed", str(seed)]))
        if not data.paired:
            raise ValueError(
                f"{options.config}: its test clips form no mismatched pairs; it takes both modalities and two classes"
            )
        keyed.append(({"model": "canonical correlation"}, measured_row(data, seed)))
        print(keyed[-1][1], flush=True)

    # The record and the table.
    rows = with_spread(keyed, PAIR_COLUMNS, ("components", "pairs"))
    record = write_record("training.tools.canonical_correlation", argv, options.out, begin, rows)
    note = f"Mean ± standard deviation over {len(options.seeds)} seeds, which draw the mismatched pairs; {record['minutes']} minutes."
    table = markdown_table(shown(rows), COLUMNS)
    write_text(result_file(options.out, ".md"), f"`{record['command']}`\n\n{note}\n\n{table}\n")
    print(table)
    return record


def measured_row(data: RunData, seed: int) -> dict:
    """Fit on train, choose on validation, test once on the split that tables are measured on.

    Raises:
        ValueError: too few training clips, or validation clips that form no mismatched pairs.
    """
    if data.recipe.streams:
        raise ValueError("data: a stream; canonical correlation needs clips in files, or shards of maavt prepare")
    # Principal components of both modalities, by split.
    inputs = {split: read_inputs(data, split) for split in ("train", "validation", data.tested)}
    num_train = len(inputs["train"][0])
    most = min(PRINCIPAL[-1], num_train // 2)
    sizes = [
        (principal, canonical) for principal in PRINCIPAL for canonical in CANONICAL if canonical <= principal <= most
    ]
    if not sizes:
        raise ValueError(f"train: {num_train} clips are too few; canonical correlation needs {2 * PRINCIPAL[0]}")
    analyses = [PCA(most, whiten=True, random_state=0).fit(states) for states in inputs["train"]]
    components = {
        split: [analysis.transform(states) for analysis, states in zip(analyses, both, strict=True)]
        for split, both in inputs.items()
    }

    def aurocs(split: str, pairs: list[dict], size: tuple[int, int], num_samples: int) -> dict:
        directions = canonical_directions(*components["train"], *size)
        rows = {part_of(pair, "clip_id"): row for row, pair in enumerate(pairs) if not is_copy(pair)}
        projections = []
        for stream, states, weights in zip(("video", "audio"), components[split], directions, strict=True):
            shown = [rows[part_of(pair, stream)] for pair in pairs]
            projections.append(states[shown, : size[0]] @ weights)
        return pair_scores("match", cosine(*projections), pairs, {"num_samples": num_samples, "seed": seed})

    # The number of components is chosen on validation.
    options = {"mismatched_copies": True, "same_class_copies": True}
    validation_pairs = described_pairs(data.clips("validation", **options))
    mean_of: dict[tuple[int, int], float] = {}
    for size in sizes:
        measured = aurocs("validation", validation_pairs, size, num_samples=1)
        mean_of[size] = float(np.mean([value for name, value in measured.items() if not name.endswith("interval")]))
    best = max(mean_of, key=mean_of.get)
    pairs = described_pairs(data.clips(data.tested, **options))
    row = aurocs(data.tested, pairs, best, data.recipe.evaluation.bootstrap_samples)
    row["components"] = f"{best[0]} principal, {best[1]} canonical"
    return row | {"pairs": sum(pair["is_matched"] for pair in pairs)}


def read_inputs(data: RunData, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Frames in gray and spectrograms, averaged to SIZE: `[n, d]` each, a row for every clip or labeled segment.

    Raises:
        ValueError: a clip without video or audio.
    """
    dataset = data.clips(split)
    segments = dataset.targets.num_segments if dataset.targets.kind == "segments" else 1
    video, audio = [], []
    for batch in DataLoader(dataset, batch_size=16, collate_fn=data.collator):
        if not (batch["has_video"].all() and batch["has_audio"].all()):
            raise ValueError(f"{split}: canonical correlation needs video and audio of every clip")
        rows = len(batch["has_video"]) * segments
        for parts, states in (
            (video, batch["pixel_values_videos"].float().mean(2).flatten(0, 1)),  # (B * T, H, W)
            (audio, batch["input_features"].float().flatten(0, 1)),  # (B * S, F, W)
        ):
            small = torch.nn.functional.adaptive_avg_pool2d(states[:, None], SIZE)
            parts.append(small.reshape(rows, -1))
    return torch.cat(video).numpy(), torch.cat(audio).numpy()


def canonical_directions(
    video: np.ndarray, audio: np.ndarray, principal: int, canonical: int
) -> tuple[np.ndarray, np.ndarray]:
    """Directions `[principal, canonical]` of whitened components `[n, >= principal]`, the video's times their correlation."""
    left, correlations, right = np.linalg.svd(video[:, :principal].T @ audio[:, :principal] / len(video))
    return left[:, :canonical] * correlations[:canonical], right[:canonical].T


def cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


if __name__ == "__main__":
    run_command(main)
