"""What a clip is: size, rate, length, colour and rotation, by a look at its packets and its first frame."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from latentsync.errors import MediaError
from latentsync.media.container import is_cover_art
from latentsync.media.index import FrameIndex, Rate
from latentsync.media.picture import ColorTags, color_tags, orientation

PICTURE_CODECS = {
    "png",
    "apng",
    "mjpeg",
    "jpeg2000",
    "jpegls",
    "bmp",
    "tiff",
    "webp",
    "gif",
    "jpegxl",
    "targa",
}
PICTURE_BRANDS = {"avif", "heic", "heix", "mif1"}  # of MP4-like files that hold a still picture


@dataclass(frozen=True)
class VideoInfo:
    """A clip as its frames will be, its rotation applied."""

    path: Path
    width: int  # displayed, in stored pixels: `sample_aspect_ratio` is carried, not applied
    height: int
    fps: Fraction  # of a variable-rate clip the average
    constant_frame_rate: bool
    duration_seconds: float  # of the pictures, from the first frame to the end of the last
    frame_count: int | None  # None where only decoding would tell
    rotation_degrees: int  # clockwise, already applied to the frames
    codec: str
    pixel_format: str
    color: ColorTags
    sample_aspect_ratio: Fraction | None
    has_audio: bool


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The stream of moving pictures, set to decode with several threads; cover art is none."""
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or is_cover_art(stream):
        held = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise MediaError(
            f"{path} has no video stream (it holds: {held}); a clip with moving pictures was expected"
        )
    if container.metadata.get("major_brand", "").strip() in PICTURE_BRANDS:
        raise MediaError(f"{path} is a picture, not a video; pass a clip")
    if not stream.codec_context.is_open:
        stream.thread_type = "AUTO"
    return stream


def video_info(
    path: Path,
    container: InputContainer,
    stream: VideoStream,
    index: FrameIndex,
    rate: Rate,
    first: VideoFrame,
) -> VideoInfo:
    """Put together what the header, the packets and the first decoded frame tell.

    Raises: MediaError for a still picture under a video's name.
    """
    codec = stream.codec_context.name
    if codec in PICTURE_CODECS and len(index.timestamps) <= 1:
        raise MediaError(f"{path} is a picture ({codec}, one frame), not a video; pass a clip")
    turn = orientation(first)
    size = (first.height, first.width) if turn.transpose else (first.width, first.height)
    aspect = stream.sample_aspect_ratio or None
    return VideoInfo(
        path=path,
        width=size[0],
        height=size[1],
        fps=rate.fps,
        constant_frame_rate=rate.is_constant,
        duration_seconds=_duration_seconds(container, stream, index, rate),
        frame_count=len(index.timestamps) if index.is_exact else None,
        rotation_degrees=turn.rotation_degrees,
        codec=codec,
        pixel_format=first.format.name,
        color=color_tags(first),
        sample_aspect_ratio=1 / aspect if aspect and turn.transpose else aspect,
        has_audio=len(container.streams.audio) > 0,
    )


def _duration_seconds(container: InputContainer, stream: VideoStream, index: FrameIndex, rate: Rate) -> float:
    time_base = stream.time_base or Fraction(1, av.time_base)
    if index.is_exact:
        last = index.last_duration * time_base or 1 / rate.fps
        return float((index.timestamps[-1] - index.timestamps[0]) * time_base + last)
    if stream.duration:
        return float(stream.duration * time_base)
    return (container.duration or 0) / av.time_base
