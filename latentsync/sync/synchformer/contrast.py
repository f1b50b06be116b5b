"""What stage I learns from and is judged by: a contrast of segments, and whether windows find each other.

`N` segments of a whole batch, `S` of one clip, `W` of a window, `D` width; all features are unit vectors.
Source: v-iashin/Synchformer, AVCLIP. Its loss over several processes had every process look for its segments
among those of the first; here the targets are where they belong.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, distributed


class WindowScores(NamedTuple):
    """`best_sound` (B, K) is the sound window nearest to each video window, `best_video` the reverse;
    precisions (B,) are the shares of right ones.
    """

    best_sound: Tensor
    best_video: Tensor
    precision_sound: Tensor
    precision_video: Tensor

    @property
    def precision(self) -> Tensor:
        return (self.precision_sound + self.precision_video) / 2


class Similarities(NamedTuple):
    """Dot products over a temperature, (N, N); rows are the first of video (v) and audio (a)."""

    v2a: Tensor
    a2v: Tensor
    v2v: Tensor
    a2a: Tensor


class _Gather(torch.autograd.Function):
    """Rows of all processes, one after the other; gradients come back from all of them."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        ctx.rows = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        start = distributed.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def contrastive_loss(vision: Tensor, sound: Tensor, temperature: Tensor, *, gathered: bool = False) -> Tensor:
    """Cross entropy of finding each segment's sound among all (N, D), and the reverse; their mean.

    With `gathered`, the segments of all processes are the choice, so that the mean of the processes' losses
    is the loss of one process that has them all.
    """
    all_vision, all_sound, first = vision, sound, 0
    if gathered and distributed.is_initialized() and distributed.get_world_size() > 1:
        all_vision, all_sound = _Gather.apply(vision), _Gather.apply(sound)  # pyright: ignore
        first = distributed.get_rank() * len(vision)
    targets = torch.arange(first, first + len(vision), device=vision.device)
    to_sound = F.cross_entropy(vision @ all_sound.T / temperature, targets)
    return (to_sound + F.cross_entropy(sound @ all_vision.T / temperature, targets)) / 2


def own_clip_loss(vision: Tensor, sound: Tensor, temperature: Tensor) -> Tensor:
    """Cross entropy of finding each segment's sound among those of its clip (B, S, D), and the reverse; their
    mean. Who is seen and heard is no help.
    """
    alike = vision @ sound.transpose(1, 2) / temperature
    targets = torch.arange(alike.shape[1], device=alike.device).expand(len(alike), -1)
    return (F.cross_entropy(alike, targets) + F.cross_entropy(alike.transpose(1, 2), targets)) / 2


def window_scores(vision: Tensor, sound: Tensor, window: int) -> WindowScores:
    """How often a window of `window` segments finds its own among all windows of its clip.

    `vision`, `sound` (B, S, D). Two windows are as alike as the sum of their segments' cosines. Chance is
    1 / (S - window + 1). Raises: ValueError where there is but one window.
    """
    S = vision.shape[1]
    if not 1 <= window < S:
        raise ValueError(f"windows of {window} segments cannot be told apart in clips of {S}; use fewer")
    seen, heard = (
        features.unfold(1, window, 1).flatten(2) for features in (vision, sound)
    )  # (B, K, D W) each
    alike = heard @ seen.transpose(1, 2)  # sound windows x video windows
    best_sound, best_video = alike.argmax(dim=1), alike.argmax(dim=2)
    own = torch.arange(alike.shape[1], device=alike.device)
    return WindowScores(
        best_sound,
        best_video,
        (best_sound == own).float().mean(dim=1),
        (best_video == own).float().mean(dim=1),
    )


def similarities(vision: Tensor, sound: Tensor, temperature: Tensor | float = 1.0) -> Similarities:
    """All four similarity matrices of unit vectors (N, D)."""
    return Similarities(
        *(
            first @ second.T / temperature
            for first, second in ((vision, sound), (sound, vision), (vision, vision), (sound, sound))
        )
    )


def scaled_rows(matrix: Tensor) -> Tensor:
    """Each row stretched to [0, 1], for pictures; a row of equal values becomes 0."""
    low, high = matrix.amin(dim=1, keepdim=True), matrix.amax(dim=1, keepdim=True)
    return (matrix - low) / (high - low).clamp(min=torch.finfo(matrix.dtype).tiny)
