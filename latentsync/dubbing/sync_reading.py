"""How well a face and its sound agree, and how far they lie apart, as a StableSyncNet sees it.

`F` frames at 25 fps, `R` side of a face, `T` samples at 16 kHz, `S` windows. Every window of faces is
compared with the windows of sound around its time; the offset is where they agree best on average.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from latentsync.audio.mel import syncnet_mel
from latentsync.audio.windows import mel_windows
from latentsync.sync.stable_syncnet import StableSyncNet

MAX_OFFSET_FRAMES = 15
BATCH_WINDOWS = 8


class SyncReading(NamedTuple):
    """`offset_frames` is positive where the sound is early; `confidence`: by how much the mean cosine there
    is above the median of all offsets. NaN where nothing could be compared.
    """

    offset_frames: float
    confidence: float


SyncJudge = Callable[[Tensor, Tensor], SyncReading]  # faces (F, 3, R, R) in [-1, 1], waveform (T,)
NOTHING = SyncReading(math.nan, math.nan)


def syncnet_judge(syncnet: StableSyncNet) -> SyncJudge:
    """The judge that `syncnet`, of pixels, is, on the device where it is. Raises: ValueError for latents."""
    if syncnet.config["latent_space"]:
        raise ValueError("a SyncNet of latents cannot look at the faces of a clip; pass one of pixels")
    return lambda faces, waveform: read_sync(syncnet, faces, waveform)


@torch.no_grad()
def read_sync(syncnet: StableSyncNet, faces: Tensor, waveform: Tensor) -> SyncReading:
    """Compare aligned `faces` (F, 3, R, R) in [-1, 1] with the `waveform` (T,) that starts with the first."""
    frames = int(syncnet.config["num_frames"])
    count = len(faces) - frames + 1
    mel = syncnet_mel(waveform.cpu())
    try:
        sounds = mel_windows(mel, frames=frames)
    except ValueError:  # shorter than one window
        return NOTHING
    if count < 1:
        return NOTHING
    device, dtype = syncnet.device, syncnet.dtype
    vision, audio = [], []
    for first in range(0, count, BATCH_WINDOWS):
        starts = range(first, min(first + BATCH_WINDOWS, count))
        shown = torch.stack([syncnet.prepare(faces[start : start + frames].to(device)) for start in starts])
        vision.append(syncnet.visual_encoder(shown.to(dtype)).flatten(1).float())
    for piece in sounds.split(BATCH_WINDOWS):
        audio.append(syncnet.audio_encoder(piece.to(device, dtype)).flatten(1).float())
    return reading_of(torch.cat(vision), torch.cat(audio))


def reading_of(vision: Tensor, audio: Tensor) -> SyncReading:
    """The reading of embeddings (S, D) of faces and (S', D) of sound, one a frame, from the same time on."""
    cosines = torch.nn.functional.normalize(vision) @ torch.nn.functional.normalize(audio).T
    means = {  # of the diagonals: sound that lies `later` frames after the faces
        later: float(cosines.diagonal(later).mean())
        for later in range(-MAX_OFFSET_FRAMES, MAX_OFFSET_FRAMES + 1)
        if -len(vision) < later < len(audio)
    }
    if not means:
        return NOTHING
    best = max(means, key=lambda later: (means[later], -abs(later)))
    return SyncReading(float(-best), means[best] - float(torch.tensor(list(means.values())).median()))
