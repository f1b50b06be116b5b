"""One person's face through a clip: frames in, the same frames with that face out, one by one.

In: any iterable of objects with `.image` (uint8 RGB) and `.index`. Out: `Tracked(frame, face)` in the same
order, face None where the person is not seen. The track starts with the largest, most central face and stays
with it by place and size; a larger one that enters later does not take over. Reads RADIUS + 2 frames ahead.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import comb
from typing import Any

import numpy as np
import torch.nn.functional as F

from latentsync.face.align import crop_size, similarity, template, warp_to_crop
from latentsync.face.cuts import find_cuts
from latentsync.face.detect import Detector, Face

RADIUS = 2  # frames on either side that smooth a position
REACH = 0.6  # of a face's size: how far it may move from one frame to the next
REACH_GROWTH = 0.04  # more reach for every frame without the face
WIDEST_REACH = 1.5
SIZE_RATIO = 1.7  # between a face and its predecessor
LOST_FRAMES = 25  # after these the person may come back anywhere, if the looks agree
KNOWN_FRAMES = 5  # seen less often than that, a face that is gone was a false detection
FORGET_FRAMES = 3  # so long after the loss it is forgotten then
HINTED_FRAMES = 5  # so long after a loss the old place is still searched by a hint
SAME_LOOKS = 0.75  # of 25 clips: 0.95 within one (median), 0.55 between two (0.75 in one of ten)
JUMP = 0.2  # of a face's size: a position that leaves both its neighbours by more is no measurement
LOOKS_RESOLUTION = 32
LOOKS_MEMORY = 0.9


@dataclass(frozen=True)
class TrackedFace(Face):
    """The followed face in one frame: `box` and `anchors` smoothed in time, `landmarks` as measured.

    `shot` counts cuts and gaps: faces of different shots are no neighbours in time.
    """

    shot: int = 0


@dataclass(frozen=True)
class Tracked:
    """A frame as it came, and the face followed in it."""

    frame: Any
    face: TrackedFace | None


@dataclass
class _Sighting:
    """A frame in the look-ahead buffer; `run` numbers unbroken stretches of sightings."""

    frame: Any
    face: Face | None
    run: int


def track(
    frames: Iterable[Any],
    detector: Detector,
    *,
    radius: int = RADIUS,
    cache: dict[int, list[Face]] | None = None,
) -> Iterator[Tracked]:
    """Follow one face; `cache` keeps detections by `frame.index`, for streams that show a frame again."""
    if radius < 1:
        raise ValueError(f"radius {radius}: at least one frame on either side is needed to smooth")
    sightings = _sightings(frames, _Follower(detector, cache))
    shot, last_run = -1, -1
    for window, middle in _windows(sightings, radius + 1):
        here = window[middle]
        if here.face is None or _isolated(window, middle):
            yield Tracked(here.frame, None)
            continue
        if here.run != last_run:
            shot, last_run = shot + 1, here.run
        yield Tracked(here.frame, _smooth(window, middle, shot, radius))


def bridge_gaps(tracked: Iterable[Tracked]) -> Iterator[Tracked]:
    """Take the face also from the two frames beside every gap: there it is half turned or half hidden."""
    before: Tracked | None = None
    here: Tracked | None = None
    for following in itertools.chain(tracked, [None]):
        if here is not None:
            beside = any(other is not None and other.face is None for other in (before, following))
            yield replace(here, face=None) if beside else here
        before, here = here, following


def smoothed(faces: Sequence[Face], *, radius: int = RADIUS) -> list[TrackedFace]:
    """One face in frames that follow each other, its box and anchors smoothed as `track` does."""
    sightings = (_Sighting(None, face, 0) for face in faces)
    return [_smooth(window, middle, 0, radius) for window, middle in _windows(sightings, radius + 1)]


def _sightings(frames: Iterable[Any], follower: "_Follower") -> Iterator[_Sighting]:
    """Frames with the face followed in them, not yet smoothed."""
    run, seen = 0, False
    for frame, cut in find_cuts(frames):
        face = follower.find(frame, cut=cut)
        if face is not None and (cut or not seen):
            run += 1
        seen = face is not None
        yield _Sighting(frame, face, run)


def _windows(items: Iterable[_Sighting], radius: int) -> Iterator[tuple[list[_Sighting], int]]:
    """Every item's neighbours on both sides, fewer at the ends, and its own place among them."""
    window: deque[_Sighting] = deque(maxlen=2 * radius + 1)
    count = done = 0
    for count, item in enumerate(items, start=1):
        window.append(item)
        if count > radius:
            yield list(window), done - (count - len(window))
            done += 1
    for waiting in range(count - done, 0, -1):
        rest = list(window)[-(waiting + radius) :]
        yield rest, len(rest) - waiting


def _isolated(window: list[_Sighting], middle: int) -> bool:
    """Whether a face was seen in one frame only, between frames without it: a false detection."""
    neighbours = window[max(0, middle - 1) : middle] + window[middle + 1 : middle + 2]
    return bool(neighbours) and all(n.face is None or n.run != window[middle].run for n in neighbours)


def _smooth(window: list[_Sighting], middle: int, shot: int, radius: int) -> TrackedFace:
    """A straight line through the run's positions near the middle, binomial weights, none for jumps."""
    run = window[middle].run
    near = [(i - middle, s.face) for i, s in enumerate(window) if s.run == run and s.face is not None]
    offsets = np.array([offset for offset, _ in near], np.float64)
    places = np.array([(*face.anchors.ravel(), *face.box) for _, face in near], np.float64)
    # (1, 4, 6, 4, 1) for radius 2; the frame beyond the radius only helps to tell jumps
    weights = np.array([comb(2 * radius, radius + abs(offset)) for offset, _ in near], np.float64)
    weights[_jumps(offsets, places)] = 0
    fitted = _line_at_zero(offsets, places, weights)
    face = next(face for offset, face in near if offset == 0)
    return TrackedFace(
        box=(float(fitted[6]), float(fitted[7]), float(fitted[8]), float(fitted[9])),
        score=face.score,
        anchors=fitted[:6].reshape(3, 2).astype(np.float32),
        landmarks=face.landmarks,
        kind=face.kind,
        shot=shot,
    )


