"""The SyncNet of Wav2Lip, grown for the lower halves of 256 px faces; StableSyncNet was measured against it.

`B` batch, 5 frames of RGB folded into the channels (frame-major), 16 mel columns, 1024 wide. Source:
bytedance/LatentSync, Wav2LipSyncNet, after Rudrabha/Wav2Lip (arXiv 2008.10010); sub-modules are named as in
its state dict.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from latentsync.sync.stable_syncnet import load_exactly

ACTIVATIONS = {
    "leaky": lambda: nn.LeakyReLU(0.2),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class Level(NamedTuple):
    """A convolution to `width` channels, then `residuals` 3x3 ones that add their input."""

    width: int
    kernel: int
    stride: int | tuple[int, int] = 1
    padding: int = 1
    residuals: int = 0
    act_fn: str | None = None  # None: the network's


VISUAL_CHANNELS = 15  # 5 frames of RGB
VISUAL_LEVELS = (  # (128, 256) -> (1, 1)
    Level(32, 7, padding=3),
    Level(64, 5, stride=(1, 2), residuals=2),
    Level(128, 3, stride=2, residuals=3),
    Level(256, 3, stride=3, residuals=2),
    Level(512, 3, stride=2, residuals=2),
    Level(1024, 3, stride=2, residuals=2),
    Level(1024, 3, stride=2, act_fn="relu"),
    Level(1024, 3, padding=0, act_fn="relu"),
    Level(1024, 1, padding=0, act_fn="relu"),
)
AUDIO_LEVELS = (  # (80, 16) -> (1, 1)
    Level(32, 3, residuals=2),
    Level(64, 3, stride=(3, 1), residuals=2),
    Level(128, 3, stride=3, residuals=2),
    Level(256, 3, stride=(3, 2), residuals=2),
    Level(512, 3, residuals=2),
    Level(1024, 3, padding=0, act_fn="relu"),
    Level(1024, 1, padding=0, act_fn="relu"),
)


class ConvBlock(nn.Module):
    """Convolution and batch norm of a `Level`, plus the input when `is_residual`, then the activation."""

    def __init__(self, in_channels: int, level: Level, *, act_fn: str, is_residual: bool = False) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.Conv2d(in_channels, level.width, level.kernel, level.stride, level.padding),
            nn.BatchNorm2d(level.width),
        )
        self.activation = ACTIVATIONS[act_fn]()
        self.is_residual = is_residual

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_block(x)
        return self.activation(h + x if self.is_residual else h)


class Wav2LipSyncNet(ModelMixin, ConfigMixin):
    """Embeds 5 lower halves of faces and 0.2 s of mel; called like `StableSyncNet`.

    `act_fn`: leaky, relu, silu or tanh; the last levels are always relu. Raises: ValueError for another.
    """

    @register_to_config
    def __init__(self, act_fn: str = "leaky") -> None:
        super().__init__()
        if act_fn not in ACTIVATIONS:
            raise ValueError(f"act_fn must be one of {', '.join(ACTIVATIONS)}, got {act_fn!r}")
        self.visual_encoder = _encoder(VISUAL_CHANNELS, VISUAL_LEVELS, act_fn)
        self.audio_encoder = _encoder(1, AUDIO_LEVELS, act_fn)

    def forward(self, frames: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (vision (B, 1024), audio (B, 1024)) of `frames` (B, 15, 128, 256), pixels in [-1, 1],
        and `mel` (B, 1, 80, 16) of `audio.mel.syncnet_mel`.
        """
        vision, audio = self.visual_encoder(frames), self.audio_encoder(mel)
        return F.normalize(vision.flatten(1)), F.normalize(audio.flatten(1))

    @classmethod
    def from_upstream(
        cls, model_config: Mapping[str, Any], state_dict: Mapping[str, Tensor] | None = None
    ) -> "Wav2LipSyncNet":
        """The network for upstream's `act_fn`, with upstream's tensors when they are given (strictly).

        Raises: ValueError for an unknown key or activation, RuntimeError for tensors that do not fit.
        """
        if unknown := [key for key in model_config if key != "act_fn"]:
            raise ValueError(f"unknown SyncNet configuration key(s) {unknown}; the only one is act_fn")
        model = cls(**model_config)
        if state_dict is not None:
            load_exactly(model, state_dict)
        return model.eval()


def _encoder(in_channels: int, levels: Sequence[Level], act_fn: str) -> nn.Sequential:
    blocks = []
    for level in levels:
        act = level.act_fn or act_fn
        blocks.append(ConvBlock(in_channels, level, act_fn=act))
        same = Level(level.width, 3)
        blocks += [ConvBlock(level.width, same, act_fn=act, is_residual=True) for _ in range(level.residuals)]
        in_channels = level.width
    return nn.Sequential(*blocks)
