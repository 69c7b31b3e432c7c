# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Make transformers' own common tests importable: a test module says
`hf_harness = pytest.importorskip("hf_harness", reason=...)`.

CONFORMANCE_DIR is the folder with `hf_harness.py` and `fetch_tests.sh` (default: ../shared/conformance beside the
repository). The tests themselves come from the source distribution of the installed transformers, fetched once.
"""

import importlib.metadata
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from filelock import FileLock


REPOSITORY = Path(__file__).resolve().parents[2]
CONFORMANCE = Path(os.environ.get("CONFORMANCE_DIR") or REPOSITORY.parent / "shared" / "conformance")


def tests_root() -> Path:
    default = Path(tempfile.gettempdir()) / f"hf_tests_{importlib.metadata.version('transformers')}"
    return Path(os.environ.get("HF_TESTS_ROOT") or default)


def fetch_once() -> bool:
    """Whether the tests are there. Test workers that start together wait for the one that fetches."""
    with FileLock(f"{tests_root()}.lock"):
        return fetch()


def fetch() -> bool:
    if (tests_root() / "hf_tests" / "test_processing_common.py").is_file():
        return True
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PYTHON": sys.executable, "PATH": path, "HF_TESTS_ROOT": str(tests_root())}
    command = ["bash", str(CONFORMANCE / "fetch_tests.sh")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        warnings.warn(f"fetch_tests.sh failed: {result.stderr[-500:]}", stacklevel=1)
    return result.returncode == 0


if (CONFORMANCE / "hf_harness.py").is_file() and fetch_once():
    sys.path.append(str(CONFORMANCE))
