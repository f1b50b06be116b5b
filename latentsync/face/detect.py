"""A picture to the faces in it: boxes, mesh points, and the three anchors that alignment rests on.

In: one image, uint8 RGB (H, W, 3). Out: a list of `Face`, in pixels of that image. MediaPipe is the
default; InsightFace, with which the released weights were trained, is optional. Source of the anchors:
face_detector.py of bytedance/LatentSync, whose 106-point indices are restated as points of MediaPipe's mesh.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from latentsync.errors import LatentSyncError

Box = tuple[float, float, float, float]  # x0, y0, x1, y1

MIN_FACE_PX = 24  # side of a square as large as the face's box
MIN_SCORE = 0.5  # of a first detection, on the whole picture
MIN_CROP_SCORE = 0.7  # of the second look, on the enlarged crop: people pass 0.7, a dog's face does not
MIN_PRESENCE = 0.9  # of the mesh itself
ASPECTS = (0.35, 1.6)  # width / height of a believable mesh; a full profile is narrow
MIN_INSIDE = 0.4  # share of a face's box that must lie in the picture

# Points of MediaPipe's mesh, averaged group by group; left is left in the image.
LEFT_BROW = ((70, 63, 105, 66, 107, 46, 53, 52, 65, 55),)
RIGHT_BROW = ((300, 293, 334, 296, 336, 276, 283, 282, 295, 285),)
NOSE = ((5,), (129, 48), (358, 278), (4, 1))  # lower bridge, left wing, right wing, tip

# The same of InsightFace's 106 points.
LEFT_BROW_106 = (43, 48, 49, 51, 50)
RIGHT_BROW_106 = (101, 102, 103, 104, 105)
NOSE_106 = (74, 77, 83, 86)

INSIGHTFACE_ROOT = Path("checkpoints/auxiliary")
INSIGHTFACE_PACK = "buffalo_l"
INSIGHTFACE_FILES = ("det_10g.onnx", "2d106det.onnx")


class DetectorUnavailable(LatentSyncError, ImportError):
    """A face detector was asked for whose package or model files are not there."""


@dataclass(frozen=True)
class Face:
    """One face in one picture, in pixels.

    `anchors` float32 (3, 2): left brow, right brow, nose; `landmarks` float32 (N, 2): all points.
    """

    box: Box
    score: float
    anchors: np.ndarray
    landmarks: np.ndarray
    kind: str


class Detector(Protocol):
    """Finds the faces of a picture; `hint` is the box of the one face that is wanted, where it is known."""

    def detect(self, image: np.ndarray, hint: Box | None = None) -> list[Face]: ...

    def close(self) -> None: ...


def make_detector(name: str = "auto") -> "MediaPipeDetector | InsightFaceDetector":
    """The detector of that name: auto, mediapipe or insightface."""
    if name in ("auto", "mediapipe"):
        return MediaPipeDetector()
    if name == "insightface":
        return InsightFaceDetector()
    raise ValueError(f"unknown face detector {name!r}: expected auto, mediapipe or insightface")


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


class _Closing:
    """`with` for a detector: closes it at the end."""

    def close(self) -> None:
        """Let go of the models."""

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MediaPipeDetector(_Closing):
    """Faces by MediaPipe 0.10: a box from its detectors, then the 468-point mesh on a crop around each box.

    Small faces: the picture is searched as a whole and in overlapping squares as large as its short side, and
    where that shows nobody, in squares half as large. With a `hint` only the mesh runs, on a crop around it.
    """

    CROP_FACTOR = 2.5  # side of the crop for the mesh, in sides of the face's box
    CROP_PX = 384
    MIN_TILE_PX = 192  # the detector's own input; a smaller tile shows it nothing new
    SAME_FACE_OVERLAP = 0.4  # two boxes that overlap more are one face

    def __init__(self) -> None:
        with _quiet_stderr():
            try:
                from mediapipe.python.solutions import face_detection, face_mesh
            except ImportError as error:
                raise DetectorUnavailable(
                    f"the package mediapipe cannot be imported ({error}); pip install mediapipe==0.10.21"
                ) from error
            self._near: Any = face_detection.FaceDetection(MIN_SCORE, model_selection=0)
            self._far: Any = face_detection.FaceDetection(MIN_SCORE, model_selection=1)
            self._mesh: Any = face_mesh.FaceMesh(
                static_image_mode=True,
                max_num_faces=2,
                min_detection_confidence=MIN_CROP_SCORE,
                min_tracking_confidence=MIN_PRESENCE,
            )
            nothing = np.zeros((128, 128, 3), np.uint8)
            for graph in (self._near, self._far, self._mesh):
                graph.process(nothing)  # a graph starts, and writes, at its first picture
        self._meshes = 0

    def close(self) -> None:
        for graph in (self._near, self._far, self._mesh):
            if graph is not None:
                graph.close()
        self._near = self._far = self._mesh = None

    def detect(self, image: np.ndarray, hint: Box | None = None) -> list[Face]:
        """Faces of an uint8 RGB image, best score first; with `hint`, that one face if it is still there."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
        if hint is not None:
            face = self._fit_mesh(image, hint, MIN_CROP_SCORE)
            if face is not None:
                return [face]
        for boxes in self._searches(image):
            faces = self._faces(image, boxes)
            if faces:
                return faces
        return []

    def _searches(self, image: np.ndarray) -> Iterator[list[tuple[Box, float]]]:
        """Candidate boxes with scores, search by search, the cheapest first."""
        yield _boxes(self._far, image) + _boxes(self._near, image) + self._in_tiles(image, 1.0)
        yield self._in_tiles(image, 0.5)

    def _in_tiles(self, image: np.ndarray, share: float) -> list[tuple[Box, float]]:
        """Candidates in overlapping squares whose side is a share of the picture's short side."""
        height, width = image.shape[:2]
        side = round(min(height, width) * share)
        if side < self.MIN_TILE_PX or side == max(height, width):
            return []
        return [found for tile in _tiles(height, width, side) for found in self._in_tile(image, tile)]

    def _in_tile(self, image: np.ndarray, tile: tuple[int, int, int]) -> list[tuple[Box, float]]:
        x, y, side = tile
        found = _boxes(self._far, np.ascontiguousarray(image[y : y + side, x : x + side]))
        return [((b[0] + x, b[1] + y, b[2] + x, b[3] + y), score) for b, score in found]

    def _faces(self, image: np.ndarray, boxes: list[tuple[Box, float]]) -> list[Face]:
        """One mesh a face, best score first; where a box gives none, the next of that face is tried."""
        faces: list[Face] = []
        for box, score in sorted(boxes, key=lambda found: -found[1]):
            if any(overlap(box, known.box) > self.SAME_FACE_OVERLAP for known in faces):
                continue
            face = self._fit_mesh(image, box, score)
            if face is not None and all(overlap(face.box, f.box) < self.SAME_FACE_OVERLAP for f in faces):
                faces.append(face)
        return faces

    def _fit_mesh(self, image: np.ndarray, box: Box, score: float) -> Face | None:
        """The mesh on an enlarged square around `box`, or None if there is none that belongs to it."""
        side = max(box[2] - box[0], box[3] - box[1]) * self.CROP_FACTOR
        x, y = (box[0] + box[2] - side) / 2, (box[1] + box[3] - side) / 2
        crop, (x, y, side) = _square(image, x, y, side, self.CROP_PX)
        with _quiet_stderr() if self._meshes == 0 else contextlib.nullcontext():
            meshes = self._mesh.process(crop).multi_face_landmarks or []
        self._meshes += len(meshes)
        fitted = [_face_of_mesh(_points(mesh) * side + (x, y), score) for mesh in meshes]
        fitted = [face for face in fitted if _plausible(face.box, image) and overlap(face.box, box) > 0.2]
        return max(fitted, key=lambda face: overlap(face.box, box), default=None)


