"""Decoding a sound track to contiguous samples at its own rate, each at its place on the file's timeline.

Holes in the timestamps become silence and overlaps are trimmed, so that no drift builds up; what lies before
time zero (the priming of AAC, MP3 and Opus) is cut. Letters: `C` channels, `T` samples.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.codec.context import Flags2
from av.container import InputContainer

from latentsync.errors import MediaError
from latentsync.media.container import decoded, is_cover_art, open_media

HOLE_SECONDS = Fraction(
    1, 100
)  # a smaller step in the timestamps is rounding: MKV and FLV count milliseconds
MAX_HOLE_SECONDS = 600  # a larger step, or MAX_OVERLAP_SECONDS back, is a clock that was set anew, not a hole
MAX_OVERLAP_SECONDS = 1
SILENCE_BLOCK_SECONDS = 1
MAX_PADDING_SAMPLES = 4096  # what encoders add to fill their last block: two blocks of HE-AAC at most

logger = logging.getLogger(__name__)


def audio_stream(container: InputContainer, path: Path) -> AudioStream:
    """The sound track to use, the one that libav deems best."""
    stream = container.streams.best("audio")
    if not isinstance(stream, AudioStream):
        raise MediaError(f"{path} has no sound track; a file with speech was expected")
    if not stream.rate or not stream.channels:
        raise MediaError(
            f"{path}: sound of the codec {stream.codec_context.name} cannot be decoded; save it as WAV"
        )
    return stream


def sound_blocks(container: InputContainer, stream: AudioStream) -> Iterator[np.ndarray]:
    """The track from time zero on as contiguous blocks, (C, T) float32 at the track's own rate."""
    zero = time_zero(container)
    yield from _without_padding(_placed(container, stream, zero), _padding_start(container, stream, zero))


def unplaced_blocks(container: InputContainer, stream: AudioStream) -> Iterator[np.ndarray]:
    """Every sample that the decoder has, priming and padding too, whatever the timestamps say: as players and
    data sets of old gave it.
    """
    stream.codec_context.flags2 |= Flags2.skip_manual
    for frame in decoded(container, stream):
        assert isinstance(frame, AudioFrame)
        yield from resampled([_samples(frame, stream.channels)], frame.sample_rate, stream.rate)


def _placed(container: InputContainer, stream: AudioStream, zero: Fraction | None) -> Iterator[np.ndarray]:
    rate, written = stream.rate, 0  # `written`: samples since time zero, so also the next sample's place
    for frame in decoded(container, stream):
        assert isinstance(frame, AudioFrame)
        block = _samples(frame, stream.channels)
        if frame.sample_rate != rate:
            block = np.concatenate(list(resampled([block], frame.sample_rate, rate)), axis=1)
        if frame.pts is not None and stream.time_base is not None:
            time = frame.pts * stream.time_base
            if zero is None:
                zero = time
            step = time - zero - Fraction(written, rate)
            starts_before_zero = written == 0 and step < 0
            if step > MAX_HOLE_SECONDS or (step < -MAX_OVERLAP_SECONDS and not starts_before_zero):
                zero += step
            elif abs(step) > HOLE_SECONDS or written == 0:
                samples = round(step * rate)
                for silence in _silence(samples, rate, len(block)):
                    written += silence.shape[1]
                    yield silence
                block = block[:, max(0, -samples) :]
        if block.shape[1]:
            written += block.shape[1]
            yield block


def first_sound_seconds(path: Path) -> Fraction:
    """When, in the file's own timestamps, the first sample sounds that is not priming."""
    with open_media(path, what="sound") as container:
        stream = audio_stream(container, path)
        for frame in decoded(container, stream):
            if frame.pts is not None and stream.time_base is not None:
                return frame.pts * stream.time_base
    return Fraction(0)


def time_zero(container: InputContainer) -> Fraction | None:
    """Where the timeline starts: the container's own start if it has pictures, else None, the first sound."""
    has_pictures = any(not is_cover_art(stream) for stream in container.streams.video)
    if not has_pictures:
        return None
    return Fraction(container.start_time or 0, av.time_base)


def resampled(blocks: Iterable[np.ndarray], rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """Contiguous blocks, (C, T) float32, brought from one rate to another, to the last sample."""
    if rate == new_rate:
        yield from blocks
        return
    resampler = None
    for block in blocks:
        layout = layout_of(len(block))
        resampler = resampler or AudioResampler(format="fltp", layout=layout, rate=new_rate)
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=layout)
        frame.sample_rate = rate
        yield from (new.to_ndarray() for new in resampler.resample(frame))
    if resampler is not None:
        yield from (new.to_ndarray() for new in resampler.resample(None))


def layout_of(channels: int) -> str:
    """libav's usual speaker layout of a number of channels."""
    names = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
    return names.get(channels, f"{channels}c")


def _samples(frame: AudioFrame, channels: int) -> np.ndarray:
    """The frame as (C, T) float32 in [-1, 1], with the track's number of channels."""
    raw: np.ndarray = frame.to_ndarray()
    block = raw if frame.format.is_planar else raw.reshape(-1, frame.layout.nb_channels).T
    if block.dtype == np.uint8:
        block = (block.astype(np.float32) - 128) / 128
    elif np.issubdtype(block.dtype, np.integer):
        block = (block / -float(np.iinfo(block.dtype.name).min)).astype(np.float32)
    block = block.astype(np.float32, copy=False)
    if not np.isfinite(block).all():
        logger.warning("a sound block holds samples that are not finite; they become silence")
        block = np.nan_to_num(block, nan=0, posinf=0, neginf=0)
    if len(block) != channels:  # a broadcast that changes from 5.1 to stereo
        block = np.repeat(block.mean(axis=0, keepdims=True), channels, axis=0)
    return block


def _silence(samples: int, rate: int, channels: int) -> Iterator[np.ndarray]:
    while samples > 0:
        length = min(samples, SILENCE_BLOCK_SECONDS * rate)
        yield np.zeros((channels, length), np.float32)
        samples -= length


def _padding_start(container: InputContainer, stream: AudioStream, zero: Fraction | None) -> int | None:
    """The sample after the last real one; only MP4 and MOV say so, and libav decodes padding all the same."""
    if "mp4" not in container.format.name or not stream.duration or stream.time_base is None:
        return None
    start = (stream.start_time or 0) * stream.time_base
    return round(
        (start + stream.duration * stream.time_base - (start if zero is None else zero)) * stream.rate
    )


def _without_padding(blocks: Iterable[np.ndarray], end: int | None) -> Iterator[np.ndarray]:
    """The blocks without what follows sample `end`, if no more than padding follows it."""
    held, held_samples, given = deque(), 0, 0
    for block in blocks:
        held.append(block)
        held_samples += block.shape[1]
        while held_samples - held[0].shape[1] > MAX_PADDING_SAMPLES:
            given += held[0].shape[1]
            held_samples -= held[0].shape[1]
            yield held.popleft()
    excess = given + held_samples - end if end is not None else 0
    while 0 < excess <= MAX_PADDING_SAMPLES and held:
        last = held.pop()
        if last.shape[1] > excess:
            held.append(last[:, : last.shape[1] - excess])
        excess -= last.shape[1]
    yield from held
