# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Options as dataclass fields, read from a YAML file first and the command line second. PyTorch is imported last.

Both recipes use it: `train.py` and the tasks of DeepAVFusion.
"""

import dataclasses
import difflib
import shutil
import sys
import textwrap
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .shipped_files import find_config
from .yaml_text import read_yaml


TRAINER_HELP = "--help_trainer"
REQUIRED = object()
SIZES = ("size", "crop_size")  # of a processor: one of several sets of keys


class OptionHelp(str):
    """A line of help. `section` is the heading above this option; argparse takes no metadata but its own."""

    section: str | None = None


def option(default: Any, text: str, section: str | None = None) -> Any:
    """A dataclass field with a default (or `REQUIRED`) and a line of help; `section` heads it and those that follow."""
    text = OptionHelp(text)
    text.section = section
    metadata = {"help": text}
    if default is REQUIRED:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def is_yaml(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def read_recipe_file(path: str | Path) -> dict[str, Any]:
    """A YAML file of `key: value` lines, there or among the configurations of this package (`find_config`).

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds something else.
    """
    path = find_config(str(path))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such configuration file; the ready ones are in configs/")
    content = read_yaml(path.read_text(encoding="utf-8"), path) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected `key: value` lines, found {type(content).__name__}")
    return content


def merged(base: Mapping, changes: Mapping) -> dict:
    """`base` with `changes` on top, mapping by mapping; a size is one value: {shortest_edge} replaces {height, width}."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping) and key not in SIZES
        result[key] = merged(result[key], value) if both else value
    return result


def nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """ "; did you mean '...'?" for a misspelled name, or nothing. A name below a mapping is found by its last part."""
    below = [each for each in known if each.endswith(f".{name}")]
    close = below or difflib.get_close_matches(name, known, n=1)
    if not close:
        return ""
    return f"; did you mean '{prefix}{close[0]}'?"


def check_known(option: str, mapping: Mapping[str, Any] | None, known: Sequence[str]) -> None:
    """Raises ValueError for a key of a mapping option that is not `known`, with the nearest one."""
    for key in mapping or {}:
        if key not in known:
            hint = nearest(str(key), known) or ";"
            raise ValueError(f"{option}: unknown key '{key}'{hint} Known: {', '.join(known)}")


def parse_options(
    groups: Sequence[type], argv: Sequence[str] | None, defaults: Mapping[str, Any] | None = None, below: Sequence = ()
) -> list[Any]:
    """`[config.yaml] [--key value ...]` to one object of each dataclass in `groups`; the command line wins.

    A mapping on the command line (`--model_config '{temperature: 0.1}'`) changes only the keys that it names.

    Args:
        groups: dataclasses, `TrainingArguments` or its subclass last.
        defaults: values that replace those of the dataclasses.
        below: names such as "table.split" that a wrong key may have meant.

    Raises:
        FileNotFoundError: no such YAML file.
        ValueError: an unknown key or argument.
        SystemExit: a value of the wrong type.
    """
    from transformers import HfArgumentParser, TrainingArguments

    argv = list(sys.argv[1:] if argv is None else argv)
    config = {}
    if argv and is_yaml(argv[0]):
        path = argv.pop(0)
        config = read_recipe_file(path)
        known = [item.name for group in groups for item in dataclasses.fields(group) if item.init]
        for key in config:
            if key not in known:
                raise ValueError(f"{path}: unknown key '{key}'{nearest(str(key), [*known, *below])}")

    # A short usage: argparse prints it before the reason for which it refuses a value.
    usage = "%(prog)s [config.yaml] [--option value ...]; --help lists the options"
    parser = HfArgumentParser(groups, allow_abbrev=False, usage=usage)
    for action in parser._actions:
        action.required = action.required and action.dest not in config
    # Numbers go through argparse as text, so that a wrong type in the YAML is refused like one on the command line.
    texts = {key: str(value) for key, value in config.items() if type(value) in (int, float)}
    parser.set_defaults(**{**(defaults or {}), **config, **texts})
    *filled, unknown = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        names = [*(action.dest for action in parser._actions), *below]
        raise ValueError(f"unknown argument '{unknown[0]}'{nearest(unknown[0].lstrip('-'), names, '--')}")

    for group in filled:
        if not isinstance(group, TrainingArguments):  # which reads its own mappings
            _read_mappings(group, config)
    return filled


def _read_mappings(group: Any, config: Mapping[str, Any]) -> None:
    """Replaces text by mappings in the fields that hold mappings."""
    for name, hint in typing.get_type_hints(type(group)).items():
        text = getattr(group, name, None)
        if dict not in typing.get_args(hint) or not isinstance(text, str):
            continue
        given = read_yaml(text, f"--{name}")
        if given is not None and not isinstance(given, dict):
            raise ValueError(f"--{name}: expected a mapping such as '{{key: value}}', got {text!r}")
        if given is not None:
            given = merged(config.get(name) or {}, given)
        setattr(group, name, given)


def show_help(groups: Sequence[type], description: str, argv: Sequence[str] | None, trainer: str) -> None:
    """Prints the options of `groups` and ends the process where `argv` asks for help. Imports no PyTorch.

    Args:
        trainer: the import path "module:class" of the Trainer's arguments, whose options `--help_trainer` lists.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if TRAINER_HELP in words:
        _show_trainer_help(trainer)
    if "--help" not in words and "-h" not in words:
        return
    config = {}
    if is_yaml(words[0]):
        config = read_recipe_file(words[0])
        description += f"\n\nValues as in {words[0]}."
    print(help_text(groups, description, config))
    sys.exit(0)


def help_text(groups: Sequence[type], description: str, config: Mapping[str, Any]) -> str:
    """Every option under the heading of its section, with the value that a run with `config` uses."""
    width = min(110, shutil.get_terminal_size((110, 24)).columns)
    lines = [description.strip()]
    names = set()
    for group in groups:
        for item in dataclasses.fields(group):
            names.add(item.name)
            if getattr(item.metadata["help"], "section", None):
                lines += ["", f"{item.metadata['help'].section}:"]
            lines.append(f"  --{item.name} {_shown_value(item, config)}")
            text = " ".join(item.metadata["help"].replace("%%", "%").split())
            lines += textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    others = {key: value for key, value in config.items() if key not in names}
    if others:
        lines += ["", "Options of the Trainer that this recipe sets:"]
        lines += [f"  --{key} {value}" for key, value in others.items()]
    lines += ["", f"Every option of transformers' TrainingArguments works too: {TRAINER_HELP} lists them."]
    return "\n".join(lines)


def _shown_value(item: dataclasses.Field, config: Mapping[str, Any]) -> str:
    choices = ""
    if typing.get_origin(item.type) is typing.Literal:
        choices = f"{{{','.join(typing.get_args(item.type))}}} "
    if item.name in config:
        return f"{choices}(now {config[item.name]})"
    if item.default is not dataclasses.MISSING:
        return f"{choices}(default {item.default})"
    if item.default_factory is not dataclasses.MISSING:
        return f"{choices}(default {item.default_factory()})"
    return f"{choices}(required)"


def _show_trainer_help(trainer: str) -> typing.NoReturn:
    from importlib import import_module

    from transformers import HfArgumentParser

    module, _, name = trainer.partition(":")
    HfArgumentParser(getattr(import_module(module), name), allow_abbrev=False).print_help()
    sys.exit(0)
