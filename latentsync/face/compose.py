"""A generated face back into its frame: the mouth region only, with a soft edge inside the mask.

In: a frame uint8 (H, W, 3), a face float (3, R, R) in [-1, 1] and the matrix that cut it out. Out: the frame
with the mouth redrawn; every pixel outside the mask's hole is the frame's own, bit for bit. AlignRestore of
bytedance/LatentSync pastes the whole crop instead; here nothing that the mask keeps is touched.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentsync.face.align import bounds, crop_size, invert, matrix_scale, sample
from latentsync.face.mask import mouth_mask

FEATHER_SHARE = 0.1  # width of the soft edge in sides of a square as large as the hole; upstream's 2 * w_edge
COLOUR_SIDE = 64  # colours are compared on a grid this coarse
COLOUR_RING = 6  # width of the kept ring around the hole whose colours are compared, on that grid
COLOUR_BLUR = 6.0  # sigma on that grid


class Composer:
    """Puts faces of one resolution back; holds what depends on the mask alone."""

    def __init__(self, resolution: int, *, mask: Tensor | None = None, match_colour: bool = True) -> None:
        self.resolution = resolution
        self.match_colour = match_colour
        mask = mouth_mask(resolution) if mask is None else mask
        hole = (mask[0] < 0.5).to(torch.uint8).numpy()
        if not hole.any():
            raise ValueError("the mask keeps every pixel: there is nothing to put back")
        self.alpha = _soft_edge(hole, crop_size(resolution))
        self._hole = _inside(self.alpha[0].numpy() > 0)
        self._ring, self._fade = _colour_weights(hole)

    def compose(
        self, image: np.ndarray, face: Tensor, matrix: np.ndarray, *, source_face: Tensor | None = None
    ) -> np.ndarray:
        """A copy of `image` with the hole filled from `face` (3, R, R).

        With `source_face` (3, R, R), the face as cut out of the frame, colours are matched around the hole;
        `face` must then be the network's own picture, kept region included.
        """
        self._check(image, face)
        face = face.detach().to("cpu", torch.float32)
        if self.match_colour and source_face is not None:
            face = self.matched(face, source_face.detach().to("cpu", torch.float32))
        result = image.copy()
        hole_x, hole_y, hole_width, hole_height = self._hole
        to_frame = invert(matrix)
        to_frame[:, 2] += to_frame[:, :2] @ (hole_x, hole_y)
        limit = (image.shape[1], image.shape[0])
        x0, y0, x1, y1 = bounds(to_frame, (hole_width, hole_height), limit)
        if x0 == x1 or y0 == y1:
            return result
        to_crop = np.asarray(matrix, np.float64).copy()
        to_crop[:, 2] += to_crop[:, :2] @ (x0, y0)
        size = (x1 - x0, y1 - y0)
        alpha = sample(self.alpha, to_crop, size)
        drawn = self._resampled(face, to_crop, size)
        kept = torch.from_numpy(image[y0:y1, x0:x1]).permute(2, 0, 1).float()
        mixed = torch.lerp(kept, drawn, alpha).round_().clamp_(0, 255).to(torch.uint8)
        result[y0:y1, x0:x1] = mixed.permute(1, 2, 0).numpy()
        return result

    def matched(self, face: Tensor, source_face: Tensor) -> Tensor:
        """The face plus the smooth difference of colour to the source along the hole's edge, fading inwards.

        A normalised convolution: the difference counts on the kept ring only. Equal faces stay as they are.
        """
        side = self._ring.shape[-1]
        difference = F.interpolate((source_face - face)[None], size=(side, side), mode="area")
        weight = _blur(self._ring)
        spread = _blur(difference * self._ring) / weight.clamp_min(1e-6)
        offset = F.interpolate(spread, size=face.shape[-2:], mode="bilinear", align_corners=False)
        return face + (offset * self._fade)[0]

    def _resampled(self, face: Tensor, to_crop: np.ndarray, size: tuple[int, int]) -> Tensor:
        """The face in 0..255 on the frame's grid: bicubic and antialiased to its scale, then bilinear."""
        width, height = crop_size(self.resolution)
        scale = matrix_scale(to_crop)
        scaled = (max(1, round(width / scale)), max(1, round(height / scale)))
        face = F.interpolate(
            face[None], size=scaled[::-1], mode="bicubic", antialias=True, align_corners=False
        )[0]
        ratio = np.array([scaled[0] / width, scaled[1] / height])
        to_face = to_crop * ratio[:, None]
        to_face[:, 2] += 0.5 * ratio - 0.5  # pixel centres
        return (sample(face, to_face, size).clamp(-1, 1) + 1) * 127.5  # clamped last, as upstream does

    def _check(self, image: np.ndarray, face: Tensor) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
        if tuple(face.shape) != (3, self.resolution, self.resolution):
            side = self.resolution
            raise ValueError(f"a face must be (3, {side}, {side}), not {tuple(face.shape)}")


def _soft_edge(hole: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Weight of the generated face, float32 (1, height, width) of the crop: 0 on the hole's rim, then 1."""
    hole = cv2.resize(hole, size, interpolation=cv2.INTER_NEAREST)
    depth = cv2.distanceTransform(np.pad(hole, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    width = max(1.0, FEATHER_SHARE * float(np.sqrt(hole.sum())))
    t = np.clip((depth - 1) / width, 0, 1).astype(np.float32)
    return torch.from_numpy(t * t * (3 - 2 * t))[None]


def _inside(where: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width, height of the rectangle around the true pixels."""
    rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def _colour_weights(hole: np.ndarray) -> tuple[Tensor, Tensor]:
    """The kept ring (1, 1, h, w), coarse, and how much of its colour a pixel takes (1, 1, R, R)."""
    side = min(COLOUR_SIDE, hole.shape[0])
    share = cv2.resize(hole.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    distance = cv2.distanceTransform((share < 1e-6).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ring = ((distance > 0) & (distance <= COLOUR_RING)).astype(np.float32)
    depth = cv2.distanceTransform(np.pad(hole, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    t = np.clip(1 - depth / depth.max(), 0, 1)
    fade = (t * t * (3 - 2 * t)).astype(np.float32)
    return torch.from_numpy(ring)[None, None], torch.from_numpy(fade)[None, None]


def _blur(image: Tensor) -> Tensor:
    """Gaussian blur (1, C, h, w) with zeros beyond the border, as a normalised convolution wants it."""
    radius = int(3 * COLOUR_BLUR)
    x = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / COLOUR_BLUR) ** 2)
    kernel = (kernel / kernel.sum()).repeat(image.shape[1], 1, 1, 1)
    image = F.conv2d(image, kernel, padding=(0, radius), groups=image.shape[1])
    return F.conv2d(image, kernel.transpose(2, 3), padding=(radius, 0), groups=image.shape[1])
