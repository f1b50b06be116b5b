"""Opening a local video or sound file with libav, or saying in plain words why it cannot be done.

Footage comes from strangers, so two doors stay shut: only demuxers on a short list may look at the file,
which leaves out every playlist format (HLS, DASH, concat, image sequences), and no protocol but `file:` is
allowed. Its prefix also keeps names such as `a:b.mp4` or `-x.mp4` from being read as something else.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import av
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame

from latentsync.errors import MediaError

logger = logging.getLogger(__name__)

VIDEO_DEMUXERS = "mov matroska avi mpeg mpegts mpegvideo flv asf ogg mxf ivf h264 hevc m4v gif nut dv rm y4m"
AUDIO_DEMUXERS = "wav w64 aiff au caf mp3 aac flac ac3 eac3 amr ape wv tta dts mpc mpc8 loas voc"
DEMUXERS = ",".join([*VIDEO_DEMUXERS.split(), *AUDIO_DEMUXERS.split(), "yuv4mpegpipe", "amrnb", "amrwb"])
PICTURE_STARTS = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}


def open_media(path: str | Path, *, what: str = "video") -> InputContainer:
    """The libav container of a local file; `what` ("video", "sound") is the word that errors use.

    Raises: FileNotFoundError for a missing path, MediaError for anything that is not a readable media file.
    """
    path = Path(path)
    _check_is_file(path, what)
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
    try:
        return av.open(f"file:{path.absolute()}", "r", container_options=options, metadata_errors="replace")
    except PermissionError as error:
        raise MediaError(
            f"{path} cannot be read: permission denied; check the file's access rights"
        ) from error
    except (FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{path} is not a {what} file: {_describe(path)}") from error


def is_cover_art(stream: Stream) -> bool:
    """Whether a video stream is but the picture of an album."""
    return bool(stream.disposition & Disposition.attached_pic)


def packets_of(container: InputContainer, stream: Stream) -> Iterator[Packet]:
    """The packets of one stream up to the first place where the container itself cannot be read on."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (FFmpegError, OSError) as error:
            logger.debug("stopped reading early: %s", error)
            return
        if packet is None:
            return
        if packet.size:
            yield packet


def decoded(container: InputContainer, stream: Stream) -> Iterator[VideoFrame | AudioFrame]:
    """Every frame that libav can decode, in display order; damaged packets are left out."""
    try:
        for packet in packets_of(container, stream):
            yield from _decode(stream, packet)
        yield from _decode(stream, None)
    finally:
        # PyAV frees a decoder while holding the GIL. If another library switched libav's log on (torchvision
        # did), a decoding thread that logs then waits for the GIL for ever: let the threads rest first.
        stream.codec_context.flush_buffers()


def _decode(stream: Stream, packet: Packet | None) -> list[VideoFrame | AudioFrame]:
    try:
        return stream.codec_context.decode(packet)  # type: ignore[attr-defined]
    except (FFmpegError, OSError) as error:
        logger.debug("skipped a damaged packet: %s", error)
        return []


def _check_is_file(path: Path, what: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; a {what} file was expected")
    if path.is_dir():
        raise MediaError(f"{path} is a folder; a {what} file was expected")
    if not path.is_file():
        raise MediaError(f"{path} is a device or a pipe; a {what} file on disk was expected")
    if path.stat().st_size == 0:
        raise MediaError(f"{path} is empty (0 bytes); a {what} file was expected, copy or record it again")


def _describe(path: Path) -> str:
    """What the first bytes of an unreadable file show, and what to do about it."""
    with path.open("rb") as file:
        start = file.read(512)
    for magic, name in PICTURE_STARTS.items():
        if start.startswith(magic):
            return f"it is a picture ({name}), not a video; pass a clip"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "it is a picture (WebP), not a video; pass a clip"
    if start[4:8] in (b"ftyp", b"mdat", b"free", b"wide"):
        return "its index (the moov box) is missing or damaged, so it was cut short; copy or record it again"
    if _looks_like_text(start):
        return "it holds text (a playlist or a web page saved under this name?); pass the media file itself"
    return "no known format was recognised, it may be damaged; convert it to MP4, MKV or WAV first"


def _looks_like_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8", errors="strict")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)
