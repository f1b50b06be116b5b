"""How well lips and sound of videos agree, and by how many frames they are apart, by a judge of sync.

    python eval/sync_conf.py --video_path clip.mp4
    python eval/sync_conf.py --videos_dir clips --judge stable_syncnet
    python eval/sync_conf.py --videos_dir clips --json > scores.jsonl
    python eval/sync_conf.py --videos_dir clips --shifts=-8,-3,5,12

A positive offset means that the sound is early: delay it by offset / 25 s. A clip with several faces is
judged face by face and counts with the one that the judge is surest of. What cannot be judged gets a row with
the reason, and the command leaves with 2. --shifts tests the judge itself: each clip's sound is moved by
known amounts, and the result is how often the judge finds them to within a frame, from the clip's own offset.
"""

import argparse
import sys
from pathlib import Path

from latentsync.command import Parser, leave, run_command

JUDGES = {
    "syncnet": "the original SyncNet",
    "stable_syncnet": "LatentSync's own",
    "embedded": "a small StableSyncNet that comes with this repository, since no published weights are here",
}
MAX_SHIFT_FRAMES = 15  # to which judges look
SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".mpg", ".mpeg", ".webm", ".m4v")


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--video_path", type=Path, help="one video")
    parser.add_argument("--videos_dir", type=Path, help="folder of videos, those directly in it")
    parser.add_argument(
        "--judge",
        choices=JUDGES,
        help="who judges (default: the first of these whose weights are in checkpoints/)",
    )
    parser.add_argument("--initial_model", type=Path, help="file or folder of the judge's weights, elsewhere")
    parser.add_argument("--vae", type=Path, help="folder of the autoencoder, for a judge of latents")
    parser.add_argument("--detector", default="auto", help="auto, mediapipe or insightface (default auto)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default auto)")
    parser.add_argument(
        "--shifts", type=_frames, help="of at most 15 frames, such as -8,-3,5,12: test the judge itself"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON line a clip and nothing else")
    flags = parser.parse_args()
    if (flags.video_path is None) == (flags.videos_dir is None):
        parser.error("pass either --video_path or --videos_dir")
    if flags.initial_model is not None and flags.judge is None:
        parser.error("--initial_model needs --judge, which says whose weights they are")
    return flags


def _frames(text: str) -> list[int]:
    """Numbers of frames with commas between them, none farther than judges look."""
    shifts = [int(part) for part in text.split(",")]
    if any(abs(shift) > MAX_SHIFT_FRAMES for shift in shifts):
        raise ValueError
    return shifts


def videos_of(flags: argparse.Namespace) -> list[Path]:
    """The videos to judge. Raises: FileNotFoundError for a missing folder or one without videos."""
    if flags.video_path is not None:
        return [flags.video_path]
    if not flags.videos_dir.is_dir():
        raise FileNotFoundError(f"the folder {flags.videos_dir} does not exist; pass a folder of videos")
    videos = sorted(p for p in flags.videos_dir.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not videos:
        raise FileNotFoundError(f"no video in {flags.videos_dir} (looked for {', '.join(SUFFIXES)})")
    return videos


def run(flags: argparse.Namespace) -> None:
    """Judge video after video, a row each as it comes; then the summary."""
    from tqdm import tqdm

    from latentsync.device import pick_device
    from latentsync.errors import FootageError
    from latentsync.face import make_detector
    from latentsync.sync import verdict_text as text
    from latentsync.sync.open_judge import default_judge, open_judge
    from latentsync.sync.verdict import judge_clip, shift_test

    videos = videos_of(flags)
    name = flags.judge or default_judge()
    if flags.judge is None:
        print(f"the judge is {name}: {JUDGES[name]}", file=sys.stderr)
    judge = open_judge(name, flags.initial_model, vae=flags.vae, device=pick_device(flags.device))
    verdicts = []
    with make_detector(flags.detector) as detector:
        for video in tqdm(videos, unit="video", disable=None):
            if flags.shifts:
                verdict = shift_test(video, judge, detector, flags.shifts)
                rows, line = [text.shift_row(verdict)], text.shift_json(verdict)
            else:
                verdict = judge_clip(video, judge, detector)
                rows, line = text.clip_rows(verdict), text.clip_json(verdict)
            verdicts.append(verdict)
            for row in [line] if flags.json else rows:
                tqdm.write(row, file=sys.stdout)
            sys.stdout.flush()  # whoever reads along sees each clip when it is done
    if not flags.json:
        print((text.shift_summary if flags.shifts else text.clip_summary)(verdicts))
    if wrong := [verdict for verdict in verdicts if verdict.is_invalid]:
        names = ", ".join(verdict.video.name for verdict in wrong[:3])
        raise FootageError(f"{len(wrong)} of {len(verdicts)} videos could not be judged, {names} among them")


def main() -> int:
    return run_command(run, parse())


if __name__ == "__main__":
    leave(main())
