"""How well a mouth moves with another one: lip tracks of two clips in, correlations with their controls out.

A track holds one number a frame, (F,) float64, NaN where there is no face; lengths are in units of the
distance of the eye centres, so the size of the face drops out. A correlation alone misleads:
`LipScores` carries the source's own mouth, a wrong sound and plain loudness beside it. Landmark numbers are
those of MediaPipe's mesh.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from latentsync.face.detect import Detector, Face
from latentsync.media import Frame

INNER_LIPS = (13, 14)
MOUTH_CORNERS = (61, 291)
EYES = ((33, 133), (263, 362))  # outer and inner corner of each eye
MESH_POINTS = 468

MAX_LAG_FRAMES = 2
LAGS = sorted(range(-MAX_LAG_FRAMES, MAX_LAG_FRAMES + 1), key=abs)  # the smallest lag wins a tie
MIN_FRAMES = 25
FLAT = 1e-9  # a series that varies less than this (relative to its size) has no correlation


@dataclass(frozen=True)
class LipTrack:
    """One mouth through a clip: (F,) each, lengths in eye distances, NaN without a face."""

    times_seconds: np.ndarray
    aperture: np.ndarray  # between the inner lips
    width: np.ndarray  # between the corners

    def take(self, indices: np.ndarray) -> "LipTrack":
        """The track of the frames `indices`, shown in that order; the times stay those of the source."""
        return LipTrack(self.times_seconds[indices], self.aperture[indices], self.width[indices])


@dataclass(frozen=True)
class LagScore:
    """Pearson r at lag 0, and the highest within +-2 frames; a positive lag: the first series comes later."""

    r: float
    best_r: float
    best_lag_frames: int


@dataclass(frozen=True)
class LipScores:
    """A dubbed mouth against the true one, with what a careless mouth would score; NaN where undefined."""

    aperture: LagScore  # result against truth
    width: LagScore
    opening_ratio: (
        float  # std of the result's aperture / std of the truth's: 1 = opens as much, 0 = stays still
    )
    partial_r: float  # aperture's best r with the loudness regressed out of both
    own: LagScore  # control: result against the source's own mouth; high = the old mouth shines through
    wrong: LagScore  # control: result against the truth of another sound; about 0 when the lips follow theirs
    loudness: LagScore  # baseline: log energy against truth, what a loudness-flapping mouth would score
    frame_count: int  # frames with a face in both


def measure_lips(frames: Iterable[Frame | np.ndarray], detector: Detector, *, fps: float = 25.0) -> LipTrack:
    """Follow one mouth through `frames`: the largest face first, then the one nearest to where it last was.

    Plain (H, W, 3) uint8 RGB images have no time: they are taken to come at `fps`.
    """
    rows: list[tuple[float, float, float]] = []
    last: Face | None = None
    for index, frame in enumerate(frames):
        image, seconds = (
            (frame.image, float(frame.time)) if isinstance(frame, Frame) else (frame, index / fps)
        )
        face = _followed(detector.detect(image, hint=last.box if last else None), last)
        rows.append((seconds, *(_lip_lengths(face) if face else (np.nan, np.nan))))
        last = face or last
    return LipTrack(*np.array(rows, dtype=np.float64).reshape(-1, 3).T)


def _followed(faces: list[Face], last: Face | None) -> Face | None:
    """The face to measure: the largest when there was none before, else the one nearest to the last."""
    if last is None:
        return max(faces, key=lambda face: face.box[2] - face.box[0], default=None)
    return min(faces, key=lambda face: float(np.linalg.norm(_centre(face) - _centre(last))), default=None)


def _centre(face: Face) -> np.ndarray:
    x0, y0, x1, y1 = face.box
    return np.array([x0 + x1, y0 + y1]) / 2


def _lip_lengths(face: Face) -> tuple[float, float]:
    """Aperture and width of one mouth, in eye distances."""
    points = np.asarray(face.landmarks, dtype=np.float64)
    if len(points) < MESH_POINTS:
        raise ValueError(
            f"a face of {len(points)} landmarks ({face.kind}): lips are measured on MediaPipe's "
            f"{MESH_POINTS}; use the detector mediapipe"
        )
    first_eye, second_eye = (points[list(eye)].mean(axis=0) for eye in EYES)
    (upper, lower), (first_corner, second_corner) = points[list(INNER_LIPS)], points[list(MOUTH_CORNERS)]
    lengths = [
        np.linalg.norm(d) for d in (second_eye - first_eye, lower - upper, second_corner - first_corner)
    ]
    return float(lengths[1] / lengths[0]), float(lengths[2] / lengths[0])


def pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation over the frames where both are finite; NaN for fewer than 3 or one that stands still."""
    common = np.isfinite(first) & np.isfinite(second)
    if common.sum() < 3 or _is_flat(first[common]) or _is_flat(second[common]):
        return float("nan")
    return float(np.corrcoef(first[common], second[common])[0, 1])


