"""Drawn faces -> the same faces in the colours of the footage.

What a small model draws of a stranger's face has the right shapes in the wrong colours. What the colours
should be is known around the mouth from the frame itself, and up to the lips from another frame of its time:
the difference, smoothed, is added. At the lips only its mean over time is, so that no other mouth moves in
them. `F` frames, `R` resolution; pixels are RGB in [-1, 1].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsync.face.mask import lips_region

SQUARES = 32  # colours are compared on a grid of so many a side, or some more where the side asks for it
SMOOTH = 3  # squares: over so many is averaged, thrice
FIRST_FRAMES, MEAN_FRAMES = 8, 50  # the mean over time begins as that of the first, and fades over so many
LIPS_WIDER = 3.0  # at a third of their soft edge already the lips' own colour is out of the question


class FootageColour:
    """The colours of one stream of faces; remembers how far off those of the lips were."""

    def __init__(self) -> None:
        self._mean: Tensor | None = None  # of what the lips' squares lack, (3, h, w)
        self._frames = 0

    def apply(self, drawn: Tensor, faces: Tensor, others: Tensor, mask: Tensor) -> Tensor:
        """The next `drawn` faces (F, 3, R, R) in the colours of the `faces` they belong to where `mask` (1,
        R, R) shows those, and of `others` of the same time in the hole.
        """
        side = drawn.shape[-1]
        square = next(px for px in range(max(1, side // SQUARES), 0, -1) if side % px == 0)
        lips = (1 - mask) * (LIPS_WIDER * lips_region(side).to(drawn)).clamp(max=1)
        around = F.avg_pool2d((torch.lerp(others, faces, mask) - drawn) * (1 - lips), square)
        within = F.avg_pool2d((others - drawn) * lips, square)
        change = around + self._means(within)
        for _ in range(3):  # nearly a Gaussian
            change = F.avg_pool2d(change, SMOOTH, 1, SMOOTH // 2, count_include_pad=False)
        return drawn + F.interpolate(change, (side, side), mode="bilinear", align_corners=False)

    def _means(self, lacking: Tensor) -> Tensor:
        """The mean over time, up to each frame, of what (F, 3, h, w) lack."""
        means = []
        for one in lacking:
            if self._mean is None:
                self._mean = lacking[:FIRST_FRAMES].mean(dim=0)
            if self._frames >= FIRST_FRAMES:
                self._mean = torch.lerp(self._mean, one, 1 / min(self._frames + 1, MEAN_FRAMES))
            self._frames += 1
            means.append(self._mean)
        return torch.stack(means)
