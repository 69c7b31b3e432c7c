# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds the files that are no Python: `configs/` and `model_card.md`, in a checkout and in an installed copy."""

from pathlib import Path


PACKAGE = Path(__file__).resolve().parents[1]


def shipped_file(name: str) -> Path:
    """The path of a file that lies beside the packages in a checkout, such as `model_card.md`.

    A wheel holds a copy of these files in `training/shipped/`. pyproject.toml says which.
    """
    installed = PACKAGE / "shipped"
    folder = installed if installed.is_dir() else PACKAGE.parent
    return folder / name


def find_config(name: str) -> Path:
    """The path of a configuration: `name` itself if there is such a file, else the file of that name in `configs/`.

    `folder.yaml`, `compare/drone.yaml` and `configs/folder.yaml` find what this package ships, from any folder.
    A name without a match is returned as it is: the reader of the file says what is wrong.
    """
    path = Path(name)
    if path.exists() or path.is_absolute():
        return path
    shipped = shipped_file("configs") / Path(name.removeprefix("configs/"))
    return shipped if shipped.is_file() else path
