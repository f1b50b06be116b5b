"""Which clips are evaluated, and against what: a folder of results with their job reports, or a list."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from latentsync.errors import FootageError, MediaError
from latentsync.media import check_soundtrack

SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".mpg", ".mpeg", ".webm", ".m4v")
REPORT = ".report.json"  # beside a result, as scripts/inference.py --profile leaves it


@dataclass(frozen=True)
class Item:
    """A `result`, and what is known of it.

    `source`: the clip that was redrawn. `sound`: the file whose sound was asked for; the lips of the result
    are compared with those in it where it is a video. `reference`: the clip that shows frame by frame what
    the result should show, as where a clip was dubbed with its own sound.
    """

    result: Path
    source: Path | None = None
    sound: Path | None = None
    reference: Path | None = None

    @property
    def genuine(self) -> Path | None:
        """A clip in sync that judges can be tried on, first of the same face."""
        return next((clip for clip in (self.reference, self.source) if clip is not None), None)


def items_in(folder: Path, references: Path | None = None) -> list[Item]:
    """The videos directly in a folder. A job's report beside one names its source and sound; a file of the
    same name in the folder `references` is its reference.

    Raises: FileNotFoundError for a missing folder or one without videos; FootageError for a damaged report.
    """
    for place in [folder] if references is None else [folder, references]:
        if not place.is_dir():
            raise FileNotFoundError(f"the folder {place} does not exist; pass a folder of videos")
    videos = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not videos:
        raise FileNotFoundError(f"no video in {folder} (looked for {', '.join(SUFFIXES)})")
    return [_with_report(video, references) for video in videos]


def read_list(path: Path) -> list[Item]:
    """One JSON object a line: "result", and as known "source", "sound", "reference"; paths from the list's
    own folder. Raises: FileNotFoundError; FootageError that names the line.
    """
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            items.append(_item(line, path, number))
    if not items:
        raise FootageError(f'{path} names no clip; expected lines such as {{"result": "out/a.mp4"}}')
    return items


def _item(line: str, path: Path, number: int) -> Item:
    known = [field.name for field in fields(Item)]
    try:
        told = json.loads(line)
    except json.JSONDecodeError as error:
        raise FootageError(f"{path}, line {number} is no JSON object: {error.msg}") from error
    wrong = not isinstance(told, dict) or "result" not in told or not set(told) <= set(known)
    if wrong or not all(isinstance(value, str) for value in told.values()):
        raise FootageError(
            f'{path}, line {number}: expected "result" and, as known, "source", "sound", "reference", '
            f"each a path; got {line.strip()[:80]}"
        )
    return Item(**{name: path.parent / value for name, value in told.items()})


def _with_report(video: Path, references: Path | None) -> Item:
    reference = None if references is None else references / video.name
    reference = reference if reference is not None and reference.is_file() else None
    report = Path(f"{video}{REPORT}")
    if not report.is_file():
        return Item(video, reference=reference)
    source, sound = _told(report, "video"), _told(report, "audio")
    if reference is None and source is not None and source == sound:
        reference = source  # dubbed with its own sound: the source shows what is right
    return Item(video, source, sound, reference)


def _told(report: Path, name: str) -> Path | None:
    """A path of a job's report, where that file is still there."""
    try:
        told: Any = json.loads(report.read_text(encoding="utf-8"))
        value = told[name]
    except (ValueError, KeyError, TypeError) as error:
        raise FootageError(f"{report} is no report of a job: {error}; remove it, or make it again") from error
    place = Path(value)
    return place if place.is_file() else None


def other_sounds(items: Sequence[Item], folder: Path | None = None) -> list[Path]:
    """Files whose sounds serve as wrong ones for clips that do not use them: the videos of `folder`, or the
    sounds and sources of all items, as far as they have a sound.
    """
    if folder is not None:
        places = [item.result for item in items_in(folder)]
    else:
        places = [path for item in items for path in (item.sound, item.source) if path is not None]
    return [path for path in dict.fromkeys(places) if path.is_file() and _has_sound(path)]


def _has_sound(path: Path) -> bool:
    try:
        check_soundtrack(path)
    except MediaError:  # a silent film serves as picture only
        return False
    return True
