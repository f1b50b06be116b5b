"""Pictures and sound of a crop -> what the networks take: normalised pixels and mel of every segment.

`S` segments, `T` frames, `F` bands. Source: v-iashin/Synchformer (dataset/transforms.py); mean and spread of
the mel are AST's on AudioSet.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from latentsync.audio.mel import SYNCHFORMER_BANDS, SYNCHFORMER_HOP, synchformer_mel
from latentsync.sync.synchformer.crops import SAMPLES_PER_FRAME, Crop, Segments

MEL_MEAN, MEL_SPREAD = -4.2677393, 4.5689974


class SyncInputs(NamedTuple):
    """`video` (S, T, 3, H, W) in [-1, 1], `audio` (S, 1, F, columns): what `Synchformer` takes a batch of."""

    video: Tensor
    audio: Tensor


def normalize_images(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 -> [-1, 1], computed in `dtype`; released networks were trained on what float16 gives."""
    return (images.to(dtype) / 255 - 0.5) / 0.5


def mel_columns(samples: int) -> int:
    """Columns of the mel of a segment as networks expect them: one more than sounds in 10240 samples."""
    return samples // SYNCHFORMER_HOP + 2


def mel_segments(waveform: Tensor, starts: Sequence[int], samples: int, columns: int | None = None) -> Tensor:
    """Normalised log mel (S, 1, F, columns) of the segments of `samples` samples that begin at `starts`.

    The last column has no sound: it is 0 before normalisation, as the released networks learned it. Raises:
    ValueError for a segment that reaches past the end.
    """
    if starts and not (min(starts) >= 0 and max(starts) + samples <= len(waveform)):
        raise ValueError(
            f"segments of {samples} samples from {min(starts)} to {max(starts)} were asked of a waveform of "
            f"{len(waveform)}"
        )
    columns = columns or mel_columns(samples)
    mel = torch.zeros(len(starts), 1, SYNCHFORMER_BANDS, columns)
    for number, start in enumerate(starts):
        segment = synchformer_mel(waveform[start : start + samples])[:, :columns]
        mel[number, 0, :, : segment.shape[1]] = segment
    return (mel - MEL_MEAN) / (2 * MEL_SPREAD)


def cut(
    frames: Tensor,
    waveform: Tensor,
    crop: Crop,
    segments: Segments,
    *,
    first: int | None = None,
    jitter_samples: int = 0,
) -> SyncInputs:
    """The segments of a crop of `frames` (all of the clip, uint8 (T, 3, H, W)) and `waveform` (N,).

    `first` is the frame of the crop that the first segment starts at (None: the middle one possible);
    `jitter_samples` moves all of the sound, as far as there is any.
    """
    starts = segments.starts(crop.frames, first)
    pictures = frames[crop.first_frame : crop.first_frame + crop.frames]
    video = torch.stack([pictures[start : start + segments.frames] for start in starts])
    heard = [crop.first_sample + SAMPLES_PER_FRAME * start for start in starts]
    room = len(waveform) - (heard[-1] + segments.samples)
    shift = max(-heard[0], min(jitter_samples, room))
    audio = mel_segments(waveform, [start + shift for start in heard], segments.samples)
    return SyncInputs(normalize_images(video), audio)


def square(pictures: Tensor, side: int, corner: tuple[int, int]) -> Tensor:
    """The square of `side` px of `pictures` (..., H, W) with its `corner` at (top, left).

    Raises: ValueError where it does not lie in them.
    """
    (H, W), (top, left) = pictures.shape[-2:], corner
    if min(top, left) < 0 or top + side > H or left + side > W:
        raise ValueError(f"a square of {side} px at {corner} does not lie in pictures of {W} x {H} px")
    return pictures[..., top : top + side, left : left + side]


def batched(items: Sequence[SyncInputs]) -> SyncInputs:
    """Inputs of several crops as one batch: `video` (B, S, T, 3, H, W), `audio` (B, S, 1, F, columns)."""
    return SyncInputs(
        torch.stack([item.video for item in items]), torch.stack([item.audio for item in items])
    )
