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

import typer

from training.common.shipped_files import find_config, shipped_file


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Audio-visual learning with MA-AVT: train, predict, prepare data sets. `maavt COMMAND --help` lists options.",
)

# Typer passes every argument on, options and --help included.
PASS_ON = {
    "add_help_option": False,
    "context_settings": {"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
}


@app.callback()
def options(
    context: typer.Context,
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error, not its last line alone."),
) -> None:
    context.obj = debug


@app.command(**PASS_ON)
def train(context: typer.Context) -> None:
    """Fine-tune MA-AVT on clips: maavt train folder.yaml --data my_clips."""
    arguments = list(context.args)
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        arguments[0] = str(find_config(arguments[0]))
    run(context, lambda: runpy.run_path(str(shipped_file("train.py")), run_name="__main__"), arguments)


@app.command(**PASS_ON)
def predict(context: typer.Context) -> None:
    """Classify clips with a checkpoint: maavt predict MODEL clip.mp4."""
    run(context, lambda: runpy.run_path(str(shipped_file("predict.py")), run_name="__main__"), context.args)


@app.command(**PASS_ON)
def prepare(context: typer.Context) -> None:
    """Check a public data set and write its tables: maavt prepare ave --root AVE_Dataset --out prepared/ave."""
    run(context, main_of("processing.prepare.__main__"), context.args)


@app.command(**PASS_ON)
def demo(context: typer.Context) -> None:
    """Write small clips, train a tiny backbone and MA-AVT on them, and print the table. Takes 3 to 5 minutes."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads slow tiny models down beside other work
    run(context, main_of("training.tools.demo"), context.args)


@app.command(**PASS_ON)
def export(context: typer.Context) -> None:
    """Write a fine-tuned model as one ONNX file: maavt export MODEL --out model.onnx."""
    run(context, main_of("training.tools.export_onnx"), context.args)


def main_of(module: str) -> Callable[[], object]:
    """A function that imports `module` and calls its `main`."""
    return lambda: import_module(module).main()


def run(context: typer.Context, program: Callable[[], object], arguments: list[str]) -> None:
    """Calls a program with `arguments` as its command line. An error that the user can mend becomes one line.

    Raises:
        SystemExit: with the program's exit status; 1 after an error, 130 after Ctrl-C.
    """
    name = f"maavt {context.info_name}"
    sys.argv = [name, *arguments]
    try:
        status = program()
    except (ValueError, OSError, ImportError) as error:
        if context.obj:
            raise
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def main() -> None:
    """What the console script calls."""
    app(prog_name="maavt")


if __name__ == "__main__":
    main()
