# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Shards in object storage (`s3://`, `gs://` and whatever else fsspec opens): read ahead, and tried again where the store
fails. Data sets on the Hub (`hf://`) are tried again by `datasets`."""

import logging
import time
from collections.abc import Callable
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem


logger = logging.getLogger(__name__)

PROTOCOL = "retry"  # `retry://s3/bucket/key` is `s3://bucket/key` with the patience of this file
WAITS = (1, 2, 4, 8, 16, 32, *[60] * 20)  # seconds between tries: a store may be away for 20 minutes
BLOCK_BYTES = 8 << 20  # of a request; the next block is read while this one is used
# Errors that waiting does not cure are raised at once; fsspec raises the last for what a store cannot do.
LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError, NotImplementedError)


def is_remote(data: Any) -> bool:
    """Whether `data` is an address such as `s3://bucket/folder` and no path."""
    return "://" in str(data)


def with_retries(address: str) -> str:
    """The address under which `fsspec`, and so `datasets`, reads a file with patience."""
    return f"{PROTOCOL}://{address.replace('://', '/', 1)}"


def list_files(address: str) -> list[str]:
    """Addresses of the files at or below an address, sorted.

    Raises:
        ValueError: the store cannot be reached, refuses, or lacks its package.
    """
    try:
        fs, path = url_to_fs(address)
        return sorted(fs.unstrip_protocol(name) for name in fs.find(path))
    except ImportError as error:
        raise ValueError(f"{address}: {error}") from error  # fsspec names the package to install
    except Exception as error:  # each store has its own kinds
        raise ValueError(f"{address}: cannot be listed ({error}); check address and credentials") from error


def patiently(read: Callable[[], Any], what: str) -> Any:
    """`read()`, again and again where it fails for a reason that may pass."""
    for number, seconds in enumerate(WAITS, start=1):
        try:
            return read()
        except LASTING:
            raise
        except Exception as error:  # each store has its own kinds
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            logger.warning("%s: %s; try %d of %d follows in %d s", what, reason, number, len(WAITS), seconds)
            time.sleep(seconds)
    return read()


class RetryFileSystem(AbstractFileSystem):
    """Reads files of another file system, whose name is the first part of the path."""

    protocol = PROTOCOL

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        fs, target = _target(path)
        return patiently(lambda: fs.info(target), path) | {"name": self._strip_protocol(path)}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> "RetryFile":
        caching = {"block_size": BLOCK_BYTES, "cache_type": "background", "cache_options": {"maxblocks": 4}}
        return RetryFile(self, path, mode, **caching)


class RetryFile(AbstractBufferedFile):
    """A file whose bytes come in ranges, each of them with patience."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        def read() -> bytes:
            fs, target = _target(self.path)
            data = fs.cat_file(target, start=start, end=min(end, self.size))
            if len(data) != min(end, self.size) - start:
                raise OSError(f"the store sent {len(data)} of {min(end, self.size) - start} bytes")
            return data

        return patiently(read, self.path)


def _target(path: str) -> tuple[AbstractFileSystem, str]:
    protocol, _, rest = path.removeprefix(f"{PROTOCOL}://").partition("/")
    return url_to_fs(f"{protocol}://{rest}")  # fsspec keeps one connection for each process


fsspec.register_implementation(PROTOCOL, RetryFileSystem, clobber=True)
