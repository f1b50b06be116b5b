"""The doctor of training footage: a collection in, what would keep a SyncNet from learning out.

A SyncNet whose loss stays at ln 2 = 0.69 mostly has footage whose sound and lips do not agree, or faces that
are cut out wrongly. So: offsets of lips and sound by a sliding correlation, with a wrong sound beside it as
the level of chance; clips without sound, voice, movement or light; copies in two splits; faces to look at.
One clip is held at a time.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentsync.audio.loudness import log_energy
from latentsync.errors import LatentSyncError
from latentsync.footage.clip import FPS, Clip, open_clip
from latentsync.footage.contact_sheet import ContactSheet
from latentsync.footage.content import ContentKeys, duplicates
from latentsync.footage.lip_offset import centred_motion, mouth_motion, peak, sliding_correlation
from latentsync.footage.listing import ClipFile
from latentsync.footage.report import CheckedClip, FootageReport
from latentsync.footage.survey import Dropped, KnownClip, Rules, Selection, Surveyor

MIN_FRAMES = 48  # what U-Net training asks of a clip, 16 frames at a time
SHEET_CLIPS = 24
SIDE = 128  # at which faces are looked at


def check(
    clips: Iterable[ClipFile],
    cache: str | Path,
    *,
    min_frames: int = MIN_FRAMES,
    sheet_clips: int = SHEET_CLIPS,
) -> FootageReport:
    """Examine the clips of a collection, all its splits at once; what is measured is kept below `cache`.

    Clips that cannot be read are reported, never raised. Raises: MediaError when `cache` cannot be written.
    """
    files = list(clips)
    keys = ContentKeys(cache)
    surveyor, rules, sheet = Surveyor(cache, keys), Rules(min_frames), ContactSheet()
    shown = {round(place) for place in np.linspace(0, len(files) - 1, sheet_clips)}
    kept: list[KnownClip] = []
    dropped: list[Dropped] = []
    found: list[CheckedClip] = []
    curves: list[np.ndarray] = []
    wrong_sound: np.ndarray | None = None  # the clip's before
    for number, file in enumerate(files):
        verdict = surveyor.judge(file, rules)
        try:
            if number in shown:
                sheet.add(_middle_face(file), f"{file.name} ({file.split})")
            track = _track(file) if isinstance(verdict, KnownClip) else None
        except (LatentSyncError, FileNotFoundError) as error:
            verdict, track = Dropped(file, "unreadable", str(error)), None
        if isinstance(verdict, KnownClip):
            kept.append(verdict)
        else:
            dropped.append(verdict)
        curve = track.correlate(track.log_power) if track else None
        chance = track.correlate(wrong_sound) if track and wrong_sound is not None else None
        wrong_sound = track.log_power if track else wrong_sound
        found.append(_checked(verdict, curve, chance))
        if curve is not None:
            curves.append(curve)
    unreadable = {clip.file for clip in dropped if clip.reason == "unreadable"}
    groups = duplicates([file for file in files if file not in unreadable], keys)
    return FootageReport(
        clips=tuple(found),
        selection=Selection(tuple(kept), tuple(dropped)),
        curve=tuple(float(r) for r in np.mean(curves, axis=0)) if curves else (),
        copies=_paths(group for group in groups if len({clip.split for clip in group}) == 1),
        leaks=_paths(group for group in groups if len({clip.split for clip in group}) > 1),
        sheet=sheet.image(),
    )


@dataclass(frozen=True)
class _Track:
    """A mouth through a clip and the loudness beside it, (F,) each."""

    mouth: np.ndarray
    measure: str
    log_power: np.ndarray

    def correlate(self, log_power: np.ndarray) -> np.ndarray | None:
        return sliding_correlation(self.mouth, log_power, measure=self.measure)


def _track(file: ClipFile) -> _Track:
    """The lips' aperture where it was measured, else how much the mouth's pixels change."""
    with open_clip(file, SIDE, allow_upscale=True) as clip:
        aperture = clip.aperture
        mouth = _motion(clip) if aperture is None else aperture
        log_power = log_energy(clip.waveform, float(FPS), clip.frames)
        return _Track(mouth, "motion" if aperture is None else "aperture", log_power)


def _motion(clip: Clip) -> np.ndarray:
    changes, last = [], None
    for faces in clip.stream():
        changes.append(mouth_motion(faces, last))
        last = faces[-1]
    return centred_motion(np.concatenate(changes))


def _middle_face(file: ClipFile) -> np.ndarray:
    with open_clip(file, SIDE, allow_upscale=True) as clip:
        return clip.faces(clip.frames // 2, clip.frames // 2 + 1)[0]


def _checked(
    verdict: KnownClip | Dropped, curve: np.ndarray | None, chance: np.ndarray | None
) -> CheckedClip:
    file = verdict.file
    return CheckedClip(
        path=str(file.path),
        split=file.split,
        speaker=file.speaker,
        frames=verdict.facts.usable_frames if isinstance(verdict, KnownClip) else 0,
        against="" if isinstance(verdict, KnownClip) else verdict.reason,
        offset=None if curve is None else peak(curve),
        chance=None if chance is None else peak(chance),
    )


def _paths(groups: Iterable[list[ClipFile]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(str(clip.path) for clip in group) for group in groups)
