# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What every test shares: no network, few threads, and where the optional shared material lies."""

import os
from pathlib import Path


os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402


REPOSITORY = Path(__file__).resolve().parent.parent


def shared_folder(name: str, variable: str | None = None) -> Path:
    """A folder of the optional shared material: from the environment variable, else beside the repository."""
    return Path(os.environ.get(variable or "", "") or REPOSITORY.parent / "shared" / name)


@pytest.fixture(scope="session")
def shared_path():
    """`shared_path("data/grid_s1")` returns the folder, or skips the test where the shared material is absent."""

    def find(name: str) -> Path:
        path = shared_folder(name)
        if not path.exists():
            pytest.skip(f"{name} of the shared material is not here")
        return path

    return find
