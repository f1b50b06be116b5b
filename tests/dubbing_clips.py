"""Short clips for jobs: the public-domain portrait, nobody, and a buzz for a voice."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy.io import wavfile
from skimage import data

from latentsync.media import VideoWriter

SIZE = 256


def portrait(x: float = 0.0) -> np.ndarray:
    """The face of the NASA portrait, (SIZE, SIZE, 3), moved right by `x` pixels."""
    image = data.astronaut()[:SIZE, 96 : 96 + SIZE]
    return np.roll(image, round(x), axis=1)


def empty() -> np.ndarray:
    """A picture with nobody in it."""
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.stack([x, y, (x + y) // 2], axis=2).astype(np.uint8)


def write_clip(
    path: Path, images: list[np.ndarray], fps: Fraction | int = 25, times: list[Fraction] | None = None
) -> Path:
    """A clip without sound, nearly lossless; `times` makes the rate variable."""
    times = times or [Fraction(index) / fps for index in range(len(images))]
    height, width = images[0].shape[:2]
    with VideoWriter(
        path, fps=Fraction(fps), width=width, height=height, crf=4, preset="ultrafast"
    ) as writer:
        for image, time in zip(images, times, strict=True):
            writer.write(image, time)
    return path


def write_sound(path: Path, seconds: float, rate: int = 16000) -> Path:
    """A buzz that comes and goes, 16 bit mono."""
    t = np.arange(round(seconds * rate)) / rate
    wave = 0.4 * np.sign(np.sin(2 * np.pi * 140 * t)) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * t))
    wavfile.write(path, rate, (wave * 32767).astype(np.int16))
    return path
