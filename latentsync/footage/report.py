"""What the doctor of training footage found: clips with their offsets in, a table, findings and files out.

Offsets are in frames at 25 fps, positive where the sound is early. One clip is a weak witness, and its peak
lies somewhere by chance, too: so the shares stand beside those that a wrong sound gives.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from latentsync.footage.lip_offset import OFFSETS, LipOffset, peak
from latentsync.footage.listing import EXAMPLES
from latentsync.footage.survey import Selection

FAR_FRAMES = 2  # an offset from which on lips and sound visibly disagree
NEAR_FRAMES = 1  # peaks of clips in sync scatter by so much
# The share of clips near the common offset less that with a wrong sound, in draws from 226 clips of 3 s
# and more (5 to 95 %): all in sync 0.40 .. 0.78 for 20 clips and 0.46 .. 0.62 for 50; half of them shifted by
# up to 12 frames 0.07 .. 0.43 and 0.18 .. 0.38; a wrong sound for each -0.05 .. 0.23 and -0.06 .. 0.09.
MIN_WITNESSES = 20
CHANCE_EXCESS, MIXED_EXCESS = 0.15, 0.35
BAR_CHARACTERS = 40


@dataclass(frozen=True)
class CheckedClip:
    """What was found of one clip; `offset`, and `chance` with another's sound, are None if unmeasurable."""

    path: str
    split: str
    speaker: str | None
    frames: int  # with sound; 0 where it does not serve
    against: str  # "" or the rule that it breaks
    offset: LipOffset | None
    chance: LipOffset | None


