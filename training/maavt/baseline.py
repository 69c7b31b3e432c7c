# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The baseline to beat: a logistic regression on the features of the same frozen backbone, as good as it can be made.

For each modality validation chooses the input size (the recipe's, or the backbone's own: resized frames, the log
magnitude of the short-time Fourier transform), the feature (class token, mean of the patches, both) and the penalty.
"""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from sklearn.pipeline import Pipeline
from torch.utils.data import DataLoader
from transformers import ProcessorMixin

from modeling_maavt import MAAVTModel
from processing.data.clip_cache import ClipCache
from processing.data.clip_targets import ClipTargets
from processing.data.collators import AudioVisualCollator
from processing.metrics import IGNORED_LABEL
from training.common.regression import (
    Fold,
    choose_features,
    fitted,
    group_folds,
    regression_probabilities,
)

from .arguments import Recipe, condition_level
from .data import RunData, make_dataset, rows_with_any_of
from .evaluation import (
    Predictions,
    class_agreement,
    described_pairs,
    pair_scores,
    score,
    shown_condition,
    table_cells,
)


logger = logging.getLogger(__name__)

LARGEST_SIZE = 224  # pixels; larger inputs of a backbone cost more than a baseline should
MOST_DRAWS, ENOUGH_ROWS = 4, 2500  # noise is drawn anew for every copy of the training rows
FEW_ROWS = 50  # of validation; below, five folds of training and validation rows choose
POOLINGS = ("class token", "patch mean", "class token and patch mean")
REGRESSION, LATE_FUSION = "logistic regression", "logistic regression, late fusion"


def untouched_backbone(name: str, revision: str | None = None, dtype: torch.dtype = torch.float32) -> MAAVTModel:
    """The backbone as it was before training: no learned tokens, nothing adapted."""
    tokens = {"num_audio_tokens": 0, "num_visual_tokens": 0, "num_shared_tokens": 0}
    model = MAAVTModel.from_pretrained(
        name,
        revision=revision or "main",
        **tokens,
        token_self_attention=False,
        background_mining=False,
        contrastive=None,
        dtype=dtype,
    )
    return model.eval()


@torch.inference_mode()
def read_features(
    model: MAAVTModel, loader: DataLoader, rows: np.ndarray, num_segments: int, features: dict[str, np.ndarray]
) -> None:
    """Writes class token and mean of the patches after the final LayerNorm, averaged over frames, into `features`.

    Args:
        loader: batches of the clips that are the `rows` of a table.
        num_segments: S, labeled segments of a clip; 1 where the clip has the label.
        features: `[n, S, 2D]` by modality, for the n clips of the table; a clip that lacks a modality keeps what stands there.
    """

    def pooled(states: torch.Tensor, num_clips: int) -> np.ndarray:  # (B * T, 1 + P, D) to (B, S, 2D)
        states = torch.cat([states[:, 0], states[:, 1:].mean(1)], dim=-1).float()
        return states.reshape(num_clips, num_segments, -1, states.shape[-1]).mean(2).cpu().numpy()

    begin = 0
    for batch in loader:
        num_clips = len(batch["has_video"])
        clips, begin = rows[begin : begin + num_clips], begin + num_clips
        states = {}
        if "pixel_values_videos" in batch:
            pixels = batch["pixel_values_videos"].to(model.device, model.dtype)
            states["video"] = model(pixel_values_videos=pixels, num_segments=num_segments).last_hidden_state
        if "input_features" in batch:
            spectrograms = batch["input_features"].to(model.device, model.dtype)
            states["audio"] = model(input_features=spectrograms).audio_last_hidden_state
        for name, of_batch in states.items():
            present = batch[f"has_{name}"].numpy()
            features[name][clips[present]] = pooled(of_batch, num_clips)[present]


def split_labels(table: Dataset) -> np.ndarray:
    """Labels of all clips of a split, or of all their segments: `[n]`, or multi-hot `[n, C]`."""
    targets = ClipTargets(table)
    labels = torch.stack([targets.labels(row) for row in range(len(table))])
    if targets.kind == "segments":
        labels = labels.flatten()
    return labels.numpy()


@dataclass
class Features:
    """Features of n clips or segments: `[n, 2D]` by modality and input size, NaN where a clip lacks the modality; classes and
    groups of the rows."""

    arrays: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None

    def columns(self, stream: str, name: str) -> np.ndarray:
        """`[n, D]` or `[n, 2D]` of a name such as `recipe, class token`."""
        input_size, pooling = name.split(", ")
        both = self.arrays[stream, input_size]
        half = both.shape[1] // 2
        return {POOLINGS[0]: both[:, :half], POOLINGS[1]: both[:, half:], POOLINGS[2]: both}[pooling]

    def rows(self, rows: np.ndarray) -> "Features":
        return Features({key: each[rows] for key, each in self.arrays.items()}, self.labels[rows], self.groups[rows])

    @staticmethod
    def joined(parts: Sequence["Features"]) -> "Features":
        arrays = {key: np.concatenate([part.arrays[key] for part in parts]) for key in parts[0].arrays}
        labels, groups = (np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "groups"))
        return Features(arrays, labels, groups)


class FeatureReader:
    """Computes features of a run's clips with the frozen backbone."""

    def __init__(self, recipe: Recipe, tables: DatasetDict, source: Any, processor: ProcessorMixin):
        self.recipe, self.tables = recipe, tables
        dtype = getattr(torch, recipe.model.backbone_dtype)
        backbone = untouched_backbone(recipe.model.model_name_or_path, recipe.model.revision, dtype)
        self.backbone = backbone.to(recipe.run.device)
        self.sources = feature_sources(
            source, processor, min(LARGEST_SIZE, int(np.min(backbone.config.vision_config.image_size)))
        )

    def read(
        self, split: str, noise, streams: Sequence[str], draws: int = 1, only: Sequence[str] = (), change_frames=None
    ) -> Features:
        """Features of a split, once for every draw of the noise; `only`: names of input sizes, by default all."""
        labels, groups = split_labels(self.tables[split]), np.array(self.tables[split]["group"], dtype=str)
        groups = groups.repeat(len(labels) // len(groups))
        copies = []
        for draw in range(draws):
            features = Features(labels=labels, groups=groups)
            for input_size, source in self.sources.items():
                if only and input_size not in only:
                    continue
                # Frames carry no noise.
                wanted = [name for name in streams if name == "audio" or not copies]
                found = self._read(source, split, noise, wanted, draw, change_frames) if wanted else {}
                for stream in streams:
                    key = stream, input_size
                    features.arrays[key] = found[stream] if stream in found else copies[0].arrays[key]
            copies.append(features)
        return Features.joined(copies)

    def _read(
        self, source: Any, split: str, noise, streams: Sequence[str], draw: int, change_frames
    ) -> dict[str, np.ndarray]:
        """`[n, 2D]` of all clips of a split by modality, NaN where a clip lacks it."""
        run, table = self.recipe.run, self.tables[split]
        options = {"modalities": tuple(streams), "noise_db": noise, "change_frames": change_frames}
        segments, width = ClipTargets(table).num_segments, 2 * self.backbone.config.hidden_size
        features = {stream: np.full((len(table), segments, width), np.nan, dtype=np.float32) for stream in streams}
        shown = np.array(rows_with_any_of(table, streams), dtype=int)  # the clips of the data set
        if len(shown):
            dataset = make_dataset(self.recipe, self.tables, source, split, **options)
            dataset.seed += 1000 * draw
            # Clips kept in memory are kept in this process.
            workers = 0 if isinstance(source, ClipCache) else run.dataloader_num_workers
            batch_size, collator = run.per_device_eval_batch_size, AudioVisualCollator()
            loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=collator)
            read_features(self.backbone, loader, shown, segments, features)
        return {stream: array.reshape(-1, width) for stream, array in features.items()}

    def training_draws(self) -> int:
        """How often the training rows are drawn: once without noise, several times where they are few."""
        table = self.tables["train"]
        if self.recipe.train_noise is None:
            return 1
        return int(np.clip(ENOUGH_ROWS // (len(table) * ClipTargets(table).num_segments), 1, MOST_DRAWS))


def feature_sources(source: Any, processor: ProcessorMixin, size: int) -> dict[str, Any]:
    """What loads and processes clips, by input size: "recipe", and "backbone" of `size` pixels.

    Clips that were processed ahead of time have the recipe's alone.
    """
    sources = {"recipe": source}
    if not isinstance(source, (ProcessorMixin, ClipCache)):
        return sources
    processor = copy.deepcopy(processor)
    extractor, video = processor.feature_extractor, processor.video_processor
    # A spectrogram of `size` frequencies and frames over the same seconds.
    samples = extractor.num_frames * extractor.hop_length
    if extractor.segment_seconds is not None:
        samples = round(extractor.segment_seconds * extractor.sampling_rate)
    window = 2 * (size - 1)
    if samples > 2 * window:
        extractor.segment_seconds = samples / extractor.sampling_rate
        extractor.transform, extractor.log_offset, extractor.time_first = "log_stft", 1e-7, False
        extractor.n_fft = extractor.win_length = window
        extractor.hop_length = samples // (size - 1)
        extractor.num_bins = extractor.num_frames = size
    # Frames that fill `size`, also where several are laid out in one.
    rows, columns = video.frame_grid or (1, 1)
    video.size = {"height": size // rows, "width": size // columns}
    other = processor
    if isinstance(source, ClipCache):
        other = copy.copy(source)  # shares what is decoded
        other.processor = processor
    return sources | {"backbone": other}


@dataclass
class FittedInput:
    """The regression of one input: which features of which modalities, and how the penalty was chosen."""

    columns: dict[str, str]  # by modality
    exponent: int
    regression: Pipeline

    def probabilities(self, features: Features, num_classes: int) -> np.ndarray:
        """`[n, C]`, NaN where a clip lacks a modality of this input."""
        x = join(features, self.columns)
        known = np.isfinite(x).all(1)
        probabilities = np.full((len(x), num_classes), np.nan, dtype=np.float32)
        if known.any():
            probabilities[known] = regression_probabilities(self.regression, x[known], num_classes)
        return probabilities

    @property
    def description(self) -> str:
        chosen = "; ".join(f"{stream}: {name}" for stream, name in self.columns.items())
        return f"{chosen}; C = 1e{self.exponent}"


def join(features: Features, columns: dict[str, str]) -> np.ndarray:
    return np.concatenate([features.columns(stream, name) for stream, name in columns.items()], axis=1)


def fit_inputs(features: Features, fit_rows: np.ndarray, folds: Sequence[Fold]) -> dict[str, FittedInput]:
    """A regression for every input (early fusion for both), fitted on `fit_rows`; the folds choose features and penalty.

    An input that too few clips have is skipped, with a warning.
    """
    fits: dict[str, FittedInput | None] = {}
    for stream in sorted({stream for stream, _ in features.arrays}, reverse=True):  # video first
        shown = [input_size for each, input_size in features.arrays if each == stream]
        columns = [{stream: f"{input_size}, {pooling}"} for input_size in shown for pooling in POOLINGS]
        fits[stream] = best_input(features, columns, fit_rows, folds)
    if fits.get("video") and fits.get("audio"):
        fits["both"] = best_input(features, [fits["video"].columns | fits["audio"].columns], fit_rows, folds)
    for name, fit in fits.items():
        if fit is None:
            logger.warning("baseline: no regression for the input %r, which too few clips have", name)
    return {name: fit for name, fit in fits.items() if fit is not None}


def best_input(
    features: Features, candidates: Sequence[dict[str, str]], fit_rows: np.ndarray, folds: Sequence[Fold]
) -> FittedInput | None:
    """The regression on the best of several choices of columns. Clips that lack a modality of the input are left out.

    Returns None where too few clips are left.
    """
    labels = features.labels
    known = np.isfinite(join(features, candidates[0])).all(1)
    fit_rows = fit_rows[known[fit_rows]]
    folds = [(fit[known[fit]], judge[known[judge]]) for fit, judge in folds]
    folds = [(fit, judge) for fit, judge in folds if can_fit(labels[fit]) and (labels[judge] != IGNORED_LABEL).any()]
    if not folds or not can_fit(labels[fit_rows]):
        return None
    inputs = {number: partial(join, features, columns) for number, columns in enumerate(candidates)}
    best, exponent = choose_features(inputs, labels, folds)
    return FittedInput(candidates[best], exponent, fitted(inputs[best]()[fit_rows], labels[fit_rows], exponent))


def can_fit(labels: np.ndarray) -> bool:
    """Whether a regression can be fitted to classes `[n]`, of which it needs two, or to multi-hot labels `[n, C]`."""
    if labels.ndim == 2:
        return len(labels) > 0
    return len(set(labels.tolist()) - {IGNORED_LABEL}) > 1


def choosing_folds(features: Features, num_train: int, seed: int, copies: int = 1) -> list[Fold]:
    """Training rows against validation rows; where these are few, five folds by group over both.

    Args:
        copies: draws of the noise that the rows of a clip come from.
    """
    rows = np.arange(len(features.labels))
    if len(rows) - num_train >= FEW_ROWS * copies:
        return [(rows[:num_train], rows[num_train:])]
    return group_folds(features.groups, 5, seed)


def late_fusion(video: np.ndarray, audio: np.ndarray) -> np.ndarray:
    """Geometric mean of the class probabilities `[n, C]` of two regressions; where one is NaN, the other."""
    product = np.sqrt(np.clip(video, 1e-12, 1) * np.clip(audio, 1e-12, 1))
    return first_known(product / product.sum(1, keepdims=True), video, audio)


def first_known(*candidates: np.ndarray) -> np.ndarray:
    """Each row `[C]` from the first of the candidates `[n, C]` in which it is not NaN."""
    rows = candidates[0]
    for candidate in candidates[1:]:
        rows = np.where(np.isnan(rows), candidate, rows)
    return rows


def probabilities_by_input(
    fits: dict[str, FittedInput], features: Features, num_classes: int
) -> dict[tuple[str, str], np.ndarray]:
    """Class probabilities `[n, C]` by model and input; NaN where a clip lacks the one modality that is the input.

    With both as input, a clip that has one modality is judged by the regression on it.
    """
    probabilities = {(REGRESSION, name): fit.probabilities(features, num_classes) for name, fit in fits.items()}
    if "both" in fits:
        alone = [probabilities[REGRESSION, stream] for stream in ("video", "audio")]
        probabilities[REGRESSION, "both"] = first_known(probabilities[REGRESSION, "both"], *alone)
        probabilities[LATE_FUSION, "both"] = late_fusion(*alone)
    return probabilities


def fit_baseline(recipe: Recipe, data: RunData) -> tuple[FeatureReader, dict[str, FittedInput], list[str]]:
    """The regression of every input, what reads features for it, and the input sizes that it uses.

    It sees the training audio with the noise of training, drawn several times.
    """
    reader = FeatureReader(recipe, data.tables, data.source, data.processor)
    draws = reader.training_draws()
    train, validation = (
        reader.read(split, recipe.train_noise, recipe.data.modalities, draws) for split in ("train", "validation")
    )
    known, num_train = Features.joined([train, validation]), len(train.labels)
    folds = choosing_folds(known, num_train, recipe.run.seed, copies=draws)
    fitted_inputs = fit_inputs(known, np.arange(num_train), folds)
    wanted = {name.split(", ")[0] for each in fitted_inputs.values() for name in each.columns.values()}
    return reader, fitted_inputs, sorted(wanted)


def baseline_rows(recipe: Recipe, data: RunData, num_classes: int) -> list[dict]:
    """Rows of the table for the logistic regression, trained and tested on the very clips of the model.

    Beside early fusion (`both`) there is late fusion of the two regressions; `features` says what was chosen.
    """
    run, modalities = recipe.run, recipe.data.modalities
    reader, fitted_inputs, wanted = fit_baseline(recipe, data)

    # Its rows; the features of the frames are the same under every noise and computed once.
    pairs = described_pairs(data.clips(data.tested))
    copies, one_class = [], isinstance(pairs[0]["label"], int)
    if data.paired and one_class:
        copies = described_pairs(data.clips(data.tested, mismatched_copies=True, same_class_copies=True))
    clips = Predictions(np.empty((len(pairs), 0)), None, pairs).rows_by_clip
    bootstrap = {"num_samples": recipe.evaluation.bootstrap_samples, "seed": run.seed}
    rows, test, last_condition = [], Features(), None
    for condition, name, _ in table_cells(recipe):
        if condition != last_condition:
            streams = [stream for stream in modalities if stream == "audio" or last_condition is None]
            if streams:
                found = reader.read(data.tested, condition_level(condition), streams, only=wanted)
                test = Features(test.arrays | found.arrays, found.labels, found.groups)
            probabilities = probabilities_by_input(fitted_inputs, test, num_classes)
            last_condition = condition
        for model in (REGRESSION, LATE_FUSION):
            each = probabilities.get((model, name))
            if each is None or (model == LATE_FUSION and not one_class):
                continue
            # The clips that the model is tested on: those that have the input.
            predictions = Predictions(each, None, pairs).subset(np.isfinite(each).all(1))
            if not predictions.pairs:
                continue
            row = {"model": model, "input": name, "noise": shown_condition(name, condition)}
            row |= {"features": fitted_inputs[name].description, **score(predictions, None, **bootstrap)}
            if copies and name == "both":
                alone = [(clips, probabilities[REGRESSION, stream]) for stream in ("video", "audio")]
                row |= pair_scores("agreement", class_agreement(copies, *alone), copies, bootstrap)
            rows.append(row)
    return rows
