# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Classes, match scores, embeddings and pictures of clips, by a checkpoint. `predict.py` is its command line."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import ModelOutput

import modeling_deepavfusion
from modeling_maavt import MAAVTForAudioVisualClassification
from processing.clips import Clip, ClipError, ClipRequest, probe_clip
from processing.data.isolated_calls import Lost, isolated_calls
from processing.metrics.finite_logits import check_finite
from training.common.clip_pictures import class_probabilities, gather_view
from training.common.picture_folder import PictureFolder

from .options import MODALITIES


# Models that answer with a picture or with audio.
DENSE_TASKS = (
    "DeepAVFusionForAudioVisualSegmentation",
    "DeepAVFusionForSoundSourceLocalization",
    "DeepAVFusionForSoundSourceSeparation",
)
CLASSIFIER = "DeepAVFusionForAudioVisualClassification"


@dataclass(frozen=True)
class PredictionOptions:
    """How files are cut and what is given for each window.

    Args:
        top_k: classes of a window.
        batch_size: windows of a forward pass.
        window: seconds; every file is cut into windows of that length. None: the whole file.
        stride: seconds between the starts of two windows; None: the window.
        modalities: what the model is given.
        embeddings: also give the class tokens of a MA-AVT.
        scores: also give the probabilities of all classes, as an array `scores` [C].
        pictures: a folder for pictures of every window, timelines of long files, masks and audio. Without `window`, a file of
            which the model would hear less than half is then cut into windows that it hears.
        skip_broken: report a file that cannot be read, or whose logits are NaN, as a record with `error` instead of raising.

    Raises:
        ValueError: an unknown modality, or a number that is not positive.
    """

    top_k: int = 5
    batch_size: int = 8
    window: float | None = None
    stride: float | None = None
    modalities: Sequence[str] = MODALITIES
    embeddings: bool = False
    scores: bool = False
    pictures: str | Path | None = None
    skip_broken: bool = False

    def __post_init__(self):
        for name in ("top_k", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be 1 or more")
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


def heard_length(file: str, processor: ProcessorMixin) -> float | None:
    """The seconds that a model hears at once, where they are less than half of the file; else None."""
    duration = probe_clip(file).duration
    first, last = processor.feature_extractor.heard_window(duration)
    return last - first if last - first < duration / 2 else None


def read_windows(
    files: Iterable[str | Path], processor: ProcessorMixin, options: PredictionOptions
) -> Iterator[tuple[dict, Clip | None]]:
    """(record, decoded clip) of every window of every file; the clip is None where the record says `error`.

    With `skip_broken` files are read in a process of its own: one that crashes or stalls a decoder costs no other file its
    result.
    """
    call = map
    if options.skip_broken and not multiprocessing.current_process().daemon:  # else this one is isolated already
        call = call_isolated
    last_record: dict = {}

    def pending() -> Iterator[dict]:
        for records in call(partial(list_windows, processor=processor, options=options), map(str, files)):
            for record in records:
                yield record
                if "error" in last_record and last_record["start"] is None:  # the rest of the file is no better
                    break

    for last_record, clip in call(partial(read_window, processor=processor, options=options), pending()):
        yield last_record, clip


def call_isolated(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """The results in the order of the items; see `isolated_calls`. `function` also takes (item, why it was lost)."""
    for item, result in isolated_calls(function, items, workers=1):
        yield function((item, result.reason)) if isinstance(result, Lost) else result


def list_windows(file: str | tuple[str, str], processor: ProcessorMixin, options: PredictionOptions) -> list[dict]:
    """A record for each window of a file, or one that says why the file cannot be read."""
    if isinstance(file, tuple):
        return [failed(file[0], f"{file[0]}: {file[1]}")]
    try:
        length = options.window
        if length is None and options.pictures is not None:
            length = heard_length(file, processor)
        cuts = windows(file, length, options.stride or length)
        return [{"file": file, "start": start, "end": end} for start, end in cuts]
    except ClipError as error:
        if not options.skip_broken:
            raise
        return [failed(file, str(error))]


def failed(file: str, error: str) -> dict:
    return {"file": file, "start": None, "end": None, "error": error}


def read_window(
    record: dict | tuple[dict, str], processor: ProcessorMixin, options: PredictionOptions
) -> tuple[dict, Clip | None]:
    """(record, decoded clip) of one window; the clip is None where the record says `error`."""
    if isinstance(record, tuple):
        file = record[0]["file"]
        return failed(file, f"{file}: {record[1]}"), None
    if "error" in record:
        return record, None
    request = ClipRequest(
        record["start"],
        record["end"],
        streams=tuple(options.modalities),
        on_missing="none",
        transform=None if options.pictures is not None else processor.video_processor.resizer(),
    )
    try:
        clip = processor.load_clip(record["file"], request)
    except ClipError as error:
        if not options.skip_broken:
            raise
        if error.field == "path":
            return failed(record["file"], str(error)), None
        return record | {"error": str(error)}, None  # other windows of the file may be readable
    if clip.waveform is not None and not clip.waveform.any():
        record = record | {"remark": "the audio is digital silence; --modalities video leaves it out"}
    return record, clip


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
        modality), `class_agreement` (None without a second modality, or where a clip may have several classes), `remark`
        where the audio is digital silence, with
        `embeddings` also `video_embedding` and `audio_embedding`, each [D] or None. With `pictures` also
        the paths `pictures`, and `timeline` in the first record of a file of several windows. A model of a dense task
        (segmentation, localization, separation) has no classes.

    Raises:
        ClipError: a file cannot be read.
        ValueError: options that make no sense, no model that answers to clips, or logits that are NaN or infinite.
        ImportError: pictures are asked for, and matplotlib is not installed.
    """
    return Predictor(checkpoint, device, compile)(files, PredictionOptions(**options))


class Predictor:
    """A model with its processor, called with files and options as often as you like; arguments as for `classify`."""

    def __init__(self, checkpoint: str | Path, device: str | None = None, compile: bool = False):
        self.checkpoint, self.compile = checkpoint, compile
        self.model = load_model(checkpoint, device)
        self.processor = AutoProcessor.from_pretrained(checkpoint)
        if compile:
            self.model.compile(fullgraph=True)

    def __call__(self, files: Iterable[str | Path], options: PredictionOptions) -> list[dict]:
        """One record per window, as of `classify`."""
        check_answers(self.model, self.checkpoint, options)
        pictures = None
        if options.pictures is not None:
            pictures = PictureFolder(options.pictures, options.top_k)
        # Read and classify batch after batch; unreadable clips have a record too.
        records, full_size = [], 0
        with closing(read_windows(files, self.processor, options)) as windows_read:  # its processes end with it
            for batch in batched(windows_read, options.batch_size):
                records += [record for record, _ in batch]
                readable = [(record, clip) for record, clip in batch if clip is not None]
                if not readable:
                    continue
                if self.compile:  # a last batch of another size would be compiled anew
                    full_size = max(full_size, len(readable))
                classify_batch(self.model, self.processor, readable, options, full_size, pictures)
        if pictures is not None:
            add_timelines(records, pictures.finish())
        return records


def load_model(checkpoint: str | Path, device: str | None = None) -> PreTrainedModel:
    """The model of a folder or Hub name in evaluation mode, by the class that saved it; None: on a GPU where there is one.

    Raises:
        ValueError: no checkpoint, one of another kind, or one that answers to no clip; no such device.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: {device!r} is none; give cpu, cuda or cuda:1") from None
    config = load_config(checkpoint)
    model_class = MAAVTForAudioVisualClassification
    if config.model_type == "deepavfusion":
        name = (config.architectures or ["a model without a name"])[0]
        if name not in (*DENSE_TASKS, CLASSIFIER):
            raise ValueError(f"{checkpoint}: {name} predicts nothing; give a checkpoint that was trained for a task")
        model_class = getattr(modeling_deepavfusion, name)
    elif config.model_type != "maavt":
        raise ValueError(f"{checkpoint}: is a {config.model_type} checkpoint; train it first (maavt train)")
    return model_class.from_pretrained(checkpoint).to(device).eval()


def load_config(checkpoint: str | Path) -> PreTrainedConfig:
    """The configuration of a folder or Hub name. Raises ValueError where there is none."""
    try:
        return AutoConfig.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        if (Path(checkpoint) / "model" / "config.json").is_file():
            raise ValueError(f"{checkpoint}: is the folder of a run; give {Path(checkpoint) / 'model'}") from error
        raise ValueError(f"{checkpoint}: is no folder with a model, and names none on the Hub: {error}") from error


def check_answers(model: PreTrainedModel, checkpoint: str | Path, options: PredictionOptions) -> None:
    """Raises ValueError where the model has no answer of the kind that is asked for."""
    name = type(model).__name__
    if name in DENSE_TASKS and options.pictures is None:
        raise ValueError(
            f"{checkpoint}: {name} answers with pictures and audio; give a folder for them (--pictures DIR)"
        )
    if options.embeddings and not isinstance(model, MAAVTForAudioVisualClassification):
        raise ValueError(f"{checkpoint}: embeddings are those of MA-AVT; leave embeddings out for {name}")


def add_timelines(records: list[dict], paths: dict[str, list[str]]) -> None:
    """Adds the paths of a file's timeline to its first record."""
    for record in records:
        if record["file"] in paths:
            record["timeline"] = paths.pop(record["file"])


def classify_batch(
    model: MAAVTForAudioVisualClassification,
    processor: ProcessorMixin,
    batch: list[tuple[dict, Clip]],
    options: PredictionOptions,
    full_size: int = 0,
    pictures: PictureFolder | None = None,
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
            classify_batch(model, processor, [single], options, full_size, pictures)
        return
    inputs = inputs.to(model.device)
    outputs = add_predictions(model, inputs, [record for record, _ in batch], options)
    if pictures is not None:
        for row, (record, clip) in enumerate(batch):
            if "error" in record:
                continue
            view = gather_view(model, processor, clip, inputs, outputs, row)
            record["pictures"] = pictures.add(record["file"], view, record["start"], record["end"])


@torch.inference_mode()
def add_predictions(
    model: MAAVTForAudioVisualClassification, inputs: dict, records: list[dict], options: PredictionOptions
) -> ModelOutput:
    """Adds classes, match scores and embeddings to the records; returns what the model said.

    A clip whose logits are NaN gets an `error` in their place.
    """
    if options.pictures is None:
        outputs = model(**inputs)
    else:
        outputs = model(**inputs, output_localization=True)
    refuse_diverged(outputs, inputs, records, options.skip_broken)
    if type(model).__name__ in DENSE_TASKS:
        return outputs
    probabilities = class_probabilities(model, outputs.logits)
    best = probabilities.topk(min(options.top_k, probabilities.shape[-1]))
    # A clip with one modality has no match score.
    paired = inputs["has_video"] & inputs["has_audio"]
    vectors = {}
    if options.embeddings:
        vectors = embed(model, inputs)
    for row, record in enumerate(records):
        if "error" in record:
            continue
        record["predictions"] = [
            {"label": model.config.id2label[index], "probability": round(probability, 6)}
            for probability, index in zip(best.values[row].tolist(), best.indices[row].tolist(), strict=True)
        ]
        record["match_logit"], record["match_probability"] = None, None
        match_logits = getattr(outputs, "match_logits", None)
        if match_logits is not None and paired[row]:
            match = match_logits[row].float()
            record["match_logit"] = round(match.item(), 6)
            record["match_probability"] = round(match.sigmoid().item(), 6)
        agreement, record["class_agreement"] = getattr(outputs, "class_agreement", None), None
        if agreement is not None and paired[row]:
            record["class_agreement"] = round(agreement[row].float().item(), 6)
        if options.scores:
            record["scores"] = probabilities[row].cpu().numpy()
        for name, rows in vectors.items():
            record[name] = rows[row]
    return outputs


def refuse_diverged(outputs: ModelOutput, inputs: dict, records: list[dict], skip_broken: bool) -> None:
    """Adds `error` to the record of every clip whose logits are NaN or infinite; without `skip_broken` raises ValueError."""
    arrays = [outputs.logits]
    match_logits = getattr(outputs, "match_logits", None)
    if match_logits is not None:
        paired = inputs["has_video"] & inputs["has_audio"]  # of other clips nobody reads the match logit
        arrays.append(match_logits.masked_fill(~paired, 0))
    for array in arrays:
        for record, logits in zip(records, array.float().cpu().numpy(), strict=False):  # copies may fill up the batch
            try:
                check_finite(logits[None], [record["file"]])
            except ValueError as error:
                if not skip_broken:
                    raise
                record["error"] = str(error)


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
