"""Videos of the portrait under a lamp that is as bright as the sound is loud: for judges written by hand."""

from pathlib import Path

import numpy as np
from dubbing_clips import empty, portrait
from scipy.ndimage import gaussian_filter1d
from synthetic import write_video

RATE = 16_000


def level(frames: int, seed: int = 0) -> np.ndarray:
    """A loudness, (F,) in [0, 1], at about the pace of syllables."""
    series = gaussian_filter1d(np.random.default_rng(seed).standard_normal(frames + 20), 1.3)[10:-10]
    return (series - series.min()) / np.ptp(series)


def loud_as(levels: np.ndarray, seed: int = 1) -> np.ndarray:
    """Noise, (640 F,) float32, as loud as `levels` at the time of each frame."""
    time = np.arange(len(levels) * RATE // 25) / (RATE // 25)
    gain = 10 ** (1.5 * np.interp(time, np.arange(len(levels)), levels) - 2.5)
    return (gain * np.random.default_rng(seed).standard_normal(len(time))).astype(np.float32)


def lit(image: np.ndarray, levels: np.ndarray) -> list[np.ndarray]:
    return [np.round(image * (0.55 + 0.45 * value)).astype(np.uint8) for value in levels]


def write_lit(
    path: Path,
    *,
    frames: int = 70,
    offset: int = 0,
    seed: int = 0,
    fps: int = 25,
    rate: int = RATE,
    image: np.ndarray | None = None,
) -> Path:
    """A clip of `frames` at 25 a second, shown at `fps`, whose sound is `offset` frames early."""
    reach = 15
    levels = level(frames + 2 * reach, seed)
    shown = levels[reach : reach + frames]
    if fps != 25:
        times = np.arange(round(frames * fps / 25)) * 25 / fps
        shown = np.interp(times, np.arange(frames), shown)
    heard = loud_as(levels[reach + offset : reach + offset + frames], seed)
    if rate != RATE:
        at = np.arange(round(len(heard) * rate / RATE)) * RATE / rate
        heard = np.interp(at, np.arange(len(heard)), heard).astype(np.float32)
    pictures = lit(portrait() if image is None else image, shown)
    return write_video(path, pictures, fps=fps, sound=heard[None], rate=rate)


def two_faces(frames: int, offset: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Two faces beside each other: the right one lit by the sound, the left one by another; and the sound."""
    levels, others = level(frames + 30), level(frames, seed=9)
    left, right = lit(portrait(), others), lit(portrait()[:, ::-1], levels[15 : 15 + frames])
    pictures = [np.ascontiguousarray(np.hstack(pair)) for pair in zip(left, right, strict=True)]
    return pictures, loud_as(levels[15 + offset : 15 + offset + frames])


def nobody(frames: int) -> list[np.ndarray]:
    return [np.roll(empty(), number, axis=1) for number in range(frames)]
