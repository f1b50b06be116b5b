"""The source's frames laid out on the result's timeline: in order, then back and forth until the time is
filled.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from latentsync.media import Frame, VideoReader

MAX_HOLD_SECONDS = Fraction(1, 5)


@dataclass(frozen=True)
class Shown:
    """A source frame (`index`, `image`) at its `time` in seconds on the result's timeline, from 0."""

    image: np.ndarray
    index: int
    time: Fraction


def play(reader: VideoReader, seconds: Fraction) -> Iterator[Shown]:
    """Frames of `reader` for `seconds`: 0..n-1, then n-2..0, then 1..n-1 and so on; turning frames not
    doubled.

    A constant rate stays constant; a variable one keeps the source's own distances, walked in either
    direction, but a frame that is held longer than MAX_HOLD_SECONDS is shown again, so that the lips go on. A
    frame is shown when at least half of it fits. The clip is never held: backwards it is decoded in chunks.
    """
    interval = 1 / reader.info.fps
    shown: Shown | None = None
    previous = previous_due = Fraction(0)
    for count, frame in enumerate(_ping_pong(reader)):
        time = count * interval
        if shown is not None and not reader.info.constant_frame_rate:
            due = previous_due + (abs(frame.time - previous) or interval)
            yield from _held(shown, min(due, seconds), interval)
            time = due
        if count and time + interval / 2 > seconds:
            return
        shown = Shown(frame.image, frame.index, time)
        previous, previous_due = frame.time, time
        yield shown


def _held(shown: Shown, until: Fraction, interval: Fraction) -> Iterator[Shown]:
    """`shown` again, every `interval`, while it would stand still for too long."""
    if until - shown.time <= max(MAX_HOLD_SECONDS, 2 * interval):
        return
    time = shown.time + interval
    while time + interval / 2 <= until:
        yield Shown(shown.image, shown.index, time)
        time += interval


def frame_total(reader: VideoReader, seconds: Fraction) -> int:
    """About how many frames `play` will give; exact for a constant rate."""
    return max(1, int(seconds * reader.info.fps + Fraction(1, 2)))


def _ping_pong(reader: VideoReader) -> Iterator[Frame]:
    last = -1
    for frame in reader:
        last = frame.index
        yield frame
    while last >= 0:
        if last == 0:
            yield from reader
            continue
        yield from reader.reversed_from(last - 1)
        for frame in reader:
            if frame.index:
                yield frame
