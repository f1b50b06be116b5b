"""Lip tracks and their correlations on series whose answer is known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from latentsync.face.detect import Face
from latentsync.quality.aperture import (
    EYES,
    INNER_LIPS,
    MESH_POINTS,
    MIN_FRAMES,
    MOUTH_CORNERS,
    LipTrack,
    compare,
    lagged,
    measure_lips,
    partial_r,
    pearson,
    shift,
)

IMAGE = np.zeros((8, 8, 3), np.uint8)


def smooth(count: int, seed: int) -> np.ndarray:
    """A lip-like series: noise smoothed to about 5 Hz at 25 fps, mean 0, std 1."""
    series = gaussian_filter1d(np.random.default_rng(seed).standard_normal(count + 40), 1.5)[20:-20]
    return (series - series.mean()) / series.std()


def orthogonal(series: np.ndarray, seed: int) -> np.ndarray:
    """Another such series, exactly uncorrelated with `series`."""
    other = smooth(len(series), seed)
    other = other - other @ series / (series @ series) * series
    return (other - other.mean()) / other.std()


def track(aperture: np.ndarray, width: np.ndarray | None = None) -> LipTrack:
    width = np.ones_like(aperture) if width is None else width
    return LipTrack(np.arange(len(aperture)) / 25, aperture, width)


def face(
    x: float, opening: float, *, width: float = 50.0, size: float = 100.0, points: int = MESH_POINTS
) -> Face:
    """A mesh centred on x, in pixels: eyes `size` apart, lips open by opening * size."""
    mesh = np.full((points, 2), x, np.float32)
    if points == MESH_POINTS:
        for eye, place in zip(EYES, (x - size / 2, x + size / 2), strict=True):
            mesh[list(eye)] = [(place - 5, 0), (place + 5, 0)]
        mesh[list(INNER_LIPS)] = [(x, 80), (x, 80 + opening * size)]
        mesh[list(MOUTH_CORNERS)] = [(x - width / 2, 80), (x + width / 2, 80)]
    box = (x - size, 0.0, x + size, 2 * size)
    return Face(
        box, 1.0, np.zeros((3, 2), np.float32), mesh, "mediapipe" if points == MESH_POINTS else "other"
    )


class ScriptedDetector:
    """Gives the next list of faces at each call."""

    def __init__(self, *script: list[Face]) -> None:
        self.script = list(script)

    def detect(self, image: np.ndarray, hint=None) -> list[Face]:
        return self.script.pop(0)

    def close(self) -> None: ...


def compare_mouths(result: np.ndarray, truth: np.ndarray, energy: np.ndarray | None = None):
    count = len(truth)
    own, wrong = track(orthogonal(result[:count], 90)), track(np.roll(truth, count // 2))
    energy = smooth(count, 91) if energy is None else energy
    return compare(track(result), track(truth), own=own, wrong=wrong, energy=energy)


def test_lengths_are_in_eye_distances_and_a_missing_face_is_nan():
    detector = ScriptedDetector([face(100, 0.2)], [], [face(100, 0.1, size=200, width=120)])
    lips = measure_lips([IMAGE] * 3, detector)
    np.testing.assert_allclose(lips.times_seconds, [0, 0.04, 0.08])
    np.testing.assert_allclose(lips.aperture, [0.2, np.nan, 0.1], rtol=1e-5)
    np.testing.assert_allclose(lips.width, [0.5, np.nan, 0.6], rtol=1e-5)


def test_the_largest_face_is_followed_though_it_shrinks_vanishes_and_comes_second():
    first = [face(500, 0.9, size=50), face(100, 0.1)]
    second = [face(500, 0.9, size=150), face(110, 0.2, size=60)]
    detector = ScriptedDetector(first, second, [], [face(120, 0.3, size=60), face(500, 0.9)])
    np.testing.assert_allclose(
        measure_lips([IMAGE] * 4, detector).aperture, [0.1, 0.2, np.nan, 0.3], rtol=1e-5
    )


def test_landmarks_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="106 landmarks"):
        measure_lips([IMAGE], ScriptedDetector([face(100, 0.2, points=106)]))


def test_no_frames_give_an_empty_track():
    assert measure_lips([], ScriptedDetector()).aperture.shape == (0,)


@pytest.mark.parametrize("r", [-0.7, 0.0, 0.4, 0.9])
def test_pearson_finds_a_known_r_whatever_gain_and_offset(r: float):
    truth = smooth(200, 1)
    result = 0.02 + 3 * (r * truth + np.sqrt(1 - r**2) * orthogonal(truth, 2))
    assert pearson(result, truth) == pytest.approx(r, abs=1e-9)


def test_pearson_skips_frames_without_a_face():
    truth = smooth(100, 1)
    result = truth.copy()
    result[10:20] = np.nan
    assert pearson(result, truth) == pytest.approx(1)


@pytest.mark.parametrize("flat", [np.zeros(50), np.full(50, 0.1), np.full(50, np.nan)])
def test_a_still_mouth_has_no_correlation(flat: np.ndarray):
    assert np.isnan(pearson(flat, smooth(50, 1)))
    score = lagged(flat, smooth(50, 1))
    assert np.isnan(score.best_r) and score.best_lag_frames == 0


@pytest.mark.parametrize("lag", [-2, -1, 0, 1, 2])
def test_a_late_mouth_has_a_positive_lag(lag: int):
    truth = smooth(120, 3)
    score = lagged(shift(truth, -lag), truth)
    assert score.best_lag_frames == lag and score.best_r == pytest.approx(1)
    assert score.r < 0.95 or lag == 0


def test_a_lag_beyond_the_window_is_not_credited():
    truth = smooth(400, 3)
    assert lagged(shift(truth, -6), truth).best_r < 0.5


def test_loudness_flapping_keeps_no_partial_r_though_its_r_is_high():
    energy = smooth(600, 4)
    truth = 0.7 * energy + 0.7 * orthogonal(energy, 5)
    flapping = shift(energy, -1) + 0.2 * np.random.default_rng(6).standard_normal(600)
    scores = compare_mouths(flapping, truth, energy)
    assert scores.aperture.best_r > 0.6 and scores.loudness.r > 0.6
    assert abs(scores.partial_r) < 0.15  # chance: 1 / sqrt(600) for white residuals


def test_articulation_beyond_loudness_keeps_its_partial_r():
    energy = smooth(300, 4)
    truth = energy + orthogonal(energy, 5)
    assert partial_r(truth * 0.5, truth, energy) == pytest.approx(1)


def test_a_mouth_that_is_loudness_exactly_has_no_partial_r():
    energy = smooth(300, 4)
    assert np.isnan(partial_r(3 * energy + 1, energy + orthogonal(energy, 5), energy))


def test_flat_loudness_takes_nothing_away():
    truth = smooth(100, 1)
    assert partial_r(truth, truth, np.zeros(100)) == pytest.approx(1)


def test_a_perfect_dub_scores_one_and_its_controls_near_zero():
    truth = smooth(400, 7)
    scores = compare_mouths(0.8 * truth, truth)
    assert scores.aperture.r == pytest.approx(1) and scores.aperture.best_lag_frames == 0
    assert scores.opening_ratio == pytest.approx(0.8)
    assert abs(scores.own.r) < 1e-9 and abs(scores.wrong.r) < 0.2
    assert np.isnan(scores.width.r)  # both widths stand still
    assert scores.frame_count == 400


def test_longer_result_and_missing_faces_are_cut_to_what_is_common():
    truth = smooth(60, 8)
    result = np.concatenate([truth, smooth(15, 9)])
    result[5:10] = np.nan
    scores = compare_mouths(result, truth)
    assert scores.frame_count == 55 and scores.aperture.r == pytest.approx(1)


@pytest.mark.parametrize("still", ["result", "truth"])
def test_a_still_mouth_scores_nan_or_no_opening_but_does_not_crash(still: str):
    moving, flat = smooth(80, 1), np.full(80, 0.05)
    scores = compare_mouths(flat, moving) if still == "result" else compare_mouths(moving, flat)
    assert np.isnan([scores.aperture.r, scores.partial_r, scores.wrong.r]).all()
    assert np.isnan(scores.opening_ratio) if still == "truth" else scores.opening_ratio < 1e-9


def test_too_few_common_frames_are_refused_with_the_numbers():
    truth = smooth(60, 1)
    truth[MIN_FRAMES - 1 :] = np.nan
    with pytest.raises(ValueError, match=r"only 24 frames .* at least 25"):
        compare_mouths(smooth(60, 2), truth)


def test_a_control_without_faces_is_nan_and_the_rest_stands():
    truth = smooth(60, 1)
    nothing = track(np.full(60, np.nan))
    scores = compare(track(truth), track(truth), own=nothing, wrong=track(truth[:10]), energy=smooth(60, 2))
    assert np.isnan([scores.own.r, scores.wrong.best_r]).all() and scores.aperture.r == pytest.approx(1)
