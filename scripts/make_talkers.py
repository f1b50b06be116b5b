"""Makes talking faces with known lips and a known offset of the sound, to pre-train and to test judges on.

    python scripts/make_talkers.py --output data/talkers --count 200 --resolution 128
    python scripts/make_talkers.py --output talkers --count 20 --videos
    python scripts/make_talkers.py --output talkers --count 5 --videos --portrait face.png --voice espeak

Faces are drawn, a new one every other clip, or are those of the --portrait pictures. By default the output is
a packed collection as scripts/pack_footage.py leaves it, one speaker in eight in the split val; with --videos
it is a folder of MP4s beside talkers.json, which tells the truth about each. The same flags give the same
bytes, espeak-ng of another version apart.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from latentsync.command import Parser, run_command

if TYPE_CHECKING:
    from latentsync.preprocess.talker import Talker

CLIPS_PER_FACE = 2
VAL_EVERY = 8  # faces


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--output", required=True, type=Path, help="new folder for the talkers")
    parser.add_argument("--count", type=int, default=20, help="clips (default 20)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a clip (default 5)")
    parser.add_argument("--side", type=int, default=256, help="of whole pictures, in pixels (default 256)")
    parser.add_argument(
        "--resolution", type=int, default=128, help="side of the aligned faces in pixels (default 128)"
    )
    parser.add_argument("--videos", action="store_true", help="write MP4s instead of a packed collection")
    parser.add_argument(
        "--portrait", type=Path, nargs="+", default=[], help="pictures to warp instead of drawn faces"
    )
    parser.add_argument(
        "--voice", default="babble", help="babble, espeak, or a sound file to speak from (default babble)"
    )
    parser.add_argument(
        "--offset_frames", type=int, default=0, help="by how much the sound is early (default 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides faces and voices (default 0)")
    flags = parser.parse_args()
    for name in ("count", "seconds", "side", "resolution"):
        if getattr(flags, name) <= 0:
            parser.error(f"--{name} {getattr(flags, name)}: a number above 0 is needed")
    return flags


def talkers(flags: argparse.Namespace) -> Iterator[tuple[str, str, "Talker"]]:
    """(name, split, talker) of every clip."""
    import cv2

    from latentsync.errors import MediaError
    from latentsync.face import make_detector
    from latentsync.preprocess.talker import (
        DrawnTalker,
        Portrait,
        PortraitTalker,
        babble,
        espeak,
        recording,
    )

    speech = {"babble": babble, "espeak": espeak}.get(flags.voice) or recording(flags.voice)
    same = {"frames": round(25 * flags.seconds), "side": flags.side, "offset_frames": flags.offset_frames}
    portraits = []
    for path in flags.portrait:
        picture = cv2.imread(str(path))
        if picture is None:
            raise MediaError(f"the portrait {path} cannot be read as a picture")
        with make_detector("mediapipe") as detector:
            portraits.append(Portrait.of_picture(picture[:, :, ::-1].copy(), detector))
    for number in range(flags.count):
        face, clip = divmod(number, CLIPS_PER_FACE)
        split = "val" if face % VAL_EVERY == VAL_EVERY - 1 else "train"
        if portraits:
            place = face % len(portraits)
            seed = flags.seed * 1_000_000 + number
            talker = PortraitTalker(
                portraits[place], seed, speaker=flags.portrait[place].stem, speech=speech, **same
            )
        else:
            talker = DrawnTalker(flags.seed * 1_000_000 + face, clip=clip, speech=speech, **same)
        yield f"talker_{number:05d}", split, talker


def run(flags: argparse.Namespace) -> None:
    """Make every clip, then say where they are."""
    from latentsync.preprocess.talker import pack_talkers, write_talker

    if not flags.videos:
        clips = pack_talkers(talkers(flags), flags.output, resolution=flags.resolution)
        print(f"{len(clips)} talkers, {sum(clip.frames for clip in clips)} frames: {flags.output}")
        return
    flags.output.mkdir(parents=True, exist_ok=True)
    truth = []
    for name, _, talker in talkers(flags):
        write_talker(talker, flags.output / f"{name}.mp4")
        aperture = [round(float(value), 4) for value in talker.mouth()[:, 0]]
        truth.append(
            {
                "video": f"{name}.mp4",
                "speaker": talker.speaker,
                "offset_frames": talker.offset_frames,
                "aperture": aperture,
            }
        )
    (flags.output / "talkers.json").write_text(json.dumps(truth, indent=1))
    print(f"{len(truth)} talkers: {flags.output}")


def main() -> int:
    return run_command(run, parse())


if __name__ == "__main__":
    raise SystemExit(main())
