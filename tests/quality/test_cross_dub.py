"""Cross dubbing with dubs whose score is known beforehand: one that shows B's mouth, one that leaves A's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile
from scipy.ndimage import gaussian_filter1d

from latentsync.face.detect import MediaPipeDetector
from latentsync.quality import cross_dub
from latentsync.quality.aperture import LagScore, LipScores, LipTrack
from latentsync.quality.cross_dub import (
    PairResult,
    json_line,
    mean_scores,
    measure_clip,
    pairs_in,
    ping_pong,
    table,
)

PORTRAIT = Path(__file__).parents[2] / "assets" / "portrait.mp4"


def lips(seed: int, frames: int) -> LipTrack:
    aperture, width = gaussian_filter1d(np.random.default_rng(seed).standard_normal((2, frames)), 1.5, axis=1)
    return LipTrack(np.arange(frames) / 25, 0.1 + 0.05 * aperture, 0.6 + 0.05 * width)


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two "clips" whose files hold the mouth itself: a short A and a longer B; every sound is one noise."""

    def read_lips(path: Path, detector: object) -> LipTrack:
        with path.open("rb") as file:
            return LipTrack(*np.load(file))

    noise = 0.1 * np.random.default_rng(0).standard_normal(6 * 16_000).astype(np.float32)
    monkeypatch.setattr(cross_dub, "measure_clip", read_lips)
    monkeypatch.setattr(cross_dub, "read_audio", lambda path: noise)
    paths = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for seed, (path, frames) in enumerate(zip(paths, (60, 150), strict=True)):
        save_lips(path, lips(seed, frames))
    return paths


def save_lips(path: Path, track: LipTrack) -> None:
    with path.open("wb") as file:
        np.save(file, np.stack([track.times_seconds, track.aperture, track.width]))


def only(results) -> PairResult:
    (result,) = results
    return result


def test_showing_the_true_mouth_scores_one(clips: list[Path]):
    a, b = clips
    result = only(cross_dub.cross_dub([(a, b)], lambda video, sound, output: shutil.copy(b, output), None))
    scores = result.scores
    assert (result.frames, result.sound) == (a, b)
    assert scores.aperture.r == pytest.approx(1) and scores.width.r == pytest.approx(1)
    assert scores.opening_ratio == pytest.approx(1) and scores.partial_r == pytest.approx(1)
    assert abs(scores.own.r) < 0.4 and abs(scores.wrong.r) < 0.4  # chance of 150 smoothed frames: 0.2 a std
    assert scores.frame_count == 150


def test_leaving_the_old_mouth_shows_in_the_own_control(clips: list[Path]):
    a, b = clips

    def leave(video: Path, sound: Path, output: Path) -> None:
        with a.open("rb") as file:
            track = LipTrack(*np.load(file))
        there_and_back = [*range(60), *range(58, -1, -1), *range(1, 32)]
        save_lips(output, track.take(np.array(there_and_back)))

    scores = only(cross_dub.cross_dub([(a, b)], leave, None)).scores
    assert scores.own.r == pytest.approx(1)
    assert abs(scores.aperture.r) < 0.4 and abs(scores.width.r) < 0.4


def test_a_mouth_for_another_stretch_shows_in_the_wrong_control(clips: list[Path]):
    a, b = clips

    def another_stretch(video: Path, sound: Path, output: Path) -> None:
        save_lips(output, lips(1, 150).take(np.roll(np.arange(150), 75)))

    scores = only(cross_dub.cross_dub([(a, b)], another_stretch, None)).scores
    assert scores.wrong.r == pytest.approx(1) and abs(scores.aperture.r) < 0.4


def test_the_dub_gets_a_wav_of_the_sound_and_its_folder_is_gone_afterwards(clips: list[Path]):
    a, b = clips
    seen: list[Path] = []

    def dub(video: Path, sound: Path, output: Path) -> None:
        rate, samples = wavfile.read(sound)
        assert (video, rate, samples.dtype, len(samples)) == (a, 16_000, np.int16, 6 * 16_000)
        np.testing.assert_allclose(samples / 32767, cross_dub.read_audio(b), atol=1e-4)
        seen.append(sound)
        shutil.copy(b, output)

    only(cross_dub.cross_dub([(a, b)], dub, None))
    assert not seen[0].exists() and not seen[0].parent.exists()


