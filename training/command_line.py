# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The console command `maavt`: one subcommand for each program of this repository.

A subcommand imports its program when it is called, so that `maavt --help` does not wait for PyTorch. The program's
own parser reads the arguments: `maavt train --help` lists the options of `train.py`.
"""

import os
import runpy
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from training.common.commands import run_command
from training.common.shipped_files import shipped_file


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Audio-visual learning with MA-AVT: train, predict, prepare data sets. `maavt COMMAND --help` lists options, "
    "`--debug` after a command shows the traceback of an error.",
)

# Typer passes every argument on, options and --help included.
PASS_ON = {
    "add_help_option": False,
    "context_settings": {"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
}


@app.command(**PASS_ON)
def train(context: typer.Context) -> None:
    """Fine-tune MA-AVT on clips: maavt train folder.yaml --data my_clips."""
    run(context, script("train.py"))


@app.command(**PASS_ON)
def predict(context: typer.Context) -> None:
    """Classify clips with a checkpoint: maavt predict MODEL clip.mp4."""
    run(context, script("predict.py"))


@app.command(**PASS_ON)
def prepare(context: typer.Context) -> None:
    """Check a public data set and write its tables: maavt prepare ave --root AVE_Dataset --out prepared/ave."""
    run(context, main_of("processing.prepare.__main__"))


@app.command(**PASS_ON)
def demo(context: typer.Context) -> None:
    """Write small clips, train a tiny backbone and MA-AVT on them, and print the table. Takes 3 to 5 minutes; `--quick` trains nothing."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads slow tiny models down beside other work
    run(context, main_of("training.tools.demo"))


@app.command(**PASS_ON)
def page(context: typer.Context) -> None:
    """Show models in a browser, or write a Hugging Face Space: maavt page MODEL."""
    run(context, main_of("app.__main__"))


@app.command(**PASS_ON)
def export(context: typer.Context) -> None:
    """Write a fine-tuned model as one ONNX file: maavt export MODEL --out model.onnx."""
    run(context, main_of("training.tools.export_onnx"))


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="The output folder of a run that has ended.")],
    repository: Annotated[str, typer.Argument(help="you/name")],
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Upload the adapter in place of the merged model.")
    ] = False,
    private: Annotated[bool | None, typer.Option(help="A new repository is private, or public.")] = None,
    revision: Annotated[str | None, typer.Option(help="The branch to commit to.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry_run", help="List the files, show the card, say what it lacks.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Upload a finished run to the Hub: maavt push outputs/run you/name."""

    def upload() -> None:
        from training.maavt.upload import push_run, show_upload

        kind = "adapter" if adapter else "model"
        if dry_run:
            show_upload(run, kind, repository)
        else:
            push_run(run, repository, kind, private=private, revision=revision)

    sys.argv = ["maavt push"] + ["--debug"] * debug
    run_command(upload)


def script(name: str) -> Callable[[], object]:
    """A function that calls the `main` of a file beside the packages."""
    return lambda: runpy.run_path(str(shipped_file(name)))["main"]()


def main_of(module: str) -> Callable[[], object]:
    """A function that imports `module` and calls its `main`."""
    return lambda: import_module(module).main()


def run(context: typer.Context, program: Callable[[], object]) -> None:
    """Calls a program with the arguments of the command, and exits with the status that it returns, if any."""
    sys.argv = [f"maavt {context.info_name}", *context.args]
    run_command(program)


def main() -> None:
    """What the console script calls."""
    app(prog_name="maavt")


if __name__ == "__main__":
    main()
