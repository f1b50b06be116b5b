"""Changes of a training sound that make one speaker in one room sound like many.

`mel` is Whisper's, (bands, columns) in its units: 1 is 40 dB, the loudest at most 2 above the faintest.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WARP, SHIFT = 0.18, 3.0  # of the bands, as the length of a throat does: in log and in bands
CURVE_POINTS, CURVE = 6, 0.12
LOUDNESS, TILT = 0.25, 0.2
NOISE_DEPTH, NOISE_POINTS, NOISE_CURVE = (0.6, 2.0), 4, 0.15  # below the loudest
GRAIN = 0.05
HOLES, HOLE_BANDS = 2, (2, 12)
NEPERS = 4 * float(np.log(10))  # a unit


def change_sound(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """`mel` as of another voice, through another microphone, at another loudness, with noise and holes in
    frequency.
    """
    bands = mel.shape[0]
    mel = _warped(mel, float(np.exp(rng.uniform(-WARP, WARP))), float(rng.uniform(-SHIFT, SHIFT)))
    mel = mel + _curve(rng, bands, CURVE_POINTS, CURVE) + float(rng.uniform(-LOUDNESS, LOUDNESS))
    mel = mel + torch.linspace(-1, 1, bands)[:, None] * float(rng.uniform(-TILT, TILT))
    floor = mel.max() - float(rng.uniform(*NOISE_DEPTH)) + _curve(rng, bands, NOISE_POINTS, NOISE_CURVE)
    mel = _sum_of_powers(mel, floor + GRAIN * _grain(rng, mel)) + GRAIN * _grain(rng, mel)
    for _ in range(int(rng.integers(HOLES + 1))):
        width = int(rng.integers(*HOLE_BANDS))
        start = int(rng.integers(bands - width))
        mel[start : start + width] = mel.mean()
    return mel


def change_pace(mel: Tensor, motion: Tensor, frames: int, pace: float) -> tuple[Tensor, Tensor]:
    """The first `frames` of `motion` (F, K) and the mel (bands, 4 F) that belongs to them, `pace` times as
    fast.
    """
    columns = mel.shape[1] // len(motion)
    return _resampled(mel, frames * columns, pace), _resampled(motion.T, frames, pace).T


def _resampled(series: Tensor, count: int, pace: float) -> Tensor:
    """`series` (..., T) at the places 0, pace, 2 pace .., (..., count); beyond the end the end goes on."""
    places = torch.arange(count) * pace
    left = places.floor().long().clamp(max=series.shape[-1] - 1)
    right = (left + 1).clamp(max=series.shape[-1] - 1)
    return torch.lerp(series[..., left], series[..., right], (places - left).clamp(max=1.0).to(series))


def _warped(mel: Tensor, factor: float, shift: float) -> Tensor:
    """Band b holds what was at b * factor + shift."""
    bands = mel.shape[0]
    places = (torch.arange(bands) * factor + shift).clamp(0, bands - 1)
    left = places.floor().long()
    right = (left + 1).clamp(max=bands - 1)
    return torch.lerp(mel[left], mel[right], (places - left).to(mel)[:, None])


def _curve(rng: np.random.Generator, bands: int, points: int, size: float) -> Tensor:
    """A smooth random line over the bands, (bands, 1)."""
    line = torch.from_numpy(rng.normal(0, size, points)).float()
    return F.interpolate(line[None, None], bands, mode="linear", align_corners=True)[0, 0, :, None]


def _grain(rng: np.random.Generator, mel: Tensor) -> Tensor:
    return torch.from_numpy(rng.standard_normal(mel.shape, dtype=np.float32))


def _sum_of_powers(first: Tensor, second: Tensor) -> Tensor:
    """Two sounds at once."""
    return torch.logaddexp(first * NEPERS, second * NEPERS) / NEPERS
