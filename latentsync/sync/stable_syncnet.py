"""LatentSync's own judge of sync: a window of faces and a window of mel in, one unit vector each out.

`B` batch, `F` frames, `C` channels of a frame, `H W` pixels (or latent pixels), `T` mel columns, `D` width of
the embedding. Frames are folded into the channels, frame-major. Source: bytedance/LatentSync (arXiv
2412.09262, StableSyncNet); sub-modules are named, and blocks numbered, as in its checkpoints.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

NORM_GROUPS = 32  # so widths are multiples of 32
NORM_EPS = 1e-6
ATTENTION_HEADS = 8
ENCODER_KEYS = ("in_channels", "block_out_channels", "downsample_factors", "attn_blocks", "dropout")


class DownsampleConv(nn.Conv2d):
    """3x3 convolution with stride (down, across), after zeros on the sides that checkpoints expect.

    An axis that keeps its size has zeros on both sides; one that shrinks, only at its end.
    """

    def __init__(self, channels: int, stride: tuple[int, int]) -> None:
        super().__init__(channels, channels, 3, stride=stride)
        down, across = stride
        self.zeros = (int(across == 1), 1, int(down == 1), 1)  # left, right, top, bottom

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, self.zeros))


class ResnetBlock(nn.Module):
    """Two normalised convolutions around a shortcut, then down-sampling by `factor` (1: none)."""

    def __init__(
        self, in_channels: int, out_channels: int, *, factor: int | Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NORM_GROUPS, in_channels, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, out_channels, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        widens = in_channels != out_channels
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if widens else nn.Identity()
        stride = _stride(factor)
        self.downsample_conv = nn.Identity() if stride == (1, 1) else DownsampleConv(out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.downsample_conv(self.conv_shortcut(x) + h)


class AttentionBlock(nn.Module):
    """One transformer block over the positions of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NORM_GROUPS, channels, eps=NORM_EPS)
        self.conv_in = nn.Conv2d(channels, channels, 1)
        self.norm2 = nn.LayerNorm(channels)
        self.attn = Attention(
            channels, heads=ATTENTION_HEADS, dim_head=channels // ATTENTION_HEADS, bias=True
        )
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)  # GEGLU
        self.conv_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        tokens = rearrange(self.conv_in(self.norm1(x)), "b c h w -> b (h w) c")
        tokens = tokens + self.attn(self.norm2(tokens))
        tokens = tokens + self.ff(self.norm3(tokens))
        return x + self.conv_out(rearrange(tokens, "b (h w) c -> b c h w", h=height))


class Encoder(nn.Module):
    """Pictures or mel (B, in_channels, H, W) -> features (B, D, 1, 1), none below 0. With
    `gradient_checkpointing` what is between blocks is kept, and the rest computed again on the way back.

    `downsample_factors` (n, or [n down, n across]; 1: none) bring the size that it is meant for to 1 x 1.
    Where `attn_blocks` has a 1, attention follows the level's residual block in the same list, so that later
    blocks move up by one. Raises: ValueError for lists of different lengths or a wrong factor.
    """

    def __init__(
        self,
        in_channels: int,
        block_out_channels: Sequence[int],
        downsample_factors: Sequence[int | Sequence[int]],
        attn_blocks: Sequence[int] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        levels = len(block_out_channels)
        attn_blocks = [0] * levels if attn_blocks is None else attn_blocks
        if not levels == len(downsample_factors) == len(attn_blocks) or levels == 0:
            raise ValueError(
                f"expected one entry a level: block_out_channels has {levels}, downsample_factors "
                f"{len(downsample_factors)}, attn_blocks {len(attn_blocks)}"
            )
        width = block_out_channels[0]
        self.conv_in = nn.Conv2d(in_channels, width, 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for wider, factor, attends in zip(block_out_channels, downsample_factors, attn_blocks, strict=True):
            self.down_blocks.append(ResnetBlock(width, wider, factor=factor, dropout=dropout))
            if attends:
                self.down_blocks.append(AttentionBlock(wider))
            width = wider
        self.norm_out = nn.GroupNorm(NORM_GROUPS, width, eps=NORM_EPS)
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Tensor] = nn.Module.__call__

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block, x)
            else:
                x = block(x)
        return F.relu(self.norm_out(x))


