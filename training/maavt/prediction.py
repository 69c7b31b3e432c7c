# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Classes, match scores and embeddings of clips, by a checkpoint. `predict.py` is its command line."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoProcessor, ProcessorMixin

from modeling_maavt import MAAVTForAudioVisualClassification
from processing.clips import Clip, ClipError, ClipRequest, probe_clip

from .options import MODALITIES


@dataclass(frozen=True)
class PredictionOptions:
    """How files are cut and what is given for each window.

    Args:
        top_k: classes of a window.
        batch_size: windows of a forward pass.
        window: seconds; every file is cut into windows of that length. None: the whole file.
        stride: seconds between the starts of two windows; None: the window.
        modalities: what the model is given.
        embeddings: also give the class tokens.
        skip_broken: report a file that cannot be read as a record with `error` instead of raising.

    Raises:
        ValueError: an unknown modality, or a window that is not positive.
    """

    top_k: int = 5
    batch_size: int = 8
    window: float | None = None
    stride: float | None = None
    modalities: Sequence[str] = MODALITIES
    embeddings: bool = False
    skip_broken: bool = False

    def __post_init__(self):
        if not self.modalities or set(self.modalities) - set(MODALITIES):
            raise ValueError(f"modalities: {self.modalities} must be one or both of 'video' and 'audio'")
        if self.window is not None and self.window <= 0:
            raise ValueError(f"window: {self.window} must be above 0 seconds")
        if self.stride is not None and (self.stride <= 0 or self.window is None):
            raise ValueError(f"stride: {self.stride} must be above 0 seconds, and needs a window")


def windows(path: str, length: float | None, stride: float | None) -> Iterator[tuple[float | None, float | None]]:
    """(start, end) in seconds of each window of a file; one window of the whole file where `length` is None.

    A last window ends with the file where more than a tenth of a window would be lost.
    """
    if length is None:
        yield None, None
        return
    duration = probe_clip(path).duration
    if duration <= length:
        yield 0.0, duration
        return
    count = 1 + int((duration - length) / stride + 1e-6)
    starts = [i * stride for i in range(count)]
    if duration - (starts[-1] + length) > 0.1 * length:
        starts.append(duration - length)
    for start in starts:
        yield start, start + length


def read_windows(
    files: Iterable[str | Path], processor: ProcessorMixin, options: PredictionOptions
) -> Iterator[tuple[dict, Clip | None]]:
    """(record, decoded clip) of every window of every file; the clip is None where the record says `error`."""
    for file in map(str, files):
        try:
            for start, end in windows(file, options.window, options.stride or options.window):
                request = ClipRequest(start, end, streams=tuple(options.modalities), on_missing="none")
                yield {"file": file, "start": start, "end": end}, processor.load_clip(file, request)
        except ClipError as error:
            if not options.skip_broken:
                raise
            yield {"file": file, "start": None, "end": None, "error": str(error)}, None


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def classify(
    checkpoint: str | Path,
    files: Iterable[str | Path],
    *,
    device: str | None = None,
    compile: bool = False,
    **options,
) -> list[dict]:
    """Classifies files, or windows of files.

    Args:
        checkpoint: a folder or Hub name that holds a maavt model or adapter.
        files: clips; one without audio or video is classified by what it has.
        device: where the model runs; None: on a GPU where there is one.
        compile: run the model through `torch.compile` as one graph. The first batch waits for the compiler.
        options: fields of `PredictionOptions`.

    Returns:
        One record per window, in order: `file`, `start`, `end` (None: the whole file), `predictions` (`label`,
        `probability`, best first), `match_logit` and `match_probability` (None without a match head or a second
        modality), with `embeddings` also `video_embedding` and `audio_embedding`, each [D] or None.

    Raises:
        ClipError: a file cannot be read.
        ValueError: options that make no sense.
    """
    # Load the model and its processor.
    chosen = PredictionOptions(**options)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = MAAVTForAudioVisualClassification.from_pretrained(checkpoint).to(device).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    if compile:
        model.compile(fullgraph=True)

    # Read and classify batch after batch; unreadable clips have a record too.
    records, full_size = [], 0
    for batch in batched(read_windows(files, processor, chosen), chosen.batch_size):
        records += [record for record, _ in batch]
        readable = [(record, clip) for record, clip in batch if clip is not None]
        if not readable:
            continue
        if compile:  # a last batch of another size would be compiled anew
            full_size = max(full_size, len(readable))
        classify_batch(model, processor, readable, chosen, full_size)
    return records


