"""One clip evaluated: what judges of sync, lips, pictures and form say, and what of it is invalid."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from latentsync.audio.loudness import log_energy
from latentsync.errors import LatentSyncError
from latentsync.evaluation.items import Item
from latentsync.evaluation.pictures import FollowedFace, Pictures, compare_pictures, follow
from latentsync.face import MediaPipeDetector
from latentsync.media import VideoReader, read_audio
from latentsync.quality.aperture import LipScores, LipTrack, compare
from latentsync.quality.contract import Contract, check_contract
from latentsync.quality.cross_dub import FPS, measure_clip, ping_pong
from latentsync.quality.lpips import Lpips
from latentsync.sync.calibration import SHIFTS_FRAMES, Calibration, calibrate
from latentsync.sync.judge import Judge, SyncScore
from latentsync.sync.talking_clip import TalkingClip, open_talking_clip
from latentsync.sync.verdict import judge_clip

OTHER_SOUNDS = 3  # wrong sounds of other clips that a judge is tried with
FORM, LIPS, SOURCE, REFERENCE = "form", "lips", "against source", "against reference"
FROM_SOURCE = ("psnr_outside", "ssim_outside", "lpips_outside", "seam_ratio", "flicker_ratio")
FROM_REFERENCE = ("psnr_inside", "ssim_inside", "lpips_inside", "landmark_distance")

Found = TypeVar("Found")


@dataclass(frozen=True)
class JudgedSync:
    """A result by one judge, and how the judge did on the genuine clip; `invalid` is the reason why the score
    means nothing, "" where it does.
    """

    judge: str
    score: SyncScore | None
    calibration: Calibration
    invalid: str = ""

    @property
    def numbers(self) -> dict[str, float | None]:
        valid = self.score if not self.invalid else None
        own = self.calibration.own
        share = valid.confidence / own.confidence if valid and own and own.confidence > 0 else None
        return {
            f"{self.judge}.confidence": valid.confidence if valid else None,
            f"{self.judge}.offset_frames": valid.offset_frames if valid else None,
            f"{self.judge}.of_genuine": share,
        }


@dataclass(frozen=True)
class ClipRow:
    """All about one clip. `invalid`: what could not be measured, by its name, and why; what was not asked for
    (no reference, no lips to compare with) is None and no fault.
    """

    item: Item
    judged: tuple[JudgedSync, ...] = ()
    lips: LipScores | None = None
    against_source: Pictures | None = None
    against_reference: Pictures | None = None
    contract: Contract | None = None
    invalid: dict[str, str] = field(default_factory=dict)

    @property
    def is_invalid(self) -> bool:
        return bool(self.invalid)

    @property
    def numbers(self) -> dict[str, float | None]:
        """Every number by its name, None where it is missing, undefined or invalid."""
        found: dict[str, float | None] = {}
        for judged in self.judged:
            found |= judged.numbers
        if self.lips is not None:
            found |= {
                "lip_aperture_r": self.lips.aperture.best_r,
                "lip_width_r": self.lips.width.best_r,
                "lip_partial_r": self.lips.partial_r,
                "lip_opening_ratio": self.lips.opening_ratio,
                "lip_own_r": self.lips.own.r,
                "lip_wrong_r": self.lips.wrong.r,
            }
        beside = self.against_source or self.against_reference
        found |= {name: getattr(beside, name) for name in FROM_SOURCE if beside}
        found |= {
            name: getattr(self.against_reference, name) for name in FROM_REFERENCE if self.against_reference
        }
        return {name: _defined(value) for name, value in found.items()}


class Evaluator:
    """Evaluates clip after clip; what was seen of a source is kept for the next clip made from it.

    `others`: videos or sounds that serve as wrong sounds, beside what a clip's own sound gives.
    """

    def __init__(
        self,
        judges: Sequence[Judge],
        detector: MediaPipeDetector,
        *,
        lpips: Lpips | None = None,
        others: Sequence[Path] = (),
        shifts: Sequence[int] = SHIFTS_FRAMES,
    ) -> None:
        self.judges, self.detector, self.lpips = list(judges), detector, lpips
        self.others, self.shifts = list(others), tuple(shifts)
        self._kept: dict[tuple[str, ...], object] = {}

    def evaluate(self, item: Item) -> ClipRow:
        """Measure what can be measured. Nothing is raised for a clip that cannot be: the row says why."""
        row = self._evaluated(item)
        for key in [key for key in self._kept if str(item.result) in key]:
            del self._kept[key]  # a result is seen once, its source often
        return row

    def _evaluated(self, item: Item) -> ClipRow:
        invalid: dict[str, str] = {}
        contract = _tried(
            FORM, invalid, lambda: check_contract(item.result, source=item.source, sound=item.sound)
        )
        if contract is None:
            return ClipRow(item, invalid={"clip": invalid[FORM]})
        if contract.faults:
            invalid[FORM] = "; ".join(contract.faults)
        judged = tuple(self._judged(item, judge) for judge in self.judges)
        invalid |= {one.judge: one.invalid for one in judged if one.invalid}
        source, reference = item.source, item.reference
        return ClipRow(
            item,
            judged,
            _tried(LIPS, invalid, lambda: self._lips(item)),
            _tried(SOURCE, invalid, lambda: self._pictures(item.result, source))
            if source != reference
            else None,
            _tried(REFERENCE, invalid, lambda: self._pictures(item.result, reference)),
            contract,
            invalid,
        )

    def _judged(self, item: Item, judge: Judge) -> JudgedSync:
        calibration = self._calibration(item, judge)
        try:
            verdict = judge_clip(self._talking(item.result), judge, self.detector)
        except (LatentSyncError, OSError, ValueError) as error:
            return JudgedSync(judge.name, None, calibration, _one_line(error))
        score = verdict.best.score if verdict.best else None
        reason = verdict.invalid
        if score is not None and calibration.invalid:
            reason = f"the judge cannot be believed on {calibration.video.name}: {calibration.invalid}"
        return JudgedSync(judge.name, score, calibration, reason)

    def _calibration(self, item: Item, judge: Judge) -> Calibration:
        """Of the clip in sync that is known, or else of the result itself."""
        genuine = item.genuine or item.result

        def measured() -> Calibration:
            try:
                clip = self._talking(genuine)
                return calibrate(clip, judge, others=self._other_sounds(item), shifts=self.shifts)
            except (LatentSyncError, OSError) as error:
                return Calibration(genuine, judge.name, invalid=_one_line(error))

        return self._once(("calibration", judge.name, str(genuine)), measured)

    def _other_sounds(self, item: Item) -> list[Tensor]:
        known = {path.resolve() for path in (item.result, item.source, item.sound, item.reference) if path}
        others = [path for path in self.others if path.resolve() not in known][:OTHER_SOUNDS]
        return [torch.from_numpy(self._sound(path)) for path in others]

    def _sound(self, path: Path) -> np.ndarray:
        return self._once(("sound", str(path)), lambda: read_audio(path))

    def _lips(self, item: Item) -> LipScores | None:
        """The result's lips against those of the reference, or of the video whose sound it has."""
        truth = item.reference or item.sound
        if truth is None or not self._is_video(truth):
            return None
        result, true = self._lip_track(item.result), self._lip_track(truth)
        own = result if item.source is None else self._lip_track(item.source)
        count = len(true.aperture)
        shown = own.take(ping_pong(len(own.aperture), len(result.aperture)))
        elsewhere = np.roll(np.arange(count), count // 2)
        energy = log_energy(self._sound(truth), FPS, count)
        return compare(result, true, own=shown, wrong=true.take(elsewhere), energy=energy)

    def _pictures(self, result: Path, other: Path | None) -> Pictures | None:
        if other is None:
            return None
        return compare_pictures(result, self._face(result), other, self._face(other), self.lpips)

    def _talking(self, path: Path) -> TalkingClip:
        return self._once(("talking", str(path)), lambda: open_talking_clip(path, self.detector))

    def _lip_track(self, path: Path) -> LipTrack:
        return self._once(("lips", str(path)), lambda: measure_clip(path, self.detector))

    def _face(self, path: Path) -> FollowedFace:
        return self._once(("face", str(path)), lambda: follow(path, self.detector))

    def _is_video(self, path: Path) -> bool:
        def opens() -> bool:
            try:
                with VideoReader(path):
                    return True
            except LatentSyncError:  # a sound file
                return False

        return self._once(("video", str(path)), opens)

    def _once(self, key: tuple[str, ...], measure: Callable[[], Found]) -> Found:
        if key not in self._kept:
            self._kept[key] = measure()
        return self._kept[key]  # type: ignore[return-value]


def _tried(name: str, invalid: dict[str, str], measure: Callable[[], Found]) -> Found | None:
    """What `measure` finds; where the footage forbids it, None, and the reason under `name`."""
    try:
        return measure()
    except (LatentSyncError, OSError, ValueError) as error:
        invalid[name] = _one_line(error)
        return None


def _defined(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
