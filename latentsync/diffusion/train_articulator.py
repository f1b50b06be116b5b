"""Trains the articulator of a small model: audio tokens of its encoder -> the motion of the mouth that spoke.

`F` frames, `N D` audio tokens, `K` mouth measures. It is a matter of seconds, and no run of its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentsync.diffusion.articulator import Articulator
from latentsync.diffusion.dataset import Clip, frame_weights
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.errors import MediaError

STEPS = 400
BATCH_FRAMES = 512
LEARNING_RATE = 3e-4
WEIGHT_DECAY = 0.3
RARE = 0.002  # a share of frames: of each measure, what fewer have either way is not told
USUAL_FRAMES = 50_000  # drawn, a speaker's share as in training, to see what is rare
LEAST_TOLD = 0.25  # of the true spread: what is told of less is not made larger


class Speech(NamedTuple):
    """A clip heard as at inference: tokens (F, N, D) and the motion (F, K) of its mouth."""

    tokens: Tensor
    motion: Tensor


@torch.no_grad()
def hear(clip: Clip, pipeline: LipsyncPipeline, spread: np.ndarray) -> Speech:
    """A clip's sound, on the CPU, and its mouth's motion in units of `spread` (K,)."""
    tokens = torch.stack(list(pipeline.audio_windows(torch.from_numpy(clip.waveform), clip.frames)))
    return Speech(tokens.float().cpu(), torch.from_numpy(clip.mouth_motion() / spread).float())


def train_articulator(
    clips: Sequence[Clip],
    held_back: Sequence[Speech],
    pipeline: LipsyncPipeline,
    spread: np.ndarray,
    *,
    seed: int,
) -> Articulator:
    """An articulator, on the CPU, that has heard `clips`, shared out by `frame_weights`. What a sound leaves
    open is told as a mean, so motion comes out too small: it is made as large as that of `held_back` speech,
    and kept to what mouths of `clips` do.

    Raises: MediaError where mouths of the latter do not move.
    """
    weights = torch.from_numpy(np.repeat(frame_weights(clips), [clip.frames for clip in clips])).float()
    speech = (hear(clip, pipeline, spread) for clip in clips)
    tokens, motion = (torch.cat(part) for part in zip(*speech, strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        articulator = Articulator(*tokens.shape[1:], measures=motion.shape[1])
        optimizer = torch.optim.AdamW(articulator.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        for _ in range(STEPS):
            drawn = torch.multinomial(weights, BATCH_FRAMES, replacement=True)
            loss = F.smooth_l1_loss(articulator(tokens[drawn]), motion[drawn])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        usual = motion[torch.multinomial(weights, USUAL_FRAMES, replacement=True)]
    least, most = np.quantile(usual.numpy(), (RARE, 1 - RARE), axis=0)
    articulator.eval().requires_grad_(False)
    _widen(articulator, held_back)
    articulator.register_to_config(least=least.tolist(), most=most.tolist())
    return articulator


def _widen(articulator: Articulator, speech: Sequence[Speech]) -> None:
    """Give what is told the spread of the truth, measure by measure.

    Raises: MediaError where truth has none.
    """
    told = torch.cat([articulator(heard.tokens) for heard in speech]).std(dim=0)
    true = torch.cat([heard.motion for heard in speech]).std(dim=0)
    if not (torch.isfinite(true) & (true > 0)).all():
        raise MediaError(f"mouths of the held-back clips do not move: measures spread by {true.tolist()}")
    enlarge(articulator, true / torch.maximum(told, LEAST_TOLD * true))


@torch.no_grad()
def enlarge(articulator: Articulator, gain: Tensor | float) -> None:
    """Make all it tells `gain` times as large, within its bounds; a tensor (K,) has one gain a measure."""
    last = articulator.head[-1]
    each = torch.as_tensor(gain).expand(len(last.bias)).to(last.weight)
    last.weight.mul_(each[:, None])
    last.bias.mul_(each)
