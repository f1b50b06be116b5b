"""Rows as a table to read and as JSON lines to keep."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from latentsync.evaluation.clip import ClipRow, JudgedSync
from latentsync.evaluation.summary import Interval
from latentsync.sync.calibration import Calibration
from latentsync.sync.judge import SyncScore

NAME_WIDTH = 32
TITLES = {  # of the numbers that have no judge's name before them
    "lip_aperture_r": "lips' opening against the true lips, r at the best lag",
    "lip_width_r": "lips' width against the true lips, r at the best lag",
    "lip_partial_r": "lips' opening, loudness taken out of both",
    "lip_opening_ratio": "how far the lips open, 1 = as the true ones",
    "lip_own_r": "control: r against the source's own lips",
    "lip_wrong_r": "control: r against the lips of another moment",
    "psnr_inside": "PSNR in the mouth region, dB",
    "ssim_inside": "SSIM in the mouth region",
    "lpips_inside": "LPIPS in the mouth region",
    "landmark_distance": "points of the lips, distance in eye distances",
    "psnr_outside": "PSNR of the face around it, dB",
    "ssim_outside": "SSIM of the face around it",
    "lpips_outside": "LPIPS of the face around it",
    "seam_ratio": "gradient across the mask's edge, 1 = no seam",
    "flicker_ratio": "change in still places, 1 = no flicker",
}
OF_JUDGES = {
    "confidence": "confidence",
    "offset_frames": "offset, frames",
    "of_genuine": "confidence as a share of the genuine clip's",
}


def title(name: str) -> str:
    """A number's name in words."""
    judge, _, kind = name.rpartition(".")
    return f"{judge}: {OF_JUDGES[kind]}" if judge else TITLES[name]


def shown(value: float | None) -> str:
    """A number to three places; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def clip_lines(row: ClipRow) -> list[str]:
    """What was found in one clip: a line a number, then what is invalid and why."""
    lines = [str(row.item.result)]
    lines += [f"  {title(name):<58} {shown(value):>9}" for name, value in row.numbers.items()]
    lines += [f"  invalid: {name}: {reason}" for name, reason in row.invalid.items()]
    return lines


def table(rows: Sequence[ClipRow], means: Mapping[str, Interval]) -> str:
    """Clip by clip, then the mean of every number over the clips where it is valid."""
    lines = [line for row in rows for line in clip_lines(row)]
    lines.append(f"mean over clips, with the interval that holds it in 95 of 100 cases ({len(rows)} clips)")
    for name, mean in means.items():
        interval = "" if math.isnan(mean.low) else f" [{mean.low:.3f}, {mean.high:.3f}]"
        lines.append(f"  {title(name):<58} {shown(mean.mean):>9}{interval} of {mean.clips}")
    invalid = sum(row.is_invalid for row in rows)
    lines.append(f"{invalid} of {len(rows)} clips have numbers that are invalid" if invalid else "all valid")
    return "\n".join(lines)


def json_line(row: ClipRow) -> str:
    """A clip in one line: its numbers (null: missing or invalid), reasons, and how judges did."""
    item, contract = row.item, row.contract
    line: dict[str, Any] = {
        **{name: None if path is None else str(path) for name, path in asdict(item).items()},
        "numbers": row.numbers,
        "invalid": row.invalid,
        "contract": None if contract is None else asdict(contract),
        "judges": [_judge_json(judged) for judged in row.judged],
    }
    return json.dumps(line, ensure_ascii=False, allow_nan=False)


def summary_line(rows: Sequence[ClipRow], means: Mapping[str, Interval]) -> str:
    """The means in one line: {"summary": {name: {"mean", "low", "high", "clips"}}, "clips", "invalid"}."""
    told = {
        name: {key: None if math.isnan(value) else value for key, value in asdict(mean).items()}
        for name, mean in means.items()
    }
    line = {"summary": told, "clips": len(rows), "invalid": sum(row.is_invalid for row in rows)}
    return json.dumps(line, allow_nan=False)


def _judge_json(judged: JudgedSync) -> dict[str, Any]:
    return {
        "judge": judged.judge,
        "invalid": judged.invalid,
        "score": _score_json(judged.score),
        "calibration": _calibration_json(judged.calibration),
    }


def _calibration_json(calibration: Calibration) -> dict[str, Any]:
    return {
        "video": str(calibration.video),
        "invalid": calibration.invalid,
        "shifts": dict(zip(map(str, calibration.shifts), calibration.found_shifts, strict=False)),
        "own": _score_json(calibration.own),
        "wrong": [_score_json(score) for score in calibration.wrong],
        "silence": _score_json(calibration.silence),
    }


def _score_json(score: SyncScore | None) -> dict[str, Any] | None:
    return None if score is None else asdict(score)
