"""The drawn mouth should say the sound to a frozen StableSyncNet, which looks at pixels or at latents.

`B` clips, `F` frames, `C` channels, `R` side of a face, `h w` latent pixels, `T` mel columns. Source:
LatentSync (arXiv 2412.09262), sync loss: binary cross entropy of the cosine of both embeddings against 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from latentsync.audio.mel import SYNCNET_BANDS
from latentsync.audio.windows import mel_columns
from latentsync.checkpoint import first_line
from latentsync.errors import ConfigError
from latentsync.sync.stable_syncnet import StableSyncNet

LEAST_COSINE = 1e-4  # the cross entropy is infinite at 0; below this (9.2) it pulls no further


def sync_losses(syncnet: StableSyncNet, drawn: Tensor, mel: Tensor) -> Tensor:
    """-log of the cosine, (B,) float32, of `drawn` clips and their `mel` (B, 1, 80, T).

    `drawn`: pixels (B, F, 3, R, R) in [-1, 1], of any R, or latents (B, F, C, h, w) for a SyncNet of latents.
    The network is run again on the way back, instead of keeping what it computes.
    """
    seen = torch.stack([_seen(syncnet, clip) for clip in drawn.float()])
    dtype = syncnet.dtype
    vision, audio = checkpoint(syncnet, seen.to(dtype), mel.to(dtype), use_reentrant=False)
    cosine = F.cosine_similarity(vision.float(), audio.float())
    return -cosine.clamp(LEAST_COSINE, 1).log()  # BCE against 1


def check_syncnet(syncnet: StableSyncNet, *, frames: int, channels: int, side: int) -> None:
    """Raise ConfigError when `syncnet` cannot judge windows of `frames`, whose latents are (channels, side,
    side).
    """
    config = syncnet.config
    if int(config.num_frames) != frames:
        raise ConfigError(
            f"the SyncNet looks at {config.num_frames} frames at a time, data.num_frames is {frames}: they "
            "must be equal; choose another SyncNet, or set run.use_syncnet=false"
        )
    wide, size = (channels, side) if config.latent_space else (3, int(config.resolution))
    clip = torch.zeros(1, frames, wide, size, size)
    try:
        with torch.no_grad():
            sync_losses(syncnet, clip, torch.zeros(1, 1, SYNCNET_BANDS, mel_columns(frames)))
    except RuntimeError as error:
        what = f"latents of {channels} x {side} x {side}" if config.latent_space else f"faces of {size} px"
        raise ConfigError(
            f"the SyncNet does not take {frames} {what} ({first_line(error)}); choose one "
            "that was trained on such, or set run.use_syncnet=false"
        ) from error


def _seen(syncnet: StableSyncNet, clip: Tensor) -> Tensor:
    """A clip (F, C, H, W) as the network sees it, (F * C, H, W), frame-major."""
    if not syncnet.config.latent_space:
        return syncnet.prepare(clip)
    first_row = clip.shape[-2] // 2 if syncnet.config.lower_half else 0
    return clip[:, :, first_row:].flatten(0, 1)
