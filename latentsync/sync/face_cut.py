"""Where judges want their faces cut: the wide square of the original SyncNet, the aligned face of ours.

Both are `latentsync.sync.judge.FaceCut`s. `F` frames, `R` side of a cut face.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.ndimage import median_filter
from torch import Tensor

from latentsync.face.align import align, similarity, template
from latentsync.face.tracks import FaceTrack

MARGIN = 0.4  # of the half side: beside the face, and twice as much below it
MEDIAN_FRAMES = 13
FILL = 110  # grey beyond the picture


@dataclass(frozen=True)
class HeadCut:
    """The square of the original SyncNet: the face's box from its upper edge to 0.8 half sides below the
    chin, without rotation.

    The box is that of our landmarks, from the forehead's upper edge to the chin and from cheek to cheek. The
    original's comes from S3FD, whose training boxes are drawn around the same parts; how far the two
    differ could not be measured without its weights. Source: `crop_video` of joonson/syncnet_python, but
    that the median of places repeats the ends of a track instead of counting zeros there, and that nothing
    is compressed in between.
    """

    side: int = 224

    @property
    def size(self) -> tuple[int, int]:
        return self.side, self.side

    def places(self, track: FaceTrack) -> np.ndarray:
        """Centre x, y and half side of the box in each frame, (F, 3), each a median over 13 frames."""
        low, high = track.boxes[:, :2], track.boxes[:, 2:]
        half = (high - low).max(axis=1, keepdims=True) / 2
        return median_filter(
            np.concatenate([(low + high) / 2, half], axis=1), (MEDIAN_FRAMES, 1), mode="nearest"
        )

    def cut(self, images: Sequence[np.ndarray], places: np.ndarray) -> Tensor:
        faces = [self._cut(image, *map(float, place)) for image, place in zip(images, places, strict=True)]
        return torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2).contiguous()

    def _cut(self, image: np.ndarray, x: float, y: float, half: float) -> np.ndarray:
        pad = int(half * (1 + 2 * MARGIN))
        x, y = x + pad, y + pad
        beside, below = half * (1 + MARGIN), half * (1 + 2 * MARGIN)
        rows, columns = (int(y - half), int(y + below)), (int(x - beside), int(x + beside))
        square = _window(image, rows, columns, pad)
        return cv2.resize(square, (self.side, self.side))  # bilinear


def _window(image: np.ndarray, rows: tuple[int, int], columns: tuple[int, int], pad: int) -> np.ndarray:
    """Rows and columns [first, last) of an image with `pad` grey pixels around it."""
    top, left = rows[0] - pad, columns[0] - pad
    height, width = max(1, rows[1] - rows[0]), max(1, columns[1] - columns[0])
    square = np.full((height, width, 3), FILL, np.uint8)
    inside = image[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)]
    down, across = max(0, -top), max(0, -left)
    square[down : down + inside.shape[0], across : across + inside.shape[1]] = inside
    return square


@dataclass(frozen=True)
class AlignedCut:
    """A face turned upright by brows and nose, as `latentsync.face.align` cuts all faces that we train on."""

    resolution: int

    @property
    def size(self) -> tuple[int, int]:
        return self.resolution, self.resolution

    def places(self, track: FaceTrack) -> np.ndarray:
        """The matrix into the face in each frame, (F, 2, 3)."""
        return similarity(track.anchors, template(self.resolution))

    def cut(self, images: Sequence[np.ndarray], places: np.ndarray) -> Tensor:
        return align(images, places, self.resolution)
