"""Packs talking clips for training: aligned faces, mouth shapes and sound.

    python scripts/pack_footage.py --list data/clips.csv --output data/packed --resolution 128

The list is a CSV with the header path,speaker,split; paths are relative to the list; split is train or val.
"""

import argparse
import csv
from pathlib import Path

from latentsync.command import Parser, run_command
from latentsync.errors import ConfigError

COLUMNS = ("path", "speaker", "split")


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--list", required=True, type=Path, help="CSV of clips: path,speaker,split")
    parser.add_argument("--output", required=True, type=Path, help="folder of the packed collection")
    parser.add_argument(
        "--resolution", type=int, default=128, help="side of the aligned faces in pixels (default 128)"
    )
    return parser.parse_args()


def read_list(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV of clips. Raises: ConfigError when a column is missing, or empty in a row."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, start=1):
        if missing := [name for name in COLUMNS if not row.get(name)]:
            raise ConfigError(
                f"list {path}, clip {number}: no {missing[0]}; the header path,speaker,split is needed"
            )
    return rows


def run(flags: argparse.Namespace) -> None:
    """Pack every clip that is not packed yet, then say how many there are."""
    from latentsync.face import make_detector
    from latentsync.preprocess.pack import Source, pack

    rows = read_list(flags.list)
    sources = [Source(flags.list.parent / row["path"], row["speaker"], row["split"]) for row in rows]
    clips = pack(sources, flags.output, make_detector("auto"), resolution=flags.resolution)
    frames = sum(clip.frames for clip in clips)
    print(f"{len(clips)} of {len(sources)} clips, {frames} frames: {flags.output}")


def main() -> int:
    return run_command(run, parse())


if __name__ == "__main__":
    raise SystemExit(main())
