"""Curves of judges as SVG: how sure a judge would be of a clip at every shift of its sound."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

from latentsync.evaluation.clip import JudgedSync
from latentsync.sync.judge import SyncScore

WIDTH, HEIGHT = 460, 210
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34  # margins


@dataclass(frozen=True)
class Line:
    """One curve: a title for the legend, and how it is drawn."""

    title: str
    score: SyncScore
    colour: str
    dashes: str = ""


def lines_of(judged: JudgedSync) -> list[Line]:
    """The result, the genuine clip, and the controls, as far as they have curves."""
    tried = judged.calibration
    wanted = [
        *(("wrong sound", score, "#b9b9b9", "") for score in tried.wrong),
        ("silence", tried.silence, "#b9b9b9", "2 3"),
        ("genuine clip", tried.own, "#3a7d44", "7 4"),
        ("result", judged.score, "#c03221", ""),
    ]
    return [
        Line(title, score, colour, dashes)
        for title, score, colour, dashes in wanted
        if score is not None and score.curve
    ]


def confidences(score: SyncScore) -> list[float]:
    """The curve turned over: how much closer lips and sound are at each offset than at the median one."""
    middle = median(score.curve)
    return [middle - distance for distance in score.curve]


def chart(lines: Sequence[Line]) -> str:
    """Confidence against the shift in frames, as an SVG element; "" for no curve."""
    if not lines:
        return ""
    reach = max(line.score.offsets[-1] for line in lines)
    values = [value for line in lines for value in confidences(line.score)]
    low, high = min(values), max(*values, min(values) + 1e-6)

    def x(offset: float) -> float:
        return LEFT + (offset + reach) / (2 * reach or 1) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    step = 5 if reach <= 20 else 25
    ticks = range(-(reach // step) * step, reach + 1, step)
    parts = [
        f'<line class="axis" x1="{x(k):.1f}" x2="{x(k):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        for k in ticks
    ]
    parts += [
        f'<text x="{x(k):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{k:+d}</text>' for k in ticks
    ]
    parts += [
        f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3f}</text>'
        for value in (low, 0.0, high)
        if value in (low, high) or min(value - low, high - value) > 0.15 * (high - low)
    ]
    parts.append(f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}"/>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">offset, frames</text>'
    )
    for line in lines:
        points = zip(line.score.offsets, confidences(line.score), strict=True)
        path = " ".join(f"{x(offset):.1f},{y(value):.1f}" for offset, value in points)
        parts.append(f'<polyline points="{path}" stroke="{line.colour}" stroke-dasharray="{line.dashes}"/>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>{_legend(lines)}'


def _legend(lines: Sequence[Line]) -> str:
    styles = {line.title: line for line in lines}
    entries = []
    for line in styles.values():
        stroke = f'stroke="{line.colour}" stroke-width="2" stroke-dasharray="{line.dashes}"'
        key = f'<svg class="key" viewBox="0 0 28 8"><line x1="0" x2="28" y1="4" y2="4" {stroke}/></svg>'
        entries.append(f"<span>{key} {escape(line.title)}</span>")
    return f'<p class="legend">{" ".join(entries)}</p>'
