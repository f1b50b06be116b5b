"""Cross dubbing: clip A is dubbed with the sound of clip B, and its mouth compared with B's, frame by frame.

In: pairs of clips and a callable that dubs (handed in, for this package knows no dubbing). Out: `PairResult`s
with the controls of `aperture.LipScores`; then a table and a JSON line. All is compared at 25 fps.
"""

import json
import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

from latentsync.audio.loudness import log_energy
from latentsync.face.detect import Detector
from latentsync.media import Frame, VideoReader, read_audio, resample
from latentsync.media.audio import SAMPLE_RATE_HZ
from latentsync.quality.aperture import LagScore, LipScores, LipTrack, compare, measure_lips

FPS = 25
Dub = Callable[
    [Path, Path, Path], object
]  # (video, sound, output): writes output, which lasts as long as the sound

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairResult:
    """What the mouth of `frames`, dubbed with `sound`, scored against the mouth of `sound`."""

    frames: Path
    sound: Path
    scores: LipScores


def pairs_in(folder: Path, pattern: str) -> list[tuple[Path, Path]]:
    """All ordered pairs (frames, sound) of different clips that match, by name.

    Raises: FileNotFoundError when fewer than two clips match.
    """
    clips = sorted(path for path in folder.glob(pattern) if path.is_file())
    if len(clips) < 2:
        raise FileNotFoundError(f"{len(clips)} files match {pattern!r} in {folder}; a pair needs at least 2")
    return [(frames, sound) for frames in clips for sound in clips if frames != sound]


def cross_dub(pairs: Iterable[tuple[Path, Path]], dub: Dub, detector: Detector) -> Iterator[PairResult]:
    """Dub and score pair after pair; each clip's own mouth is measured once, at its first use.

    Raises: ValueError where result and truth share fewer than 25 frames with a face.
    """
    tracks: dict[Path, LipTrack] = {}
    for frames, sound in pairs:
        for clip in (frames, sound):
            if clip not in tracks:
                tracks[clip] = measure_clip(clip, detector)
        with tempfile.TemporaryDirectory(prefix="cross_dub_") as folder:
            scores = _score_pair(
                frames, sound, Path(folder), dub, detector, own=tracks[frames], truth=tracks[sound]
            )
        logger.info("%s with the sound of %s: r %+.2f", frames.name, sound.name, scores.aperture.r)
        yield PairResult(frames, sound, scores)


def measure_clip(path: Path, detector: Detector) -> LipTrack:
    """The mouth of a clip at 25 fps, whatever its own rate; time 0 is its first frame."""
    with VideoReader(path) as reader:
        return measure_lips(_frames_at_25(reader), detector)


def _frames_at_25(frames: Iterable[Frame]) -> Iterator[Frame]:
    for shown in resample(frames, Fraction(FPS)):
        yield replace(shown.frame, time=Fraction(shown.tick, FPS))


def _score_pair(
    frames: Path, sound: Path, folder: Path, dub: Dub, detector: Detector, *, own: LipTrack, truth: LipTrack
) -> LipScores:
    """Dub into `folder` and compare with the truth, the source's own mouth and the truth half a clip away."""
    waveform = read_audio(sound)
    speech, output = folder / "speech.wav", folder / "dubbed.mp4"
    wavfile.write(speech, SAMPLE_RATE_HZ, np.round(waveform * 32767).astype(np.int16))
    dub(frames, speech, output)
    result = measure_clip(output, detector)
    shown = ping_pong(len(own.aperture), len(result.aperture))
    elsewhere = np.roll(np.arange(len(truth.aperture)), len(truth.aperture) // 2)
    energy = log_energy(waveform, FPS, len(truth.aperture))
    return compare(result, truth, own=own.take(shown), wrong=truth.take(elsewhere), energy=energy)


def ping_pong(count: int, total: int) -> np.ndarray:
    """Which of `count` frames is shown at each of `total` places: 0 .. n-1, n-2 .. 0, 1 .."""
    if count < 1:
        raise ValueError(f"a clip of {count} frames cannot be shown; at least 1 is needed")
    places = np.arange(total) % max(1, 2 * count - 2)
    return np.minimum(places, np.abs(2 * count - 2 - places))


def mean_scores(results: Sequence[PairResult]) -> LipScores:
    """Every number averaged over the pairs that have it; NaN where none has."""
    return _averaged([result.scores for result in results])


def _averaged(values: Sequence[Any]) -> Any:
    """Mean of numbers, or of score dataclasses field by field."""
    first = values[0]
    if isinstance(first, LipScores | LagScore):
        fields = first.__dataclass_fields__
        return type(first)(**{name: _averaged([getattr(value, name) for value in values]) for name in fields})
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan


TITLES = ("aperture", "width", "own", "wrong", "loudness")  # a LagScore each
HEADER = " ".join(
    [f"{'frames':<20} {'sound':<20} opening partial", *(f"{title:>8}  best (lag)" for title in TITLES)]
)


def table(results: Sequence[PairResult]) -> str:
    """One row a pair, then the mean: r at lag 0 and the best within +-2 frames, of mouth and controls."""
    rows = [_row(result.frames.name, result.sound.name, result.scores) for result in results]
    return "\n".join([HEADER, *rows, _row("mean", f"{len(results)} pairs", mean_scores(results))])


def _row(frames: str, sound: str, scores: LipScores) -> str:
    columns = [f"{frames[:20]:<20} {sound[:20]:<20} {scores.opening_ratio:7.2f} {scores.partial_r:7.2f}"]
    for title in TITLES:
        score: LagScore = getattr(scores, title)
        columns.append(f"{score.r:8.2f} {score.best_r:5.2f} {f'({score.best_lag_frames:+.2g})':>5}")
    return " ".join(columns)


def json_line(results: Sequence[PairResult]) -> str:
    """`{"pairs": [...], "mean": {...}}` in one line; what is undefined is null."""
    pairs = [{"frames": r.frames.name, "sound": r.sound.name, **asdict(r.scores)} for r in results]
    return json.dumps(_without_nan({"pairs": pairs, "mean": asdict(mean_scores(results))}))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
