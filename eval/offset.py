"""By how many seconds sound and picture of clips are off, asked of a Synchformer: a line a clip.

    python eval/offset.py --video_path clip.mp4
    python eval/offset.py --videos_dir results --ckpt checkpoints/synchformer/24-01-04T16-39-21.pt --json

Positive: the sound is early. With --json each clip is a line {"video", "judge", "offset_seconds",
"confidence"} and nothing else is printed; one that cannot be judged has null and a "reason". Exit code 2 if
there was such a clip.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path

from latentsync.command import Parser, leave, run_command


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--video_path", type=Path, help="one clip")
    add("--videos_dir", type=Path, help="or all clips of a folder")
    add("--exp_name", help="a published run, such as 24-01-04T16-39-21, whose file is here")
    add("--ckpt", type=Path, help="a file or a folder instead (default: the embedded network)")
    add("--hop_seconds", type=float, default=1.28, help="from one stretch to the next (default: %(default)s)")
    add("--keep_priming", action="store_true", help="read the sound with the encoder's start-up, as of old")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    add("--json", action="store_true", help="one JSON line a clip on stdout, and nothing else")
    flags = parser.parse_args()
    if (flags.video_path is None) == (flags.videos_dir is None):
        parser.error("pass either --video_path or --videos_dir")
    return flags


def run(flags: argparse.Namespace) -> None:
    """Measure every clip, print as asked."""
    from latentsync.device import pick_device
    from latentsync.face import make_detector
    from latentsync.sync.synchformer.open import open_synchformer
    from latentsync.sync.synchformer.places import locate
    from latentsync.sync.synchformer.report import check_all, clips_in, measure_all, table

    place = locate(flags.exp_name, flags.ckpt)
    network = open_synchformer(place).to(pick_device(flags.device))
    clips = [flags.video_path] if flags.video_path else clips_in(flags.videos_dir)
    with make_detector() if network.viewing.kind == "face" else nullcontext() as detector:
        options = {"hop_seconds": flags.hop_seconds, "keep_priming": flags.keep_priming}
        rows = []
        for row in measure_all(clips, network, place.stem, detector=detector, **options):
            rows.append(row)
            if flags.json:
                print(row.json_line(), flush=True)
    if not flags.json:
        print(table(rows))
    check_all(rows)


def main() -> int:
    return run_command(run, parse())


if __name__ == "__main__":
    leave(main())
