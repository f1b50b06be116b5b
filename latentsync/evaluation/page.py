"""One HTML page of an evaluation: means, then every clip with its curves, numbers and faces; no scripts,
nothing loaded from elsewhere.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from latentsync.evaluation.chart import chart, lines_of
from latentsync.evaluation.clip import ClipRow, JudgedSync
from latentsync.evaluation.sheet import contact_sheet, inline_jpeg
from latentsync.evaluation.summary import Interval
from latentsync.evaluation.text import shown, title
from latentsync.media import make_part
from latentsync.sync.calibration import Calibration

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; padding: 0 1em }
body { max-width: 1320px; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.1em; overflow-wrap: anywhere; margin: 0 0 .4em }
table { border-collapse: collapse }
td, th { padding: .15em .8em .15em 0; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
section { border-top: 1px solid #ccc; padding: 1em 0 } .side { display: flex; flex-wrap: wrap; gap: 1.5em }
.invalid { color: #a4161a } .quiet { color: #666; font-size: .9em } img { max-width: 100%; height: auto }
figure { margin: 0; width: 460px; max-width: 100% } svg polyline { fill: none; stroke-width: 2 }
svg text { font-size: 11px; fill: #555 } svg .axis { stroke: #eee } svg .zero { stroke: #bbb }
svg.key { width: 28px; height: 8px } .legend { font-size: .85em; margin: .2em 0 }
.legend span { margin-right: 1em }
"""


def write_page(
    path: Path, rows: Sequence[ClipRow], means: Mapping[str, Interval], notes: Sequence[str] = ()
) -> None:
    """Write the page; it appears when it is complete. `notes` are said at its top."""
    parts = [_head(rows, means, notes), *(_clip(row) for row in rows)]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>Evaluation</title><style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
    part = make_part(path)
    part.write_text(page, encoding="utf-8")
    part.replace(path)


def _head(rows: Sequence[ClipRow], means: Mapping[str, Interval], notes: Sequence[str]) -> str:
    invalid = sum(row.is_invalid for row in rows)
    said = (
        f"{invalid} of {len(rows)} clips have invalid numbers"
        if invalid
        else f"all {len(rows)} clips are valid"
    )
    lines = [
        f"<tr><td>{escape(title(name))}<td class=number>{shown(mean.mean)}<td class=number>{_interval(mean)}"
        f"<td class=number>{mean.clips}"
        for name, mean in means.items()
    ]
    return (
        f"<h1>Evaluation of {len(rows)} clips</h1><p{' class=invalid' if invalid else ''}>{said}.</p>"
        + "".join(f"<p>{escape(note)}</p>" for note in notes)
        + "<table><tr><th>number<th>mean<th>95 % interval<th>clips"
        + "".join(lines)
        + "</table>"
    )


def _clip(row: ClipRow) -> str:
    item = row.item
    made_of = [(name, getattr(item, name)) for name in ("source", "sound", "reference")]
    about = ", ".join(f"{name} {path.name}" for name, path in made_of if path is not None)
    form = row.contract
    if form is not None:
        about += (
            f"{'; ' if about else ''}{form.frames} frames, {form.width}x{form.height}, {form.fps:.5g} fps"
        )
    reasons = [
        f"<p class=invalid>invalid: {escape(name)}: {escape(why)}</p>" for name, why in row.invalid.items()
    ]
    numbers = [
        f"<tr><td>{escape(title(name))}<td class=number>{shown(value)}" for name, value in row.numbers.items()
    ]
    sheet = contact_sheet(row)
    picture = "" if sheet is None else f'<p><img alt="contact sheet" src="{inline_jpeg(sheet)}"></p>'
    if row.against_reference or row.against_source:
        above = "reference" if row.against_reference else "source"
        picture += f"<p class=quiet>above: the {above}, below: the result</p>"
    return (
        f"<section><h2>{escape(item.result.name)}</h2><p class=quiet>{escape(about)}</p>{''.join(reasons)}"
        f"{picture}<div class=side><table>{''.join(numbers)}</table>"
        f"{''.join(_judge(judged) for judged in row.judged)}</div></section>"
    )


def _judge(judged: JudgedSync) -> str:
    return (
        f"<figure><b>{escape(judged.judge)}</b>: confidence against the shift{chart(lines_of(judged))}"
        f"<p class=quiet>{escape(_tried_on(judged.calibration))}</p></figure>"
    )


def _tried_on(tried: Calibration) -> str:
    """How the judge did where the truth is known."""
    if tried.own is None:
        return f"not tried on {tried.video.name}: {tried.invalid}"
    pairs = zip(tried.shifts, tried.found_shifts, strict=True)
    found = ", ".join(f"{known:+d} found as {seen:+d}" for known, seen in pairs)
    wrong, silence = tried.wrong_confidence, tried.silence.confidence if tried.silence else None
    return (
        f"tried on {tried.video.name}: own offset {tried.own.offset_frames:+d}, shifts {found or 'none'}; "
        f"confidence {tried.own.confidence:.3f}, of a wrong sound {shown(wrong)}, of silence {shown(silence)}"
    )


def _interval(mean: Interval) -> str:
    return "-" if math.isnan(mean.low) else f"{mean.low:.3f} to {mean.high:.3f}"