def _points(mesh: Any) -> np.ndarray:
    return np.array([(point.x, point.y) for point in mesh.landmark], np.float64)


def _face_of_mesh(points: np.ndarray, score: float) -> Face:
    anchors = [
        np.mean([points[list(group)].mean(axis=0) for group in groups], axis=0)
        for groups in (LEFT_BROW, RIGHT_BROW, NOSE)
    ]
    return Face(
        _box_of(points), float(score), np.array(anchors, np.float32), points.astype(np.float32), "mediapipe"
    )


def _box_of(points: np.ndarray) -> Box:
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def _plausible(box: Box, image: np.ndarray) -> bool:
    """Whether a face's box is large enough, of a face's shape, and mostly inside the picture."""
    width, height = box[2] - box[0], box[3] - box[1]
    if width * height < MIN_FACE_PX**2 or not ASPECTS[0] <= width / height <= ASPECTS[1]:
        return False
    H, W = image.shape[:2]
    inside = max(0.0, min(box[2], W) - max(box[0], 0)) * max(0.0, min(box[3], H) - max(box[1], 0))
    return inside >= MIN_INSIDE * width * height


def _boxes(graph: Any, image: np.ndarray) -> list[tuple[Box, float]]:
    """Boxes in pixels, and scores, of one of MediaPipe's detectors."""
    height, width = image.shape[:2]
    boxes = []
    for detection in graph.process(image).detections or []:
        area = detection.location_data.relative_bounding_box
        x, y = area.xmin * width, area.ymin * height
        boxes.append(((x, y, x + area.width * width, y + area.height * height), float(detection.score[0])))
    return boxes


