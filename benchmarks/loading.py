# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Training from mp4 with two workers: the share of the time that the model waits for decoded and cached clips.

    python -m benchmarks.loading

The same clips as in `benchmarks.processor`. "states" are the cached block states of a model with prompts from block 8 of 12.
"""

import json
import os
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from processing import MAAVTProcessor
from processing.data.block_state_cache import BlockStateCollator, build_block_state_cache
from processing.data.clip_dataset import ClipDataset
from processing.data.clip_tables import build_clip_table
from processing.data.collators import AudioVisualCollator
from processing.data.engines import Engine
from processing.data.feature_cache import build_feature_cache
from processing.feature_extraction_maavt import MAAVTFeatureExtractor
from processing.video_processing_maavt import MAAVTVideoProcessor

from .processor import clip_files
from .workload import BATCH, Step, build_model


NUM_CLIPS, NUM_FRAMES, NUM_CLASSES = 48, 1, 10


def link_clips(files: list[str], folder: Path) -> Path:
    """A data set of `NUM_CLIPS` training clips, which are links to a few files."""
    folder.mkdir()
    rows = ["file_name,label,group,split"]
    for index in range(NUM_CLIPS):
        name = f"{index:03d}.mp4"
        os.symlink(os.path.abspath(files[index % len(files)]), folder / name)
        rows.append(f"{name},class{index % NUM_CLASSES},{index},train")
    (folder / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


def training(loader: DataLoader, step: Step, batch_of: dict) -> tuple[float, float]:
    """The share of the time spent in `next(loader)`, and clips a second. The first batch, for which workers start, is not
    counted."""
    waited = worked = 0.0
    count = 0
    batches = iter(loader)
    next(batches)
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        middle = time.perf_counter()
        if batch is None:
            return waited / (waited + worked), count / (waited + worked)
        batch_of.clear()
        batch_of.update(batch)
        step()
        waited, worked = waited + middle - start, worked + time.perf_counter() - middle
        count += len(batch["labels"])


def loading(loader: DataLoader) -> float:
    """Clips a second of a loader that nothing else waits for, after its first batch."""
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    return sum(len(batch["labels"]) for batch in batches) / (time.perf_counter() - start)


def measure(blocks: int = 12) -> dict[str, float]:
    """`loading.share.*` and `loading.clips_per_second.*` in training; `loader.clips_per_second.*` of one worker alone."""
    batch_of: dict[str, torch.Tensor] = {}
    processor = MAAVTProcessor(MAAVTFeatureExtractor(), MAAVTVideoProcessor(frames_per_clip=NUM_FRAMES))

    def step_of(**options) -> Step:
        model = build_model(torch.bfloat16, blocks=blocks, num_labels=NUM_CLASSES, **options)
        return Step(model, lambda model: model(**batch_of).loss)

    step, later = step_of(), step_of(prompt_start_layer=blocks * 2 // 3)
    trunk = later.model.maavt
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        clips = link_clips(clip_files(None, f"{folder}/demo"), Path(folder) / "clips")
        tables, _ = build_clip_table(clips, check="none", validation_fraction=0, test_fraction=0)
        cache = build_feature_cache(
            f"{folder}/cache", processor, tables, num_frames=NUM_FRAMES, engine=Engine(workers=2)
        )
        states = build_block_state_cache(
            f"{folder}/states", cache, trunk.block_states, trunk.block_states_fingerprint(), dtype=torch.bfloat16
        )
        plain = AudioVisualCollator()
        sources = {
            "decoded": (step, processor, tables, plain),
            "cached": (step, cache, cache.tables, plain),
            "states": (later, states, states.tables, BlockStateCollator()),
        }
        for name, (trained, source, table, collator) in sources.items():
            data = ClipDataset(table["train"], source, num_frames=NUM_FRAMES, seed=0)
            loaders = [
                DataLoader(data, BATCH, num_workers=workers, collate_fn=collator, drop_last=True) for workers in (2, 1)
            ]
            share, rate = training(loaders[0], trained, batch_of)
            results |= {f"loading.share.{name}": share, f"loading.clips_per_second.{name}": rate}
            results[f"loader.clips_per_second.{name}"] = loading(loaders[1])
    results["prompts_from_block.speedup.end_to_end"] = (
        results["loading.clips_per_second.states"] / results["loading.clips_per_second.cached"]
    )
    return results


if __name__ == "__main__":
    print(json.dumps(measure()))
