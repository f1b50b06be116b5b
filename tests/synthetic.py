"""Clips and sounds made on the spot, with known times, for tests: flashes, beeps, moving squares.

Times are seconds from the first frame. Written with PyAV alone, so that they test our own writer from
outside.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIZE = 64
BEEP_HZ = 1000
BEEP_SECONDS = 0.1


def tone_burst(seconds: float, beep_at: Sequence[float], rate: int = 48000, channels: int = 1) -> np.ndarray:
    """Silence with beeps of BEEP_SECONDS, (C, T) float32."""
    time = np.arange(round(seconds * rate)) / rate
    sound = np.zeros_like(time)
    for start in beep_at:
        inside = (time >= start) & (time < start + BEEP_SECONDS)
        sound[inside] = 0.5 * np.sin(2 * np.pi * BEEP_HZ * (time[inside] - start))
    return np.repeat(sound[None].astype(np.float32), channels, axis=0)


def write_sound(path: Path, sound: np.ndarray, rate: int, codec: str | None = None) -> Path:
    """(C, T) float32 into a sound file; the codec follows the name unless it is given."""
    codecs = {".wav": "pcm_s16le", ".mp3": "libmp3lame", ".flac": "flac", ".m4a": "aac", ".ogg": "libopus"}
    codecs |= {".opus": "libopus", ".mkv": "aac", ".aac": "aac", ".mp4": "aac", ".mov": "aac"}
    with av.open(str(path), "w", format="mp4" if path.suffix == ".m4a" else None) as output:
        stream = add_sound(output, codec or codecs[path.suffix], rate, len(sound))
        for packet in encoded_sound(stream, sound, rate):
            output.mux(packet)
    return path


def add_sound(output, codec: str, rate: int, channels: int):
    stream = output.add_stream(codec, rate=rate, options={"strict": "-2"} if codec == "vorbis" else None)
    stream.codec_context.layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    if codec in ("aac", "libmp3lame"):
        stream.codec_context.bit_rate = 128000
    return stream


def encoded_sound(stream, sound: np.ndarray, rate: int, start_seconds: float = 0) -> Iterable:
    """The packets of the whole sound, put `start_seconds` later."""
    layout = stream.codec_context.layout.name
    for start in range(0, sound.shape[1], 4096):
        block = np.ascontiguousarray(sound[:, start : start + 4096])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = start + round(start_seconds * rate)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def write_video(
    path: Path,
    images: Iterable[np.ndarray],
    *,
    fps: Fraction | int = 25,
    times: Sequence[Fraction] | None = None,
    sound: np.ndarray | None = None,
    rate: int = 48000,
    sound_starts: float = 0,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    rotation: tuple[float, bool, bool] | None = None,
    audio_codec: str = "aac",
) -> Path:
    """Images, (H, W, 3) uint8 RGB, at k / fps or at `times`, with (C, T) float32 `sound`.

    `rotation` is what the display matrix says: degrees counterclockwise, horizontal flip, vertical flip.
    """
    images = list(images)
    fps = Fraction(fps)
    with av.open(str(path), "w") as output:
        video = output.add_stream(codec, rate=fps, options=options or {"crf": "10", "preset": "veryfast"})
        video.height, video.width = images[0].shape[:2]
        video.pix_fmt = {"png": "rgb24", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        if codec not in ("mpeg1video", "mpeg4"):
            video.codec_context.time_base = Fraction(1, fps.numerator * 600)
        if rotation is not None:
            video.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        if sound is not None:
            audio = add_sound(output, audio_codec, rate, len(sound))
        packets = []
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            time = times[number] if times is not None else number / fps
            frame.time_base = Fraction(1, fps.numerator * 600)
            frame.pts = round(time / frame.time_base)
            packets += video.encode(frame)
        packets += video.encode(None)
        if sound is not None:
            packets += list(encoded_sound(audio, sound, rate, sound_starts))
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            output.mux(packet)
    return path


def flash_images(fps: Fraction | int, seconds: float, flash_at: Sequence[float], size: int = SIZE) -> list:
    """Black frames, white in the first frame at or after each of the times."""
    count = round(seconds * fps)
    images = [np.zeros((size, size, 3), np.uint8) for _ in range(count)]
    for time in flash_at:
        images[-int(-time * fps // 1)][:] = 255
    return images


def square_images(count: int, *, width: int = SIZE, height: int = SIZE) -> list[np.ndarray]:
    """A square that moves over a gradient: each image differs from every other."""
    y, x = np.mgrid[:height, :width]
    images = []
    for number in range(count):
        image = np.stack([x * 2, y * 2, 128 + 0 * x], axis=-1).clip(0, 255).astype(np.uint8)
        left, top = (3 * number) % (width - 12), (5 * number // 3) % (height - 12)
        image[top : top + 12, left : left + 12] = (255 - 7 * number % 200, 40, 5 * number % 250)
        images.append(image)
    return images


def beep_starts(sound: np.ndarray, rate: int, count: int) -> list[float]:
    """When the beeps of `tone_burst` begin, in seconds, found with a matched filter to about a sample."""
    time = np.arange(round(BEEP_SECONDS * rate)) / rate
    beep = np.exp(-2j * np.pi * BEEP_HZ * time)
    strength = np.abs(np.convolve(sound, beep, mode="valid"))
    starts = []
    for _ in range(count):
        best = int(strength.argmax())
        starts.append(best / rate)
        strength[max(0, best - 2 * len(time)) : best + 2 * len(time)] = 0
    return sorted(starts)