def _tiles(height: int, width: int, side: int) -> Iterator[tuple[int, int, int]]:
    """x, y, side of squares that cover the picture, neighbours sharing half of themselves at least."""
    steps = [max(1, -(-2 * (length - side) // side)) if length > side else 0 for length in (width, height)]
    for y in np.linspace(0, height - side, steps[1] + 1).astype(int):
        for x in np.linspace(0, width - side, steps[0] + 1).astype(int):
            yield int(x), int(y), side


def _square(
    image: np.ndarray, x: float, y: float, side: float, size: int
) -> tuple[np.ndarray, tuple[float, float, float]]:
    """A square of the picture, black beyond it, at `size` pixels, and its true place: x, y, side."""
    x0, y0, side_px = round(x), round(y), max(2, round(side))
    inside = image[max(0, y0) : max(0, y0 + side_px), max(0, x0) : max(0, x0 + side_px)]
    if inside.shape[:2] != (side_px, side_px):
        square = np.zeros((side_px, side_px, 3), np.uint8)
        top, left = max(0, -y0), max(0, -x0)
        square[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        inside = square
    how = cv2.INTER_AREA if side_px > size else cv2.INTER_CUBIC
    return cv2.resize(inside, (size, size), interpolation=how), (float(x0), float(y0), float(side_px))


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """MediaPipe's C++ code writes to file descriptor 2 while a graph starts; it has no switch for that."""
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, ValueError, AttributeError):  # no such stream: nothing to silence
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class InsightFaceDetector(_Closing):
    """Faces by InsightFace's buffalo_l pack, the detector that the released weights were trained with.

    The pack is never downloaded here: it must lie in `root`/models/buffalo_l. `hint` is not used.
    """

    DET_SIZE = (512, 512)

    def __init__(self, root: Path | str = INSIGHTFACE_ROOT) -> None:
        pack = Path(root) / "models" / INSIGHTFACE_PACK
        remedy = (
            f"pip install latentsync[insightface], and put the model pack {INSIGHTFACE_PACK} into {pack} "
            f"({', '.join(INSIGHTFACE_FILES)}); or use the detector mediapipe"
        )
        try:
            from insightface.app import FaceAnalysis  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            message = f"the package insightface cannot be imported ({error}); {remedy}"
            raise DetectorUnavailable(message) from error
        missing = [name for name in INSIGHTFACE_FILES if not (pack / name).is_file()]
        if missing:
            raise DetectorUnavailable(f"the face detector insightface lacks {', '.join(missing)}; {remedy}")
        self._app: Any = FaceAnalysis(
            name=INSIGHTFACE_PACK, root=str(root), allowed_modules=["detection", "landmark_2d_106"]
        )
        self._app.prepare(ctx_id=0, det_size=self.DET_SIZE)

    def close(self) -> None:
        self._app = None

    def detect(self, image: np.ndarray, hint: Box | None = None) -> list[Face]:
        """Faces of an uint8 RGB image, best score first."""
        found = [_face_of_106(face) for face in self._app.get(np.ascontiguousarray(image[:, :, ::-1]))]
        faces = [face for face in found if face.score >= MIN_SCORE and _plausible(face.box, image)]
        return sorted(faces, key=lambda face: -face.score)


def _face_of_106(found: Any) -> Face:
    points = np.asarray(found.landmark_2d_106, np.float64)
    anchors = [points[list(group)].mean(axis=0) for group in (LEFT_BROW_106, RIGHT_BROW_106, NOSE_106)]
    x0, y0, x1, y1 = (float(v) for v in found.bbox)
    score = float(found.det_score)
    return Face(
        (x0, y0, x1, y1), score, np.array(anchors, np.float32), points.astype(np.float32), "insightface"
    )
