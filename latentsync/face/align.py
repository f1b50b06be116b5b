"""Frames to aligned square faces: a similarity carries three anchors onto a template, then two resamplings.

In: uint8 RGB frames (H, W, 3) and a matrix (2, 3) each, source pixels to crop pixels. Out: uint8 faces
(F, 3, R, R). A crop is 75 x 100 template units, so 3:4, and is squeezed into a square afterwards, as the
released weights expect. Source: AlignRestore of bytedance/LatentSync, without its fp16 grid, its rounding of
landmarks and its smoothing bias.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TEMPLATE = np.array([[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]])  # left brow, right brow, nose; template units
TEMPLATE_SIZE = (75, 100)  # width, height of a crop in template units
UNITS_PER_PIXEL = 2.8 / 256  # 256 pixels of resolution show 2.8 pixels of crop a template unit
FILL = 127  # grey beyond the border of the picture
PREFILTER_SCALE = 0.5  # a crop that shrinks the picture further is averaged before it is sampled
ROI_MARGIN_PX = 2


def template(resolution: int) -> np.ndarray:
    """Where the three anchors lie in a crop for faces of `resolution` pixels, float32 (3, 2)."""
    return (TEMPLATE * (resolution * UNITS_PER_PIXEL)).astype(np.float32)


def crop_size(resolution: int) -> tuple[int, int]:
    """(width, height) of the 3:4 crop that becomes a face of `resolution` pixels."""
    ratio = resolution / 256 * 2.8
    return int(TEMPLATE_SIZE[0] * ratio), int(TEMPLATE_SIZE[1] * ratio)


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation, scale and shift, float32 (F, 2, 3), that carry `points` (F, 3, 2) onto `target` (3, 2).

    Rotation by least squares; the scale is the ratio of the spreads (not the least-squares scale), as the
    released weights expect. Source: transformation_from_points of LatentSync.
    """
    points = np.asarray(points, np.float64)
    target = np.asarray(target, np.float64)
    if points.ndim != 3 or points.shape[1:] != target.shape:
        raise ValueError(f"points {points.shape} must be (F, {len(target)}, 2) to match the target")
    centre = points.mean(axis=1, keepdims=True)
    target_centre = target.mean(axis=0)
    centred, target_centred = points - centre, target - target_centre
    spread = centred.reshape(len(points), -1).std(axis=1)
    if (spread <= 0).any():
        raise ValueError("anchors of a face coincide: no similarity exists")
    U, _, Vt = np.linalg.svd(np.swapaxes(centred, 1, 2) @ target_centred)
    V = np.swapaxes(Vt, 1, 2)
    V[np.linalg.det(V @ np.swapaxes(U, 1, 2)) < 0, :, -1] *= -1  # a rotation, never a reflection
    linear = (target_centred.std() / spread)[:, None, None] * (V @ np.swapaxes(U, 1, 2))
    shift = target_centre[None, :, None] - linear @ np.swapaxes(centre, 1, 2)
    return np.concatenate([linear, shift], axis=2).astype(np.float32)


def matrix_scale(matrix: np.ndarray) -> float:
    """Crop pixels per source pixel of a similarity (2, 3)."""
    linear = np.asarray(matrix, np.float64)[:, :2]
    return float(np.sqrt(abs(np.linalg.det(linear))))


def invert(matrix: np.ndarray) -> np.ndarray:
    """Inverse of an affine matrix (2, 3), float64."""
    linear = np.linalg.inv(np.asarray(matrix, np.float64)[:, :2])
    return np.concatenate([linear, -linear @ np.asarray(matrix, np.float64)[:, 2:]], axis=1)


def bounds(matrix: np.ndarray, size: tuple[int, int], limit: tuple[int, int]) -> tuple[int, int, int, int]:
    """Whole-pixel box x0, y0, x1, y1 (half-open) of a (width, height) rectangle sent through `matrix`.

    Cut to `limit` (width, height); empty (x0 == x1) where the rectangle misses the picture altogether.
    """
    width, height = size
    corners = np.array([[-1, -1, 1], [width, -1, 1], [-1, height, 1], [width, height, 1]], np.float64)
    where = corners @ np.asarray(matrix, np.float64).T
    low = np.floor(where.min(axis=0)).astype(int) - ROI_MARGIN_PX
    high = np.ceil(where.max(axis=0)).astype(int) + ROI_MARGIN_PX + 1
    x0, y0 = (int(np.clip(v, 0, m)) for v, m in zip(low, limit, strict=True))
    x1, y1 = (int(np.clip(v, 0, m)) for v, m in zip(high, limit, strict=True))
    return x0, y0, max(x0, x1), max(y0, y1)