def lagged(first: np.ndarray, second: np.ndarray) -> LagScore:
    """`pearson` at lag 0 and at the lag, within +-2 frames, where it is highest."""
    scores = {lag: pearson(shift(first, lag), second) for lag in LAGS}
    best = max(LAGS, key=lambda lag: -np.inf if np.isnan(scores[lag]) else scores[lag])
    return LagScore(scores[0], scores[best], best)


def shift(series: np.ndarray, lag: int) -> np.ndarray:
    """The series `lag` frames earlier, NaN where it has no value: shift(x, lag)[t] = x[t + lag]."""
    out = np.full(len(series), np.nan)
    source = series[max(lag, 0) : len(series) + min(lag, 0)]
    start = max(-lag, 0)
    out[start : start + len(source)] = source
    return out


def partial_r(result: np.ndarray, truth: np.ndarray, energy: np.ndarray) -> float:
    """Best-lag correlation of what `energy` does not explain; it leaves each series at its own best lag."""
    lag = lagged(result, truth).best_lag_frames
    return pearson(shift(_without(result, energy), lag), _without(truth, energy))


def _without(series: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Residual of `series` after a straight line in `energy`; flat residuals become exactly 0."""
    energy = shift(energy, lagged(energy, series).best_lag_frames)
    common = np.isfinite(series) & np.isfinite(energy)
    if common.sum() < 3 or _is_flat(energy[common]):
        return series
    slope, intercept = np.polyfit(energy[common], series[common], 1)
    residual = series - (slope * energy + intercept)
    negligible = np.nanstd(residual) <= FLAT * np.nanstd(series[common])
    return np.where(np.isfinite(residual), 0.0, np.nan) if negligible else residual


def _is_flat(values: np.ndarray) -> bool:
    return bool(np.std(values) <= FLAT * max(float(np.abs(values).max()), FLAT))


def compare(
    result: LipTrack, truth: LipTrack, *, own: LipTrack, wrong: LipTrack, energy: np.ndarray
) -> LipScores:
    """Score the mouth of a dubbed clip against the mouth that really spoke the sound, frame by frame.

    `own` is the mouth of the source frames as shown, `wrong` the mouth of another sound, `energy` the (F,)
    loudness of this one. Tracks are cut to their common length; a control with too few common frames is NaN.

    Raises: ValueError when fewer than 25 frames have a face in both result and truth.
    """
    count = min(len(result.aperture), len(truth.aperture))
    common = np.isfinite(result.aperture[:count]) & np.isfinite(truth.aperture[:count])
    if common.sum() < MIN_FRAMES:
        raise ValueError(
            f"only {common.sum()} frames with a face in both clips ({len(result.aperture)} and "
            f"{len(truth.aperture)} frames); a correlation needs at least {MIN_FRAMES}: pass longer clips "
            "whose face is visible"
        )
    mouth, true_mouth, loudness = _cut(count, result.aperture, truth.aperture, energy)
    true_std = np.std(true_mouth[common])
    return LipScores(
        aperture=lagged(mouth, true_mouth),
        width=lagged(*_cut(count, result.width, truth.width)),
        opening_ratio=float("nan")
        if _is_flat(true_mouth[common])
        else float(np.std(mouth[common]) / true_std),
        partial_r=partial_r(mouth, true_mouth, loudness),
        own=_control(mouth, own.aperture),
        wrong=_control(mouth, wrong.aperture),
        loudness=lagged(loudness, true_mouth),
        frame_count=int(common.sum()),
    )


def _cut(count: int, *series: np.ndarray) -> list[np.ndarray]:
    """The first `count` values of each, padded with NaN where it is shorter."""
    return [
        np.pad(np.asarray(x[:count], float), (0, count - len(x[:count])), constant_values=np.nan)
        for x in series
    ]


def _control(mouth: np.ndarray, other: np.ndarray) -> LagScore:
    (other,) = _cut(len(mouth), other)
    if (np.isfinite(mouth) & np.isfinite(other)).sum() < MIN_FRAMES:
        return LagScore(float("nan"), float("nan"), 0)
    return lagged(mouth, other)
