"""The fixed mouth mask of the released weights, and faces as the networks see them.

A mask is float (1, R, R): 1 = keep, 0 = draw anew. It is stored as runs of zeros at 256 x 256.
Faces are uint8 (F, 3, R, R), pixels float in [-1, 1]. Source: ImageProcessor of bytedance/LatentSync.
"""

import functools
import json
from importlib.resources import files

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LATENT_FACTOR = 8  # pixels a latent pixel, each way
PASTE_REGIONS = ("hole", "mouth")
MOUTH_ELLIPSE = (
    0.5,
    0.675,
    0.35,
    0.265,
)  # centre x, y and radii x, y around lips and chin, in sides of a face
LIPS_ELLIPSE = (0.5, 0.62, 0.21, 0.15)  # the same around the lips alone, as far as they go when they speak
LIPS_EDGE = 4.0  # how steeply `lips_region` ends; half of it lies at the ellipse


def mouth_mask(resolution: int) -> Tensor:
    """The mask float32 (1, R, R); away from 256 its edge is soft, as the released weights saw it."""
    mask = _stored_mask()
    if resolution != mask.shape[1]:
        mask = cv2.resize(mask, (resolution, resolution), interpolation=cv2.INTER_LANCZOS4)
    return torch.from_numpy(mask)[None].float() / 255


@functools.cache
def _stored_mask() -> np.ndarray:
    """The mask as it is stored, uint8 (256, 256), 255 = keep; read once, since every window asks for it."""
    stored = json.loads(files("latentsync.face").joinpath("mouth_mask.json").read_text())
    mask = np.full((stored["height"], stored["width"]), 255, np.uint8)
    for row, first, end in stored["zeros"]:
        mask[row, first:end] = 0
    return mask


def paste_mask(resolution: int, region: str = "hole") -> Tensor:
    """What of a drawn face goes back into the frame, float32 (1, R, R): 0 = paste, 1 = keep the frame's own.

    "hole" is all that `mouth_mask` hides; "mouth" an ellipse in it around lips and jaw, for models that draw
    cheeks and collar worse than the original shows them. Raises: ValueError for another region.
    """
    mask = mouth_mask(resolution)
    if region not in PASTE_REGIONS:
        raise ValueError(f"paste region {region!r} is unknown; expected {' or '.join(PASTE_REGIONS)}")
    if region == "hole":
        return mask
    return torch.where(ellipse_distance(resolution, MOUTH_ELLIPSE)[None] < 1, mask, torch.ones(()))


def lips_region(resolution: int) -> Tensor:
    """Where the lips are in an aligned face, float32 (R, R): 1 at their middle, falling off softly to 0."""
    return torch.sigmoid(LIPS_EDGE * (1 - ellipse_distance(resolution, LIPS_ELLIPSE)))


def ellipse_distance(resolution: int, ellipse: tuple[float, float, float, float]) -> Tensor:
    """The squared distance (R, R) from the centre of an ellipse, 1 on it; centre and radii in sides of a
    face.
    """
    centre_x, centre_y, radius_x, radius_y = ellipse
    grid = (torch.arange(resolution, dtype=torch.float32) + 0.5) / resolution
    return ((grid[None, :] - centre_x) / radius_x) ** 2 + ((grid[:, None] - centre_y) / radius_y) ** 2


def normalize(faces: Tensor) -> Tensor:
    """Pixels float32 in [-1, 1] of uint8 faces."""
    return faces.float() / 127.5 - 1


def masked(pixels: Tensor, mask: Tensor) -> Tensor:
    """Pixels with the mouth region set to 0, mid grey; pixels (..., 3, R, R), mask (1, R, R)."""
    return pixels * mask


def latent_mask(mask: Tensor, factor: int = LATENT_FACTOR) -> Tensor:
    """The mask (..., R, R) at latent size (..., R/factor, R/factor): the top-left pixel of every cell."""
    return mask[..., ::factor, ::factor]


def resize_faces(images: Tensor, resolution: int) -> Tensor:
    """uint8 (F, 3, H, W) to uint8 (F, 3, R, R), bicubic with antialiasing, rounded."""
    if images.shape[-2:] == (resolution, resolution):
        return images
    size = (resolution, resolution)
    resized = F.interpolate(images.float(), size=size, mode="bicubic", antialias=True, align_corners=False)
    return resized.round_().clamp_(0, 255).to(torch.uint8)
