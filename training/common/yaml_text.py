# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""YAML as people write it."""

import re
from pathlib import Path

import yaml


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-4` as a string; this loader reads it as the number it is."""


_Loader.yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str, source: str | Path) -> object:
    """YAML text to objects, with `1e-4` as a float. Raises ValueError, with `source` and the line, for other text."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader subclass)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise ValueError(f"{source}: line {line} is no YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: is no YAML: {str(error).splitlines()[0]}") from error
