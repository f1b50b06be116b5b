"""Where a talker's face is in a picture, known and not measured: what alignment and truth rest on."""

from dataclasses import dataclass

import numpy as np

NAMES = (
    "left_eye",
    "right_eye",
    "left_brow",
    "right_brow",
    "nose",  # as alignment means it: about the middle between bridge, wings and tip
    "nose_tip",
    "upper_outer",  # middle of the lips: upper edge of the upper lip
    "upper_inner",
    "lower_inner",
    "lower_outer",
    "left_corner",
    "right_corner",
    "left_inner_corner",
    "right_inner_corner",
    "chin",
)
ANCHORS = ("left_brow", "right_brow", "nose")
# of `latentsync.preprocess.pack.MOUTH_SHAPE`, in its order
MOUTH_PAIRS = (
    ("upper_inner", "lower_inner"),
    ("left_inner_corner", "right_inner_corner"),
    ("left_corner", "right_corner"),
    ("upper_outer", "lower_outer"),
    ("upper_outer", "nose_tip"),
    ("chin", "nose_tip"),
)


@dataclass(frozen=True, eq=False)
class KeyPoints:
    """The points of NAMES, (15, 2) float64: x, y."""

    points: np.ndarray

    def __getitem__(self, name: str) -> np.ndarray:
        return self.points[NAMES.index(name)]

    @property
    def anchors(self) -> np.ndarray:
        """Left brow, right brow and nose, (3, 2) float32, as `latentsync.face.align` wants them."""
        return np.stack([self[name] for name in ANCHORS]).astype(np.float32)

    @property
    def mouth_shape(self) -> np.ndarray:
        """Lengths of the mouth over the distance of the eyes, (6,) float32; the first is the aperture."""
        eye_distance = np.linalg.norm(self["right_eye"] - self["left_eye"])
        lengths = [np.linalg.norm(self[first] - self[second]) for first, second in MOUTH_PAIRS]
        return (np.array(lengths) / eye_distance).astype(np.float32)

    def moved(self, matrix: np.ndarray) -> "KeyPoints":
        """The points sent through an affine matrix (2, 3)."""
        return KeyPoints(self.points @ matrix[:, :2].T + matrix[:, 2])
