"""How alike two pictures are, inside a mask and outside it: PSNR and SSIM, frame by frame, summed over clips.

`F` frames, `R` side of a face, images uint8. Source of SSIM, with its Gaussian window of 11 px and deviation
1.5: Wang et al. 2004.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, DEVIATION = 11, 1.5
LEVELS = 255.0
C1, C2 = (0.01 * LEVELS) ** 2, (0.03 * LEVELS) ** 2
BEST_PSNR_DB = 100.0  # what equal pictures are given, whose PSNR is infinite
LUMA = (0.299, 0.587, 0.114)  # of R, G, B, as in ITU-R BT.601


def luma(images: Tensor) -> Tensor:
    """Brightness (F, R, R) float32 in 0..255 of images (F, 3, R, R)."""
    weights = torch.tensor(LUMA, device=images.device).view(1, 3, 1, 1)
    return (images.float() * weights).sum(dim=1)


def ssim_map(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of the window around every pixel, (F, C, H, W), of images (F, C, H, W) in 0..255.

    Near the border a window is what of it lies in the picture. Raises: ValueError for different shapes.
    """
    _check_alike(first, second)
    first, second = first.float(), second.float()
    mean_1, mean_2 = _averaged(first), _averaged(second)
    variance_1 = _averaged(first * first) - mean_1.square()
    variance_2 = _averaged(second * second) - mean_2.square()
    covariance = _averaged(first * second) - mean_1 * mean_2
    likeness = (2 * mean_1 * mean_2 + C1) * (2 * covariance + C2)
    return likeness / ((mean_1.square() + mean_2.square() + C1) * (variance_1 + variance_2 + C2))


def psnr_db(squared_error: float) -> float:
    """PSNR of a mean squared error of 8-bit levels, at most BEST_PSNR_DB; NaN stays NaN."""
    if math.isnan(squared_error):
        return math.nan
    least = LEVELS**2 / 10 ** (BEST_PSNR_DB / 10)
    return 10 * math.log10(LEVELS**2 / max(squared_error, least))


class PictureMeter:
    """PSNR and SSIM over the pixels where `where` (R, R) is true, of all pictures added so far.

    The squared error is averaged over the whole clip before it becomes decibels, so that one good frame does
    not outweigh many bad ones.
    """

    def __init__(self, where: Tensor) -> None:
        if not where.any():
            raise ValueError("the region holds no pixel: there is nothing to compare")
        self._where = where
        self._error = self._likeness = 0.0
        self.frames = 0

    def add(self, images: Tensor, truth: Tensor) -> None:
        """Images uint8 (F, 3, R, R) and what they should be."""
        _check_alike(images, truth)
        error = (images.float() - truth.float()).square().mean(dim=1)
        self._error += float(error[:, self._where].mean(dim=1).sum())
        likeness = ssim_map(luma(images)[:, None], luma(truth)[:, None])[:, 0]
        self._likeness += float(likeness[:, self._where].mean(dim=1).sum())
        self.frames += len(images)

    @property
    def psnr(self) -> float:
        """In dB; NaN before the first picture."""
        return psnr_db(self._error / self.frames) if self.frames else math.nan

    @property
    def ssim(self) -> float:
        """Of the brightness, 1 for equal pictures; NaN before the first."""
        return self._likeness / self.frames if self.frames else math.nan


def _averaged(images: Tensor) -> Tensor:
    """Mean in a Gaussian window around every pixel, of the pixels that the picture has there."""
    x = torch.arange(WINDOW, dtype=torch.float32, device=images.device) - WINDOW // 2
    taps = torch.exp(-0.5 * (x / DEVIATION).square())
    taps = taps / taps.sum()
    ones = torch.ones_like(images[:1, :1])
    return _blurred(images, taps) / _blurred(ones, taps)


def _blurred(images: Tensor, taps: Tensor) -> Tensor:
    channels, half = images.shape[1], len(taps) // 2
    across = taps.view(1, 1, 1, -1).repeat(channels, 1, 1, 1)
    down = taps.view(1, 1, -1, 1).repeat(channels, 1, 1, 1)
    images = F.conv2d(images, across, padding=(0, half), groups=channels)
    return F.conv2d(images, down, padding=(half, 0), groups=channels)


def _check_alike(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.ndim != 4:
        raise ValueError(
            f"pictures {tuple(first.shape)} and {tuple(second.shape)}: two of one shape are needed"
        )
