"""Collections that Synchformers are trained and tested on -> lists of clips, and offsets fixed for testing.

LRS3, VGGSound, VGGSound-Sparse and AudioSet lie as v-iashin/Synchformer has them: prepared files (25 fps,
16 kHz) below `root`, lists and tables of upstream's `data/` folder in `lists`. Packed collections and folders
of aligned faces lie as `latentsync.footage` has them.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentsync.errors import FootageError
from latentsync.footage.listing import EXAMPLES, ClipFile, find_clips

SPLIT_SEED = 1337  # of upstream
SPLITS = ("train", "valid", "test")
AUDIOSET_FOLDERS = {
    "train": "unbalanced_train_segments",
    "valid": "balanced_train_segments",
    "test": "eval_segments",
}
AUDIOSET_PHASES = {"train": "unbalanced", "valid": "balanced", "test": "eval"}
CLIP_MILLISECONDS = 10_000
MAX_MISSING_SHARE = 0.2


@dataclass(frozen=True)
class ListedClip:
    """A clip, `key` as its lists name it; `file` is a packed clip or a video of faces, else None."""

    key: str
    path: Path
    file: ClipFile | None = None
    speaker: str | None = None


@dataclass(frozen=True)
class FixedOffset:
    """What a test applies to a clip, always the same."""

    offset_seconds: float
    start_seconds: float


def list_clips(dataset: str, root: str | Path, split: str, lists: str | Path = "") -> list[ListedClip]:
    """The clips of `split` ("train", "valid", "test") of a collection laid out as LAYOUTS says.

    Clips that a list names and that are not there are left out, up to MAX_MISSING_SHARE of them. Raises:
    FileNotFoundError; FootageError for an unknown layout or split, an empty list, or too many missing.
    """
    if dataset not in LAYOUTS:
        raise FootageError(f"dataset {dataset!r} is unknown; known are {', '.join(LAYOUTS)}")
    if split not in SPLITS:
        raise FootageError(f"split {split!r} is unknown; known are {', '.join(SPLITS)}")
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"the collection {root} does not exist; set data.vids_path to its folder")
    clips = LAYOUTS[dataset](root, split, Path(lists) if lists else root)
    there = [clip for clip in clips if clip.path.exists()]
    missing = [clip.key for clip in clips if not clip.path.exists()]
    if not clips or len(missing) > MAX_MISSING_SHARE * len(clips):
        named = f": {', '.join(missing[:EXAMPLES])}" if missing else ""
        raise FootageError(
            f"{dataset} in {root}: {len(missing)} of {len(clips)} clips of {split!r} are missing{named}"
        )
    return there


def read_fixed_offsets(path: str | Path) -> dict[str, FixedOffset]:
    """Offsets by key, of a table or of all tables in a folder.

    Upstream's columns: path, offset_sec, vstart_sec; or those of VGGSound-Sparse's clean set, of which only
    rows with is_sync 1 count. Raises: FileNotFoundError; FootageError for other columns.
    """
    path = Path(path)
    tables = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not tables or not all(table.is_file() for table in tables):
        raise FileNotFoundError(
            f"no table of fixed offsets at {path}; set data.fixed_offsets to one, or to ''"
        )
    offsets: dict[str, FixedOffset] = {}
    for table in tables:
        for row in _rows(table):
            try:
                key = row["video_id"] if "video_id" in row else row["path"]
                if row.get("is_sync", "1") == "1":
                    offset = FixedOffset(float(row["offset_sec"]), float(row["vstart_sec"]))
                    offsets[_without_ending(key)] = offset
            except (KeyError, ValueError) as error:
                raise FootageError(
                    f"{table} is no table of fixed offsets ({error}); expected columns path, offset_sec, "
                    "vstart_sec"
                ) from error
    return offsets


def _lrs3(root: Path, split: str, lists: Path) -> list[ListedClip]:
    keys = _listed(lists / f"lrs3_{split}.txt")
    if keys is None:
        found = sorted(path.relative_to(root) for path in root.glob("pretrain/*/*.mp4"))
        videos = _shares(sorted({path.parts[1] for path in found}))[split]
        keys = [path.with_suffix("").as_posix() for path in found if path.parts[1] in videos]
    return [ListedClip(key, root / f"{key}.mp4") for key in keys]


def _longer_lrs3(root: Path, split: str, lists: Path) -> list[ListedClip]:
    return _filtered(_lrs3(root, split, lists), lists / "filtered_examples_lrs")


def _vggsound(root: Path, split: str, lists: Path) -> list[ListedClip]:
    keys = _listed(lists / f"vggsound_{split}.txt")
    if keys is None:
        keys = [_flat_key(row[0], float(row[1])) for row in _vggsound_rows(lists, split)]
    clips = [ListedClip(key, root / f"{key}.mp4") for key in keys]
    return _filtered(clips, lists / "filtered_examples_vggsound")


def _vggsound_rows(lists: Path, split: str) -> list[list[str]]:
    """Rows id, start, label, split; "valid" is drawn from "train" with the classes of "test"."""
    rows = _plain_rows(lists / "vggsound.csv")
    test = [row for row in rows if row[3] == "test"]
    if split == "test":
        return test
    train = [row for row in rows if row[3] == "train"]
    wanted = Counter(row[2] for row in test)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(train))
    valid: set[int] = set()
    for number in order.tolist():
        if wanted[train[number][2]] > 0:
            wanted[train[number][2]] -= 1
            valid.add(number)
    return [row for number, row in enumerate(train) if (number in valid) == (split == "valid")]


def _vggsound_sparse(root: Path, split: str, lists: Path) -> list[ListedClip]:
    table = lists / "picked_sparse_classes.csv"
    picked = {row[0] for row in _plain_rows(table, delimiter="\t") if len(row) > 1 and row[1].strip() == "y"}
    labels = {row[0]: row[2] for row in _plain_rows(lists / "vggsound.csv")}
    return [clip for clip in _vggsound(root, split, lists) if labels.get(_youtube_id(clip.key)) in picked]


def _vggsound_sparse_clean(root: Path, split: str, lists: Path) -> list[ListedClip]:
    table = lists / "vggsound_sparse_clean_fixed_offsets.csv"
    genuine = {_without_ending(row["video_id"]) for row in _rows(table) if row.get("is_sync", "1") == "1"}
    return [clip for clip in _vggsound_sparse(root, split, lists) if clip.key in genuine]


def _audioset(root: Path, split: str, lists: Path) -> list[ListedClip]:
    folder = AUDIOSET_FOLDERS[split]
    keys = []
    for row in _plain_rows(lists / "audioset.csv"):
        phase, _, video = row[0].partition("/")
        if phase == AUDIOSET_PHASES[split]:
            keys.append(_flat_key(video, float(row[1])))
    return [ListedClip(f"{AUDIOSET_PHASES[split]}/{key}", root / folder / f"{key}.mp4") for key in keys]


def _faces(root: Path, split: str, lists: Path) -> list[ListedClip]:
    """A packed collection, whose "val" serves both "valid" and "test"; or a folder of face videos."""
    files = find_clips(data_dir=root, split="train" if split == "train" else "val")
    return [ListedClip(file.name, file.path, file, file.speaker) for file in files]


def _folder(root: Path, split: str, lists: Path) -> list[ListedClip]:
    """All *.mp4 below a folder: those below its sub-folder `split` where it has such."""
    place = root / split if (root / split).is_dir() else root
    found = sorted(place.rglob("*.mp4"))
    return [ListedClip(path.relative_to(root).with_suffix("").as_posix(), path) for path in found]


LAYOUTS: dict[str, Callable[[Path, str, Path], list[ListedClip]]] = {
    "lrs3": _lrs3,
    "longer_lrs3": _longer_lrs3,
    "vggsound": _vggsound,
    "vggsound_sparse": _vggsound_sparse,
    "vggsound_sparse_clean": _vggsound_sparse_clean,
    "audioset": _audioset,
    "packed": _faces,
    "folder": _folder,
}


def _shares(names: list[str]) -> dict[str, set[str]]:
    """Names of `train`, `valid`, `test`, 8 : 1 : 1, by a seed."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(names))
    first, second = round(0.8 * len(names)), round(0.9 * len(names))
    parts = order[:first], order[first:second], order[second:]
    return {split: {names[i] for i in part} for split, part in zip(SPLITS, parts, strict=True)}