def sample(image: Tensor, matrix: np.ndarray, size: tuple[int, int]) -> Tensor:
    """`image` float (C, H, W) resampled on a (width, height) grid, zero outside the picture.

    Bilinear, float32, whole coordinates on pixel centres; `matrix` maps grid pixels to `image` pixels.
    """
    width, height = size
    H, W = image.shape[-2:]
    to_source = torch.from_numpy(np.asarray(matrix, np.float64)).to(image.device, torch.float32)
    x = torch.arange(width, device=image.device, dtype=torch.float32)[None, :]
    y = torch.arange(height, device=image.device, dtype=torch.float32)[:, None]
    u = to_source[0, 0] * x + (to_source[0, 1] * y + to_source[0, 2])
    v = to_source[1, 0] * x + (to_source[1, 1] * y + to_source[1, 2])
    grid = torch.stack([(2 * u + 1) / W - 1, (2 * v + 1) / H - 1], dim=-1)
    return F.grid_sample(image[None], grid[None], padding_mode="zeros", align_corners=False)[0]


def warp_to_crop(
    images: np.ndarray | Sequence[np.ndarray], matrices: np.ndarray, size: tuple[int, int]
) -> Tensor:
    """Crops float32 (F, 3, height, width) in 0..255 of uint8 frames (F, H, W, 3); 127 beyond the picture.

    One frame (H, W, 3) with one matrix (2, 3) is taken as a batch of one.
    """
    return torch.stack([_crop(image, matrix, size) for image, matrix in _pairs(images, matrices)])


def align(images: np.ndarray | Sequence[np.ndarray], matrices: np.ndarray, resolution: int) -> Tensor:
    """Faces uint8 (F, 3, R, R) of uint8 frames (F, H, W, 3): the rounded 3:4 crop, squeezed by LANCZOS4."""
    pairs = _pairs(images, matrices)
    faces = np.empty((len(pairs), 3, resolution, resolution), np.uint8)
    for face, (image, matrix) in zip(faces, pairs, strict=True):
        crop = _crop(image, matrix, crop_size(resolution)).round_().clamp_(0, 255).to(torch.uint8).numpy()
        for channel, squeezed in zip(crop, face, strict=True):  # faster than all three in one packed image
            cv2.resize(channel, (resolution, resolution), dst=squeezed, interpolation=cv2.INTER_LANCZOS4)
    return torch.from_numpy(faces)


def _pairs(
    images: np.ndarray | Sequence[np.ndarray], matrices: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every image with its matrix; one of each is a batch of one."""
    matrices = np.asarray(matrices)
    if matrices.ndim == 2:
        images, matrices = [np.asarray(images)], matrices[None]
    if len(images) != len(matrices):
        raise ValueError(f"{len(images)} images with {len(matrices)} matrices: one matrix an image is needed")
    return list(zip(images, matrices, strict=True))


def _crop(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> Tensor:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
    to_source = invert(matrix)
    x0, y0, x1, y1 = bounds(to_source, size, (image.shape[1], image.shape[0]))
    if x0 == x1 or y0 == y1:
        return torch.full((3, size[1], size[0]), float(FILL))
    region = image[y0:y1, x0:x1]
    to_source[:, 2] -= (x0, y0)
    scale = matrix_scale(matrix)
    if scale < PREFILTER_SCALE:
        region, to_source = _prefilter(region, to_source, factor=1 / scale)
    pixels = torch.from_numpy(np.ascontiguousarray(region)).permute(2, 0, 1).float()
    # Sampling the distance from the fill colour makes what lies outside, zero, the fill colour itself.
    return sample(pixels - FILL, to_source, size) + FILL


def _prefilter(region: np.ndarray, to_source: np.ndarray, *, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """The region shrunk about `factor` times by averaging, and the matrix for its smaller pixels."""
    height, width = region.shape[:2]
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    shrink = np.array([small[0] / width, small[1] / height])
    matrix = to_source * shrink[:, None]
    matrix[:, 2] += 0.5 * shrink - 0.5  # pixel centres: (x + 1/2) * shrink - 1/2
    return cv2.resize(region, small, interpolation=cv2.INTER_AREA), matrix
