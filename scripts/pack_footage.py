"""Packs talking clips for training: aligned faces, mouth shapes and sound.

    python scripts/pack_footage.py --list data/clips.csv --output data/packed --resolution 128

The list is a CSV with the header path,speaker,split; paths are relative to the list; split is train or val.
"""

import argparse
import csv
from pathlib import Path

from latentsync.face import make_detector
from latentsync.preprocess.pack import Source, pack


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", required=True, type=Path, help="CSV of clips: path,speaker,split")
    parser.add_argument("--output", required=True, type=Path, help="folder of the packed collection")
    parser.add_argument(
        "--resolution", type=int, default=128, help="side of the aligned faces in pixels (default 128)"
    )
    flags = parser.parse_args()
    with flags.list.open(newline="") as file:
        rows = list(csv.DictReader(file))
    sources = [Source(flags.list.parent / row["path"], row["speaker"], row["split"]) for row in rows]
    clips = pack(sources, flags.output, make_detector("auto"), resolution=flags.resolution)
    print(
        f"{len(clips)} of {len(sources)} clips, {sum(clip.frames for clip in clips)} frames: {flags.output}"
    )


if __name__ == "__main__":
    main()