def _filtered(clips: Iterable[ListedClip], folder: Path) -> list[ListedClip]:
    """Without those that the lists in `folder` name as too short or broken."""
    left_out = {
        Path(line.split(",")[0]).stem
        for table in sorted(folder.glob("*.txt"))
        for line in _listed(table) or []
    }
    return [clip for clip in clips if Path(clip.key).name not in left_out]


def _listed(path: Path) -> list[str] | None:
    """The lines of a list, without endings; None where there is no such file."""
    if not path.is_file():
        return None
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [_without_ending(line) for line in lines if line]


def _rows(path: Path) -> list[dict[str, str]]:
    with _table(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _plain_rows(path: Path, delimiter: str = ",") -> list[list[str]]:
    with _table(path).open(newline="", encoding="utf-8") as file:
        return [row for row in csv.reader(file, delimiter=delimiter) if row]


def _table(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"the table {path} does not exist; set data.lists to the data/ folder of v-iashin/Synchformer"
        )
    return path


def _flat_key(video: str, start_seconds: float) -> str:
    start = round(1000 * start_seconds)
    return f"{video}_{start}_{start + CLIP_MILLISECONDS}"


def _youtube_id(key: str) -> str:
    """ "-abc_d_1000_11000" -> "-abc_d"."""
    return key.rsplit("_", 2)[0]


def _without_ending(key: str) -> str:
    return key.removesuffix(".mp4")
