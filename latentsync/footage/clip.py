"""One training clip opened: windows of its faces at 25 fps, and its sound from the first of them on.

`F` frames, `R` side of a face, `T` samples at 16 kHz. Frame k is the picture at k / 25 s after the first; the
sample 640 k sounds with it. A video holds faces that are aligned already, so its pictures are square.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from typing import Protocol

import numpy as np
import torch

from latentsync.audio.mel import SAMPLE_RATE_HZ
from latentsync.errors import MediaError
from latentsync.face.mask import resize_faces
from latentsync.footage.listing import FACES, MOUTH, WAVEFORM, ClipFile
from latentsync.media import VideoReader, nearest_tick, read_audio

FPS = Fraction(25)
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // 25  # 640
BATCH_FRAMES = 32


class Clip(Protocol):
    """What a video and a packed clip have in common; a `with` block closes it."""

    frames: int
    side: int  # of the faces as they are stored, in pixels
    has_sound: bool

    def __enter__(self) -> "Clip": ...

    def __exit__(self, *exception: object) -> None: ...

    @property
    def waveform(self) -> np.ndarray:
        """Its sound, (T,) float32 in [-1, 1]. Raises: MediaError where there is none."""
        ...

    @property
    def aperture(self) -> np.ndarray | None:
        """How far the lips are open, (F,) in eye distances; None where nobody measured it."""
        ...

    def faces(self, start: int, stop: int) -> np.ndarray:
        """The faces [start, stop), uint8 (F, R, R, 3) RGB. Raises: ValueError outside of the clip."""
        ...

    def pick(self, indices: Sequence[int]) -> np.ndarray:
        """Some faces in rising order, uint8 (len(indices), R, R, 3), in one pass over the clip."""
        ...

    def stream(self) -> Iterator[np.ndarray]:
        """All faces in order, in batches uint8 (<= 32, R, R, 3)."""
        ...


def open_clip(file: ClipFile, resolution: int | None = None, *, allow_upscale: bool = False) -> Clip:
    """The clip with faces of side `resolution`, None for that which is stored.

    Raises: FileNotFoundError; MediaError for what is no such clip, or for faces smaller than wanted, unless
    `allow_upscale`.
    """
    clip = PackedClip(file, resolution) if file.kind == "packed" else VideoClip(file, resolution)
    if resolution is not None and resolution > clip.side and not allow_upscale:
        clip.__exit__()
        raise MediaError(
            f"the faces of {file.path} are {clip.side} px wide and {resolution} px are wanted; train at "
            f"{clip.side}, pack the footage again at {resolution}, or allow upscaling"
        )
    return clip


class PackedClip:
    """Arrays on disk, mapped: a window costs what it holds."""

    def __init__(self, file: ClipFile, resolution: int | None = None) -> None:
        self.file = file
        self._faces = _array(file, FACES, memory_mapped=True)
        shape = self._faces.shape
        if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or self._faces.dtype != np.uint8:
            raise MediaError(
                f"{file.path / FACES} holds {self._faces.dtype} {shape}; uint8 (F, R, R, 3) was expected"
            )
        self.frames, self.side = shape[:2]
        self.resolution = resolution or self.side
        self.has_sound = True

    def __enter__(self) -> "PackedClip":
        return self

    def __exit__(self, *exception: object) -> None: ...

    @property
    def waveform(self) -> np.ndarray:
        sound = _array(self.file, WAVEFORM)
        if sound.ndim != 1 or sound.dtype != np.float32 or not np.isfinite(sound).all():
            raise MediaError(
                f"{self.file.path / WAVEFORM} holds {sound.dtype} {sound.shape}; "
                "finite float32 (T,) was expected"
            )
        return sound

    @property
    def aperture(self) -> np.ndarray | None:
        if not (self.file.path / MOUTH).is_file():
            return None
        mouth = _array(self.file, MOUTH)
        if mouth.ndim != 2 or len(mouth) != self.frames:
            raise MediaError(f"{self.file.path / MOUTH} holds {mouth.shape}; ({self.frames}, K) was expected")
        return mouth[:, 0].astype(np.float64)

    def faces(self, start: int, stop: int) -> np.ndarray:
        _check_range(self, start, stop)
        return _resized(np.array(self._faces[start:stop]), self.resolution)

    def pick(self, indices: Sequence[int]) -> np.ndarray:
        return _resized(np.array(self._faces[list(indices)]), self.resolution)

    def stream(self) -> Iterator[np.ndarray]:
        for start in range(0, self.frames, BATCH_FRAMES):
            yield self.faces(start, min(start + BATCH_FRAMES, self.frames))


class VideoClip:
    """A video of aligned faces. Other constant rates than 25 fps show, at each tick, the nearest picture."""

    def __init__(self, file: ClipFile, resolution: int | None = None) -> None:
        self.file = file
        self._reader = VideoReader(file.path)
        info = self._reader.info
        if info.width != info.height:
            raise MediaError(
                f"{file.path} is {info.width}x{info.height} px; training footage is square, with the face "
                "aligned: run scripts/pack_footage.py (or upstream's preparation) over it first"
            )
        if info.frame_count is None or not info.constant_frame_rate:
            raise MediaError(
                f"{file.path} has no constant frame rate (about {float(info.fps):.2f} fps), so that its "
                "frames cannot be found by time; convert it to an MP4 of 25 fps"
            )
        self._fps, self._pictures = info.fps, info.frame_count
        self.frames = max(1, round(info.frame_count / info.fps * FPS))
        self.side = info.width
        self.resolution = resolution or self.side
        self.has_sound = info.has_audio

    def __enter__(self) -> "VideoClip":
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader.close()

    @property
    def waveform(self) -> np.ndarray:
        sound = read_audio(self.file.path, SAMPLE_RATE_HZ)
        first = next(iter(self._reader))
        late = round(first.time * SAMPLE_RATE_HZ)  # samples that sound before the first picture
        return sound[late:] if late >= 0 else np.pad(sound, (-late, 0))

    @property
    def aperture(self) -> None:
        return None

    def faces(self, start: int, stop: int) -> np.ndarray:
        _check_range(self, start, stop)
        shown = [self._picture_at(tick) for tick in range(start, stop)]
        if not shown:
            return np.zeros((0, self.resolution, self.resolution, 3), np.uint8)
        pictures = self._reader.read(shown[0], shown[-1] + 1)
        if len(pictures) != shown[-1] + 1 - shown[0]:
            raise MediaError(f"{self.file.path} is damaged: picture {shown[0] + len(pictures)} is not there")
        return _resized(np.stack([pictures[number - shown[0]].image for number in shown]), self.resolution)

    def pick(self, indices: Sequence[int]) -> np.ndarray:
        return _resized(np.stack(list(self._shown(indices))), self.resolution)

    def stream(self) -> Iterator[np.ndarray]:
        shown = self._shown(range(self.frames))
        while batch := list(islice(shown, BATCH_FRAMES)):
            yield _resized(np.stack(batch), self.resolution)

    def _shown(self, ticks: Sequence[int]) -> Iterator[np.ndarray]:
        """The pictures (S, S, 3) of some rising ticks, in one pass that reads the whole file."""
        upcoming = deque(self._picture_at(tick) for tick in ticks)
        count = 0
        for picture in self._reader:
            while upcoming and upcoming[0] == picture.index:
                yield picture.image
                upcoming.popleft()
            count += 1
        if count != self._pictures:
            raise MediaError(f"{self.file.path} is damaged: {count} of {self._pictures} pictures can be read")

    def _picture_at(self, tick: int) -> int:
        """The number of the picture nearest to a tick, as `latentsync.media.resample` chooses it."""
        return min(nearest_tick(tick / FPS, self._fps), self._pictures - 1)


def heard_frames(frames: int, samples: int) -> int:
    """How many of a clip's frames have their sound, when `samples` of it are there."""
    return min(frames, math.floor(samples / SAMPLES_PER_FRAME))


def _check_range(clip: Clip, start: int, stop: int) -> None:
    if not 0 <= start <= stop <= clip.frames:
        raise ValueError(f"frames [{start}, {stop}) were asked of a clip that has [0, {clip.frames})")


def _array(file: ClipFile, name: str, *, memory_mapped: bool = False) -> np.ndarray:
    try:
        return np.load(file.path / name, mmap_mode="r" if memory_mapped else None, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise MediaError(f"{file.path / name} is no array of NumPy: {error}; pack it again") from error


def _resized(images: np.ndarray, resolution: int) -> np.ndarray:
    """uint8 (F, S, S, 3) at side `resolution`: bicubic, antialiased."""
    if images.shape[1] == resolution:
        return images
    planes = torch.from_numpy(images).permute(0, 3, 1, 2)
    return resize_faces(planes, resolution).permute(0, 2, 3, 1).contiguous().numpy()
