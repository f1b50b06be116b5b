"""RGB frames with their times and a soundtrack, streamed into one MP4, MOV or MKV file.

The pictures are encoded once, with x264. The first frame is time 0, and there sample 0 of the soundtrack
sounds.
"""

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from latentsync.errors import MediaError
from latentsync.media.picture import EXACT, FULL_RANGE, LIMITED_RANGE, ColorTags, matrix_for
from latentsync.media.soundtrack import Soundtrack

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
MIN_TICKS_PER_SECOND = 90000  # 11 us, for variable rates


def check_output(output: str | Path, inputs: Iterable[str | Path | None] = ()) -> None:
    """Raise MediaError if a result cannot go to `output` or would overwrite one of the `inputs`."""
    output = Path(output)
    if output.suffix.lower() not in CONTAINERS:
        allowed = ", ".join(CONTAINERS)
        raise MediaError(f"{output} ends in {output.suffix!r}; name the output with one of {allowed}")
    if output.exists() and not output.is_file() and not output.is_dir():
        raise MediaError(f"{output} is neither a file nor free (a pipe or a device?); choose another name")
    if output.is_dir():
        raise MediaError(f"{output} is a folder; give the name of a file in it")
    if not output.parent.is_dir():
        raise MediaError(f"the folder {output.parent} for {output.name} does not exist; make it first")
    for path in inputs:
        if path is not None and output.exists() and Path(path).exists() and output.samefile(path):
            raise MediaError(f"the output {output} is the same file as the input {path}; choose another name")


