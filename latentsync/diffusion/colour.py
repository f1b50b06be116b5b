"""Drawn faces -> the same faces in the colours of the footage.

What a small model draws of a stranger's face has the right shapes in the wrong colours. What the colours
should be is known from the frame itself where it is shown, and in the hole from other frames: the factor
between the two, smoothed, is applied. In the hole it comes of the mean over time, so that no other mouth or
jaw moves in it. `F` frames, `R` resolution; pixels are RGB in [-1, 1].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SQUARES = 32  # colours are compared on a grid of so many a side, or some more where the side asks for it
SMOOTH = 3  # squares: over so many is averaged, thrice
FIRST_FRAMES = 8  # at most, of those that come together: their mean is where the mean over time begins
MEAN_FRAMES = 50  # and over so many it fades
DARKEST, MOST_GAIN = 0.1, 2.0  # of [0, 2]; colours are mended as light is: by a factor, that contrast stays


class FootageColour:
    """The colours of one stream of faces; remembers how far off those in the hole were."""

    def __init__(self) -> None:
        self._mean: Tensor | None = None  # of what the hole's squares lack, (3, h, w)
        self._count = 0  # of frames in that mean

    def apply(self, drawn: Tensor, faces: Tensor, others: Tensor, mask: Tensor) -> Tensor:
        """The next `drawn` faces (F, 3, R, R) in the colours of the `faces` they belong to where `mask` (1,
        R, R) shows those, and in the hole in the mean ones of `others`, other frames of the same person.
        """
        side = drawn.shape[-1]
        square = next(px for px in range(max(1, side // SQUARES), 0, -1) if side % px == 0)
        shown = F.avg_pool2d((faces - drawn) * mask, square)
        change = shown + self._means(F.avg_pool2d((others - drawn) * (1 - mask), square))
        light = _smooth(F.avg_pool2d(drawn, square) + 1).clamp(min=DARKEST)
        gain = (1 + _smooth(change) / light).clamp(1 / MOST_GAIN, MOST_GAIN)
        return (drawn + 1) * F.interpolate(gain, (side, side), mode="bilinear", align_corners=False) - 1

    def _means(self, lacking: Tensor) -> Tensor:
        """The mean over time, up to each frame, of what (F, 3, h, w) lack."""
        means: list[Tensor] = []
        if self._mean is None:
            first = lacking[:FIRST_FRAMES]
            self._mean, self._count = first.mean(dim=0), len(first)
            means += [self._mean] * self._count
        for one in lacking[len(means) :]:
            self._count += 1
            self._mean = torch.lerp(self._mean, one, 1 / min(self._count, MEAN_FRAMES))
            means.append(self._mean)
        return torch.stack(means)


def _smooth(squares: Tensor) -> Tensor:
    """Nearly a Gaussian."""
    for _ in range(3):
        squares = F.avg_pool2d(squares, SMOOTH, 1, SMOOTH // 2, count_include_pad=False)
    return squares