def classify_batch(
    model: MAAVTForAudioVisualClassification,
    processor: ProcessorMixin,
    batch: list[tuple[dict, Clip]],
    options: PredictionOptions,
    full_size: int = 0,
) -> None:
    """Adds what the model says to the records; a clip that the processor refuses costs no other clip its result.

    A batch of fewer than `full_size` clips is filled up with copies of its last clip, whose results nobody reads.
    """
    clips = [clip for _, clip in batch]
    clips += clips[-1:] * (full_size - len(clips))
    try:
        inputs = processor(clips=clips, on_missing="none", return_tensors="pt")
    except (ClipError, ValueError) as error:
        if not options.skip_broken:
            raise
        # Find the clip that is refused: classify each by itself.
        if len(batch) == 1:
            record = batch[0][0]
            record["error"] = str(error)
            if record["file"] not in record["error"]:
                record["error"] = f"{record['file']}: {error}"
            return
        for single in batch:
            classify_batch(model, processor, [single], options, full_size)
        return
    add_predictions(model, inputs.to(model.device), [record for record, _ in batch], options)


@torch.inference_mode()
def add_predictions(
    model: MAAVTForAudioVisualClassification, inputs: dict, records: list[dict], options: PredictionOptions
) -> None:
    """Adds classes, match scores and embeddings to the records."""
    outputs = model(**inputs)
    probabilities = class_probabilities(model, outputs.logits)
    best = probabilities.topk(min(options.top_k, probabilities.shape[-1]))
    # A clip with one modality has no match score.
    paired = inputs["has_video"] & inputs["has_audio"]
    vectors = {}
    if options.embeddings:
        vectors = embed(model, inputs)
    for row, record in enumerate(records):
        record["predictions"] = [
            {"label": model.config.id2label[index], "probability": round(probability, 6)}
            for probability, index in zip(best.values[row].tolist(), best.indices[row].tolist(), strict=True)
        ]
        record["match_logit"], record["match_probability"] = None, None
        if outputs.match_logits is not None and paired[row]:
            match = outputs.match_logits[row].float()
            record["match_logit"] = round(match.item(), 6)
            record["match_probability"] = round(match.sigmoid().item(), 6)
        for name, rows in vectors.items():
            record[name] = rows[row]


def class_probabilities(model: MAAVTForAudioVisualClassification, logits: torch.Tensor) -> torch.Tensor:
    """[B, C]: of one class among all, or of each class by itself where a clip may have several."""
    logits = logits.float()
    if model.config.problem_type == "multi_label_classification":
        return logits.sigmoid()
    return logits.softmax(-1)


def embed(model: MAAVTForAudioVisualClassification, inputs: dict) -> dict[str, list]:
    """`video_embedding` and `audio_embedding` of each clip: float32 arrays [D], None where the clip has no such stream."""
    streams = {
        "video": ("pixel_values_videos", model.get_video_features),
        "audio": ("input_features", model.get_audio_features),
    }
    vectors = {}
    for name, (key, features) in streams.items():
        present = inputs[f"has_{name}"].tolist()
        rows = [None] * len(present)
        if key in inputs:
            embeddings = features(inputs[key]).pooler_output.float().cpu().numpy()
            rows = [row if there else None for row, there in zip(embeddings, present, strict=True)]
        vectors[f"{name}_embedding"] = rows
    return vectors
