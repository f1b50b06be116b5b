"""What a clip is, by its bytes: a key that two copies share and two takes of equal name do not.

Keys name whatever is kept about a clip. Hashing reads the whole file, so a key is remembered by path, size
and time of change. What is kept is written aside and renamed: a file there is whole.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from latentsync.errors import FootageError, MediaError
from latentsync.footage.listing import EXAMPLES, ClipFile
from latentsync.media import make_part

BLOCK_BYTES = 2**20
KEY = re.compile(r"[0-9a-f]{64}")


class ContentKeys:
    """Keys of clips, remembered below `folder` over runs; shared by processes without harm."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._known: dict[str, str] = {}

    def of(self, clip: ClipFile) -> str:
        """The SHA-256 of the clip's bytes, 64 hex digits.

        Raises: FileNotFoundError when it is gone; MediaError when it cannot be read or the key not kept.
        """
        stamp = _stamp(clip)
        if stamp not in self._known:
            self._known[stamp] = self._remembered(stamp) or self._computed(clip, stamp)
        return self._known[stamp]

    def _place(self, stamp: str) -> Path:
        return self.folder / "keys" / stamp[:2] / stamp

    def _remembered(self, stamp: str) -> str | None:
        place = self._place(stamp)
        text = place.read_bytes().decode("ascii", "replace") if place.is_file() else ""
        return text if KEY.fullmatch(text) else None

    def _computed(self, clip: ClipFile, stamp: str) -> str:
        key = _digest(clip)
        with written_aside(self._place(stamp)) as file:
            file.write(key.encode("ascii"))
        return key


def duplicates(clips: list[ClipFile], keys: ContentKeys) -> list[list[ClipFile]]:
    """Groups of two or more clips, at different paths, whose bytes are equal."""
    groups: dict[str, dict[Path, ClipFile]] = {}
    for clip in clips:
        groups.setdefault(keys.of(clip), {})[clip.path] = clip
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def check_splits(clips: list[ClipFile], keys: ContentKeys) -> None:
    """Raise FootageError when the same recording serves two splits: what was trained on would be the test."""
    leaks = [group for group in duplicates(clips, keys) if len({clip.split for clip in group}) > 1]
    if leaks:
        named = "; ".join(" = ".join(f"{c.path} ({c.split})" for c in group) for group in leaks[:EXAMPLES])
        raise FootageError(f"{len(leaks)} clips serve more than one split: {named}; take them out of one")


@contextmanager
def written_aside(path: Path) -> Iterator[BinaryIO]:
    """A file to write into that appears at `path`, whole, when the block ends well; else nothing does.

    Raises: MediaError when the disk is full or the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"the folder {path.parent} cannot be made: {error.strerror or error}") from error
    part = make_part(path)
    try:
        with part.open("wb") as file:
            yield file
        os.replace(part, path)
    except OSError as error:
        raise MediaError(f"{path} cannot be written: {error.strerror or error}; is the disk full?") from error
    finally:
        part.unlink(missing_ok=True)


def _stamp(clip: ClipFile) -> str:
    """What changes when a file does, without reading it."""
    digest = hashlib.sha256()
    for file in clip.content_files:
        status = file.stat()
        digest.update(f"{file.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _digest(clip: ClipFile) -> str:
    digest = hashlib.sha256()
    for file in clip.content_files:
        try:
            digest.update(f"{file.stat().st_size}\0".encode())
            with file.open("rb") as source:
                while block := source.read(BLOCK_BYTES):
                    digest.update(block)
        except OSError as error:
            raise MediaError(f"{file} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()
