"""Dub clips with each other's sound and measure whether the lips follow it: a table, then one JSON line.

python eval/cross_dub.py --frames A.mp4 --sound B.mp4
python eval/cross_dub.py --pairs_dir clips --pattern 'obama_c*_val.mp4' --json scores.json
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import latentsync
from latentsync.errors import LatentSyncError
from latentsync.face.detect import MediaPipeDetector
from latentsync.quality import cross_dub


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=Path, help="clip A, whose mouth is redrawn (with --sound)")
    parser.add_argument("--sound", type=Path, help="clip B, whose sound is used and whose mouth is the truth")
    parser.add_argument("--pairs_dir", type=Path, help="folder of clips: all ordered pairs instead of one")
    parser.add_argument(
        "--pattern", default="*.mp4", help="which files of --pairs_dir (default: %(default)s)"
    )
    parser.add_argument("--model", help="checkpoint folder or Hub id (default: the embedded one)")
    parser.add_argument("--inference_steps", type=int, help="sampling steps (default: the model's)")
    parser.add_argument("--guidance_scale", type=float, help="1 = none (default: the model's)")
    parser.add_argument("--seed", type=int, default=1247, help="of the noise (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file that gets the JSON line too")
    args = parser.parse_args()
    one, many = (args.frames is not None) + (args.sound is not None), args.pairs_dir is not None
    if one != (0 if many else 2):
        parser.error("pass either --frames and --sound, or --pairs_dir")
    return args


def main() -> None:
    args = parse_args()
    options = {name: getattr(args, name) for name in ("model", "inference_steps", "guidance_scale", "seed")}
    dub = partial(latentsync.dub, **options, duration="audio")
    try:
        pairs = [(args.frames, args.sound)]
        if args.pairs_dir:
            pairs = cross_dub.pairs_in(args.pairs_dir, args.pattern)
        with MediaPipeDetector() as detector:
            results = list(cross_dub.cross_dub(pairs, dub, detector))
    except (LatentSyncError, FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error
    print(cross_dub.table(results))
    print(line := cross_dub.json_line(results))
    if args.json:
        args.json.write_text(line + "\n")


if __name__ == "__main__":
    main()
