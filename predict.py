# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Classifies clips with a checkpoint.

python predict.py examples/digits clip.mp4 other.mp4 --top_k 3 --output predictions.json
python predict.py examples/digits clip.mp4 --pictures pictures
python predict.py user/checkpoint recordings/ --window 3 --stride 1.5 --embeddings embeddings.npz
python predict.py user/checkpoint many_clips/ --parquet predictions/ --workers 16    # or --engine ray; goes on where it stopped

In Python: `from training.maavt.prediction import classify; classify("examples/digits", ["clip.mp4"])`.
"""

import argparse
import json
import sys
from pathlib import Path

from training.common.commands import run_command


OPTIONS = ("device", "compile", "top_k", "batch_size", "window", "stride", "modalities")  # of every kind of output


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub name of a maavt model or adapter")
    parser.add_argument("files", nargs="+", help="clips, or folders of clips")
    parser.add_argument("--top_k", type=int, default=5, help="classes listed per window")
    parser.add_argument("--batch_size", type=int, default=8, help="windows per forward pass")
    parser.add_argument("--window", type=float, help="seconds; cut files into windows of this length")
    parser.add_argument("--stride", type=float, help="seconds between the starts of two windows; default: the window")
    parser.add_argument("--modalities", nargs="+", default=["video", "audio"], choices=["video", "audio"])
    parser.add_argument("--device", help="cpu, cuda, ...; default: cuda where there is one")
    parser.add_argument("--compile", action="store_true", help="use torch.compile: a slow start, then faster")
    parser.add_argument("--output", type=Path, help="JSON file; default: standard output")
    parser.add_argument("--embeddings", type=Path, help="npz file for the class tokens: video and audio, [windows, D]")
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="folder for pictures: frames and spectrogram with maps, classes, match score. Of files in windows a timeline "
        "(png, csv, vtt captions); without --window, files of which the model would hear less than half are cut. Of "
        "DeepAVFusion's segmentation masks, of its separation wav files. Needs matplotlib",
    )
    many = parser.add_argument_group("many clips (docs/scale.md)")
    many.add_argument(
        "--parquet", type=Path, help="folder for shards of all class scores, match scores and embeddings"
    )
    many.add_argument("--workers", type=int, help="processes (default: one a core, at most 8; with Ray all cores)")
    many.add_argument("--engine", choices=["process", "ray"], default="process", help="ray: pip install 'ray[data]'")
    many.add_argument("--address", help="of a running Ray cluster (auto: this machine's); default: start Ray here")
    arguments = parser.parse_args(argv)
    if arguments.parquet is None and (arguments.engine == "ray" or arguments.workers is not None):
        parser.error("--engine ray and --workers write shards: add --parquet FOLDER")
    if arguments.parquet is not None and (arguments.output or arguments.embeddings or arguments.pictures):
        parser.error("--parquet holds scores and embeddings: leave --output, --embeddings and --pictures out")
    return arguments


def find_files(paths: list[str]) -> list[Path]:
    """Files as given, folders as the clips inside them, sorted. Raises FileNotFoundError where nothing is found."""
    from processing.data.conventions import VIDEO_SUFFIXES

    clips = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
        if not path.is_dir():
            clips.append(path)
            continue
        files = sorted(file for file in path.rglob("[!.]*") if file.is_file())
        inside = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
        if not inside:
            raise FileNotFoundError(f"{path}: no clips inside; known endings are {', '.join(VIDEO_SUFFIXES)}")
        for file in files:
            if file.suffix.lower() not in VIDEO_SUFFIXES:
                print(f"{file}: skipped, the name ends in none of {', '.join(VIDEO_SUFFIXES)}", file=sys.stderr)
        clips += inside
    return clips


def save_embeddings(path: Path, records: list[dict]) -> None:
    """Moves the embeddings of the records to an npz file: `video` and `audio`, float32 [windows, D].

    Rows of NaN stand for windows without such a stream.
    """
    import numpy as np

    from processing.data.atomic_writing import atomic_file

    arrays = {}
    for name in ("video", "audio"):
        rows = [record.pop(f"{name}_embedding", None) for record in records]
        width = next((len(row) for row in rows if row is not None), 0)
        missing = np.full(width, np.nan, np.float32)
        arrays[name] = np.stack([missing if row is None else row for row in rows])
    with atomic_file(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)


def write_shards(arguments: argparse.Namespace, files: list[Path]) -> int:
    """Writes the predictions as Parquet; returns 1 where a file could not be read, else 0."""
    from processing.data.engines import Engine
    from training.maavt.prediction_shards import write_predictions

    on_gpu = arguments.engine == "ray" and str(arguments.device).startswith("cuda")
    engine = Engine(arguments.engine, arguments.workers, arguments.address, gpus=int(on_gpu))
    options = {name: getattr(arguments, name) for name in OPTIONS}
    errors = write_predictions(arguments.checkpoint, files, arguments.parquet, engine=engine, **options)
    print(arguments.parquet)
    if errors:
        print(f"{errors} files could not be read; the column `error` says why", file=sys.stderr)
    return int(bool(errors))


def main(argv: list[str] | None = None) -> int:
    """Writes the predictions; returns 1 where a file could not be read, else 0."""
    arguments = parse_arguments(argv)
    files = find_files(arguments.files)
    from processing.data.atomic_writing import check_writable, write_text  # PyTorch: only now, it takes seconds

    for name in ("output", "embeddings", "parquet", "pictures"):
        if getattr(arguments, name):
            check_writable(f"--{name}", getattr(arguments, name), folder=name in ("parquet", "pictures"))
    if arguments.parquet:
        return write_shards(arguments, files)
    from training.maavt.prediction import classify

    records = classify(
        arguments.checkpoint,
        files,
        **{name: getattr(arguments, name) for name in OPTIONS},
        embeddings=arguments.embeddings is not None,
        pictures=arguments.pictures,
        skip_broken=True,
    )
    if arguments.embeddings:
        save_embeddings(arguments.embeddings, records)
    text = json.dumps(records, indent=2, ensure_ascii=False) + "\n"
    if arguments.output:
        write_text(arguments.output, text)
    else:
        print(text, end="")
    for record in records:
        if "timeline" in record and arguments.window is None:
            seconds = record["end"] - record["start"]
            print(
                f"{record['file']}: cut into windows of {seconds:g} s, what is heard at once; --window chooses",
                file=sys.stderr,
            )
        if "remark" in record:
            print(f"{record['file']}: {record['remark']}", file=sys.stderr)
    errors = [record["error"] for record in records if "error" in record]
    for error in errors:
        print(error, file=sys.stderr)
    return int(bool(errors))


if __name__ == "__main__":
    run_command(main)
