"""Moves the sound of a clip by a known offset and asks a Synchformer for it: the five likeliest answers.

    python scripts/synchformer_example.py --vid_path clip.mp4 --offset_sec 0.4
    python scripts/synchformer_example.py --exp_name 24-01-04T16-39-21 --vid_path clip.mp4 \\
        --offset_sec 1.6 --v_start_i_sec 0

A positive offset means that the sound is early. Any video is read, at 25 frames a second and 16 kHz. With a
synchronizability model it prints how likely an offset can be told at all.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path

from latentsync.command import Parser, leave, run_command


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--vid_path", type=Path, required=True, help="the clip, with sound")
    add("--exp_name", help="a published run, such as 24-01-04T16-39-21, whose file is here")
    add("--ckpt", type=Path, help="a file or a folder instead (default: the embedded network)")
    add("--offset_sec", type=float, default=0.0, help="by how much the sound is made early (default: 0 s)")
    add("--v_start_i_sec", type=float, default=0.0, help="where the pictures start (default: 0 s)")
    add("--keep_priming", action="store_true", help="read the sound with the encoder's start-up, as of old")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    return parser.parse_args()


def run(flags: argparse.Namespace) -> None:
    """Open, read, ask, print."""
    from latentsync.device import pick_device
    from latentsync.face import make_detector
    from latentsync.sync.synchformer.footage import read_clip
    from latentsync.sync.synchformer.open import open_synchformer
    from latentsync.sync.synchformer.places import locate
    from latentsync.sync.synchformer.predict import lines, predict, seconds_to_read

    network = open_synchformer(locate(flags.exp_name, flags.ckpt)).to(pick_device(flags.device))
    wanted = {"offset_seconds": flags.offset_sec, "start_seconds": flags.v_start_i_sec}
    with make_detector() if network.viewing.kind == "face" else nullcontext() as detector:
        clip = read_clip(
            flags.vid_path,
            network.viewing,
            detector=detector,
            seconds=seconds_to_read(network.viewing, **wanted),
            keep_priming=flags.keep_priming,
        )
    for line in lines(predict(network, clip, **wanted)):
        print(line)


def main() -> int:
    return run_command(run, parse())


if __name__ == "__main__":
    leave(main())
