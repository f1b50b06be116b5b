"""A judge without a network: how dark a mouth is against how loud it is, frame by frame."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from latentsync.sync.face_cut import AlignedCut
from latentsync.sync.judge import MAX_OFFSET_FRAMES, SAMPLES_PER_FRAME, Faces, Judge, SyncScore
from latentsync.sync.offset import score_of

SIDE = 32


class LoudnessJudge(Judge):
    """Distance 1 - r of darkness and loudness of the frames that have both at an offset.

    `answer` instead: it hears nothing, and always finds that offset; `deaf`: all sounds are the first.
    """

    name = "loudness"
    min_frames = 40

    def __init__(self, *, answer: int | None = None, deaf: bool = False) -> None:
        self.face_cut, self.answer, self.deaf = AlignedCut(SIDE), answer, deaf

    def score_sounds(self, faces: Faces, waveforms: Sequence[Tensor]) -> list[SyncScore]:
        shown = torch.cat([faces] if isinstance(faces, Tensor) else list(faces)).float()
        lips = -shown[:, :, SIDE // 2 :].mean(dim=(1, 2, 3)).numpy()
        heard = waveforms[:1] * len(waveforms) if self.deaf else waveforms
        return [self._score(lips, waveform) for waveform in heard]

    def _score(self, lips: np.ndarray, waveform: Tensor) -> SyncScore:
        count = min(len(lips), len(waveform) // SAMPLES_PER_FRAME)
        around = torch.nn.functional.pad(waveform, (SAMPLES_PER_FRAME // 2, 0))  # the time of each frame
        power = around[: count * SAMPLES_PER_FRAME].reshape(count, -1).square().mean(dim=1).numpy()
        sound = gaussian_filter1d(np.log10(power + 1e-5), 0.7)
        curve = []
        for offset in range(-MAX_OFFSET_FRAMES, MAX_OFFSET_FRAMES + 1):
            frames = np.arange(max(0, offset), min(count, count + offset))
            if self.answer is not None:
                curve.append(abs(offset - self.answer) / 10)
            elif min(sound.std(), lips.std()) < 1e-3:
                curve.append(1.0)
            else:
                curve.append(1 - np.corrcoef(lips[frames], sound[frames - offset])[0, 1])
        return score_of(torch.tensor(curve))
