"""Where training clips lie -> a list: of a text file of paths, a folder of videos, or a packed collection.

The file list and the folder are those of bytedance/LatentSync (`train_fileslist` wins over `train_data_dir`);
a packed collection is what `scripts/pack_footage.py` leaves: a `clips.json` beside one folder a clip.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latentsync.errors import FootageError

INDEX = "clips.json"
FACES, WAVEFORM, MOUTH = "faces.npy", "waveform.npy", "mouth.npy"
EXAMPLES = 3  # of many things that are wrong, so many are named
PREPARE = "run scripts/pack_footage.py over the raw footage first"


@dataclass(frozen=True)
class ClipFile:
    """One clip: a video of aligned faces, or a folder of packed arrays."""

    path: Path
    kind: Literal["video", "packed"]
    split: str = "train"
    speaker: str | None = None

    @property
    def name(self) -> str:
        return self.path.name if self.kind == "packed" else self.path.stem

    @property
    def content_files(self) -> list[Path]:
        """The files whose bytes say which recording this is, at whatever size its faces were cut out."""
        if self.kind == "video":
            return [self.path]
        return [file for name in (WAVEFORM, MOUTH) if (file := self.path / name).is_file()]


def find_clips(
    fileslist: str | Path = "", data_dir: str | Path = "", *, split: str = "train"
) -> list[ClipFile]:
    """The clips of `split`: those of the text file `fileslist` where one is named, else those of the folder.

    Videos belong to no split of their own: whoever names them says which they serve.

    Raises: FileNotFoundError for a missing list or folder; FootageError where nothing is named or found.
    """
    if str(fileslist):
        return listed_clips(fileslist, split=split)
    if not str(data_dir):
        raise FootageError("no footage is named: set train_fileslist (a text file) or train_data_dir")
    folder = Path(data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"the footage folder {folder} does not exist; set train_data_dir to one")
    if not (folder / INDEX).is_file():
        return folder_clips(folder, split=split)
    clips = packed_clips(folder)
    chosen = [clip for clip in clips if clip.split == split]
    if not chosen:
        held = ", ".join(sorted({clip.split for clip in clips}))
        raise FootageError(f"{folder / INDEX} lists no clip of the split {split!r}; it has: {held}")
    return chosen


def all_clips(place: str | Path) -> list[ClipFile]:
    """The clips of every split at `place`: a text file, a folder of videos or a packed collection.

    Raises: FileNotFoundError; FootageError where nothing is found.
    """
    place = Path(place)
    if place.is_dir():
        return packed_clips(place) if (place / INDEX).is_file() else folder_clips(place)
    return listed_clips(place)


def listed_clips(fileslist: str | Path, *, split: str = "train") -> list[ClipFile]:
    """The clips of a text file, one path a line: videos or packed folders, a repeated line counting again.

    A path that is not absolute starts at the working folder or else at the list's own.
    """
    fileslist = Path(fileslist)
    if not fileslist.is_file():
        raise FileNotFoundError(f"the list of clips {fileslist} does not exist; set train_fileslist to one")
    try:
        lines = [line.strip() for line in fileslist.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise FootageError(f"{fileslist} is not text; it should hold one path a line") from error
    paths = [_located(line, fileslist.parent) for line in lines if line]
    if not paths:
        raise FootageError(f"the list of clips {fileslist} is empty; it should hold one path a line")
    if missing := [str(path) for path in paths if not path.exists()]:
        raise FootageError(
            f"{len(missing)} of {len(paths)} clips of {fileslist} are missing: {_some(missing)}"
        )
    if odd := [str(path) for path in paths if path.is_dir() and not _is_packed(path)]:
        raise FootageError(
            f"{len(odd)} of {len(paths)} paths of {fileslist} are folders without {FACES} and {WAVEFORM}: "
            f"{_some(odd)}; name clips, one a line"
        )
    return [ClipFile(path, "packed" if path.is_dir() else "video", split) for path in paths]


def folder_clips(folder: str | Path, *, split: str = "train") -> list[ClipFile]:
    """All *.mp4 below a folder, in the order of their paths; else its packed clips, where it holds such."""
    folder = Path(folder)
    videos = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() == ".mp4" and not path.name.startswith(".") and path.is_file()
    )
    if videos:
        return [ClipFile(path, "video", split) for path in videos]
    packed = sorted(path for path in folder.iterdir() if path.is_dir() and _is_packed(path))
    if packed:
        raise FootageError(
            f"{folder} holds {len(packed)} packed clips but no {INDEX}, which says who speaks and what is "
            "held out; let scripts/pack_footage.py run to its end"
        )
    raise FootageError(
        f"no *.mp4 in {folder} or below, and no {INDEX}: it holds {_inventory(folder)}; {PREPARE}"
    )


def packed_clips(folder: str | Path) -> list[ClipFile]:
    """All clips that the `clips.json` of a packed collection lists, of every split.

    Raises: FootageError for an index that is none or lists folders that are not there.
    """
    folder = Path(folder)
    index = folder / INDEX
    try:
        clips = [_packed_clip(folder, entry) for entry in json.loads(index.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise FootageError(
            f"{index} is no list of packed clips with name, speaker and split ({error!r}); {PREPARE}"
        ) from error
    if not clips:
        raise FootageError(f"{index} lists no clips; {PREPARE}")
    if missing := [clip.name for clip in clips if not _is_packed(clip.path)]:
        raise FootageError(
            f"{len(missing)} of {len(clips)} clips of {index} lack {FACES} or {WAVEFORM}: "
            f"{_some(missing)}; {PREPARE}"
        )
    return clips


def _packed_clip(folder: Path, entry: dict[str, Any]) -> ClipFile:
    return ClipFile(folder / entry["name"], "packed", entry["split"], entry["speaker"])


def _is_packed(folder: Path) -> bool:
    return (folder / FACES).is_file() and (folder / WAVEFORM).is_file()


def _located(line: str, beside: Path) -> Path:
    path = Path(line)
    return path if path.exists() or path.is_absolute() else beside / path


def _some(names: list[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")


def _inventory(folder: Path) -> str:
    """What lies in a folder and below, as counts of name endings: "12 .wav, 3 .mov"."""
    counts: dict[str, int] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            ending = path.suffix.lower() or "files without an ending"
            counts[ending] = counts.get(ending, 0) + 1
    frequent = sorted(counts.items(), key=lambda item: -item[1])[:5]
    return ", ".join(f"{count} {ending}" for ending, count in frequent) or "nothing"
