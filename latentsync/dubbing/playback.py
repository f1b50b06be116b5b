"""The source's frames laid out on the result's timeline: in order, then back and forth until the time is
filled.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from latentsync.media import Frame, VideoReader


@dataclass(frozen=True)
class Shown:
    """A source frame (`index`, `image`) at its `time` in seconds on the result's timeline, from 0."""

    image: np.ndarray
    index: int
    time: Fraction


def play(reader: VideoReader, seconds: Fraction) -> Iterator[Shown]:
    """Frames of `reader` for `seconds`: 0..n-1, then n-2..0, then 1..n-1 and so on; turning frames are not
    doubled.

    A constant rate stays constant; a variable one keeps the source's own distances, walked in either
    direction. A frame is shown when at least half of it fits. The clip is never held: backwards it is decoded
    in chunks.
    """
    interval = 1 / reader.info.fps
    time, previous = Fraction(0), None
    for count, frame in enumerate(_ping_pong(reader)):
        if previous is not None:
            step = abs(frame.time - previous)
            time = count * interval if reader.info.constant_frame_rate else time + (step or interval)
        if count and time + interval / 2 > seconds:
            return
        yield Shown(frame.image, frame.index, time)
        previous = frame.time


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
