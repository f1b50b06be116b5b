"""The given sound as packets for an output file: copied where the container takes the codec, else made AAC.

Packets come lazily and in rising order. Their time 0 is sample 0 of `read_audio` of the same file; priming
lies before 0, where the muxers of libav put it behind an edit list. `C` channels, `T` samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from latentsync.media.container import open_media, packets_of
from latentsync.media.sound import (
    audio_stream,
    first_sound_seconds,
    layout_of,
    resampled,
    sound_blocks,
    time_zero,
)

MP4_CODECS = {"aac", "mp3", "ac3", "eac3", "alac"}  # what players accept, not all that the muxer would take
PCM_CODECS = {"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le"}
COPIED_CODECS = {
    "mp4": MP4_CODECS,
    "mov": MP4_CODECS | PCM_CODECS,
    "matroska": MP4_CODECS | PCM_CODECS | {"flac", "vorbis", "opus", "mp2", "dts", "truehd", "pcm_u8"},
}
MIN_MP3_RATE_IN_MP4 = 16000  # the muxer refuses MPEG-2.5
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
AAC_CHANNELS = {1, 2, 4, 5, 6}  # with the layouts of `layout_of`; others become stereo
AAC_BIT_RATE = 192000
AAC_MAX_BITS_PER_SAMPLE = 6  # the standard's 6144 bits a channel and block of 1024
PREROLL_SECONDS = Fraction(1, 10)  # kept before time 0 for the decoder to start up; Opus asks for 80 ms


@dataclass(frozen=True)
class TimedPacket:
    packet: Packet
    start_seconds: Fraction
    end_seconds: Fraction


class Soundtrack:
    """Adds the best sound track of `path` to `output` as a stream; `until` then hands out its packets.

    Raises: FileNotFoundError; MediaError where `path` has no sound track.
    """

    def __init__(self, path: Path, output: OutputContainer):
        self._input = open_media(path, what="sound")
        try:
            stream = audio_stream(self._input, path)
            if _can_copy(stream, output.format.name):
                zero = time_zero(self._input)
                zero = first_sound_seconds(path) if zero is None else zero
                out = output.add_stream_from_template(stream)
                packets = _copied(self._input, stream, out, zero)
            else:
                packets = _encoded(self._input, stream, _add_aac(output, stream))
        except BaseException:
            self._input.close()
            raise
        self._packets = (_timed(packet) for packet in packets)
        self._next: TimedPacket | None = next(self._packets, None)

    def until(self, seconds: Fraction) -> Iterator[Packet]:
        """The packets not handed out yet that end by then."""
        while self._next is not None and self._next.end_seconds <= seconds:
            yield self._advance().packet

    def rest(self, end_seconds: Fraction) -> Iterator[Packet]:
        """What is left up to `end_seconds`; the last packet is declared shorter to end just there."""
        yield from self.until(end_seconds)
        if self._next is not None and self._next.start_seconds < end_seconds:
            last = self._advance()
            time_base = last.packet.time_base
            last.packet.duration = max(1, round((end_seconds - last.start_seconds) / time_base))
            yield last.packet

    def close(self) -> None:
        self._input.close()

    def _advance(self) -> TimedPacket:
        current = self._next
        assert current is not None
        self._next = next(self._packets, None)
        return current


def _can_copy(stream: AudioStream, container: str) -> bool:
    codec = stream.codec_context.codec.canonical_name
    if codec == "mp3" and container != "matroska" and stream.rate < MIN_MP3_RATE_IN_MP4:
        return False
    return codec in COPIED_CODECS[container]


def _copied(
    container: InputContainer, stream: AudioStream, out: AudioStream, zero: Fraction
) -> Iterator[Packet]:
    last_dts = None
    for packet in packets_of(container, stream):
        if packet.pts is None or packet.is_corrupt:
            continue
        shift = round(zero / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.pts - shift
        is_before = packet.pts * packet.time_base < -PREROLL_SECONDS
        if is_before or (last_dts is not None and packet.dts <= last_dts):
            continue
        last_dts = packet.dts
        packet.stream = out
        yield packet


def _add_aac(output: OutputContainer, stream: AudioStream) -> AudioStream:
    rate = min(AAC_RATES, key=lambda allowed: (abs(allowed - stream.rate), -allowed))
    channels = stream.channels if stream.channels in AAC_CHANNELS else 2
    out = output.add_stream("aac", rate=rate)
    out.codec_context.layout = layout_of(channels)
    most = AAC_MAX_BITS_PER_SAMPLE * rate * channels
    out.codec_context.bit_rate = min(AAC_BIT_RATE * max(1, channels // 2), most)
    return out


def _encoded(container: InputContainer, stream: AudioStream, out: AudioStream) -> Iterator[Packet]:
    layout, rate = out.codec_context.layout.name, out.codec_context.sample_rate
    channels = out.codec_context.layout.nb_channels
    samples = 0
    for block in resampled(sound_blocks(container, stream), stream.rate, rate):
        if len(block) != channels:
            block = np.repeat(block.mean(axis=0, keepdims=True), channels, axis=0)
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(block.clip(-1, 1)), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, samples, Fraction(1, rate)
        samples += block.shape[1]
        yield from out.encode(frame)
    yield from out.encode(None)


def _timed(packet: Packet) -> TimedPacket:
    start = (packet.pts or 0) * packet.time_base
    return TimedPacket(packet, start, start + (packet.duration or 0) * packet.time_base)
