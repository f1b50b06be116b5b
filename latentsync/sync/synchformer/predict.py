"""One crop of a clip, its sound moved by a known offset, put to a Synchformer: what it answers, in words.

The lines are those of v-iashin/Synchformer's example.py.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from latentsync.sync.synchformer.crops import FPS, SAMPLES_PER_FRAME, offset_crop
from latentsync.sync.synchformer.footage import AvClip
from latentsync.sync.synchformer.grid import OffsetGrid
from latentsync.sync.synchformer.inputs import batched, cut, square
from latentsync.sync.synchformer.network import Synchformer
from latentsync.sync.synchformer.viewing import Viewing

TOP = 5
SYNCHRONIZABLE = ("an offset cannot be told", "an offset can be told")  # classes 0 and 1


@dataclass(frozen=True)
class Prediction:
    """`logits` (K,) of a network, `grid` of its classes (None: it says whether an offset can be told at all),
    and the offset that was applied.
    """

    logits: np.ndarray
    grid: OffsetGrid | None
    applied_seconds: float

    @property
    def probabilities(self) -> np.ndarray:
        shares = np.exp(self.logits - self.logits.max())
        return shares / shares.sum()


def seconds_to_read(viewing: Viewing, offset_seconds: float, start_seconds: float) -> float:
    """How much of a clip is needed: up to the end of the pictures or of the sound, and a frame to round."""
    return start_seconds + max(0.0, offset_seconds) + viewing.crop_seconds + 1 / FPS


@torch.no_grad()
def predict(
    network: Synchformer, clip: AvClip, *, offset_seconds: float = 0.0, start_seconds: float = 0.0
) -> Prediction:
    """Ask about the pictures from `start_seconds` with the sound from `offset_seconds` later.

    Raises: CropOutside (a ValueError) where the clip does not have them.
    """
    viewing = network.viewing
    frames = square(clip.frames, viewing.crop, viewing.corner(*clip.frames.shape[2:]))
    samples = len(clip.waveform) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME
    crop = offset_crop(
        len(frames),
        samples,
        crop_frames=viewing.crop_frames,
        start_seconds=start_seconds,
        offset_seconds=offset_seconds,
    )
    inputs = batched([cut(frames, clip.waveform, crop, viewing.cuts)])
    logits = network(inputs.video.to(network.device), inputs.audio.to(network.device))
    grid = viewing.grid if network.judges_offsets else None
    return Prediction(logits[0].float().cpu().numpy(), grid, offset_seconds)


def lines(prediction: Prediction) -> Iterator[str]:
    """What to print: what was applied, then the likeliest answers with probability and (logit)."""
    grid, best = prediction.grid, np.argsort(-prediction.logits, kind="stable")[:TOP]
    if grid is not None:
        if abs(prediction.applied_seconds) > grid.limit_seconds:
            yield (
                f"WARNING: an offset of {prediction.applied_seconds:g} s is outside of the grid of this "
                f"network, -{grid.limit_seconds:g} to {grid.limit_seconds:g} s"
            )
        target = grid.nearest(prediction.applied_seconds)
        yield f"Ground Truth offset (sec): {prediction.applied_seconds:.2f} ({target})"
    else:
        yield f"Applied offset (sec): {prediction.applied_seconds:.2f}"
    yield ""
    yield "Prediction Results:"
    for index in best:
        probability, logit = prediction.probabilities[index], prediction.logits[index]
        if grid is not None:
            answer = f'"{_signless_zero(float(grid.seconds[index])):.2f}" ({index})'
        else:
            answer = f'"{SYNCHRONIZABLE[index]}" ({index})'
        yield f"p={probability:.4f} ({logit:.4f}), {answer}"


def _signless_zero(value: float) -> float:
    """-0.00 as 0.00."""
    return 0.0 if math.isclose(value, 0.0, abs_tol=0.005) else value