class VideoWriter:
    """Writes one file; a `with` block that ends well leaves it at `path`, one that fails leaves no trace.

    Frames of an odd width or height get their last column or row doubled, since yuv420p needs even sizes.
    Colours go by the tags of the source (`matrix_for` where it has none), in limited range, and are tagged
    in the file. The soundtrack is copied, or encoded to AAC at its own rate, and ends with the picture. MP4
    and MOV keep only the metadata keys that they know, such as title, comment and description.

    Raises: FileNotFoundError for a missing soundtrack; MediaError for a bad output path, a soundtrack that is
    none, a full disk or an encoder that fails.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: Fraction,
        width: int,
        height: int,
        soundtrack: str | Path | None = None,
        duration_seconds: float | Fraction | None = None,
        crf: int = 18,
        preset: str = "medium",
        color: ColorTags | None = None,
        sample_aspect_ratio: Fraction | None = None,
        metadata: Mapping[str, str] | None = None,
    ):
        self.path = Path(path)
        self.duration_seconds = duration_seconds
        check_output(self.path, [soundtrack])
        self._fps, self._size = Fraction(fps), (height, width)
        self._last_pts: int | None = None
        self._sound: Soundtrack | None = None
        self._reformatter = VideoReformatter()
        self._output: OutputContainer | None = None
        self._part = make_part(self.path)
        with self._abort_on_error():
            self._output = _open_output(self._part, CONTAINERS[self.path.suffix.lower()])
            self._output.metadata.update(metadata or {})
            self._stream = self._add_video(self._output, crf, preset, color, sample_aspect_ratio)
            if soundtrack is not None:
                self._sound = Soundtrack(Path(soundtrack), self._output)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, image: np.ndarray, time: Fraction) -> None:
        """Add an image, (H, W, 3) uint8 RGB, to be shown `time` seconds after the first one."""
        if self._output is None:
            raise ValueError(f"{self.path} is closed; no frame can be added")
        if image.shape != (*self._size, 3) or image.dtype != np.uint8:
            expected = (*self._size, 3)
            raise ValueError(f"image {image.shape} {image.dtype} given, {expected} uint8 expected")
        pts = round(time / self._time_base)
        if self._last_pts is not None and pts <= self._last_pts:
            raise ValueError(f"frame time {float(time):.6f} s is not later than that of the frame before")
        with self._abort_on_error():
            self._mux(self._picture(image, pts))
        self._last_pts = pts

    def close(self, duration_seconds: float | Fraction | None = None) -> None:
        """Finish the file and put it at its path; the sound ends `duration_seconds` after the first frame.

        The default is the duration given to the constructor, or else the end of the last frame. An end before
        the last frame must be known to the constructor, as sound follows the pictures into the file.
        """
        if self._output is None:
            return
        with self._abort_on_error():
            if self._last_pts is None:
                raise MediaError(f"no frame was written to {self.path}; a video needs at least one")
            end = (
                duration_seconds or self.duration_seconds or self._last_pts * self._time_base + 1 / self._fps
            )
            self._mux(None)
            for packet in self._sound.rest(Fraction(end)) if self._sound else ():
                self._output.mux(packet)
            self._output.close()
            os.replace(self._part, self.path)
        self._release()

    def abort(self) -> None:
        """Give up: remove the unfinished file and leave what stood at the path before."""
        if self._output is not None:
            # The reason for giving up is on its way to the caller, and this file goes away.
            with suppress(FFmpegError, OSError, ValueError):
                self._output.close()
        self._release()
        self._part.unlink(missing_ok=True)

    def _release(self) -> None:
        self._output = None
        if self._sound is not None:
            self._sound.close()
            self._sound = None

    def _add_video(
        self,
        output: OutputContainer,
        crf: int,
        preset: str,
        color: ColorTags | None,
        sample_aspect_ratio: Fraction | None,
    ) -> VideoStream:
        """The stream of pictures; its time base holds multiples of 1 / fps exactly and others to 11 us."""
        color = color or ColorTags()
        height, width = self._size
        stream = output.add_stream("libx264", rate=self._fps, options={"crf": str(crf), "preset": preset})
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        rate = self._fps.numerator
        self._time_base = Fraction(1, rate * ceil(MIN_TICKS_PER_SECOND / rate))
        context.time_base = stream.time_base = self._time_base
        context.color_primaries, context.color_trc = color.primaries, color.transfer
        context.colorspace, context.color_range = matrix_for(color, height), LIMITED_RANGE
        if sample_aspect_ratio:
            context.sample_aspect_ratio = sample_aspect_ratio
        return stream

    def _picture(self, image: np.ndarray, pts: int) -> VideoFrame:
        height, width = self._size
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        rgb = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        rgb.colorspace, rgb.color_range = self._stream.codec_context.colorspace, FULL_RANGE
        frame = self._reformatter.reformat(
            rgb, format="yuv420p", dst_color_range=LIMITED_RANGE, interpolation=EXACT
        )
        frame.pts, frame.time_base = pts, self._time_base
        frame.duration = round(1 / self._fps / self._time_base)
        return frame

    def _mux(self, frame: VideoFrame | None) -> None:
        """Encode, and let the sound follow the pictures into the file; None flushes the encoder."""
        assert self._output is not None
        for packet in self._stream.encode(frame):
            self._output.mux(packet)
            if self._sound and packet.dts is not None:
                reached = packet.dts * packet.time_base
                for sound in self._sound.until(min(reached, Fraction(self.duration_seconds or reached))):
                    self._output.mux(sound)

    @contextmanager
    def _abort_on_error(self) -> Iterator[None]:
        """Leave nothing behind, whatever goes wrong; errors of libav and the system become MediaErrors."""
        try:
            yield
        except (FFmpegError, OSError) as error:
            self.abort()
            if isinstance(error, FileNotFoundError) and not isinstance(error, FFmpegError):
                raise  # the soundtrack
            reason = error.strerror or error
            raise MediaError(f"{self.path} cannot be written: {reason}; is the disk full?") from error
        except BaseException:
            self.abort()
            raise


def make_part(path: Path) -> Path:
    """An empty hidden file of a new name in the folder of `path`, so that it can be renamed to it."""
    part = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(6)}.part{path.suffix}").absolute()
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        reason = error.strerror or error
        raise MediaError(f"nothing can be written to the folder {path.parent}: {reason}") from error
    return part


def _open_output(part: Path, container: str) -> OutputContainer:
    options = {} if container == "matroska" else {"movflags": "+faststart"}
    return av.open(f"file:{part}", "w", format=container, container_options=options)
