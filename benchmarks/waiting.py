# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Training from mp4 with two workers: the share of the time that the model waits for clips, decoded and cached.

python -m benchmarks.waiting
"""

import json
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from processing import MAAVTProcessor
from processing.clip_dataset import ClipDataset
from processing.clip_tables import build_clip_table
from processing.collators import AudioVisualCollator
from processing.demo_clips import DemoSettings, write_demo
from processing.feature_cache import build_feature_cache
from processing.feature_extraction_maavt import MAAVTFeatureExtractor
from processing.video_processing_maavt import MAAVTVideoProcessor

from .workload import BATCH, Step, build_model


NUM_CLIPS, NUM_FRAMES = 48, 1


def share(loader: DataLoader, step: Step, batch_of: dict) -> float:
    """Seconds spent in `next(loader)` over all seconds, without the first batch, for which the workers start."""
    waited = worked = 0.0
    batches = iter(loader)
    next(batches)
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        middle = time.perf_counter()
        if batch is None:
            return waited / (waited + worked)
        batch_of.update(batch)
        step()
        waited, worked = waited + middle - start, worked + time.perf_counter() - middle


def measure(blocks: int = 12) -> dict[str, float]:
    batch_of: dict[str, torch.Tensor] = {}
    processor = MAAVTProcessor(MAAVTFeatureExtractor(), MAAVTVideoProcessor(frames_per_clip=NUM_FRAMES))
    step = Step(build_model(torch.bfloat16, blocks=blocks, num_labels=10), lambda model: model(**batch_of).loss)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        demo = write_demo(Path(folder) / "demo", DemoSettings(num_train=NUM_CLIPS, num_validation=4, num_test=4))
        tables, _ = build_clip_table(demo)
        cache = build_feature_cache(Path(folder) / "cache", processor, tables, num_frames=NUM_FRAMES)
        for name, source, table in (("decoded", processor, tables), ("cached", cache, cache.tables)):
            data = ClipDataset(table["train"], source, num_frames=NUM_FRAMES, seed=0)
            loader = DataLoader(data, BATCH, num_workers=2, collate_fn=AudioVisualCollator(), drop_last=True)
            results[f"waiting.share.{name}"] = share(loader, step, batch_of)
    return results


if __name__ == "__main__":
    print(json.dumps(measure()))
