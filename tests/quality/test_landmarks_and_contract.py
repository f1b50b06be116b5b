"""A mouth's shape whatever place and size, and whether a result has the form that it promised."""

from fractions import Fraction

import numpy as np
import pytest
from synthetic import square_images, tone_burst, write_sound, write_video

from latentsync.errors import MediaError
from latentsync.quality.contract import check_contract
from latentsync.quality.landmarks import LIPS, landmark_distance


def faces(frames=5, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 200, (1, 468, 2)).repeat(frames, axis=0)
    points[:, [33, 133]] = (60, 80)
    points[:, [263, 362]] = (140, 80)  # 80 px between the eyes
    return points


def test_place_size_and_roundings_do_not_count():
    truth = faces()
    assert landmark_distance(truth, truth) == 0
    assert landmark_distance(truth * 2.5 + (40, -12), truth) == pytest.approx(0, abs=1e-12)


def test_lips_that_open_further_by_a_known_amount():
    truth, result = faces(), faces()
    lips = list(LIPS)
    result[:, lips[::2], 1] += 8  # half of the points go down by 8, about the centre by 4 each
    assert landmark_distance(result, truth) == pytest.approx(4 / 80)


def test_frames_without_a_face_and_a_longer_clip_are_left_out():
    truth, result = faces(6), faces(4)
    result[1] = np.nan
    assert landmark_distance(result, truth) == 0
    assert np.isnan(landmark_distance(np.full((4, 468, 2), np.nan), truth))


def clip(path, *, frames=50, fps=25, side=64, seconds=None, sound=True):
    wave = tone_burst(frames / fps if seconds is None else seconds, [0.2]) if sound else None
    return write_video(path, square_images(frames, width=side, height=side), fps=fps, sound=wave)


def test_a_result_that_keeps_its_promise(tmp_path):
    source = clip(tmp_path / "source.mp4")
    sound = write_sound(tmp_path / "sound.wav", tone_burst(1.2, [0.3]), 48000)
    short = check_contract(clip(tmp_path / "short.mp4", frames=30), source=source, sound=sound)
    assert short.is_kept and (short.frames, short.width, short.fps) == (30, 64, 25.0)
    assert short.sound_seconds == pytest.approx(1.2, abs=0.05)
    long = check_contract(clip(tmp_path / "long.mp4", seconds=2.0), source=source, sound=sound)
    assert long.is_kept and check_contract(source).is_kept


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        ({"side": 96}, "it is 96x96 px, the source 64x64"),
        ({"fps": 30, "frames": 60}, "30 frames a second, the source 25"),
        ({"frames": 38}, "it lasts 1.520 s"),
        ({"seconds": 1.5}, "its pictures last 2.000 s, its sound 1.5"),
        ({"sound": False}, "no sound track"),
    ],
)
def test_what_is_broken_is_said(tmp_path, made, fault):
    source = clip(tmp_path / "source.mp4")
    found = check_contract(clip(tmp_path / "result.mp4", **made), source=source, sound=source)
    assert not found.is_kept and any(fault in words for words in found.faults), found.faults


def test_ntsc_rates_by_their_two_names_are_one(tmp_path):
    source = clip(tmp_path / "source.mp4", fps=Fraction(30000, 1001), frames=60)
    result = clip(tmp_path / "result.mp4", fps=Fraction(2997, 100), frames=60)
    assert check_contract(result, source=source).is_kept


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        check_contract(tmp_path / "no.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(MediaError):
        check_contract(tmp_path / "text.mp4")
