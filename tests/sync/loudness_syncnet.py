"""A StableSyncNet whose two encoders are written by hand: it compares how bright a mouth is with how loud."""

import torch
from torch import nn

from latentsync.sync import StableSyncNet

FRAMES, SIDE = 8, 16


class Brightness(nn.Module):
    """The mean of each frame of a window, (B, F*C, H, W) -> (B, F, 1, 1)."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return _pattern(frames.unflatten(1, (-1, self.channels)).mean(dim=(2, 3, 4)))


class Loudness(nn.Module):
    """The mean of the mel columns of each frame, (B, 1, 80, T) -> (B, F, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))  # a network has a number type

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        columns = mel.mean(dim=2).flatten(1)
        starts = [round(3.2 * frame) for frame in range(FRAMES)]
        return _pattern(
            self.scale * torch.stack([columns[:, start : start + 3].mean(dim=1) for start in starts], dim=1)
        )


def _pattern(levels: torch.Tensor) -> torch.Tensor:
    """What rises and falls, without level and size."""
    levels = levels - levels.mean(dim=1, keepdim=True)
    return torch.nn.functional.normalize(levels)[:, :, None, None]


def loudness_syncnet(**made_for) -> StableSyncNet:
    sizes = {"in_channels": 1, "block_out_channels": [32], "downsample_factors": [1]}
    config = {"num_frames": FRAMES, "resolution": SIDE, "lower_half": True, **made_for}
    syncnet = StableSyncNet(sizes, sizes, **config)
    syncnet.visual_encoder = Brightness(4 if config.get("latent_space") else 3)
    syncnet.audio_encoder = Loudness()
    return syncnet
