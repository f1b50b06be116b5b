"""Where the frames of a clip are: times and key frames, from one pass over the packets without decoding.

The pass costs some milliseconds and gives what headers only estimate: the number of frames, whether the
rate is constant, and from which key frame a given frame can be decoded.
"""

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from av.container import InputContainer
from av.video.stream import VideoStream

from latentsync.media.container import packets_of

FALLBACK_FPS = Fraction(25)
JITTER_SECONDS = Fraction(11, 10000)  # MKV and FLV round to milliseconds, which is no variable rate
# Of these each packet carries its timestamp, also after seeking; MPEG-PS, -TS and raw streams leave some out
# and libav guesses differently when it starts in the middle.
STAMPED_CONTAINERS = {"mov", "matroska", "avi"}
MAX_FPS = 1000  # a declared rate above it is a time base that was taken for one
COMMON_FPS = [Fraction(n) for n in (24, 25, 30, 50, 60)] + [Fraction(n * 1000, 1001) for n in (24, 30, 60)]


@dataclass(frozen=True)
class FrameIndex:
    timestamps: list[int]  # display order, in units of the stream's time base
    key_frames: list[int]  # frame numbers, rising
    last_duration: int  # in the same units, 0 where unknown
    is_exact: bool  # every frame has a timestamp of its own
    can_seek: bool  # and it has the same one wherever reading starts, so that a timestamp names a frame

    def key_frame_before(self, frame: int) -> int:
        """The last key frame at or before `frame`, 0 if there is none."""
        place = bisect_right(self.key_frames, frame)
        return self.key_frames[place - 1] if place else 0


@dataclass(frozen=True)
class Rate:
    fps: Fraction
    is_constant: bool


class _Stamp(NamedTuple):
    """Of a packet, in units of its stream's time base."""

    pts: int | None
    is_keyframe: bool
    duration: int


def index_frames(container: InputContainer, stream: VideoStream) -> FrameIndex:
    """Read all packets of a clip and note where its frames are."""
    packets = [  # what is asked of them below, not their data: that would be the whole compressed clip
        _Stamp(packet.pts, packet.is_keyframe, packet.duration or 0)
        for packet in packets_of(container, stream)
        if not packet.is_discard
    ]
    stamps = [packet.pts for packet in packets if packet.pts is not None]
    is_exact = len(packets) > 0 and len(stamps) == len(packets) == len(set(stamps))
    can_seek = is_exact and not STAMPED_CONTAINERS.isdisjoint(container.format.name.split(","))
    timestamps = sorted(set(stamps))
    number = {timestamp: frame for frame, timestamp in enumerate(timestamps)}
    keys = sorted({number[p.pts] for p in packets if p.is_keyframe and p.pts is not None})
    last = max(packets, key=lambda packet: packet.pts or 0, default=None)
    return FrameIndex(timestamps, keys, last.duration if last else 0, is_exact, can_seek)


def frame_rate(index: FrameIndex, stream: VideoStream) -> Rate:
    """The constant rate that fits all frame times to within JITTER_SECONDS, or else the average rate."""
    rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    declared = [rate for rate in rates if rate is not None and 0 < rate <= MAX_FPS]
    time_base, stamps = stream.time_base, index.timestamps
    if not index.is_exact or len(stamps) < 2 or time_base is None:
        return Rate(declared[0] if declared else FALLBACK_FPS, True)
    average = (len(stamps) - 1) / ((stamps[-1] - stamps[0]) * time_base)
    tolerance = max(time_base, JITTER_SECONDS)
    for fps in [*declared, *COMMON_FPS, average.limit_denominator(1001)]:
        if fps and _fits(stamps, time_base, fps, tolerance):
            return Rate(fps, True)
    return Rate(average.limit_denominator(1001) or average, False)


def _fits(stamps: list[int], time_base: Fraction, fps: Fraction, tolerance: Fraction) -> bool:
    if abs((stamps[-1] - stamps[0]) * time_base - (len(stamps) - 1) / fps) > tolerance:
        return False
    ticks, slack = float(1 / (fps * time_base)), float(tolerance / time_base) + 1e-6
    return all(abs(stamp - stamps[0] - k * ticks) <= slack for k, stamp in enumerate(stamps))