def _jumps(offsets: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Which positions lie far from both their neighbours although these lie close together."""
    size = np.sqrt(max(1.0, float(np.median((places[:, 8] - places[:, 6]) * (places[:, 9] - places[:, 7])))))
    jumps = np.zeros(len(offsets), bool)
    for i in range(1, len(offsets) - 1):
        before, here, after = places[i - 1, :6], places[i, :6], places[i + 1, :6]
        apart = np.abs(after - before).max() / size
        jumps[i] = np.abs(here - (before + after) / 2).max() / size > max(JUMP, apart)
    return jumps


def _line_at_zero(offsets: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted least-squares line at offset 0: exact for steady motion, also where a run ends."""
    weights = weights / weights.sum()
    mean_offset = float(weights @ offsets)
    mean_place = weights @ places
    spread = float(weights @ (offsets - mean_offset) ** 2)
    if spread < 1e-9:
        return mean_place
    slope = (weights * (offsets - mean_offset)) @ places / spread
    return mean_place - slope * mean_offset


@dataclass
class _Follower:
    """Which of a frame's faces is the person; the only state of a track besides the smoothing window."""

    detector: Detector
    cache: dict[int, list[Face]] | None
    last: Face | None = None
    missed: int = 0  # frames since it was seen
    found: int = 0  # frames in which it was seen
    looks: np.ndarray | None = field(default=None, repr=False)

    def find(self, frame: Any, *, cut: bool) -> Face | None:
        """The person's face in this frame, or None."""
        if cut:
            self.last = None
        face = self._choose(frame.image, self._detect(frame))
        if face is None:
            self.missed += 1
            return None
        self.last, self.missed, self.found = face, 0, self.found + 1
        self._remember(looks(frame.image, face))
        return face

    def _detect(self, frame: Any) -> list[Face]:
        """Faces of the frame; at first only where the person was."""
        if self.cache is not None and frame.index in self.cache:
            return self.cache[frame.index]
        hint = self.last.box if self.last is not None and self.missed < HINTED_FRAMES else None
        faces = self.detector.detect(frame.image, hint)
        if self.cache is not None:
            self.cache[frame.index] = faces
        return faces

    def _choose(self, image: np.ndarray, faces: list[Face]) -> Face | None:
        """The person among the faces: by place, else by looks, else (in a new shot) the most prominent."""
        if self.missed >= FORGET_FRAMES and self.found < KNOWN_FRAMES:
            self.last = self.looks = None  # that was no person
        if self.last is not None:
            near = _closest(faces, self.last, self.missed)
            if near is not None or self.missed < LOST_FRAMES:
                return near
        if self.looks is not None and faces:
            likeness = [float(looks(image, face) @ self.looks) for face in faces]
            if max(likeness) >= SAME_LOOKS:
                return faces[int(np.argmax(likeness))]
        if self.last is not None:
            return None
        return max(faces, key=lambda face: _prominence(face, image), default=None)

    def _remember(self, seen: np.ndarray) -> None:
        mixed = seen if self.looks is None else LOOKS_MEMORY * self.looks + (1 - LOOKS_MEMORY) * seen
        self.looks = mixed / (np.linalg.norm(mixed) + 1e-6)


def looks(image: np.ndarray, face: Face) -> np.ndarray:
    """What a face looks like: its aligned colours in a few cells, without brightness; unit length."""
    matrix = similarity(face.anchors[None], template(LOOKS_RESOLUTION))[0]
    width, height = crop_size(LOOKS_RESOLUTION)
    crop = warp_to_crop(image, matrix, (width, height))[0]
    cells = F.adaptive_avg_pool2d(crop, (height // 4, width // 4)).numpy()
    cells = cells - cells.mean()
    return (cells / (np.linalg.norm(cells) + 1e-6)).ravel()


def _size(face: Face) -> float:
    return float(np.sqrt((face.box[2] - face.box[0]) * (face.box[3] - face.box[1])))


def _centre(face: Face) -> np.ndarray:
    x0, y0, x1, y1 = face.box
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2])


def _distance(face: Face, last: Face) -> float:
    """Between the centres of two faces, in sizes of the last one."""
    return float(np.linalg.norm(_centre(face) - _centre(last))) / max(1.0, _size(last))


def _closest(faces: list[Face], last: Face, missed: int) -> Face | None:
    """The face nearest to the last place, within reach and of like size."""
    reach = min(WIDEST_REACH, REACH + REACH_GROWTH * missed)
    ratio = SIZE_RATIO * (1 + REACH_GROWTH * min(missed, LOST_FRAMES))
    near = [
        face
        for face in faces
        if _distance(face, last) <= reach and 1 / ratio <= _size(face) / max(1.0, _size(last)) <= ratio
    ]
    return min(near, key=lambda face: _distance(face, last), default=None)


def _prominence(face: Face, image: np.ndarray) -> float:
    """Size, lessened by up to a half towards the picture's border, and by doubt."""
    height, width = image.shape[:2]
    eccentricity = float(np.linalg.norm(_centre(face) / (width, height) - 0.5)) / 0.7  # 1 in a corner
    return _size(face) * face.score * (1 - 0.5 * min(1.0, eccentricity))
