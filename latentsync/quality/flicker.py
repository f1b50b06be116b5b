"""Whether a redrawn mouth trembles where nothing moves: frame-to-frame change against that of the source.

`F` frames, `R` side of a face, images uint8.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsync.face.mask import LIPS_ELLIPSE, ellipse_distance, paste_mask
from latentsync.quality.picture import luma

STILL_SHARE = 0.5  # of the region: its stillest pixels in the source
WIDTH = 15  # px of the square over which a place's stillness is averaged
NOISE_LEVELS = 0.25  # what rounding to 8 bits does, so that a frozen source divides too


def drawn_beside_lips(resolution: int) -> Tensor:
    """Where every model draws and a new sound need not move anything: cheeks and chin, bool (R, R)."""
    beside = ellipse_distance(resolution, LIPS_ELLIPSE) > 1
    return (paste_mask(resolution, "mouth")[0] < 0.5) & beside


class FlickerMeter:
    """`flicker_ratio` of the pictures added so far, in order; holds two maps, not the clip."""

    def __init__(self, region: Tensor) -> None:
        if not region.any():
            raise ValueError("the region holds no pixel: there is nothing that could flicker")
        self._region = region
        self._changes = torch.zeros(2, *region.shape)  # of result and source, summed over pairs of frames
        self._last: Tensor | None = None
        self.pairs = 0

    def add(self, result: Tensor, source: Tensor) -> None:
        """Faces uint8 (F, 3, R, R) that follow those before, cut out by the same matrices."""
        if result.shape != source.shape or result.shape[2:] != self._region.shape:
            raise ValueError(
                f"faces {tuple(result.shape)} and {tuple(source.shape)}: two of one shape, "
                f"{tuple(self._region.shape)} px, are needed"
            )
        light = torch.stack([luma(result), luma(source)])  # (2, F, R, R)
        joined = light if self._last is None else torch.cat([self._last, light], dim=1)
        self._changes += joined.diff(dim=1).abs().sum(dim=1)
        self.pairs += joined.shape[1] - 1
        self._last = light[:, -1:]

    def pause(self) -> None:
        """The next frame is no neighbour of the last: a cut, or a frame without the face."""
        self._last = None

    @property
    def ratio(self) -> float:
        """NaN before the second picture."""
        if not self.pairs:
            return math.nan
        result, source = self._changes[:, self._region] / self.pairs
        around = F.avg_pool2d(self._changes[1][None, None], WIDTH, 1, WIDTH // 2, count_include_pad=False)
        calm = around[0, 0][self._region]  # of single pixels the stillest would be those of the least noise
        still = calm <= calm.quantile(STILL_SHARE)
        return float((result[still].mean() + NOISE_LEVELS) / (source[still].mean() + NOISE_LEVELS))


def flicker_ratio(result: Tensor, source: Tensor, region: Tensor) -> float:
    """Frame-to-frame change in still places of the drawn region relative to the source's.

    For faces uint8 (F, 3, R, R): the change of brightness from a frame to the next, without its sign, is
    averaged over the clip at every pixel of `region` (bool (R, R), such as `drawn_beside_lips`); the half of
    it around which the source changes least are its still places. The ratio is the mean change there of
    `result` to that of `source`. 1 = as calm as the source, more = flicker, less = smoothed in time.
    """
    meter = FlickerMeter(region)
    meter.add(result, source)
    return meter.ratio
