"""What every judge of sync takes and says: faces and sound in, by how many frames they are apart out.

The sign, here for the whole project: a positive offset means that the audio is early (it plays what will be
seen `offset_frames` later); delaying the sound by `offset_frames` / 25 s puts it right. `F` frames at 25 a
second, `T` samples at 16 kHz, `H W` pixels of a face as the judge wants it cut.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from latentsync.face.tracks import FaceTrack

FPS = 25
SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS  # 640
MAX_OFFSET_FRAMES = 15

Faces = Tensor | Iterable[Tensor]  # uint8 (F, 3, H, W) RGB, whole or in batches in order


@dataclass(frozen=True)
class SyncScore:
    """How well lips and sound agree, and how far they are apart.

    `offset_frames`: positive = audio early (see above). `confidence`: how much closer lips and sound are
    there than at the median of all offsets, and `min_distance` how close, both in the judge's own unit of
    distance. `curve`: the mean distance at each offset, rising, from -n to n.
    """

    offset_frames: int
    confidence: float
    min_distance: float
    curve: tuple[float, ...] = field(default=(), repr=False)

    @property
    def offsets(self) -> range:
        """The offsets that `curve` belongs to."""
        reach = len(self.curve) // 2
        return range(-reach, reach + 1) if self.curve else range(0)


class FaceCut(Protocol):
    """How a judge wants its pictures: which part of a frame, and how large; always 25 a second."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of a cut picture in pixels."""
        ...

    def places(self, track: FaceTrack) -> np.ndarray:
        """Where to cut in each frame of a whole track, (F, ...)."""
        ...

    def cut(self, images: Sequence[np.ndarray], places: np.ndarray) -> Tensor:
        """Faces uint8 (F, 3, H, W) of whole frames uint8 (H', W', 3) RGB."""
        ...


class Judge(ABC):
    """A network that says by how many frames lips and sound are apart.

    `name` is how command lines call it, `face_cut` which pictures it wants, `min_frames` the shortest run
    whose score means anything (a shorter one is scored as long as there is anything to compare).
    `tolerance_frames`: a known shift counts as found within so many.
    """

    name: str
    face_cut: FaceCut
    min_frames: int
    tolerance_frames: int = 1

    def score(self, faces: Faces, waveform: Tensor) -> SyncScore:
        """Compare `faces` with the `waveform` (T,), float in [-1, 1], that begins with the first of them.

        What is longer is cut to the other. Raises: ValueError where nothing is left to compare.
        """
        return self.score_sounds(faces, [waveform])[0]

    @abstractmethod
    def score_sounds(self, faces: Faces, waveforms: Sequence[Tensor]) -> list[SyncScore]:
        """`score` with each of several sounds; the faces, which cost most, are looked at once."""
        ...


def batches(faces: Faces, size: int, *, overlap: int = 0) -> Iterator[Tensor]:
    """Runs of `size` faces (the last one shorter), each beginning with the last `overlap` of the run before.

    Raises: ValueError for faces that are not uint8 (F, 3, H, W).
    """
    held: Tensor | None = None
    fresh = 0  # faces in `held` that no run has shown yet
    for part in [faces] if isinstance(faces, Tensor) else faces:
        if part.ndim != 4 or part.shape[1] != 3 or part.dtype != torch.uint8:
            raise ValueError(f"faces are {part.dtype} {tuple(part.shape)}; uint8 (F, 3, H, W) was expected")
        held = part if held is None else torch.cat([held, part])
        fresh += len(part)
        while len(held) >= size:
            yield held[:size]
            held = held[size - overlap :]
            fresh = len(held) - overlap
    if held is not None and fresh > 0:
        yield held
