"""Guidance that looks at its own draft: how strongly a window follows the sound, by how well it already does.

The one-step estimate of the clean latents is decoded and shown to a StableSyncNet together with the sound of
its time; `B` windows of `F` frames, `C h w` latents. A draft that is out of sync gets more guidance, one that
is in sync less: more than is needed costs picture. Two predictions of noise say nothing of lips, so these
are not compared.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsync.audio.mel import SYNCNET_LIMIT
from latentsync.audio.windows import mel_window
from latentsync.sync.stable_syncnet import StableSyncNet

SCALES = (1.0, 2.0)  # for a draft in perfect sync, and for one without any
LOOKS = 5  # about so many drafts of a window are judged

Decode = Callable[[Tensor], Tensor]  # latents (C, F, h, w) -> faces (F, 3, R, R) in [-1, 1]


class Steering(Protocol):
    """What sets the guidance of windows while they are drawn."""

    def looks_at(self, step: int, steps: int) -> bool:
        """Whether the draft of step `step` (from 0) of `steps` is wanted."""
        ...

    def scale(self, draft: Tensor, first_frames: Sequence[int], decode: Decode) -> Tensor:
        """Guidance (B, 1, 1, 1, 1) for what follows on `draft` (B, C, F, h, w)."""
        ...


class SyncGuidance:
    """Steering by a judge of sync. `waveform` columns: `mel` (80, T) of the whole soundtrack, at `fps` frames
    a second. `confidences` collects what the judge said, in [0, 1].

    Raises: ValueError for a judge that wants more frames than the `window` that is drawn at a time.
    """

    def __init__(self, judge: StableSyncNet, mel: Tensor, *, window: int, fps: int = 25) -> None:
        self.judge, self.mel, self.fps = judge, mel, fps
        self.frames = int(judge.config.num_frames)
        if self.frames > window:
            raise ValueError(
                f"the judge of sync looks at {self.frames} frames at a time, the model draws {window}; "
                "choose a judge of fewer frames, or a number for the guidance"
            )
        self.confidences: list[float] = []

    def looks_at(self, step: int, steps: int) -> bool:
        """Every fifth of the way, but not at the end, when nothing follows."""
        return step % max(1, steps // LOOKS) == 0 and step < steps - 1

    def scale(self, draft: Tensor, first_frames: Sequence[int], decode: Decode) -> Tensor:
        """Guidance within SCALES; the middle for a run too short to be judged."""
        low, high = SCALES
        if draft.shape[2] < self.frames:
            return torch.full((len(draft), 1, 1, 1, 1), (low + high) / 2, device=draft.device)
        seen = torch.stack([self._seen(latents, decode) for latents in draft])
        heard = torch.stack([self._heard(first) for first in first_frames])
        vision, audio = self.judge(seen.to(self.judge.dtype), heard.to(seen.device, self.judge.dtype))
        confidence = F.cosine_similarity(vision.float(), audio.float()).clamp(0, 1)
        self.confidences += confidence.tolist()
        return (high - (high - low) * confidence)[:, None, None, None, None]

    def _seen(self, latents: Tensor, decode: Decode) -> Tensor:
        """What the judge sees (frames * C, H, W) of latents (C, F, h, w): the first frames of the window."""
        latents = latents[:, : self.frames]
        if self.judge.config.latent_space:
            return latents.transpose(0, 1).flatten(0, 1)
        return self.judge.prepare(decode(latents))

    def _heard(self, first_frame: int) -> Tensor:
        """The mel (1, 80, T) of a window from `first_frame` on; silence beyond the soundtrack."""
        return mel_window(self.mel, first_frame, self.frames, fps=self.fps, beyond=-SYNCNET_LIMIT)
