"""Ticks of a constant rate show the nearest source frame, and the way back finds the tick."""

from fractions import Fraction

import numpy as np
import pytest

from latentsync.media import Frame, nearest_tick, resample

IMAGE = np.zeros((2, 2, 3), np.uint8)
TARGET = Fraction(25)
NTSC = Fraction(30000, 1001)
VARIABLE = [Fraction(k, 1000) for k in (0, 40, 80, 200, 233, 267, 300, 500, 520, 700)]


def frames_at(times: list[Fraction]) -> list[Frame]:
    return [Frame(IMAGE, time, index) for index, time in enumerate(times)]


def constant(fps: Fraction | float, count: int, start: Fraction = Fraction(0)) -> list[Frame]:
    return frames_at([start + k / Fraction(fps) for k in range(count)])


@pytest.mark.parametrize("start", [Fraction(0), Fraction(7, 30), Fraction(-1, 50)])
def test_a_clip_at_the_target_rate_is_unchanged(start: Fraction):
    frames = constant(25, 40, start)
    ticks = list(resample(frames, TARGET))
    assert [tick.tick for tick in ticks] == list(range(40))
    assert all(tick.frame is frame for tick, frame in zip(ticks, frames, strict=True))


def test_millisecond_rounding_changes_nothing():
    times = [Fraction(round(k * 1001 / 30), 1000) for k in range(60)]
    assert [tick.frame.index for tick in resample(frames_at(times), NTSC)] == list(range(60))


@pytest.mark.parametrize(
    ("fps", "count"),
    [(30, 300), (NTSC, 300), (50, 100), (12.5, 25), (60, 61), (24, 24), (240, 33), (25, 1), (10, 3), (7, 5)],
)
def test_every_tick_shows_the_nearest_frame(fps, count: int):
    frames = constant(fps, count, Fraction(1, 3))
    ticks = list(resample(frames, TARGET))
    assert [tick.tick for tick in ticks] == list(range(max(1, round(count / Fraction(fps) * TARGET))))
    check_nearest(frames, ticks)


def check_nearest(frames: list[Frame], ticks: list) -> None:
    times = [frame.time - frames[0].time for frame in frames]
    for tick in ticks:
        distance = [abs(time - tick.tick / TARGET) for time in times]
        assert tick.frame.index == distance.index(min(distance))  # the earlier one of two as near


def test_variable_rates():
    frames = frames_at(VARIABLE)
    ticks = list(resample(frames, TARGET))
    assert len(ticks) == round((VARIABLE[-1] * 10 / 9) * 25)
    check_nearest(frames, ticks)
    assert [tick.frame.index for tick in ticks[:6]] == [0, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(("duration", "ticks"), [(1.0, 25), (Fraction(12, 25), 12), (0.0, 1)])
def test_a_given_duration_sets_the_number_of_ticks(duration, ticks: int):
    frames = constant(25, ticks)
    assert len(list(resample(frames, TARGET, duration_seconds=duration))) == ticks


def test_one_frame_is_one_tick_and_none_is_none():
    assert [tick.tick for tick in resample(constant(25, 1), TARGET)] == [0]
    assert list(resample([], TARGET)) == []


def test_frames_are_taken_as_they_are_needed():
    taken = []

    def frames():
        for frame in constant(30, 300):
            taken.append(frame)
            yield frame

    ticks = resample(frames(), TARGET)
    for _ in range(10):
        next(ticks)
    assert len(taken) <= 10 * 30 / 25 + 3


@pytest.mark.parametrize("fps", [25, 30, NTSC, 50, 12.5, 24])
def test_the_way_back_is_never_more_than_half_a_tick_off(fps):
    for frame in constant(fps, 200):
        assert abs(nearest_tick(frame.time, TARGET) / TARGET - frame.time) <= 1 / TARGET / 2
    assert nearest_tick(Fraction(-1), TARGET) == 0


def test_there_and_back_is_the_identity_at_the_target_rate():
    assert [nearest_tick(frame.time, TARGET) for frame in constant(25, 50)] == list(range(50))
