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
LEVELLING_ROUNDS = 3  # rows, then columns; more change the fourth digit

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
    """Distance of every row of `lips` (N, D) to the sound (F, D) at each offset: (N, 2 max_offset + 1), NaN
    where there is no sound. Row `i` of `lips` is that of frame i * stride.
    """
    frames = torch.arange(len(lips), device=lips.device) * stride
    columns = []
    for offset in range(-max_offset, max_offset + 1):
        heard = frames - offset
        inside = (heard >= 0) & (heard < len(sound))
        column = lips.new_full((len(lips),), torch.nan)
        column[inside] = distance(lips[inside], sound[heard[inside]])
        columns.append(column)
    return torch.stack(columns, dim=1)


def levelled_curve(distances: Tensor, *, stride: int = 1) -> Tensor:
    """The mean at each offset (2 n + 1,) of `overlapping_distances` (N, 2 n + 1), without what comes from
    single rows; NaN where an offset has none.

    Each offset compares other lips and other sound, for the ends drop out. A silence is unlike all lips and a
    still mouth unlike all sounds, which would tilt the curve of a short clip. So what a row of lips, or of
    sound, has in common with itself over the offsets is taken out; the mean of all distances stays.
    """
    known = ~distances.isnan()
    level = distances[known].double().mean()
    rest = torch.where(known, distances.double() - level, 0.0)
    rows, columns = distances.shape
    place = torch.arange(rows, device=distances.device)[:, None] * stride
    heard = (place + torch.arange(columns - 1, -1, -1, device=distances.device)).flatten()  # from 0 on
    count = known.double()
    heard_count = _summed(count, heard).clamp(min=1)
    for _ in range(LEVELLING_ROUNDS):
        rest = (rest - rest.sum(1, keepdim=True) / count.sum(1, keepdim=True).clamp(min=1)) * count
        of_sound = _summed(rest, heard) / heard_count
        rest = (rest - of_sound[heard].view_as(rest)) * count
    return (level + rest.sum(0) / count.sum(0)).to(distances.dtype)


def _summed(values: Tensor, place: Tensor) -> Tensor:
    """The sum of the values at each place."""
    sums = values.new_zeros(int(place.max()) + 1)
    return sums.index_add_(0, place, values.flatten())


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
