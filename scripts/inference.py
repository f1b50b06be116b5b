"""Redraws the mouth of a talking person so that it says a new soundtrack.

    python scripts/inference.py --video assets/portrait.mp4 --audio assets/speech.wav --output result.mp4

Exit codes: 0 done, 2 something in the input must be mended (one line says what), 130 interrupted.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "2")  # MediaPipe's C++ log, read when it loads
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from tqdm import tqdm

from latentsync import dub
from latentsync.dubbing import DubReport, Progress
from latentsync.errors import LatentSyncError


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--video", "--video_path", required=True, help="the talking clip")
    add("--audio", "--audio_path", required=True, help="the soundtrack: any sound file, or a video's sound")
    add("--output", "--video_out_path", required=True, help="the result: .mp4, .mov or .mkv")
    add("--model", help="model folder or Hub id (default: the embedded checkpoints/latentsync-tiny)")
    add("--inference_steps", type=int, help="denoising steps (default: the model's own)")
    add(
        "--guidance_scale",
        type=float,
        help="how strongly to follow the sound, 1 to 3 (default: the model's own)",
    )
    add(
        "--seed",
        type=int,
        default=1247,
        help="of the noise; the same seed gives the same result (default 1247)",
    )
    add(
        "--duration",
        default="audio",
        choices=("audio", "video", "shortest"),
        help="how long it lasts (default: audio)",
    )
    add(
        "--detector",
        default="auto",
        choices=("auto", "mediapipe", "insightface"),
        help="face finder (default: auto)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add(
        "--dtype",
        default="auto",
        help="auto, float32, float16 or bfloat16 (default: float16 on CUDA, else float32)",
    )
    add("--crf", type=int, default=18, help="H.264 quality, 0 to 51, lower is better (default 18)")
    add("--temp_dir", help="folder for the unfinished result (default: beside the output)")
    add("--profile", action="store_true", help="print seconds by stage and save them to OUTPUT.report.json")
    return parser.parse_args(arguments)


def run(flags: argparse.Namespace) -> DubReport:
    options = {key: value for key, value in vars(flags).items() if key != "profile"}
    with tqdm(unit="frame", disable=None) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.frames_total
            bar.update(progress.frames - bar.n)

        return dub(**options, progress=show)


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill cleans up like Ctrl-C
    flags = parse()
    try:
        report = run(flags)
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    except (LatentSyncError, OSError, ValueError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if flags.profile:
        report.save(Path(flags.output + ".report.json"))
        print(report.table())
    if report.frames_passed_through:
        print(
            f"{report.frames_passed_through} of {report.frames} frames had no face to redraw "
            "and were left as they were"
        )
    print(f"{report.output}: {report.frames} frames, {report.duration_seconds:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
