"""A talking face that is made, not filmed: pictures, their sound, and the truth about both.

`F` frames at 25 a second, `S` side of a picture, `T` samples at 16 kHz. A positive offset means that the
sound is early, as everywhere (`latentsync.sync.judge`). The same seed gives the same bytes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter1d

from latentsync.preprocess.talker.key_points import KeyPoints
from latentsync.preprocess.talker.speech import FPS, SAMPLE_RATE_HZ, Speech

SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS  # 640

Speaks = Callable[[int, np.random.Generator], Speech]  # for so many frames


class Talker(ABC):
    """One clip of `frames` pictures of somebody (`speaker`), whose sound is `offset_frames` early.

    Speech begins earlier and goes on longer than the pictures, so that a shifted sound has no hole.
    """

    def __init__(
        self, speaker: str, speech: Speaks, rng: np.random.Generator, *, frames: int, offset_frames: int = 0
    ) -> None:
        reach = abs(offset_frames)
        said = speech(frames + 2 * reach, rng)
        if said.frames < frames + 2 * reach:
            raise ValueError(
                f"the speech lasts {said.frames} frames; {frames} and {reach} before and after are needed"
            )
        heard = (reach + offset_frames) * SAMPLES_PER_FRAME
        self.speaker, self.frames, self.offset_frames = speaker, frames, offset_frames
        self.openness = said.openness[reach : reach + frames]
        self.spread = said.spread[reach : reach + frames]
        self.waveform = said.waveform[heard : heard + frames * SAMPLES_PER_FRAME]

    @property
    @abstractmethod
    def side(self) -> int:
        """Of its square pictures, in pixels."""

    @abstractmethod
    def image(self, frame: int) -> np.ndarray:
        """A picture, uint8 (S, S, 3) RGB; the same whenever it is asked for."""

    @abstractmethod
    def key_points(self, frame: int) -> KeyPoints:
        """Where the face is in that picture."""

    def mouth(self) -> np.ndarray:
        """The true lengths of the mouth, (F, 6), as `KeyPoints.mouth_shape`."""
        return np.stack([self.key_points(frame).mouth_shape for frame in range(self.frames)])


def wander(
    frames: int, rng: np.random.Generator, *, seconds: float, deviation: float, limit: float | None = None
) -> np.ndarray:
    """A value that moves to and fro about 0 at the pace of `seconds`, (F,), within `limit`."""
    pace = seconds * FPS
    margin = round(4 * pace)
    noise = gaussian_filter1d(rng.standard_normal(frames + 2 * margin), pace)[margin : margin + frames]
    moved = noise * deviation * np.sqrt(2 * np.sqrt(np.pi) * pace)  # the filter's loss made up for
    return moved if limit is None else limit * np.tanh(moved / limit)


def blinks(frames: int, rng: np.random.Generator) -> np.ndarray:
    """How far the lids are open, (F,): shut for about 0.12 s every few seconds."""
    lids = np.ones(frames)
    at = rng.uniform(0, 4) * FPS
    while at < frames:
        for step, opening in enumerate((0.35, 0.0, 0.15, 0.65)):
            if round(at) + step < frames:
                lids[round(at) + step] = opening
        at += rng.uniform(1.5, 6) * FPS
    return lids


def similarity_matrix(scale: float, angle: float, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The matrix (2, 3) that scales and turns about `source`, and puts it at `target`."""
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]])
    return np.concatenate([linear, (target - linear @ source)[:, None]], axis=1)
