"""Frames with faces -> frames with redrawn mouths: the model's 25 ticks a second on one side, the source's
frames on the other.

Every run of ticks that shows one face without a cut or a gap goes through the generator by itself. Each
source frame then takes the mouth of the tick nearest to it, so a clip keeps its own frame rate. Frames
without a face pass through untouched.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from latentsync.dubbing.fork import fork
from latentsync.dubbing.playback import Shown
from latentsync.face import Composer, Tracked, TrackedFace, align, normalize, similarity, template
from latentsync.media import nearest_tick, resample
from latentsync.profiling import stage

DrawRun = Callable[[Iterable[Tensor], Iterable[Tensor], int], Iterator[Tensor]]  # faces, sound, first tick


class Generator(Protocol):
    """What can redraw mouths: the diffusion pipeline, and later its siblings."""

    resolution: int
    fps: int
    window: int

    def generate(self, faces: Tensor, audio_windows: Tensor, noise: Tensor) -> Tensor:
        """Faces (F, 3, R, R) in [-1, 1] that say `audio_windows` (F, N, D)."""
        ...


@dataclass(frozen=True)
class Sighting:
    """A frame on the result's timeline and the face followed in it; its face is cut out at most once, though
    the generator and the composer both want it.
    """

    shown: Shown
    face: TrackedFace | None
    resolution: int

    @property
    def time(self) -> Fraction:
        return self.shown.time

    @property
    def shot(self) -> int | None:
        return None if self.face is None else self.face.shot

    @cached_property
    def matrix(self) -> np.ndarray:
        """Frame pixels to pixels of the aligned crop, (2, 3), where there is a face."""
        assert self.face is not None
        return face_matrix(self.face, self.resolution)

    @cached_property
    def crop(self) -> Tensor:
        """The aligned face, uint8 (1, 3, R, R)."""
        with stage("align"):
            return align([self.shown.image], self.matrix[None], self.resolution)


@dataclass(frozen=True)
class Drawn:
    """The generated face (3, R, R) of a tick, None where no face was seen."""

    tick: int
    shot: int | None
    face: Tensor | None


@dataclass(frozen=True)
class Result:
    """A finished frame: image, time, and whether its mouth was redrawn."""

    image: np.ndarray
    time: Fraction
    is_redrawn: bool


def redraw(
    tracked: Iterable[Tracked],
    audio_windows: Iterable[Tensor],
    draw_run: DrawRun,
    *,
    composer: Composer,
    fps: int,
) -> Iterator[Result]:
    """Finished frames, in order, one for each of `tracked`; reads ahead as far as `draw_run` needs."""
    sightings = (Sighting(item.frame, item.face, composer.resolution) for item in tracked)
    for_ticks, for_frames = fork(sightings)
    ticks = resample(for_ticks, Fraction(fps))
    drawn = _Nearby(_drawn_ticks(ticks, audio_windows, draw_run))
    for sighting in for_frames:
        mouth = drawn.find(nearest_tick(sighting.time, Fraction(fps)), sighting.shot)
        image = sighting.shown.image
        if mouth is not None and sighting.face is not None:
            source = normalize(sighting.crop)[0]
            image = composer.compose(image, mouth, sighting.matrix, source_face=source)
        yield Result(image, sighting.time, mouth is not None)


def face_matrix(face: TrackedFace, resolution: int) -> np.ndarray:
    """Frame pixels to pixels of the aligned crop, (2, 3)."""
    return similarity(face.anchors[None], template(resolution))[0]


def _drawn_ticks(ticks: Iterable, audio_windows: Iterable[Tensor], draw_run: DrawRun) -> Iterator[Drawn]:
    """One Drawn for each tick; runs of ticks with one face in one shot go through `draw_run` together."""
    heard = zip(ticks, audio_windows, strict=False)
    for shot, run in itertools.groupby(heard, key=lambda pair: pair[0].frame.shot):
        if shot is None:
            yield from (Drawn(tick.tick, None, None) for tick, _ in run)
            continue
        numbers: deque[int] = deque()
        pairs = iter(run)
        first = next(pairs)
        faces, tokens = _split(itertools.chain([first], pairs), numbers)
        for face in draw_run(faces, tokens, first[0].tick):
            yield Drawn(numbers.popleft(), shot, face)


def _split(run: Iterable, numbers: deque[int]) -> tuple[Iterator[Tensor], Iterator[Tensor]]:
    """Aligned faces and audio windows of a run of ticks, whose numbers are noted as they are read."""

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for tick, tokens in run:
            numbers.append(tick.tick)
            yield normalize(tick.frame.crop)[0], tokens

    left, right = fork(pairs())
    return (face for face, _ in left), (tokens for _, tokens in right)


class _Nearby:
    """The drawn ticks around a moving place: enough to find a frame's nearest tick in its own shot."""

    def __init__(self, drawn: Iterator[Drawn]) -> None:
        self.drawn = drawn
        self.near: deque[Drawn] = deque(maxlen=4)

    def find(self, tick: int, shot: int | None) -> Tensor | None:
        """The face of `tick`, or of the tick beside it when that one belongs to another shot.

        Called for every frame, with a face or without: the ticks must keep up, or what they have not read
        piles up.
        """
        while not self.near or self.near[-1].tick <= tick:
            following = next(self.drawn, None)
            if following is None:
                break
            self.near.append(following)
        if shot is None:
            return None
        own = [item for item in self.near if item.shot == shot and abs(item.tick - tick) <= 1]
        best = min(own, key=lambda item: abs(item.tick - tick), default=None)
        return None if best is None else best.face


def same_noise(seed: int) -> torch.Generator:
    """The generator of a job: on the CPU, so that a seed means the same picture on every device."""
    return torch.Generator("cpu").manual_seed(seed)
