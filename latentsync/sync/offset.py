"""Lips and sound as two tracks of vectors -> at which offset they lie closest.

`F` frames or windows, one a frame, `D` width. Row `i` of the lips belongs to row `i` of the sound where both
are in sync. Source of distance, zero padding and confidence: joonson/syncnet_python `SyncNetInstance.py`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy.signal import medfilt
from torch import Tensor

from latentsync.sync.judge import MAX_OFFSET_FRAMES, SyncScore

FRAMEWISE_MEDIAN = 9  # frames

Distance = Callable[[Tensor, Tensor], Tensor]  # of rows (F, D) and (F, D) -> (F,)


def zero_padded_distances(
    lips: Tensor, sound: Tensor, *, max_offset: int = MAX_OFFSET_FRAMES, distance: Distance | None = None
) -> Tensor:
    """Distance of every row of `lips` (F, D) to the sound (F, D) at each offset: (F, 2 max_offset + 1).

    Column `k` is the offset k - max_offset, at which row `i` meets the sound's row i - offset. Beyond its
    ends the sound is zero, and these rows count, as in the original. Euclidean by default.
    """
    measure = distance or F.pairwise_distance  # adds 1e-6 to every difference, as the original's
    padded = F.pad(sound, (0, 0, max_offset, max_offset))
    rows = range(2 * max_offset, -1, -1)  # of `padded`, below row 0 of the lips, offset by offset
    return torch.stack([measure(lips, padded[row : row + len(lips)]) for row in rows], dim=1)


def overlapping_distances(
    lips: Tensor, sound: Tensor, *, max_offset: int = MAX_OFFSET_FRAMES, distance: Distance, stride: int = 1
) -> Tensor:
    """The mean distance (2 max_offset + 1,) at each offset, over rows that have their sound; NaN without any.

    Row `i` of `lips` is that of frame i * stride.
    """
    frames = torch.arange(len(lips), device=lips.device) * stride
    means = []
    for offset in range(-max_offset, max_offset + 1):
        heard = frames - offset
        inside = (heard >= 0) & (heard < len(sound))
        means.append(distance(lips[inside], sound[heard[inside]]).mean())
    return torch.stack(means)


def score_of(curve: Tensor) -> SyncScore:
    """Where a curve of mean distances (2 n + 1,) is lowest; of equal ones the largest offset, as the
    original.

    Raises: ValueError for a curve that is not finite.
    """
    curve = curve.float().cpu()
    if not torch.isfinite(curve).all():
        raise ValueError("the distances of lips and sound are not finite: too few frames, or broken weights")
    best = len(curve) - 1 - int(curve.flip(0).argmin())
    least = curve[best]
    return SyncScore(
        offset_frames=best - len(curve) // 2,
        confidence=float(curve.median() - least),
        min_distance=float(least),
        curve=tuple(curve.tolist()),
    )


def framewise_confidence(distances: Tensor) -> Tensor:
    """How confident each frame is of the common offset, (F,), of `zero_padded_distances` (F, 2 n + 1): a
    median over nine frames.
    """
    curve = distances.mean(dim=0)
    score = score_of(curve)
    at_best = distances[:, score.offset_frames + len(curve) // 2]
    # zeros count beyond both ends
    return torch.from_numpy(medfilt((curve.median() - at_best).cpu().numpy(), FRAMEWISE_MEDIAN))
