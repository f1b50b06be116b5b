"""What a judge says of whole videos: each face with its track, or in words why a clip cannot be judged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from latentsync.errors import LatentSyncError
from latentsync.face.detect import Detector
from latentsync.face.tracks import FaceTrack
from latentsync.footage.survey import ClipFacts, Rules
from latentsync.sync.judge import FPS, SAMPLES_PER_FRAME, Judge, SyncScore
from latentsync.sync.talking_clip import CutFaces, TalkingClip, open_talking_clip

MIN_FACE_PX = 64  # of the larger side of a face's box


@dataclass(frozen=True)
class TrackVerdict:
    """One face: when and where it is seen, and its score or the reason why it has none."""

    start_seconds: float
    stop_seconds: float
    box: tuple[int, int, int, int]  # median, x0, y0, x1, y1 in pixels
    score: SyncScore | None = None
    invalid: str = ""


@dataclass(frozen=True)
class ClipVerdict:
    """A video by one judge; `invalid` says why it has no score, `notes` what was resampled for it."""

    video: Path
    judge: str
    tracks: tuple[TrackVerdict, ...] = ()
    invalid: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_invalid(self) -> bool:
        return self.best is None

    @property
    def best(self) -> TrackVerdict | None:
        """The face that the judge is surest of, since of two in one picture one only listens; confidence
        counts by the root of the length, for short tracks have high ones by chance.
        """
        scored = [track for track in self.tracks if track.score is not None]
        return max(scored, key=_sureness, default=None)


@dataclass(frozen=True)
class ShiftVerdict:
    """What a judge makes of one clip whose sound was moved: `own` as it is, `found` for each of `shifts`."""

    video: Path
    judge: str
    shifts: tuple[int, ...]
    own: SyncScore | None = None
    found: tuple[SyncScore, ...] = ()
    invalid: str = ""

    @property
    def is_invalid(self) -> bool:
        return self.own is None

    @property
    def errors(self) -> tuple[int | None, ...]:
        """By how many frames each finding misses the shift, relative to the clip's own offset; None where the
        two together lie farther than the judge looks.
        """
        if self.own is None:
            return ()
        own, reach = self.own.offset_frames, len(self.own.curve) // 2
        return tuple(
            None if abs(own + shift) > reach else score.offset_frames - own - shift
            for score, shift in zip(self.found, self.shifts, strict=True)
        )


def judge_clip(video: str | Path | TalkingClip, judge: Judge, detector: Detector) -> ClipVerdict:
    """Every face of a video, or of one that was opened already, by `judge`. What is wrong with the video
    becomes `invalid`, nothing is raised for it.
    """
    opened = video if isinstance(video, TalkingClip) else None
    video = video.path if isinstance(video, TalkingClip) else Path(video)
    try:
        clip = opened or open_talking_clip(video, detector)
        tracks = worth_judging(clip, judge.min_frames)
        verdicts = tuple(_judge_track(clip, track, judge) for track in tracks)
    except (LatentSyncError, OSError) as error:
        return ClipVerdict(video, judge.name, invalid=one_line(error))
    invalid = "" if any(v.score for v in verdicts) else verdicts[0].invalid if verdicts else no_face(clip)
    return ClipVerdict(video, judge.name, verdicts, invalid, clip.notes)


def shift_test(video: str | Path, judge: Judge, detector: Detector, shifts: Sequence[int]) -> ShiftVerdict:
    """Move a clip's sound by each of `shifts` frames (positive = earlier) and judge its longest face again.

    Only the frames are shown that have sound at every shift, so that no silence gives the shift away.
    """
    video, reach = Path(video), max(map(abs, shifts), default=0)
    try:
        clip = open_talking_clip(video, detector)
        tracks = worth_judging(clip, judge.min_frames + 2 * reach)
        if not tracks:
            return ShiftVerdict(video, judge.name, tuple(shifts), invalid=no_face(clip))
        track = max(tracks, key=lambda track: track.frames)
        stop = min(track.stop, len(clip.waveform) // SAMPLES_PER_FRAME)
        shown = range(track.start + reach, stop - reach)
        sounds = [clip.sound(shown.start + k, shown.stop + k) for k in (0, *shifts)]
        scores, reason = score_track(clip, track, judge, shown, sounds)
    except (LatentSyncError, OSError) as error:
        return ShiftVerdict(video, judge.name, tuple(shifts), invalid=one_line(error))
    if reason:
        return ShiftVerdict(video, judge.name, tuple(shifts), invalid=reason)
    return ShiftVerdict(video, judge.name, tuple(shifts), scores[0], tuple(scores[1:]))


def worth_judging(clip: TalkingClip, min_frames: int) -> list[FaceTrack]:
    """The tracks that are long enough; where none is, the longest, for its reason."""
    long = [track for track in clip.tracks if track.frames >= min_frames]
    return long or sorted(clip.tracks, key=lambda track: -track.frames)[:1]


def _judge_track(clip: TalkingClip, track: FaceTrack, judge: Judge) -> TrackVerdict:
    shown = range(track.start, track.stop)
    scores, reason = score_track(clip, track, judge, shown, [clip.sound(shown.start, shown.stop)])
    x0, y0, x1, y1 = np.median(track.boxes, axis=0).round().astype(int).tolist()
    return TrackVerdict(
        track.start / FPS, track.stop / FPS, (x0, y0, x1, y1), None if reason else scores[0], reason
    )


def score_track(
    clip: TalkingClip,
    track: FaceTrack,
    judge: Judge,
    shown: range,
    sounds: Sequence[Tensor],
    *,
    controls: Sequence[Tensor] = (),
) -> tuple[list[SyncScore], str]:
    """A track's frames `shown` with each of some sounds, or the reason why they cannot be judged.

    `controls` are scored after them whatever they are, silence too.
    """
    rules = Rules(judge.min_frames)
    if track.size_px < MIN_FACE_PX:
        return [], f"the face is too small: {track.size_px:.0f} px, {MIN_FACE_PX} px needed"
    facts = ClipFacts(
        frames=len(shown),
        samples=min(map(len, sounds)),
        side=round(track.size_px),
        loudness_db=min(map(_loudness_db, sounds)),
        brightness=math.inf,  # known when the faces have been seen
        motion=math.inf,
    )
    if against := rules.reason_against(facts):
        return [], f"{against[0]}: {against[1]}"
    faces = CutFaces(clip, track, judge.face_cut, shown)
    scores = judge.score_sounds(faces, [*sounds, *controls])
    seen = ClipFacts(
        facts.frames, facts.samples, facts.side, facts.loudness_db, faces.brightness, faces.motion
    )
    against = rules.reason_against(seen)
    return ([], f"{against[0]}: {against[1]}") if against else (scores, "")


def _loudness_db(sound: Tensor) -> float:
    """RMS without the mean, below full scale; -inf for digital silence."""
    rms = float(sound.std(correction=0)) if len(sound) else 0.0
    return 20 * math.log10(rms) if rms else -math.inf


def no_face(clip: TalkingClip) -> str:
    return f"no face found in {clip.frames} frames"


def _sureness(track: TrackVerdict) -> float:
    seconds = track.stop_seconds - track.start_seconds
    return track.score.confidence * math.sqrt(seconds) if track.score else -math.inf


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
