"""Whether a judge can be believed on a clip: it must find known shifts, and prefer the true sound to others.

Sliding a sound slides a judge's curve, even one of pure chance: so a judge that finds the shifts must also be
surer of the clip's own sound than of a wrong one, and put it where genuine clips lie.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latentsync.errors import LatentSyncError
from latentsync.sync.judge import SAMPLES_PER_FRAME, Judge, SyncScore
from latentsync.sync.talking_clip import TalkingClip
from latentsync.sync.verdict import no_face, one_line, score_track, worth_judging

SHIFTS_FRAMES = (-6, -3, 3, 6)
MAX_OWN_OFFSET_FRAMES = 6  # of a genuine clip; the footage pipeline drops what is further off


@dataclass(frozen=True)
class Calibration:
    """What a judge made of a clip whose sound it should agree with: `own` as it is, `found` for each of
    `shifts` (positive = the sound moved earlier), `wrong` for sounds that do not belong to it, and `silence`.

    `invalid` says in words why its numbers mean nothing on this clip; "" where they do.
    """

    video: Path
    judge: str
    shifts: tuple[int, ...] = ()
    own: SyncScore | None = None
    found: tuple[SyncScore, ...] = ()
    wrong: tuple[SyncScore, ...] = ()
    silence: SyncScore | None = None
    invalid: str = ""

    @property
    def found_shifts(self) -> tuple[int, ...]:
        """What was found for each of `shifts`, relative to the clip's own offset."""
        own = self.own.offset_frames if self.own else 0
        return tuple(score.offset_frames - own for score in self.found)

    @property
    def wrong_confidence(self) -> float | None:
        """The highest of the wrong sounds."""
        return max((score.confidence for score in self.wrong), default=None)


def calibrate(
    clip: TalkingClip,
    judge: Judge,
    *,
    others: Sequence[Tensor] = (),
    shifts: Sequence[int] = SHIFTS_FRAMES,
) -> Calibration:
    """Try `judge` on the longest face of a clip that is in sync; `others` are waveforms (T,) of other clips.

    A further wrong sound is the clip's own from half a clip away. All is measured on the frames that have
    sound at every shift, so that no silence gives a shift away. What is wrong with the clip becomes
    `invalid`, nothing is raised for it.
    """
    reach = max(map(abs, shifts), default=0)
    tracks = worth_judging(clip, judge.min_frames + 2 * reach)
    if not tracks:
        return Calibration(clip.path, judge.name, invalid=no_face(clip))
    track = max(tracks, key=lambda track: track.frames)
    stop = min(track.stop, len(clip.waveform) // SAMPLES_PER_FRAME)
    shown = range(track.start + reach, max(track.start + reach, stop - reach))
    sounds = [clip.sound(shown.start + k, shown.stop + k) for k in (0, *shifts)]
    wrong = [_as_long(sound, len(sounds[0])) for sound in (*others, _half_away(sounds[0])) if len(sound)]
    silence = torch.zeros_like(sounds[0])
    try:
        scores, reason = score_track(clip, track, judge, shown, sounds, controls=[*wrong, silence])
    except (LatentSyncError, OSError, ValueError) as error:
        scores, reason = [], one_line(error)
    if reason:
        return Calibration(clip.path, judge.name, invalid=reason)
    last = 1 + len(shifts)
    found = tuple(scores[1:last]), tuple(scores[last:-1]), scores[-1]
    against = _reason_against(judge, scores[0], tuple(shifts), found[0], found[1])
    return Calibration(clip.path, judge.name, tuple(shifts), scores[0], *found, invalid=against)


def _reason_against(
    judge: Judge,
    own: SyncScore,
    shifts: tuple[int, ...],
    found: tuple[SyncScore, ...],
    wrong: tuple[SyncScore, ...],
) -> str:
    """Why the judge cannot be believed, "" where it can."""
    pairs = [(k, score.offset_frames - own.offset_frames) for k, score in zip(shifts, found, strict=True)]
    if missed := [f"{k:+d} as {seen:+d}" for k, seen in pairs if abs(seen - k) > judge.tolerance_frames]:
        return f"known shifts are not found: {', '.join(missed)}"
    if abs(own.offset_frames) > MAX_OWN_OFFSET_FRAMES:
        return f"the clip's own sound is found {own.offset_frames:+d} frames off"
    surest = max((score.confidence for score in wrong), default=-1.0)
    if own.confidence <= surest:
        return f"a wrong sound has the confidence {surest:.3f}, the clip's own {own.confidence:.3f}"
    return ""


def _as_long(sound: Tensor, samples: int) -> Tensor:
    """The first `samples` of a sound, repeated where it is shorter."""
    return sound.repeat(-(-samples // len(sound)))[:samples]


def _half_away(sound: Tensor) -> Tensor:
    frames = len(sound) // SAMPLES_PER_FRAME
    return sound.roll(frames // 2 * SAMPLES_PER_FRAME)
