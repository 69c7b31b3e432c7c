# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Where a run's clips come from: decoded as they are needed, kept in memory, or decoded ahead of time."""

from datasets import DatasetDict
from transformers import ProcessorMixin

from processing.augmentation import ClipAugmentation
from processing.feature_cache import FeatureCache, build_feature_cache, changes_pictures

from .arguments import DataArguments, EvaluationArguments, RunArguments
from .clip_cache import ClipCache


def clip_source(
    processor: ProcessorMixin,
    tables: DatasetDict,
    data: DataArguments,
    evaluation: EvaluationArguments,
    run: RunArguments,
) -> tuple[ProcessorMixin | ClipCache | FeatureCache, DatasetDict]:
    """What loads clips for the data sets, and the tables to give them. A dry run writes nothing, so no cache either."""
    if data.feature_cache and not run.dry_run:
        forms = cached_forms(data, evaluation)
        cache = build_feature_cache(
            data.feature_cache,
            processor,
            tables,
            num_frames=data.num_frames,
            streams=tuple(data.modalities),
            num_workers=run.dataloader_num_workers,
            multiprocessing_context=getattr(run, "dataloader_multiprocessing_context", None),
            **forms,
        )
        return cache, cache.tables
    return (ClipCache(processor, data.cache_gb) if data.cache_gb else processor), tables


def cached_forms(data: DataArguments, evaluation: EvaluationArguments) -> dict[str, str]:
    """The latest form of frames and sound that comes before everything that the run changes at random."""
    augmentation = None if data.augmentation is None else ClipAugmentation(**data.augmentation)
    noise = data.train_noise_db is not None or any(str(level) != "clean" for level in evaluation.evaluation_noise_db)
    gain = augmentation is not None and augmentation.gain_db != 0
    return {
        "frames": "decoded" if augmentation is not None and changes_pictures(augmentation) else "resized",
        "sound": "waveform" if noise or gain else "spectrogram",
    }
