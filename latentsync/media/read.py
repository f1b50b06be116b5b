"""A video file as RGB frames with exact times: in order, by number, or backwards in bounded memory.

Time is in seconds on the container's own timeline, whose zero `read_audio` of the same file shares. Edit
lists are respected as libav does. Frames come upright and in display order; the letters `H W` are displayed
pixels.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import takewhile
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame

from latentsync.errors import MediaError
from latentsync.media.container import decoded, open_media
from latentsync.media.frame import Frame
from latentsync.media.index import frame_rate, index_frames
from latentsync.media.info import VideoInfo, video_info, video_stream
from latentsync.media.picture import ColorTags, RgbConverter
from latentsync.media.retime import Resampled, nearest_tick, resample

__all__ = ["ColorTags", "Frame", "Resampled", "VideoInfo", "VideoReader", "nearest_tick", "resample"]

REVERSE_BYTES = 192 * 2**20


class VideoReader:
    """The frames of one file; each iteration starts from the beginning.

    Frames without a timestamp follow their predecessor by 1/fps, those that repeat it or go back by half of
    that. What libav cannot decode is left out and takes no number. `read` finds frames by their timestamps;
    where these are missing, repeat or depend on where reading starts (MPEG-PS, MPEG-TS), or where a whole
    iteration met frames that could not be decoded, it decodes from the start instead: slow, but the same
    frames. Only `read` before any iteration of a damaged clip may number frames as if the damaged ones were
    there.

    Raises: FileNotFoundError; MediaError where there is no video, only a picture, or nothing can be decoded.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._seekable: InputContainer | None = None
        with open_media(self.path) as container:
            stream = video_stream(container, self.path)
            self._index = index_frames(container, stream)
            rate = frame_rate(self._index, stream)
            self._zero = Fraction(container.start_time or 0, av.time_base)
            self._time_base = stream.time_base or Fraction(1, av.time_base)
            self._interval = 1 / rate.fps
            first = next(self._decoded(), None)
            if first is None:
                raise MediaError(
                    f"nothing in {self.path} can be decoded ({stream.codec_context.name}): it is cut short, "
                    "damaged, or of a kind not known here; copy it again, or convert it"
                )
            self.info = video_info(self.path, container, stream, self._index, rate, first)
        self._to_rgb = RgbConverter(first)
        self._by_timestamp = self._index.can_seek

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what `read` keeps open; a later `read` opens it again."""
        if self._seekable is not None:
            self._seekable.close()
            self._seekable = None

    def __iter__(self) -> Iterator[Frame]:
        stamps = []
        for number, (picture, time) in enumerate(self._timed()):
            stamps.append(picture.pts)
            yield self._frame(picture, time, number)
        self._by_timestamp = self._by_timestamp and stamps == self._index.timestamps

    def read(self, start: int, stop: int) -> list[Frame]:
        """The frames [start, stop), exactly as iteration gives them; fewer where the clip ends before."""
        if start < 0 or stop < start:
            raise ValueError(f"frames [{start}, {stop}) are no range; 0 <= start <= stop was expected")
        if self._by_timestamp:
            stop = min(stop, len(self._index.timestamps))
            frames = self._read_by_timestamp(start, stop)
            if len(frames) == max(0, stop - start):
                return frames
            self._by_timestamp = False
        numbered = takewhile(lambda item: item[0] < stop, enumerate(self._timed()))
        return [self._frame(picture, time, number) for number, (picture, time) in numbered if number >= start]

    def reversed_from(self, last_index: int, *, max_bytes: int = REVERSE_BYTES) -> Iterator[Frame]:
        """Frames last_index, last_index - 1, ..., 0, holding at most `max_bytes` of pixels at a time."""
        chunk = max(1, max_bytes // (3 * self.info.width * self.info.height))
        stop = last_index + 1
        while stop > 0:
            start = max(0, stop - chunk)
            frames = self.read(start, stop)
            while frames:
                yield frames.pop()
            stop = start

    def _read_by_timestamp(self, start: int, stop: int) -> list[Frame]:
        """Decode from the key frame before `start`; from an earlier one where seeking lands too late."""
        stamps = self._index.timestamps
        numbers = {stamps[number]: number for number in range(start, stop)}
        key = self._index.key_frame_before(start)
        while numbers:
            frames = self._decode_after(key, numbers, stamps[stop - 1])
            if len(frames) == len(numbers) or key == 0:
                return frames
            key = self._index.key_frame_before(key - 1)
        return []

    def _decode_after(self, key: int, numbers: dict[int, int], last: int) -> list[Frame]:
        """The frames whose timestamps are in `numbers`, decoding from the key frame with the number `key`."""
        target = self._index.timestamps[key]
        container = self._at(target, from_start=key == 0)
        if container is None:
            return []
        frames, is_clean = [], key == 0  # pictures shown before the key frame may lack what they refer to
        for picture in decoded(container, video_stream(container, self.path)):
            assert isinstance(picture, VideoFrame)
            is_clean = is_clean or picture.pts == target
            if is_clean and picture.pts in numbers:
                frames.append(self._frame(picture, self._time(picture.pts), numbers[picture.pts]))
            if picture.pts is not None and picture.pts >= last:
                break
        return frames

    def _at(self, timestamp: int, *, from_start: bool) -> InputContainer | None:
        """The container, kept open between reads, placed at a key frame; None where the file cannot seek."""
        if from_start:
            self.close()
        if self._seekable is None:
            self._seekable = open_media(self.path)
        if from_start:
            return self._seekable
        try:
            self._seekable.seek(timestamp, stream=video_stream(self._seekable, self.path))
        except (FFmpegError, OSError):
            return None
        return self._seekable

    def _decoded(self) -> Iterator[VideoFrame]:
        with open_media(self.path) as container:
            for picture in decoded(container, video_stream(container, self.path)):
                assert isinstance(picture, VideoFrame)
                yield picture

    def _timed(self) -> Iterator[tuple[VideoFrame, Fraction]]:
        """Every picture from the start with a time that is later than the one before."""
        previous = None
        for picture in self._decoded():
            if picture.pts is None:
                time = Fraction(0) if previous is None else previous + self._interval
            else:
                time = self._time(picture.pts)
                if previous is not None and time <= previous:
                    time = previous + self._interval / 2
            yield picture, time
            previous = time

    def _time(self, timestamp: int) -> Fraction:
        return timestamp * self._time_base - self._zero

    def _frame(self, picture: VideoFrame, time: Fraction, number: int) -> Frame:
        return Frame(self._to_rgb(picture), time, number)
