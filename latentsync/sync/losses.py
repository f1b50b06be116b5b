"""What a SyncNet is taught by: the cosine of lips and sound that belong together is 1, of others 0.

`B` windows of this process, `N` windows of all processes, `D` width of the embedding. Cosines lie in [0, 1],
for embeddings have no negative part. Source: bytedance/LatentSync (arXiv 2412.09262) for `pair_loss`; van den
Oord et al. 2018 (arXiv 1807.03748) for the cross entropy of `window_losses`.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

MARGIN = 1e-5  # cosines are kept so far from 0 and 1 (with rounding, 1 + 1e-7), where a logarithm ends
FORBIDDEN = -1e4  # a logit that is never chosen


def agreement(vision: Tensor, audio: Tensor) -> Tensor:
    """Cosines (B,) float32 of unit vectors (B, D)."""
    return (vision.float() * audio.float()).sum(dim=1)


def pair_loss(vision: Tensor, audio: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy of the cosines of pairs (B, D), (B, D) against `labels` (B,), 1 or 0.

    One that says the same of all pairs stays at ln 2.
    """
    return cosine_loss(agreement(vision, audio), labels)


def cosine_loss(cosines: Tensor, labels: Tensor) -> Tensor:
    """`pair_loss` of cosines (B,) that are known."""
    cosines, labels = _kept_off(cosines), labels.float()
    return -(labels * cosines.log() + (1 - labels) * (1 - cosines).log()).mean()


def window_losses(
    vision: Tensor, audio: Tensor, clips: Tensor, *, temperature: float, other_clip_share: float = 0.0
) -> Mapping[str, Tensor]:
    """Losses of windows of lips and sound (B, D) that belong together line by line, every other line being a
    wrong answer; `clips` (B,) are numbers, the same for windows of one clip.

    "bce": binary cross entropy, right and wrong answers weighing the same; of the wrong ones,
    `other_clip_share` is the weight of those from other clips. "contrastive": cross entropy of finding the
    right sound for the lips and the right lips for the sound, among windows of the same clip, and of the
    others where that share is not 0. With several processes the windows of all are wrong answers to each,
    gradients included, so that the losses are those of one process with all windows.

    Raises: ValueError where a clip has no other window to be told from.
    """
    lips, sounds, numbers = gathered(vision.float()), gathered(audio.float()), gathered(clips)
    here = torch.arange(len(vision), device=vision.device) + len(vision) * _rank()
    is_right = here[:, None] == torch.arange(len(sounds), device=vision.device)
    is_same = (clips[:, None] == numbers) & ~is_right
    if not is_same.any(dim=1).all():
        raise ValueError("a clip with a single window: window_losses needs two or more of each")
    uses_others = other_clip_share > 0 and bool((clips[:, None] != numbers).any())
    share = other_clip_share if uses_others else 0.0
    is_allowed = torch.ones_like(is_right) if uses_others else is_right | is_same
    by_lips = vision.float() @ sounds.T
    by_sound = audio.float() @ lips.T
    contrastive = [
        F.cross_entropy((cosines / temperature).masked_fill(~is_allowed, FORBIDDEN), here)
        for cosines in (by_lips, by_sound)
    ]
    cosines = _kept_off(by_lips)
    wrong = -(1 - cosines).log()
    right = -cosines[is_right].log().mean()
    wrongs = (1 - share) * _mean_by_line(wrong, is_same)
    if uses_others:
        wrongs = wrongs + share * _mean_by_line(wrong, clips[:, None] != numbers)
    return {"bce": (right + wrongs) / 2, "contrastive": torch.stack(contrastive).mean()}


def gathered(rows: Tensor) -> Tensor:
    """The rows (B, ...) of all processes one after the other (N, ...), with their gradients."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    return _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    """All processes' rows; on the way back each process gets what all of them want of its own."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def _mean_by_line(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean over lines of the mean of what is chosen in each, which every process has as many of."""
    return ((values * chosen).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)).mean()


def _kept_off(cosines: Tensor) -> Tensor:
    """From [0, 1] to [MARGIN, 1 - MARGIN]; a clamp would have no gradient where it is needed most."""
    return MARGIN + (1 - 2 * MARGIN) * cosines


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
