"""Offsets of many clips: measured one by one, told as JSON lines or as a table; a bad clip is a row, too."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from latentsync.errors import LatentSyncError, MediaError
from latentsync.sync.synchformer.measure import ClipOffset, measure_offset
from latentsync.sync.synchformer.network import Synchformer

ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


@dataclass(frozen=True)
class ClipRow:
    """A clip, and what the judge found in it or why it found nothing."""

    video: Path
    judge: str
    found: ClipOffset | None
    reason: str = ""

    def json_line(self) -> str:
        """{"video", "judge", "offset_seconds", "confidence"}; without a finding also the "reason"."""
        row: dict[str, Any] = {
            "video": str(self.video),
            "judge": self.judge,
            "offset_seconds": self.found.offset_seconds if self.found else None,
            "confidence": round(self.found.confidence, 4) if self.found else None,
        }
        return json.dumps(row if self.found else {**row, "reason": self.reason})


def clips_in(folder: Path) -> list[Path]:
    """The videos of a folder by name. Raises: FileNotFoundError where there are none."""
    clips = sorted(path for path in folder.glob("*") if path.suffix.lower() in ENDINGS)
    if not clips:
        raise FileNotFoundError(f"no videos ({', '.join(ENDINGS)}) in {str(folder)!r}")
    return clips


def measure_all(clips: Sequence[Path], network: Synchformer, judge: str, **options: Any) -> Iterator[ClipRow]:
    """A row a clip, with a progress bar on stderr; `options` of `measure_offset`."""
    for clip in tqdm(clips, desc=judge, unit="clip", disable=len(clips) == 1):
        try:
            yield ClipRow(clip, judge, measure_offset(clip, network, **options))
        except (LatentSyncError, FileNotFoundError) as error:
            yield ClipRow(clip, judge, None, " ".join(str(error).split()))


def table(rows: Iterable[ClipRow]) -> str:
    """A line a clip, then the means: |offset| and DeSync in seconds."""
    rows = list(rows)
    lines = [f"{'offset s':>9} {'confidence':>10} {'DeSync s':>9} {'windows':>7}  video"]
    for row in rows:
        if row.found is None:
            lines.append(f"{'-':>9} {'-':>10} {'-':>9} {'-':>7}  {row.video.name}: {row.reason}")
            continue
        found = row.found
        numbers = f"{found.offset_seconds:+9.2f} {found.confidence:10.2f} {found.desync_seconds:9.2f}"
        lines.append(f"{numbers} {len(found.windows):7d}  {row.video.name}")
    judged = [row.found for row in rows if row.found is not None]
    if len(judged) > 1:
        away = sum(abs(found.offset_seconds) for found in judged) / len(judged)
        desync = sum(found.desync_seconds for found in judged) / len(judged)
        lines.append(f"mean of {len(judged)}: |offset| {away:.3f} s, DeSync {desync:.3f} s")
    return "\n".join(lines)


def check_all(rows: Sequence[ClipRow]) -> None:
    """Raise MediaError where a clip could not be judged."""
    if failed := [row for row in rows if row.found is None]:
        raise MediaError(
            f"{len(failed)} of {len(rows)} clips could not be judged; the first: {failed[0].reason}"
        )
