# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""From data arguments to clip tables, a processor and data sets."""

from pathlib import Path

from datasets import DatasetDict
from transformers import AutoProcessor, ProcessorMixin

from processing import MAAVTProcessor
from processing.data.augmentation import ClipAugmentation
from processing.data.clip_dataset import ClipDataset
from processing.data.clip_tables import build_clip_table, check_leaks

from .arguments import DataArguments, ModelArguments


def build_tables(arguments: DataArguments, seed: int) -> tuple[DatasetDict, dict]:
    """Tables `train`, `validation` and `test`, and the report of what was skipped. Raises where a split leaks."""
    tables, report = build_clip_table(
        arguments.data,
        label=arguments.label,
        file_name=arguments.file_name,
        **{name: _column(getattr(arguments, name)) for name in ("start", "end", "split", "group")},
        segments=_segments(arguments.segments),
        label_separator=arguments.label_separator,
        where=arguments.where,
        window=arguments.window,
        require=() if arguments.on_missing == "none" else tuple(arguments.modalities),
        validation_fraction=arguments.validation_fraction,
        test_fraction=arguments.test_fraction,
        test_split=arguments.test_split,
        seed=seed if arguments.split_seed is None else arguments.split_seed,
        check=arguments.check,
        allow_absolute_paths=arguments.allow_absolute_paths,
    )
    check_leaks(tables)
    return tables, report


def _segments(columns: dict | None) -> list[dict[str, str]] | None:
    """`{label column: [start column, end column] or null}` as `build_clip_table` takes it."""
    if not columns:
        return None
    parts = []
    for label, window in columns.items():
        if window is not None and (not isinstance(window, (list, tuple)) or len(window) != 2):
            raise ValueError(f"segments: {label}: give [start column, end column] or null, not {window!r}")
        parts.append({"label": label} | (dict(zip(("start", "end"), window, strict=True)) if window else {}))
    return parts


def _column(name: str | None) -> str | bool | None:
    """The word `none` keeps a column of the usual name from being used."""
    return False if name == "none" else name


def build_processor(model: ModelArguments, data: DataArguments) -> ProcessorMixin:
    """The checkpoint's own processor where it has one, else one made for the backbone; changed as the YAML says."""
    changes = {part: dict(values) for part, values in (data.processor or {}).items()}
    if unknown := set(changes) - {"feature_extractor", "video_processor"}:
        raise ValueError(f"processor: unknown parts {sorted(unknown)}; known: feature_extractor, video_processor")
    changes.setdefault("video_processor", {})["frames_per_clip"] = data.num_frames
    if (Path(model.model_name_or_path) / "processor_config.json").is_file():
        processor = AutoProcessor.from_pretrained(model.model_name_or_path)
        for part, values in changes.items():
            known = getattr(processor, part)
            for name, value in values.items():
                setattr(known, name, value)
        return processor
    return MAAVTProcessor.from_backbone(model.model_name_or_path, **changes)


def make_dataset(
    tables: DatasetDict,
    processor: ProcessorMixin,
    arguments: DataArguments,
    seed: int,
    split: str,
    *,
    training: bool = False,
    modalities: tuple[str, ...] | None = None,
    noise_db: float | list[float] | None = None,
    mismatched_copies: bool = False,
) -> ClipDataset:
    """One split as a data set. Training adds mismatched pairs, augmentation and noise; the others are fixed."""
    single = len(arguments.modalities) == 1
    noise_db = arguments.train_noise_db if training else noise_db
    if isinstance(noise_db, list):
        noise_db = tuple(noise_db) if len(noise_db) == 2 else noise_db[0]
    augmented = training and arguments.augmentation is not None
    try:
        return ClipDataset(
            tables[split],
            processor,
            seed=seed,
            training=training,
            mismatch_probability=arguments.mismatch_probability if training and not single else 0.0,
            mismatched_copies=mismatched_copies,
            modalities=tuple(modalities or arguments.modalities),
            num_frames=arguments.num_frames,
            augmentation=ClipAugmentation(**arguments.augmentation) if augmented else None,
            noise_db=noise_db,
            clean_probability=arguments.clean_probability,
            on_missing=arguments.on_missing,
            label_torn_pairs=arguments.label_torn_pairs,
        )
    except ValueError as error:
        raise ValueError(f"{split}: {error}") from None
