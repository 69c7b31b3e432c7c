# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Classifies clips with a checkpoint.

python predict.py outputs/demo/model clip.mp4 other.mp4 --top_k 3 --output predictions.json
python predict.py user/checkpoint recordings/ --window 3 --stride 1.5 --embeddings embeddings.npz

In Python: `from predict import classify; classify("outputs/demo/model", ["clip.mp4"])`.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from transformers import AutoProcessor, ProcessorMixin

from modeling_maavt import MAAVTForAudioVisualClassification
from processing.clips import Clip, ClipError, ClipRequest, probe_clip
from processing.data.atomic_writing import atomic_file, write_text
from processing.data.conventions import VIDEO_SUFFIXES


def windows(path: str, length: float | None, stride: float | None) -> Iterator[tuple[float | None, float | None]]:
    """(start, end) in seconds of each window of a file; one window of the whole file where `length` is None.

    A last window ends with the file where more than a tenth of a window would be left out.
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
    yield from ((start, start + length) for start in starts)


def read_windows(
    files: list[str | Path],
    processor: ProcessorMixin,
    modalities: tuple[str, ...],
    window: float | None,
    stride: float | None,
    skip_broken: bool,
) -> Iterator[tuple[dict, Clip | None]]:
    """(record, decoded clip) of every window of every file; the clip is None where the record says `error`."""
    for file in map(str, files):
        try:
            for start, end in windows(file, window, stride or window):
                clip = processor.load_clip(file, ClipRequest(start, end, streams=modalities, on_missing="none"))
                yield {"file": file, "start": start, "end": end}, clip
        except ClipError as error:
            if not skip_broken:
                raise
            yield {"file": file, "start": None, "end": None, "error": str(error)}, None


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


@torch.inference_mode()
def classify(
    checkpoint: str | Path,
    files: list[str | Path],
    *,
    top_k: int = 5,
    batch_size: int = 8,
    window: float | None = None,
    stride: float | None = None,
    modalities: tuple[str, ...] = ("video", "audio"),
    embeddings: bool = False,
    device: str | None = None,
    skip_broken: bool = False,
) -> list[dict]:
    """Classifies files, or windows of files.

    Args:
        checkpoint: a folder or Hub name that holds a maavt model or adapter.
        files: mp4, mkv, webm, avi or mov files; a file without sound or picture is classified by what it has.
        window, stride: seconds; every file is cut into windows of that length, `stride` apart (default: the window).
        modalities: what the model is given.
        embeddings: also return the class tokens, `video_embedding` and `audio_embedding`, each [D] or None.
        skip_broken: report a file that cannot be read as a record with `error` instead of raising.

    Returns one record per window, in order: `file`, `start`, `end` (None: the whole file), `predictions` (`label`,
        `probability`, best first), `match_logit` and `match_probability` (None without a match head or a second modality).

    Raises ClipError for a file that cannot be read, ValueError for an unknown modality or a window that is not positive.
    """
    modalities = tuple(modalities)
    if not modalities or set(modalities) - {"video", "audio"}:
        raise ValueError(f"modalities: {modalities} must be one or both of 'video' and 'audio'")
    if (window is not None and window <= 0) or (stride is not None and (stride <= 0 or window is None)):
        raise ValueError(f"window {window} and stride {stride}: give positive seconds, and a window with every stride")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = MAAVTForAudioVisualClassification.from_pretrained(checkpoint).to(device).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)

    records = []
    for batch in batched(read_windows(files, processor, modalities, window, stride, skip_broken), batch_size):
        records += [record for record, _ in batch]
        whole = [(record, clip) for record, clip in batch if clip is not None]
        if not whole:
            continue
        inputs = processor(clips=[clip for _, clip in whole], on_missing="none", return_tensors="pt").to(device)
        outputs = model(**inputs)
        logits = outputs.logits if outputs.logits.ndim == 2 else outputs.logits.mean(1)
        best = logits.float().softmax(-1).topk(min(top_k, logits.shape[-1]))
        paired = inputs["has_video"] & inputs["has_audio"]
        vectors = embed(model, inputs) if embeddings else {}
        for row, (record, _) in enumerate(whole):
            record["predictions"] = [
                {"label": model.config.id2label[index], "probability": round(probability, 6)}
                for probability, index in zip(best.values[row].tolist(), best.indices[row].tolist(), strict=True)
            ]
            known = outputs.match_logits is not None and bool(paired[row])
            match = outputs.match_logits[row].float().mean() if known else None
            record["match_logit"] = None if match is None else round(match.item(), 6)
            record["match_probability"] = None if match is None else round(match.sigmoid().item(), 6)
            record |= {name: vector[row] for name, vector in vectors.items()}
    return records


def embed(model: MAAVTForAudioVisualClassification, inputs: dict) -> dict[str, list]:
    """`video_embedding` and `audio_embedding` of each clip: float32 arrays [D], None where the stream is missing."""
    streams = {
        "video": ("pixel_values_videos", "get_video_features"),
        "audio": ("input_features", "get_audio_features"),
    }
    vectors = {}
    for name, (key, method) in streams.items():
        present = inputs[f"has_{name}"].tolist()
        if key in inputs:
            found = getattr(model, method)(inputs[key]).pooler_output.float().cpu().numpy()
        vectors[f"{name}_embedding"] = [found[i] if there else None for i, there in enumerate(present)]
    return vectors


def find_files(paths: list[str]) -> list[Path]:
    """Files as given, folders as the clips inside them, sorted. Raises FileNotFoundError where nothing is found."""
    found = []
    for path in map(Path, paths):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        inside = [p for p in files if p.suffix.lower() in VIDEO_SUFFIXES] if path.is_dir() else files
        if not inside:
            raise FileNotFoundError(f"{path}: no clips inside; known endings are {', '.join(VIDEO_SUFFIXES)}")
        if len(inside) < len(files):
            print(f"{path}: {len(files) - len(inside)} files of other endings are left out", file=sys.stderr)
        found += inside
    return found


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub name of a maavt model or adapter")
    parser.add_argument("files", nargs="+", help="clips, or folders of clips")
    parser.add_argument("--top_k", type=int, default=5, help="classes listed per window")
    parser.add_argument("--batch_size", type=int, default=8, help="windows per forward pass")
    parser.add_argument("--window", type=float, help="seconds; cut files into windows of this length")
    parser.add_argument("--stride", type=float, help="seconds between the starts of two windows; default: the window")
    parser.add_argument("--modalities", nargs="+", default=["video", "audio"], choices=["video", "audio"])
    parser.add_argument("--device", help="cpu, cuda, ...; default: cuda where there is one")
    parser.add_argument("--output", type=Path, help="JSON file; default: standard output")
    parser.add_argument("--embeddings", type=Path, help="npz file for the class tokens: video and audio, [windows, D]")
    arguments = parser.parse_args(argv)
    records = classify(
        arguments.checkpoint,
        find_files(arguments.files),
        top_k=arguments.top_k,
        batch_size=arguments.batch_size,
        window=arguments.window,
        stride=arguments.stride,
        modalities=tuple(arguments.modalities),
        embeddings=arguments.embeddings is not None,
        device=arguments.device,
        skip_broken=True,
    )
    vectors = {name: [r.pop(f"{name}_embedding", None) for r in records] for name in ("video", "audio")}
    if arguments.embeddings:
        save_embeddings(arguments.embeddings, vectors)
    text = json.dumps(records, indent=2, ensure_ascii=False) + "\n"
    if arguments.output:
        write_text(arguments.output, text)
    else:
        print(text, end="")
    for record in records:
        if "error" in record:
            print(record["error"], file=sys.stderr)
    return records


def save_embeddings(path: Path, vectors: dict[str, list]) -> None:
    """An npz file with `video` and `audio`, float32 [windows, D]; rows of NaN where a stream is missing."""
    arrays = {}
    for name, rows in vectors.items():
        width = next((len(row) for row in rows if row is not None), 0)
        arrays[name] = np.stack([np.full(width, np.nan, np.float32) if row is None else row for row in rows])
    with atomic_file(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)


if __name__ == "__main__":
    failed = [record for record in main() if "error" in record]
    sys.exit(1 if failed else 0)