class StableSyncNet(ModelMixin, ConfigMixin):
    """Embeds faces and mel side by side; the cosine of the two vectors, in [0, 1], says how well they agree.

    `audio` and `vision` are arguments of `Encoder`. What the encoders say before normalisation comes from
    calling `audio_encoder` and `visual_encoder`. The others say what it was made for: `num_frames` at a time,
    of `resolution` pixels, `lower_half` of each only, or latents (`latent_space`).
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        audio: Mapping[str, Any],
        vision: Mapping[str, Any],
        num_frames: int = 16,
        resolution: int = 256,
        lower_half: bool = True,
        latent_space: bool = False,
    ) -> None:
        super().__init__()
        self.audio_encoder = Encoder(**audio)
        self.visual_encoder = Encoder(**vision)

    def forward(self, frames: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (vision (B, D), audio (B, D)) of `frames` (B, F*C, H, W), pixels in [-1, 1] or
        latents, and `mel` (B, 1, 80, T) of `audio.mel.syncnet_mel`.
        """
        vision, audio = self.visual_encoder(frames), self.audio_encoder(mel)
        return F.normalize(vision.flatten(1)), F.normalize(audio.flatten(1))

    def prepare(self, faces: Tensor) -> Tensor:
        """Aligned faces (F, 3, R, R) in [-1, 1] as this network sees them: (F*3, H, W), for a network of
        pixels.
        """
        side = int(self.config.resolution)
        if faces.shape[-1] != side:  # as upstream, without antialiasing
            faces = F.interpolate(faces, (side, side), mode="bicubic", align_corners=False)
        rows = slice(side // 2, None) if self.config.lower_half else slice(None)
        return faces[:, :, rows].flatten(0, 1)

    @classmethod
    def from_upstream(
        cls,
        model_config: Mapping[str, Any],
        state_dict: Mapping[str, Tensor] | None = None,
        **made_for: Any,
    ) -> "StableSyncNet":
        """The network of an upstream YAML's `model` section, with upstream's tensors when they are given
        (strictly); `made_for` are the last arguments of the class.

        Without `attn_blocks`, which upstream's syncnet_25_pixel.yaml forgets, nothing attends. Raises:
        ValueError for a configuration this class does not cover, RuntimeError for tensors that do not fit.
        """
        given = dict(model_config)
        audio = _encoder_arguments(given, "audio_encoder")
        vision = _encoder_arguments(given, "visual_encoder")
        if given:
            raise ValueError(
                f"unknown SyncNet configuration key(s) {[*given]}; see configs/syncnet/ for the known ones"
            )
        model = cls(audio, vision, **made_for)
        if state_dict is not None:
            load_exactly(model, state_dict)
        return model.eval()


def load_exactly(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Put every tensor of `state_dict` into `model`.

    Raises: RuntimeError naming tensors that are missing or unknown, or have another shape.
    """
    wanted = set(model.state_dict())
    missing, unknown = sorted(wanted - set(state_dict)), sorted(set(state_dict) - wanted)
    if missing or unknown:
        raise RuntimeError(
            f"the tensors do not fit the configuration: {len(missing)} missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}"
        )
    model.load_state_dict(state_dict)


def _encoder_arguments(model_config: dict[str, Any], name: str) -> dict[str, Any]:
    """Take the section `name` out of `model_config`, as lists and numbers that can be saved."""
    section = dict(model_config.pop(name, None) or {})
    unknown = [f"{name}.{key}" for key in section if key not in ENCODER_KEYS]
    missing = [f"{name}.{key}" for key in ENCODER_KEYS[:3] if key not in section]
    if unknown or missing:
        raise ValueError(f"SyncNet configuration: unknown key(s) {unknown}, missing key(s) {missing}")
    section["block_out_channels"] = list(section["block_out_channels"])
    section["downsample_factors"] = [
        factor if isinstance(factor, int) else list(factor) for factor in section["downsample_factors"]
    ]
    attends = section.get("attn_blocks")
    section["attn_blocks"] = [0] * len(section["block_out_channels"]) if attends is None else list(attends)
    return section


def _stride(factor: int | Sequence[int]) -> tuple[int, int]:
    """(down, across) of an entry of `downsample_factors`."""
    pair = (factor, factor) if isinstance(factor, int) else tuple(factor)
    if len(pair) != 2 or not all(isinstance(step, int) and step >= 1 for step in pair):
        raise ValueError(f"a downsample factor is n >= 1 or [n down, n across], got {factor!r}")
    return pair
