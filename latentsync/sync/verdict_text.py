"""Verdicts as rows of a table, JSON lines and a summary."""

import json
from collections.abc import Sequence

from latentsync.sync.judge import MAX_OFFSET_FRAMES
from latentsync.sync.verdict import ClipVerdict, ShiftVerdict, TrackVerdict

NAME_WIDTH = 32
TOLERANCE_FRAMES = 1  # within which a known shift counts as found
CHANCE = (2 * TOLERANCE_FRAMES + 1) / (2 * MAX_OFFSET_FRAMES + 1)


def clip_rows(verdict: ClipVerdict) -> list[str]:
    """One row a face, the chosen one of several marked, or one that says why there is none."""
    name = f"{verdict.video.name:<{NAME_WIDTH}}"
    notes = f"   ({'; '.join(verdict.notes)})" if verdict.notes else ""
    if not verdict.tracks or verdict.best is None:
        return [f"{name} invalid: {verdict.invalid}{notes}"]
    if len(verdict.tracks) == 1:
        return [f"{name} {_scores(verdict.tracks[0])}{notes}"]
    rows = [f"{name} {len(verdict.tracks)} faces{notes}"]
    for track in verdict.tracks:
        mark = "*" if track is verdict.best else " "
        where = f"{track.start_seconds:.1f}-{track.stop_seconds:.1f} s at {track.box}"
        rows.append(f"{mark} {where:<{NAME_WIDTH - 2}} {_scores(track)}")
    return rows


def clip_summary(verdicts: Sequence[ClipVerdict]) -> str:
    """Mean confidence and how the offsets lie, over the clips that were judged."""
    scores = [verdict.best.score for verdict in verdicts if verdict.best and verdict.best.score]
    if not scores:
        return f"none of {len(verdicts)} videos could be judged"
    mean = sum(score.confidence for score in scores) / len(scores)
    offsets = sorted(score.offset_frames for score in scores)
    return (
        f"{len(scores)} of {len(verdicts)} videos judged by {verdicts[0].judge}: mean confidence {mean:.3f}, "
        f"median offset {offsets[len(offsets) // 2]:+d} frames (from {offsets[0]:+d} to {offsets[-1]:+d})"
    )


def clip_json(verdict: ClipVerdict) -> str:
    """The numbers of the chosen face, null where the clip is invalid; `invalid` and `tracks` only where there
    is a reason, or several faces.
    """
    score = verdict.best.score if verdict.best else None
    line: dict[str, object] = {
        "video": str(verdict.video),
        "judge": verdict.judge,
        "offset_frames": score.offset_frames if score else None,
        "confidence": score.confidence if score else None,
    }
    if score is None:
        line["invalid"] = verdict.invalid
    if len(verdict.tracks) > 1:
        line["tracks"] = [_track_json(track) for track in verdict.tracks]
    return json.dumps(line, ensure_ascii=False)


def shift_row(verdict: ShiftVerdict) -> str:
    """What was found for each shift, relative to the clip's own offset."""
    name = f"{verdict.video.name:<{NAME_WIDTH}}"
    if verdict.own is None:
        return f"{name} invalid: {verdict.invalid}"
    pairs = ", ".join(
        f"{shift:+d} out of reach" if error is None else f"{shift:+d} -> {shift + error:+d}{_mark(error)}"
        for shift, error in zip(verdict.shifts, verdict.errors, strict=True)
    )
    own = f"own offset {verdict.own.offset_frames:+d}, confidence {verdict.own.confidence:.3f}"
    return f"{name} {own}; {pairs}"


def shift_summary(verdicts: Sequence[ShiftVerdict]) -> str:
    """How often a known shift was found to within a frame, and how far off the findings were; a shift of 0,
    which is found by definition, does not count.
    """
    errors = [
        abs(error)
        for verdict in verdicts
        for shift, error in zip(verdict.shifts, verdict.errors, strict=False)
        if error is not None and shift != 0
    ]
    if not errors:
        return f"none of {len(verdicts)} videos could be judged"
    found = sum(error <= TOLERANCE_FRAMES for error in errors)
    clips = sum(verdict.own is not None for verdict in verdicts)
    return (
        f"{found} of {len(errors)} shifts found within {TOLERANCE_FRAMES} frame "
        f"({100 * found / len(errors):.0f} %, by chance {100 * CHANCE:.0f} %) in {clips} videos by "
        f"{verdicts[0].judge}; median error {sorted(errors)[len(errors) // 2]} frames"
    )


def shift_json(verdict: ShiftVerdict) -> str:
    """The clip's own numbers, and the offsets found by shift."""
    own = verdict.own
    line: dict[str, object] = {
        "video": str(verdict.video),
        "judge": verdict.judge,
        "offset_frames": own.offset_frames if own else None,
        "confidence": own.confidence if own else None,
        "shifts": {
            str(shift): score.offset_frames
            for shift, score in zip(verdict.shifts, verdict.found, strict=False)
        },
    }
    if own is None:
        line["invalid"] = verdict.invalid
    return json.dumps(line, ensure_ascii=False)


def _mark(error: int) -> str:
    return "" if abs(error) <= TOLERANCE_FRAMES else " !"


def _scores(track: TrackVerdict) -> str:
    if track.score is None:
        return f"invalid: {track.invalid}"
    score = track.score
    return (
        f"offset {score.offset_frames:+3d} frames   confidence {score.confidence:7.3f}   "
        f"least distance {score.min_distance:7.3f}"
    )


def _track_json(track: TrackVerdict) -> dict[str, object]:
    score = track.score
    line: dict[str, object] = {
        "start_seconds": track.start_seconds,
        "stop_seconds": track.stop_seconds,
        "box": list(track.box),
        "offset_frames": score.offset_frames if score else None,
        "confidence": score.confidence if score else None,
    }
    return line if score else {**line, "invalid": track.invalid}
