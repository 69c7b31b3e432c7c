# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows models in a browser: choose or record a clip, see what the model answers and where it looks and listens.

    maavt page                                                        # a model that reads and hears digits
    maavt page outputs/run/model
    maavt page outputs/run/model you/name --examples clips/          # several models; clips that are offered
    maavt page outputs/run/model --space my_space                     # a folder to upload as a Hugging Face Space

The page is for this machine alone, unless --host 0.0.0.0 opens it to the network. It needs no network itself.
"""

import argparse
import importlib.util
from pathlib import Path

from training.common.commands import run_command
from training.common.shipped_files import shipped_file


MOST_EXAMPLES = 6


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="folder or Hub name; default: the model of the demo"
    )
    parser.add_argument(
        "--examples", nargs="+", default=[], help="clips, or folders of clips; default: the models' own"
    )
    parser.add_argument("--title", default="What does the model see and hear?")
    parser.add_argument("--space", metavar="DIR", type=Path, help="write a Hugging Face Space instead")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 shows the page to the network")
    parser.add_argument("--port", type=port_number, help="default: the first free one from 7860 on")
    parser.add_argument("--max_seconds", type=float, default=60, help="of a clip that are looked at (default: 60)")
    parser.add_argument("--max_megabytes", type=int, default=100, help="of an uploaded file (default: 100)")
    parser.add_argument("--keep_minutes", type=float, default=15, help="until an upload is deleted (default: 15)")
    return parser.parse_args(argv)


def port_number(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give 1 to 65535")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    """Shows the page until Ctrl-C, or writes a Space."""
    arguments = parse_arguments(argv)
    for package in ("gradio", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"{package} is not installed; pip install 'gradio<7' matplotlib")
    space = arguments.space
    if space is not None and space.exists() and (space.is_file() or any(space.iterdir())):
        raise FileExistsError(f"{space}: is there already; give a folder that is new or empty")
    checkpoints = arguments.models or [str(shipped_file("examples/digits"))]
    examples = find_clips(arguments.examples, checkpoints)
    print("Loading ...", flush=True)
    from transformers import AutoProcessor  # PyTorch and transformers: only now, they take seconds

    from training.maavt.prediction import load_model

    from .web_page import Limits, serve

    sources = visible_names(checkpoints)
    models = {name: (load_model(source), AutoProcessor.from_pretrained(source)) for name, source in sources.items()}
    limits = Limits(arguments.max_seconds, arguments.max_megabytes, arguments.keep_minutes)
    if space is None:
        serve(models, examples, limits, arguments.title, server_name=arguments.host, server_port=arguments.port)
        return
    from .space import write_space

    for file in write_space(space, models, sources, examples, limits, arguments.title):
        print(file)


def visible_names(checkpoints: list[str]) -> dict[str, str]:
    """Checkpoints by the names that visitors see: of a folder's path, as many of the last parts as tell models apart."""
    sources = {}
    for checkpoint in checkpoints:
        if not Path(checkpoint).exists():  # on the Hub
            sources[checkpoint] = checkpoint
            continue
        parts = [part for part in Path(checkpoint).resolve().parts if part not in ("model", "adapter", "run")]
        names = ("/".join(parts[-count:]) for count in range(1, len(parts)))
        sources[next(name for name in names if name not in sources)] = checkpoint
    return sources


def find_clips(given: list[str], checkpoints: list[str]) -> list[Path]:
    """The first clips of what is given; where nothing is, of the models' folders.

    Raises:
        FileNotFoundError: there is no clip in something that is given.
    """
    from processing.data.conventions import VIDEO_SUFFIXES

    clips = []
    for path in map(Path, given or checkpoints):
        inside = [path]
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
        files = [file for file in inside if file.is_file()]
        if given and not files:
            raise FileNotFoundError(f"{path}: no clip there; --examples takes clips, and folders of clips")
        clips += files
    return clips[:MOST_EXAMPLES]


if __name__ == "__main__":
    run_command(main)
