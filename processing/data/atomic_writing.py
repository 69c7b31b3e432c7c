# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Write files and folders under a temporary name and rename them: a reader never sees half of one."""

import csv
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path in the same folder, which is renamed to `path` at the end.

    After an exception the temporary file is gone and `path` is what it was. The temporary name keeps the suffix, by which
    libraries choose a format. The file gets the permissions that the umask allows.

    Args:
        path: the file to write; missing parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_path(path.parent, path.stem, path.suffix)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(option: str, path: str | os.PathLike, folder: bool = False) -> None:
    """Raises OSError, which names the option, where a file (or a folder) cannot be written; before work is done for it."""
    path = Path(path)
    if path.exists() and path.is_dir() != folder:
        kind, other = ("folder", "file") if folder else ("file", "folder")
        raise OSError(f"{option}: {path} is a {other}; name a {kind}")
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if existing.is_file() and existing != path:
        raise OSError(f"{option}: {existing} is a file, not a folder; choose another path")
    if not os.access(existing if existing.is_dir() else existing.parent, os.W_OK):
        raise OSError(f"{option}: {existing} cannot be written; choose another path")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a whole UTF-8 text file."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Writes a whole csv file. A text that a spreadsheet would run as a formula gets an apostrophe before it."""
    with atomic_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(columns))
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _without_formula(value) for name, value in row.items()})


# Names of YouTube clips begin with `-` too: with it a formula holds more than letters, digits and `_`, `.`, `/`, ` `, `-`.
FORMULA = re.compile(r"'*([=+@\t\r]|-.*[^\w./ -])", re.DOTALL)


def _without_formula(value: Any) -> Any:
    is_formula = isinstance(value, str) and FORMULA.match(value)
    return f"'{value}" if is_formula else value


def written_text(cell: str) -> str:
    """What `write_csv` was given for a cell: without the apostrophe that it put before a formula."""
    if cell.startswith("'") and FORMULA.match(cell[1:]):
        return cell[1:]
    return cell


@contextmanager
def atomic_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Gives an empty temporary folder, which replaces `folder` at the end.

    An earlier `folder` is deleted only when the new one has its name. After an exception the temporary folder is gone and
    `folder` is what it was.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, earlier = (_temporary_path(folder.parent, folder.name) for _ in range(2))
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            os.replace(folder, earlier)
        try:
            os.replace(temporary, folder)
        except BaseException:
            if earlier.exists():
                os.replace(earlier, folder)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if folder.exists():  # only then is the earlier one no longer needed
            shutil.rmtree(earlier, ignore_errors=True)


def remove_leftovers(folder: str | os.PathLike, name: str | None = None) -> None:
    """Deletes what killed writers have left in `folder`; with `name` only what was to become that folder.

    Only for who keeps other writers out.
    """
    wanted = ".*" if name is None else re.escape(name[:40])
    for path in Path(folder).iterdir():
        if not re.fullmatch(rf"\.{wanted}\.[0-9a-f]{{12}}\.part(\.\w+)?", path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _temporary_path(folder: Path, name: str, suffix: str = "") -> Path:
    """Hidden, and unlike that of any other process."""
    return folder / f".{name[:40]}.{secrets.token_hex(6)}.part{suffix}"
