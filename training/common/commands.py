# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""How a command is called and recorded: errors as one line, and the command line without this machine's folders."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path


def run_command(main: Callable[[], object]) -> None:
    """Call `main`. An error that a user can mend is one line on standard error; `--debug` shows its traceback."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        if debug:
            raise
        sys.exit(f"error: {error}")


def shown_command(module: str, argv: list[str] | None) -> str:
    """The command for a record of results; of an absolute path only the last part."""
    words = list(sys.argv[1:] if argv is None else argv)
    words = [Path(word).name if Path(word).is_absolute() else word for word in words]
    return f"python -m {module} {shlex.join(words)}"
