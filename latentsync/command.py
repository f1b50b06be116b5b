"""The front of every command line: flags in, the work done, an exit code out; what is wrong is one line.

0 done, 2 something in the input must be mended, 130 interrupted (Ctrl-C or kill).
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from latentsync.errors import LatentSyncError

MENDABLE = (LatentSyncError, OSError, ValueError, ImportError)
QUIET = {"GLOG_minloglevel": "2", "TF_CPP_MIN_LOG_LEVEL": "2"}  # MediaPipe's C++ log, read when it loads


class Parser(argparse.ArgumentParser):
    """Shows a script's docstring as it stands, wants flags in full, and says what is wrong in one line."""

    def __init__(self, description: str | None) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=form, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        hint = "--help lists the flags, and --flag=-x gives one a value that begins with a dash"
        self.exit(2, f"error: {_one_line(message)}; {hint}\n")


class TrainingParser(Parser):
    """With the flags that every training script has: precision, trackers, and keys of the YAML."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description)
        self.add_argument(
            "--mixed_precision",
            choices=("no", "bf16", "fp16"),
            help="default: what the YAML or accelerate launch says, or no",
        )
        self.add_argument(
            "--tracker",
            action="append",
            default=[],
            choices=("tensorboard", "wandb"),
            help="may be given twice; default: log.jsonl alone",
        )
        self.add_argument("overrides", nargs="*", help="key=value, over the YAML")


def run_command(
    run: Callable[[argparse.Namespace], None], flags: argparse.Namespace, *, interrupted: str = "interrupted"
) -> int:
    """Do `run(flags)` and give the exit code; `interrupted` is what Ctrl-C or kill prints.

    What a user can mend (`MENDABLE`) is printed alone, anything else keeps its traceback. Signals stay with
    their new handler: the process is expected to end.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop_once)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return told_in_one_line(lambda: run(flags))
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130


def told_in_one_line(work: Callable[[], None], mendable: tuple[type[Exception], ...] = MENDABLE) -> int:
    """Do `work()` and give 0; where it raises what a user can mend, print that in one line and give 2."""
    try:
        work()
    except mendable as error:
        print(f"error: {_one_line(_said(error)) or type(error).__name__}", file=sys.stderr)
        return 2
    return 0


def leave(code: int) -> NoReturn:
    """End the process at once: threads that were interrupted in C++ code must not abort the exit, nor gloo's
    hang it (in PyTorch 2.13 it waits for the interpreter, which waits for it).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _stop_once(_signal: int, _frame: object) -> NoReturn:
    """The first Ctrl-C or kill cleans up; further ones must not disturb that."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)
    raise KeyboardInterrupt


def _ignore(_signal: int, _frame: object) -> None:
    """Instead of SIG_IGN, which makes Python complain of a signal that has arrived already."""


def _said(error: Exception) -> str:
    """What an error says; of one that the system raised without the number."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _one_line(text: str) -> str:
    return " ".join(text.split())