@dataclass(frozen=True)
class FootageReport:
    """A collection as the doctor saw it; offsets in frames, positive where the sound is early."""

    clips: tuple[CheckedClip, ...]
    selection: Selection
    curve: tuple[float, ...]  # correlations at OFFSETS, mean over clips; empty where none could be measured
    copies: tuple[tuple[str, ...], ...]  # groups of equal recordings within a split
    leaks: tuple[tuple[str, ...], ...]  # and over several splits
    sheet: Image.Image | None = field(compare=False, repr=False)

    @property
    def histogram(self) -> dict[int, int]:
        """How many clips have their peak at each offset."""
        offsets = [clip.offset.offset_frames for clip in self.clips if clip.offset]
        return {int(offset): offsets.count(int(offset)) for offset in OFFSETS}

    @property
    def common(self) -> LipOffset | None:
        """The peak of the mean curve: the shift that the clips share."""
        return peak(np.array(self.curve)) if self.curve else None

    @property
    def clear_share(self) -> float:
        """The share of measured clips with a clear peak."""
        measured = [clip.offset for clip in self.clips if clip.offset]
        return sum(offset.is_clear for offset in measured) / max(1, len(measured))

    @property
    def far_share(self) -> float:
        """Of the clips with a clear peak, the share whose offset is 2 frames or more."""
        clear = [clip.offset for clip in self.clips if clip.offset and clip.offset.is_clear]
        return sum(abs(offset.offset_frames) >= FAR_FRAMES for offset in clear) / max(1, len(clear))

    @property
    def near_share(self) -> float:
        """The share of measured clips whose peak is within a frame of the common one."""
        return _near(self.common, [clip.offset for clip in self.clips])

    @property
    def chance_share(self) -> float:
        """`near_share` when each clip is given the sound of another."""
        return _near(self.common, [clip.chance for clip in self.clips])

    def findings(self) -> list[str]:
        """What is wrong, in sentences with the remedy; empty when nothing was found."""
        return [
            *self._findings_of_sync(),
            *(
                f"{len(clips)} clips are {reason}, such as {clips[0].file.path} ({clips[0].detail}); "
                "training leaves them out"
                for reason, clips in self.selection.by_reason().items()
            ),
            *(
                f"the same recording serves two splits: {' = '.join(group)}; take it out of one"
                for group in self.leaks[:EXAMPLES]
            ),
            *([f"{len(self.copies)} recordings are there more than once"] if self.copies else []),
        ]

    def _findings_of_sync(self) -> list[str]:
        common, measured = self.common, sum(self.histogram.values())
        if common is None or measured < MIN_WITNESSES:
            return [
                f"lips and sound of {measured} clips could be compared (40 frames, voice, movement); it "
                f"takes {MIN_WITNESSES} to tell their offset from chance"
            ]
        found = []
        excess = self.near_share - self.chance_share
        shares = (
            f"{self.near_share:.0%} of the clips lie near the common offset, {self.chance_share:.0%} do with "
            "a wrong sound"
        )
        if excess < CHANCE_EXCESS:
            return [
                f"lips and sound agree hardly better than by chance ({shares}): is the voice the face's, "
                "and is the offset the same in all clips? A SyncNet would stay at a loss of 0.69"
            ]
        if excess < MIXED_EXCESS:
            found.append(
                f"lips and sound agree in a part of the clips only ({shares}): their offsets may be mixed; "
                "correct them clip by clip, or leave out those whose peak is clear and far"
            )
        if abs(common.offset_frames) >= FAR_FRAMES:
            side = "early" if common.offset_frames > 0 else "late"
            found.append(
                f"the sound is {abs(common.offset_frames)} frames {side} in the whole collection: shift it, "
                "and find out which step of the preparation did it"
            )
        return found

    def table(self) -> str:
        """The report as text: counts, the histogram of offsets, shares, findings."""
        lines = [self.selection.table(), ""]
        measured = sum(self.histogram.values())
        lines += [f"offset of lips and sound in {measured} clips (frames; positive: the sound is early)"]
        most = max(1, *self.histogram.values())
        curve = self.curve or [0.0] * len(OFFSETS)
        for (offset, count), r in zip(self.histogram.items(), curve, strict=True):
            bar = "#" * round(BAR_CHARACTERS * count / most)
            lines.append(f"{offset:+4d} {count:6d}  mean r {r:+.2f}  {bar}".rstrip())
        if common := self.common:
            lines += [
                "",
                f"common offset {common.offset_frames:+d} (mean r {common.r:.2f}, {common.margin:+.2f} above "
                f"the rest); {self.near_share:.0%} of the clips within {NEAR_FRAMES} of it, "
                f"{self.chance_share:.0%} with the sound of another clip",
                f"clear peaks: {self.clear_share:.0%} of the clips; {self.far_share:.0%} of these at "
                f"{FAR_FRAMES} frames or more",
            ]
        lines += ["", *(f"! {finding}" for finding in self.findings() or ["nothing found against it"])]
        return "\n".join(lines)

    def save(self, folder: str | Path) -> None:
        """Write `report.json`, `report.txt` and `faces.png` into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.txt").write_text(self.table() + "\n", encoding="utf-8")
        (folder / "report.json").write_text(json.dumps(self.as_dict(), indent=1), encoding="utf-8")
        if self.sheet is not None:
            self.sheet.save(folder / "faces.png")

    def as_dict(self) -> dict[str, object]:
        """Everything but the pictures, as JSON can hold it."""
        return {
            "histogram": self.histogram,
            "curve": list(self.curve),
            "common_offset_frames": self.common.offset_frames if self.common else None,
            "near_share": self.near_share,
            "chance_share": self.chance_share,
            "clear_share": self.clear_share,
            "far_share": self.far_share,
            "copies": self.copies,
            "leaks": self.leaks,
            "findings": self.findings(),
            "clips": [
                {
                    "path": clip.path,
                    "split": clip.split,
                    "speaker": clip.speaker,
                    "frames": clip.frames,
                    "against": clip.against,
                    "offset_frames": clip.offset.offset_frames if clip.offset else None,
                    "r": clip.offset.r if clip.offset else None,
                    "margin": clip.offset.margin if clip.offset else None,
                    "is_clear": clip.offset.is_clear if clip.offset else None,
                }
                for clip in self.clips
            ],
        }


def _near(common: LipOffset | None, offsets: list[LipOffset | None]) -> float:
    """The share of the measured offsets that lie within NEAR_FRAMES of a common one."""
    measured = [offset.offset_frames for offset in offsets if offset]
    if common is None or not measured:
        return 0.0
    return sum(abs(frames - common.offset_frames) <= NEAR_FRAMES for frames in measured) / len(measured)
