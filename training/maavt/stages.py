# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The stages of `train.py`, in the order in which they run, and where each of them is."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from transformers import set_seed

from processing.data.atomic_writing import remove_leftovers
from training.common.folder_lock import folder_lock

from .arguments import Recipe, check_files_and_backbone, parse_arguments
from .data import build_data, read_clips
from .dry_run import dry_run
from .model import build_model
from .outputs import evaluate, save
from .trainer import build_trainer, train


__all__ = [
    "build_data",
    "build_model",
    "build_trainer",
    "dry_run",
    "evaluate",
    "output_folder",
    "read_clips",
    "read_recipe",
    "save",
    "train",
]


def read_recipe(argv: Sequence[str] | None) -> Recipe:
    """The options of the run, checked as far as that is cheap; sets the log and the seed."""
    recipe = parse_arguments(argv)
    level = logging.WARNING
    if recipe.run.should_log:
        level = logging.INFO
    logging.basicConfig(level=level, format="%(message)s")
    check_files_and_backbone(recipe)
    set_seed(recipe.run.seed)
    return recipe


@contextmanager
def output_folder(recipe: Recipe) -> Iterator[None]:
    """Keeps other runs out of the output folder while this one writes to it."""
    if recipe.run.dry_run or not recipe.run.should_save:
        yield
        return
    output = Path(recipe.run.output_dir)
    with folder_lock(output):
        remove_leftovers(output)
        yield
