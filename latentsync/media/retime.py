"""From the frame times of a clip to a constant rate and back: each tick shows the source frame nearest to it.

Tick `k` stands for the time k / fps after the first frame. Nothing is interpolated and nothing shifts: frames
are repeated or left out, and no tick is more than half a source interval from its frame. Ties go to the
earlier.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Generic, Protocol, TypeVar

HALF = Fraction(1, 2)


class Timed(Protocol):
    """Whatever is shown at a time: a Frame, or something made of one."""

    @property
    def time(self) -> Fraction: ...


Shown = TypeVar("Shown", bound=Timed)


@dataclass(frozen=True)
class Resampled(Generic[Shown]):
    """The source frame, unchanged and with its own `index` and `time`, that a tick shows."""

    frame: Shown
    tick: int


def resample(
    frames: Iterable[Shown], fps: Fraction, *, duration_seconds: Fraction | float | None = None
) -> Iterator[Resampled[Shown]]:
    """One Resampled for each of the max(1, round(duration * fps)) ticks; none if there are no frames.

    `duration_seconds` counts from the first frame to the end of the last; by default the last frame lasts as
    long as the average one. Holds two frames at a time.
    """
    fps = Fraction(fps)
    first = previous = pending = None
    count = tick = 0
    for frame in frames:
        if first is None or previous is None:
            first, previous, count = frame, frame, 1
            continue
        middle = (previous.time + frame.time) / 2 - first.time
        while tick / fps <= middle:
            if pending is not None:
                yield pending
            pending = Resampled(previous, tick)
            tick += 1
        previous, count = frame, count + 1
    if first is None or previous is None:
        return
    if duration_seconds is None:
        span = previous.time - first.time
        duration_seconds = span * Fraction(count, count - 1) if count > 1 else 1 / fps
    ticks = max(1, round(Fraction(duration_seconds) * fps))
    if pending is not None and pending.tick < ticks:
        yield pending
    yield from (Resampled(previous, late) for late in range(tick, ticks))


def nearest_tick(time: Fraction, fps: Fraction) -> int:
    """The tick nearest to a time after the first frame, 0 for times before; the caller knows the last."""
    return max(0, ceil(time * fps - HALF))
