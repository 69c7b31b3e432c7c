# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""How a command is called and recorded: errors as one line, and the command line without this machine's folders."""

import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path


# What libraries report as a RuntimeError although it comes from outside.
CAUSES = {
    "DataLoader worker": "a loader worker has died; is there enough memory? --resume_from_checkpoint true goes on",
    "a process cannot start": "is there enough memory? the same command goes on where it stopped",
    "PytorchStreamWriter failed": "a file cannot be written; is the disk full?",
    "inline_container": "a file cannot be written; is the disk full?",
    "iostream error": "a file cannot be written; is the disk full?",
    "No space left": "the disk is full",
    "deserializing header": "the weights (model.safetensors) are cut off or damaged; copy or download them again",
    "gloo": "another process of this run has ended; its own output says why",
}


def run_command(main: Callable[[], object]) -> None:
    """Call `main` and end the process. An error that a user can mend is one line; `--debug` shows its traceback.

    Raises:
        SystemExit: with what `main` returns where that is a number, 1 after an error, 130 after Ctrl-C.
    """
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    # torchao 0.18 makes torch 2.14 warn twice when PEFT imports it; nothing follows from that for a user.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    sys.unraisablehook = partial(_interrupt_again, sys.unraisablehook)
    if "TORCHELASTIC_RUN_ID" in os.environ:  # the launcher's report shows the error of the process that failed
        from torch.distributed.elastic.multiprocessing.errors import record

        main = record(main)
    try:
        status = main()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        if debug:
            raise
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # workers are waited for: Ctrl-C ends at once then
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = explained(error)
        if debug or line is None:
            raise
        sys.exit(f"error: {line}")  # Python prints it, and exits with 1
    if isinstance(status, int):
        sys.exit(status)


def _interrupt_again(otherwise: Callable, unraisable: object) -> None:
    """Python drops a Ctrl-C that falls into a callback, such as those of a fork. It comes again after it."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        otherwise(unraisable)


def explained(error: Exception) -> str | None:
    """One line for an error that a user can mend; None for a fault of the program."""
    line = (own_message(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, (ValueError, OSError, ImportError)):
        return line
    if "DataLoader worker" in line and (file := _file_of_dead_worker(line)):
        cause = "remove or convert the file, or free memory; --resume_from_checkpoint true goes on"
        return f"{file}: a loader worker has died while it read this file ({line}); {cause}"
    if isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError":
        for words, cause in CAUSES.items():
            if words in str(error):
                return f"{cause} ({line})"
    return None


def own_message(error: Exception) -> str:
    """The message of an error; of one that a loader worker raised, without the traceback that PyTorch puts before it."""
    text = str(error)
    if not (text.startswith("Caught ") and "\nOriginal Traceback" in text):
        return text
    raised = re.search(r"^[\w.]+: (.*)", text.rpartition("Traceback (most recent call last):")[2], re.MULTILINE)
    return raised[1] if raised else text


def _file_of_dead_worker(message: str) -> str:
    """The file that a loader worker was reading, by the numbers of processes in PyTorch's message; an empty string: none."""
    from processing.data.worker_records import WorkerRecord

    workers = re.search(r"\(pid(?:\(s\))? ([\d, ]+)\)", message)
    names = [WorkerRecord.here().read_by(int(worker)) for worker in workers[1].split(",")] if workers else []
    return next(filter(None, names), "")


def shown_command(module: str, argv: list[str] | None) -> str:
    """The command for a record of results; of an absolute path only the last part."""
    words = list(sys.argv[1:] if argv is None else argv)
    # --option VALUE and --option=VALUE
    for number, word in enumerate(words):
        option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
        if Path(value.removeprefix("file://")).is_absolute():
            words[number] = f"{option}{equals}{Path(value).name}"
    return f"python -m {module} {shlex.join(words)}"
