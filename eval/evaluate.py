"""Dubbed clips judged from all sides: sync, lips, picture and form, each number with its validity.

    python eval/evaluate.py --results_dir results --html report.html --jsonl report.jsonl
    python eval/evaluate.py --results_dir results --references_dir originals
    python eval/evaluate.py --list clips.jsonl --judge syncnet --judge embedded=checkpoints/syncnet-tiny

A job's report beside a result (scripts/inference.py --profile) names its source and sound; so do the lines of
--list, {"result", "source", "sound", "reference"}. Every judge is first tried on the genuine clip, and where
it fails its numbers are invalid. docs/evaluation.md says what each number means. The exit code is 2 when
numbers of a clip are invalid; the others are still told.
"""

import argparse
import sys
from pathlib import Path

from latentsync.command import Parser, leave, run_command


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--results_dir", type=Path, help="folder of results, the videos directly in it")
    add("--references_dir", type=Path, help="folder of clips of the same names that show what is right")
    add("--list", type=Path, help="JSON lines instead of a folder")
    add("--judge", action="append", default=[], help="NAME or NAME=FILE, repeatable (default: all at hand)")
    add("--vae", type=Path, help="folder of the autoencoder, for a judge of latents")
    add("--others_dir", type=Path, help="clips whose sounds are wrong ones (default: sounds and sources)")
    add("--vgg16", type=Path, default=Path("checkpoints/auxiliary/vgg16-397923af.pth"), help="file for LPIPS")
    add("--device", default="auto", help="where judges compute: auto, cpu, cuda, mps (default: %(default)s)")
    add("--html", type=Path, help="file for the report with curves and contact sheets")
    add("--jsonl", type=Path, help="file for a line a clip and a line of means")
    flags = parser.parse_args()
    if (flags.results_dir is None) == (flags.list is None):
        parser.error("pass either --results_dir or --list")
    return flags


def run(flags: argparse.Namespace) -> None:
    """Evaluate every clip, then write and print what was found."""
    from tqdm import tqdm

    from latentsync import evaluation
    from latentsync.device import pick_device
    from latentsync.errors import FootageError
    from latentsync.face import MediaPipeDetector
    from latentsync.quality.lpips import Lpips

    items = (
        evaluation.read_list(flags.list)
        if flags.list
        else evaluation.items_in(flags.results_dir, flags.references_dir)
    )
    judges = evaluation.judges_at_hand(flags.judge, device=pick_device(flags.device), vae=flags.vae)
    lpips = Lpips.from_files(flags.vgg16) if flags.vgg16.is_file() else None
    notes = evaluation.missing(judges, lpips, flags.vgg16)
    for note in notes:
        print(note, file=sys.stderr)
    with MediaPipeDetector() as detector:
        others = evaluation.other_sounds(items, flags.others_dir)
        evaluator = evaluation.Evaluator(judges, detector, lpips=lpips, others=others)
        rows = [evaluator.evaluate(item) for item in tqdm(items, unit="clip", disable=None)]
    means = evaluation.summary(rows)
    print(evaluation.table(rows, means))
    if flags.jsonl:
        lines = [*map(evaluation.json_line, rows), evaluation.summary_line(rows, means)]
        flags.jsonl.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if flags.html:
        evaluation.write_page(flags.html, rows, means, notes)
    if invalid := [row.item.result.name for row in rows if row.is_invalid]:
        raise FootageError(
            f"{len(invalid)} of {len(rows)} clips have invalid numbers, {invalid[0]} among them"
        )


def main() -> int:
    return run_command(run, parse())


if __name__ == "__main__":
    leave(main())