def test_a_loud_sound_is_clipped_not_wrapped(clips: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cross_dub, "read_audio", lambda path: np.array([-1, 1] * 48_000, np.float32))

    def dub(video: Path, sound: Path, output: Path) -> None:
        assert set(wavfile.read(sound)[1]) == {-32767, 32767}
        shutil.copy(video, output)

    assert only(cross_dub.cross_dub([tuple(clips)], dub, None)).scores.own.r == pytest.approx(1)


@pytest.mark.parametrize(
    ("count", "total", "expected"),
    [
        (4, 10, [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]),
        (4, 3, [0, 1, 2]),
        (2, 5, [0, 1, 0, 1, 0]),
        (1, 3, [0, 0, 0]),
        (3, 0, []),
    ],
)
def test_ping_pong(count: int, total: int, expected: list[int]):
    assert ping_pong(count, total).tolist() == expected


def test_ping_pong_of_nothing_is_refused():
    with pytest.raises(ValueError, match="0 frames"):
        ping_pong(0, 5)


def test_pairs_are_all_ordered_pairs_of_different_clips(tmp_path: Path):
    for name in ("x1.mp4", "x2.mp4", "x3.mp4", "other.mp4"):
        (tmp_path / name).touch()
    names = [(frames.stem, sound.stem) for frames, sound in pairs_in(tmp_path, "x*.mp4")]
    assert names == [("x1", "x2"), ("x1", "x3"), ("x2", "x1"), ("x2", "x3"), ("x3", "x1"), ("x3", "x2")]
    with pytest.raises(FileNotFoundError, match="1 files match"):
        pairs_in(tmp_path, "other*")


def result_with(r: float) -> PairResult:
    score = LagScore(r, r + 0.1, 1)
    nothing = LagScore(float("nan"), float("nan"), 0)
    scores = LipScores(score, score, 0.9, r / 2, nothing, score, score, 100)
    return PairResult(Path("a.mp4"), Path("b.mp4"), scores)


def test_the_mean_leaves_out_what_is_undefined():
    results = [result_with(0.2), result_with(float("nan")), result_with(0.6)]
    mean = mean_scores(results)
    assert mean.aperture.r == pytest.approx(0.4) and mean.partial_r == pytest.approx(0.2)
    assert np.isnan(mean.own.r) and mean.opening_ratio == pytest.approx(0.9)


def test_the_json_is_one_strict_line():
    line = json_line([result_with(0.25), result_with(float("nan"))])
    assert "\n" not in line

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    data = json.loads(line, parse_constant=refuse)
    assert [pair["frames"] for pair in data["pairs"]] == ["a.mp4", "a.mp4"]
    assert data["pairs"][0]["aperture"] == {"r": 0.25, "best_r": 0.35, "best_lag_frames": 1}
    assert data["pairs"][1]["aperture"]["r"] is None and data["mean"]["aperture"]["r"] == 0.25


def test_the_table_has_a_row_a_pair_then_the_mean_in_aligned_columns():
    header, *rows = table([result_with(0.25), result_with(0.75)]).splitlines()
    assert len(rows) == 3 and rows[-1].startswith("mean") and {len(row) for row in rows} == {len(header)}
    assert [row.split()[-3] for row in rows] == ["0.25", "0.75", "0.50"]


def test_the_portrait_keeps_its_mouth_still():
    with MediaPipeDetector() as detector:
        track = measure_clip(PORTRAIT, detector)
    assert np.isfinite(track.aperture).all() and len(track.aperture) == 100
    np.testing.assert_allclose(track.times_seconds, np.arange(100) / 25)
    assert track.aperture.std() < 0.02 and track.width.std() < 0.03  # a talking mouth: 0.05
