"""How far a mouth's points lie from those of the true mouth, whatever the place and size of the face.

`F` frames; points float (F, N, 2) in pixels, NaN where no face is seen. Numbers of points are those of
MediaPipe's mesh.
"""

import numpy as np

from latentsync.quality.aperture import EYES

OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
INNER_LIPS = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
LIPS = OUTER_LIPS + INNER_LIPS


def landmark_distance(result: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance of the 40 points of the lips, in distances of the eyes, of two clips (F, 468+, 2).

    In every frame both mouths are put with their centre on each other and measured by their own face's eyes,
    so that a head that moved or grew does not count, only the shape of the mouth; a head that turned sideways
    does. Frames without a face in either are left out; NaN where none is left. The shorter clip counts.
    """
    count = min(len(result), len(truth))
    shapes = [_lips_in_eye_distances(points[:count]) for points in (result, truth)]
    distances = np.linalg.norm(shapes[0] - shapes[1], axis=2).mean(axis=1)
    seen = np.isfinite(distances)
    return float(distances[seen].mean()) if seen.any() else float("nan")


def _lips_in_eye_distances(points: np.ndarray) -> np.ndarray:
    """The lips (F, 40, 2) about their own centre."""
    first, second = (points[:, list(eye)].mean(axis=1) for eye in EYES)
    lips = points[:, list(LIPS)]
    lips = lips - lips.mean(axis=1, keepdims=True)
    return lips / np.linalg.norm(second - first, axis=1)[:, None, None]
