# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The arguments of segmentation, localization and separation: a YAML file first, the command line second."""

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import get_args, get_type_hints

from transformers import HfArgumentParser, TrainingArguments

from training.common.yaml_text import read_yaml


@dataclass
class TaskArguments:
    """Which clips, which model, and what is left behind."""

    data: str = field(metadata={"help": "Folder of the clips (docs/deepavfusion_tasks.md)."})
    layout: str = field(
        default="shapes", metadata={"help": "shapes, s4, ms3, avss, vggss, flickr or pairs: how the folder is read."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A DeepAVFusion checkpoint; None: a new model from model_config."}
    )
    model_config: dict | str | None = field(
        default=None, metadata={"help": "Fields of DeepAVFusionConfig, a mapping."}
    )
    processor: dict | str | None = field(
        default=None, metadata={"help": "Changes by part: {feature_extractor: {...}, video_processor: {...}}."}
    )
    system: str = field(default="deepavfusion", metadata={"help": "Localization: 'deepavfusion' or 'maavt'."})
    supervision: str = field(
        default="boxes", metadata={"help": "Localization: 'class' (weak: the clip's label alone) or 'boxes'."}
    )
    num_frames: int = field(
        default=1, metadata={"help": "Separation: training frames of a clip, of which each epoch shows another one."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "One training each."})
    num_pictures: int = field(default=6, metadata={"help": "Test frames drawn, or mixtures written as wav files."})
    results: str | None = field(default=None, metadata={"help": "Write the table here too, as .json and .md."})


def parse_task_arguments(
    argv: list[str] | None = None, group: type = TaskArguments
) -> tuple[TaskArguments, TrainingArguments, str]:
    """`config.yaml [--key value ...]` to `group` and the Trainer's arguments, and the command that was given.

    Raises:
        ValueError: an unknown key or argument.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    command = " ".join(argv)
    values = {}
    if argv and argv[0].endswith((".yaml", ".yml")):
        path = Path(argv.pop(0))
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such configuration file; the ready ones are in configs/deepavfusion/")
        values = read_yaml(path.read_text(encoding="utf-8")) or {}
        known = {item.name for each in (group, TrainingArguments) for item in fields(each)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"{path}: unknown keys {unknown}; see {group.__name__} and TrainingArguments")
    parser = HfArgumentParser((group, TrainingArguments), allow_abbrev=False)
    for action in parser._actions:
        action.required = action.required and action.dest not in values
    parser.set_defaults(remove_unused_columns=False, report_to="none", **values)
    task, args = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    for name in (name for name, hint in get_type_hints(group).items() if dict in get_args(hint)):
        text = getattr(task, name)
        if isinstance(text, str):
            setattr(task, name, {**(values.get(name) or {}), **read_yaml(text)})
    return task, args, command
