"""Everybody's face through a clip: frames in, one track a face out. A cut ends all tracks.

`F` frames. Where `track` follows the one face to be redrawn, this finds all that could be judged. Rules and
numbers, but for the search by hints, follow joonson/syncnet_python `run_pipeline.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentsync.face.cuts import find_cuts
from latentsync.face.detect import Detector, Face, overlap
from latentsync.face.track import smoothed

SAME_FACE_OVERLAP = 0.5  # of boxes of neighbouring frames
MAX_GAP_FRAMES = 25  # without the face; positions in between lie on a line
SEARCH_FRAMES = 12  # so often the whole picture is searched for faces that came in
MIN_FOUND_FRAMES = 5  # seen less often, it was no face


@dataclass(frozen=True, eq=False)
class FaceTrack:
    """One face in the frames [start, stop) of a clip."""

    start: int
    boxes: np.ndarray  # (F, 4) float32: x0, y0, x1, y1 in pixels, as measured
    anchors: np.ndarray  # (F, 3, 2) float32: left brow, right brow, nose, smoothed
    found_frames: int  # in so many the face was seen

    @property
    def frames(self) -> int:
        return len(self.boxes)

    @property
    def stop(self) -> int:
        return self.start + len(self.boxes)

    @property
    def size_px(self) -> float:
        """The larger of mean width and mean height of its box."""
        return float((self.boxes[:, 2:] - self.boxes[:, :2]).mean(axis=0).max())


def find_tracks(frames: Iterable[Any], detector: Detector) -> list[FaceTrack]:
    """All faces of `frames` (anything with `.image`, uint8 RGB), in order of their first frame; of two that
    begin together the larger first.
    """
    live: list[dict[int, Face]] = []
    ended: list[dict[int, Face]] = []
    for number, (frame, is_cut) in enumerate(find_cuts(frames)):
        lost = [seen for seen in live if is_cut or number - _last(seen)[0] > MAX_GAP_FRAMES]
        ended += lost
        live = [seen for seen in live if not any(seen is gone for gone in lost)]
        faces = _look(frame.image, detector, live, everywhere=is_cut or number % SEARCH_FRAMES == 0)
        for seen in sorted(live, key=_last_number, reverse=True):  # who was seen last has the first choice
            if faces and (face := _same(faces, _last(seen)[1])) is not None:
                seen[number] = face
                faces = [other for other in faces if other is not face]
        live += [{number: face} for face in faces]
    kept = [_track_of(seen) for seen in ended + live if len(seen) >= MIN_FOUND_FRAMES]
    return sorted(kept, key=lambda track: (track.start, -track.size_px))


def _look(
    image: np.ndarray, detector: Detector, live: list[dict[int, Face]], *, everywhere: bool
) -> list[Face]:
    """The faces of a picture, each once: where they were, or by a search of the whole picture."""
    if everywhere or not live:
        return detector.detect(image) if everywhere else []
    faces: list[Face] = []
    for seen in live:
        for face in detector.detect(image, hint=_last(seen)[1].box):
            if all(overlap(face.box, known.box) <= SAME_FACE_OVERLAP for known in faces):
                faces.append(face)
    return faces


def _same(faces: list[Face], last: Face) -> Face | None:
    best = max(faces, key=lambda face: overlap(face.box, last.box))
    return best if overlap(best.box, last.box) > SAME_FACE_OVERLAP else None


def _last(seen: dict[int, Face]) -> tuple[int, Face]:
    return next(reversed(seen.items()))


def _last_number(seen: dict[int, Face]) -> int:
    return _last(seen)[0]


def _track_of(seen: dict[int, Face]) -> FaceTrack:
    numbers = np.array(list(seen))
    faces = list(seen.values())
    every = np.arange(numbers[0], numbers[-1] + 1)
    boxes = _between(every, numbers, np.array([face.box for face in faces]))
    anchors = _between(every, numbers, np.array([face.anchors for face in faces]))
    nothing = np.zeros((0, 2), np.float32)
    run = [
        Face((float(b[0]), float(b[1]), float(b[2]), float(b[3])), 1.0, a, nothing, faces[0].kind)
        for b, a in zip(boxes, anchors, strict=True)
    ]
    smooth = np.stack([face.anchors for face in smoothed(run)])
    return FaceTrack(int(numbers[0]), boxes, smooth, found_frames=len(faces))


def _between(every: np.ndarray, numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`values` (K, ...) of the frames `numbers`, on a line in the frames between."""
    flat = values.reshape(len(values), -1)
    lines = [np.interp(every, numbers, column) for column in flat.T]
    return np.stack(lines, axis=1).reshape(len(every), *values.shape[1:]).astype(np.float32)
