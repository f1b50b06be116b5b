"""Whether a redrawn mouth shows its edge: the gradient across the mask's edge against that of the original.

`F` frames, `R` side of a face, images uint8, masks float (1, R, R): 1 = kept, 0 = drawn anew.
"""

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentsync.quality.picture import luma

BAND_SHARE = 0.012  # half the width of the band around the edge, in sides of a face: 3 px of 256
NOISE_ENERGY = 0.25  # levels squared a pixel: what rounding to 8 bits does, so that a flat wall divides too


class SeamMeter:
    """`seam_ratio` of the pictures added so far."""

    def __init__(self, mask: Tensor) -> None:
        normal, band = edge_band(mask)
        self._normal, self._band = torch.from_numpy(normal), torch.from_numpy(band)
        self._result = self._original = 0.0
        self.frames = 0

    def add(self, result: Tensor, original: Tensor) -> None:
        """Faces uint8 (F, 3, R, R), cut out by the same matrices. Raises: ValueError for other shapes."""
        side = self._band.shape[0]
        if result.shape != original.shape or result.shape[1:] != (3, side, side):
            raise ValueError(
                f"faces {tuple(result.shape)} and {tuple(original.shape)}: "
                f"two (F, 3, {side}, {side}) are needed"
            )
        self._result += self._energy(result)
        self._original += self._energy(original)
        self.frames += len(result)

    @property
    def ratio(self) -> float:
        """NaN before the first picture."""
        if not self.frames:
            return math.nan
        noise = NOISE_ENERGY * self.frames
        return (self._result + noise) / (self._original + noise)

    def _energy(self, faces: Tensor) -> float:
        """Squared change of brightness a pixel across the edge, mean over the band, sum over the frames."""
        light = luma(faces)
        padded = F.pad(light[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
        across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
        down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
        along_normal = across * self._normal[0] + down * self._normal[1]
        return float(along_normal.square()[:, self._band].mean(dim=1).sum())


def seam_ratio(result: Tensor, original: Tensor, mask: Tensor) -> float:
    """Energy of the gradient across the mask's edge relative to the same band of the original clip.

    For faces uint8 (F, 3, R, R): in a band of 1.2 % of the side on both sides of the edge between kept and
    drawn pixels, the change of brightness in the direction across the edge is squared and averaged over the
    band and all frames; the ratio is that of `result` to that of `original`. 1 = no seam, more = a visible
    edge, less = the join was blurred. A step of s levels on a band of n px width adds s^2 / 2n to the energy
    of `original`.
    """
    meter = SeamMeter(mask)
    meter.add(result, original)
    return meter.ratio


def edge_band(mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The direction across the edge (2, R, R): x, y, and where the band around it is, bool (R, R).

    Raises: ValueError for a mask without an edge.
    """
    hole = (mask[0] < 0.5).to(torch.uint8).numpy()
    if hole.all() or not hole.any():
        raise ValueError("the mask has no edge: it keeps, or draws, every pixel")
    depth = cv2.distanceTransform(hole, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    height = cv2.distanceTransform(1 - hole, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    signed = depth - height  # +1 on the first drawn pixel, -1 on the last kept one
    down, across = np.gradient(cv2.GaussianBlur(signed, (0, 0), 1.0))
    length = np.maximum(np.hypot(across, down), 1e-6)
    half_width = max(1.0, round(BAND_SHARE * mask.shape[-1]))
    return np.stack([across, down]) / length, np.abs(signed) <= half_width
