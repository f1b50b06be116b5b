"""Where a clip is cut: equal lengths, a crop whose sound is shifted, overlapping segments, a square.

Plain arithmetic on frames at 25 fps and samples at 16 kHz; ranges are half-open. Source: v-iashin/Synchformer
(dataset/transforms.py), with times rounded where it truncates: 1.16 s is frame 29, not 28.
"""

import math
from dataclasses import dataclass

FPS = 25
SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS  # 640
MAX_SECONDS = 10.0
ROUNDING = 1e-6  # of frames


class CropOutside(ValueError):
    """A crop that reaches past an end of its clip."""


@dataclass(frozen=True)
class Crop:
    """`frames` pictures from `first_frame` on, and the samples of as many frames from `first_sample` on."""

    first_frame: int
    first_sample: int
    frames: int

    @property
    def samples(self) -> int:
        return self.frames * SAMPLES_PER_FRAME


@dataclass(frozen=True)
class Segments:
    """How a crop is cut: `count` segments of `frames` frames, each `step_frames` after the one before."""

    count: int | None = 14  # None: as many as fit
    frames: int = 16
    step_frames: int = 8

    def __post_init__(self) -> None:
        if self.frames < 1 or self.step_frames < 1 or (self.count is not None and self.count < 1):
            raise ValueError(f"segments need at least one frame and step, got {self}")

    @property
    def samples(self) -> int:
        return self.frames * SAMPLES_PER_FRAME

    @property
    def covered_frames(self) -> int:
        """How many frames `count` segments span. Raises: ValueError where no count is set."""
        if self.count is None:
            raise ValueError("as many segments as fit have no span of their own")
        return (self.count - 1) * self.step_frames + self.frames

    def fitted(self, frames: int) -> "Segments":
        """The same with a count: as many as fit into `frames` where none is set.

        Raises: CropOutside when they do not fit.
        """
        count = self.count or (frames - self.frames) // self.step_frames + 1
        fitted = Segments(count, self.frames, self.step_frames)
        if count < 1 or fitted.covered_frames > frames:
            raise CropOutside(
                f"{count} segments of {self.frames} frames, one every {self.step_frames}, do not fit into "
                f"{frames} frames ({frames / FPS:.2f} s)"
            )
        return fitted

    def starts(self, frames: int, first: int | None = None) -> list[int]:
        """The first frame of each segment in a crop of `frames`; `first` (None: in the middle) is where the
        first begins.
        """
        fitted = self.fitted(frames)
        spare = frames - fitted.covered_frames
        first = spare // 2 if first is None else first
        if not 0 <= first <= spare:
            raise CropOutside(f"segments cannot start at frame {first}: there are {spare} to spare")
        return [first + self.step_frames * number for number in range(fitted.count or 0)]


def equal_lengths(frames: int, samples: int, max_seconds: float = MAX_SECONDS) -> int:
    """How many frames of a clip have both picture and sound, at most `max_seconds` of them."""
    return min(frames, samples // SAMPLES_PER_FRAME, int(max_seconds * FPS))


def offset_crop(
    frames: int, samples: int, *, crop_frames: int, start_seconds: float, offset_seconds: float
) -> Crop:
    """`crop_frames` pictures from `start_seconds` with sound from `offset_seconds` later in the clip.

    Sound that would begin less than a frame before the clip begins with it. Raises: CropOutside.
    """
    first_frame = round(start_seconds * FPS)
    first_sample = round((first_frame / FPS + offset_seconds) * SAMPLE_RATE_HZ)
    crop = Crop(first_frame, max(0, first_sample), crop_frames)
    if first_frame < 0 or first_sample < -SAMPLES_PER_FRAME:
        needed = max(-offset_seconds, 0.0)
        raise CropOutside(
            f"pictures from {start_seconds:g} s with an offset of {offset_seconds:g} s would need sound from "
            f"before the clip: start at {needed:g} s or later"
        )
    if first_frame + crop_frames > frames or crop.first_sample + crop.samples > samples:
        last = (frames - crop_frames) / FPS - max(0.0, offset_seconds)
        raise CropOutside(
            f"{crop_frames / FPS:g} s of pictures from {start_seconds:g} s with an offset of "
            f"{offset_seconds:g} s reach past the end of a clip of {frames / FPS:g} s: "
            + (f"start at {last:g} s at the latest" if last >= 0 else "pass a longer clip")
        )
    return crop


def start_frames(frames: int, crop_frames: int, offset_seconds: float) -> range:
    """The first frames that a crop with that offset may have in a clip of `frames` frames with their sound.

    Raises: CropOutside when the clip is too short for it.
    """
    shift = offset_seconds * FPS
    spare = frames - crop_frames
    earliest = max(0, math.ceil(-shift - ROUNDING))
    latest = min(spare, math.floor(spare - shift + ROUNDING))
    if earliest > latest:
        raise CropOutside(
            f"a clip of {frames / FPS:g} s has no crop of {crop_frames / FPS:g} s with an offset of "
            f"{offset_seconds:g} s: {crop_frames / FPS + abs(offset_seconds):g} s are needed"
        )
    return range(earliest, latest + 1)
