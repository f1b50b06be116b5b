"""Dub clips with each other's sound and measure whether the lips follow it: a table, then one JSON line.

python eval/cross_dub.py --frames A.mp4 --sound B.mp4
python eval/cross_dub.py --pairs_dir clips --pattern 'obama_c*_val.mp4' --json scores.json
"""

import argparse
from functools import partial
from pathlib import Path

from latentsync.command import Parser, leave, run_command


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
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
    flags = parser.parse_args()
    one, many = (flags.frames is not None) + (flags.sound is not None), flags.pairs_dir is not None
    if one != (0 if many else 2):
        parser.error("pass either --frames and --sound, or --pairs_dir")
    return flags


def run(flags: argparse.Namespace) -> None:
    """Dub and measure every pair, then print the table and the line."""
    import latentsync
    from latentsync.face.detect import MediaPipeDetector
    from latentsync.quality import cross_dub

    names = ("model", "inference_steps", "guidance_scale", "seed")
    dub = partial(latentsync.dub, **{name: getattr(flags, name) for name in names}, duration="audio")
    pairs = [(flags.frames, flags.sound)]
    if flags.pairs_dir:
        pairs = cross_dub.pairs_in(flags.pairs_dir, flags.pattern)
    with MediaPipeDetector() as detector:
        results = list(cross_dub.cross_dub(pairs, dub, detector))
    print(cross_dub.table(results))
    print(line := cross_dub.json_line(results))
    if flags.json:
        flags.json.write_text(line + "\n")


def main() -> int:
    return run_command(run, parse())


if __name__ == "__main__":
    leave(main())
