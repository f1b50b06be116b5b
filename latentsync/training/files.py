"""Writing what a run leaves: a disk that is full, or a folder that may not be written, is one clear error."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from latentsync.checkpoint import first_line
from latentsync.errors import TrainingError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what a failed write raises (torch: RuntimeError, safetensors: its own) into a TrainingError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"{str(path)!r} cannot be written ({first_line(error)}): make room on its disk and start the "
            "same command again; it goes on from the checkpoint before"
        ) from error
