"""What a clip shows and how it moves, as one vector: VideoMAEv2's fine-tuned ViT-g on transformers' VideoMAE.

`B` clips, `F` frames, `H W` pixels, `D` width, `T` tubelets of frames, `h w` patches. Source: Wang et al.
2023 (arXiv 2303.16727), OpenGVLab/VideoMAEv2. The released tensors map onto `transformers.VideoMAEModel` one
to one but for the fused query, key and value; its class head is left out. `rename_from_released` and
`rename_to_released` are the map.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import VideoMAEConfig, VideoMAEModel

from latentsync.checkpoint import Weights, assign_exactly, first_line, read_weights
from latentsync.errors import CheckpointError

SOURCE = (
    "Hub OpenGVLab/VideoMAE2, mae-g/vit_g_hybrid_pt_1200e_ssv2_ft.pth "
    "(also auxiliary/ of Hub ByteDance/LatentSync-1.5)"
)
HEAD = "head."  # names the classes of Something-Something v2; features end before it
HEAD_WIDTH = 88  # 16 heads at 1408; smaller stand-ins have one
FRAMES = 16
PATCHES_A_SIDE = 16  # 224 px in patches of 14; neither stands in the file, whose positions are computed
NORM_EPS = 1e-6
EXTRA_LENGTH = 0.1  # upstream stretches its positions to a whole number of tubelets and this much more
NAMES = {  # released: ours, inside a block
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
BIASES = {"attn.q_bias": "attention.attention.query.bias", "attn.v_bias": "attention.attention.value.bias"}
FUSED = "attn.qkv.weight"
PARTS = tuple(f"attention.attention.{part}.weight" for part in ("query", "key", "value"))
PATCH_EMBEDDING = "network.embeddings.patch_embeddings.projection"
BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
LAYER = re.compile(r"network\.encoder\.layer\.(\d+)\.(.+)")


class VideoMAE(nn.Module):
    """Features of clips: the mean over all tokens, normalised; frozen, but the gradient flows into the clips.

    `gradient_checkpointing` keeps the input of each block alone. (transformers' own switch works in training
    mode only, and a judge never is.)
    """

    positions: Tensor

    def __init__(self, config: VideoMAEConfig, *, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = gradient_checkpointing
        self.network = VideoMAEModel(config)
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.register_buffer("positions", self.network.embeddings.position_embeddings, persistent=False)
        self.eval().requires_grad_(False)

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the clips it sees."""
        return int(self.config.image_size)  # pyright: ignore[reportArgumentType]

    def forward(self, clips: Tensor) -> Tensor:
        """Features (B, D) of `clips`, (B, 3, F, image_size, image_size) in [0, 1], F a multiple of 2."""
        _, channels, frames, *sides = clips.shape
        size, step = self.image_size, self.config.tubelet_size
        if channels != 3 or sides != [size, size] or frames < step or frames % step:
            raise ValueError(
                f"expected clips (B, 3, F, {size}, {size}), F a multiple of {step}, got {tuple(clips.shape)}"
            )
        pixels = rearrange(clips.to(self.fc_norm.weight.dtype), "b c f h w -> b f c h w")
        tokens = self.network.embeddings.patch_embeddings(pixels)
        tokens = tokens + self._positions(frames // step).to(tokens.dtype)
        for layer in self.network.encoder.layer:
            if self.gradient_checkpointing and tokens.requires_grad:
                tokens = checkpoint(layer, tokens, use_reentrant=False)
            else:
                tokens = layer(tokens)
        return self.fc_norm(tokens.mean(dim=1))

    def _positions(self, tubelets: int) -> Tensor:
        """The fixed sine and cosine table, (1, T*h*w, D), stretched in time for clips of another length."""
        known = self.config.num_frames // self.config.tubelet_size
        if tubelets == known:
            return self.positions
        side = self.image_size // int(self.config.patch_size)  # pyright: ignore[reportArgumentType]
        grid = rearrange(self.positions.float(), "1 (t h w) d -> 1 d t h w", t=known, h=side)
        factor = (tubelets + EXTRA_LENGTH) / known
        grid = F.interpolate(grid, scale_factor=(factor, 1.0, 1.0), mode="trilinear")
        return rearrange(grid, "1 d t h w -> 1 (t h w) d")


def open_videomae(
    path: str | Path,
    *,
    heads: int | None = None,
    image_size: int | None = None,
    gradient_checkpointing: bool = False,
    dtype: torch.dtype = torch.float32,
) -> VideoMAE:
    """The network of the released file (2 GB of half precision), on the CPU in `dtype`.

    Widths and depths are read off the tensors, so smaller files of the same form open, too. What tensors do
    not tell is ViT-g's: heads of 88 channels, 16 patches a side, 16 frames; `heads` and `image_size` say
    otherwise. Raises: FileNotFoundError; CheckpointError for a file that is damaged, foreign or incomplete.
    """
    weights = read_weights(path, expect="videomae")
    try:
        config = read_config(weights.tensors, heads=heads, image_size=image_size)
        tensors = rename_from_released(weights.tensors)
        with torch.device("meta"):
            model = VideoMAE(config, gradient_checkpointing=gradient_checkpointing)
    except (LookupError, ValueError, RuntimeError, ArithmeticError) as error:
        raise _misfit(weights, error) from error
    assign_exactly(model, tensors, weights.path, source=SOURCE)
    return model.to(dtype).requires_grad_(False)


def read_config(
    tensors: Mapping[str, Tensor], *, heads: int | None = None, image_size: int | None = None
) -> VideoMAEConfig:
    """The sizes of released tensors, and ViT-g's where tensors do not tell; see `open_videomae`."""
    width, _, tubelet, patch, _ = tensors["patch_embed.proj.weight"].shape
    return VideoMAEConfig(
        image_size=image_size or PATCHES_A_SIDE * patch,
        patch_size=patch,
        num_channels=3,
        num_frames=FRAMES,
        tubelet_size=tubelet,
        hidden_size=width,
        num_hidden_layers=len({found[1] for name in tensors if (found := BLOCK.fullmatch(name))}),
        num_attention_heads=heads or max(1, width // HEAD_WIDTH),
        intermediate_size=tensors["blocks.0.mlp.fc1.weight"].shape[0],
        layer_norm_eps=NORM_EPS,
    )


def rename_from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`VideoMAE`'s names of released tensors, without the class head; unknown names stay as they are.

    Query, key and value are views of one tensor. Keys have no bias, which was always zero.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name.startswith(HEAD):
            continue
        if name.startswith("patch_embed.proj."):
            renamed[name.replace("patch_embed.proj", PATCH_EMBEDDING)] = value
        elif (found := BLOCK.fullmatch(name)) is None:
            renamed[name] = value  # fc_norm
        else:
            layer, inner = f"network.encoder.layer.{found[1]}.", found[2]
            if inner == FUSED:
                renamed |= {layer + part: w for part, w in zip(PARTS, value.chunk(3), strict=True)}
            else:
                renamed[layer + _renamed(inner, NAMES | BIASES)] = value
    return renamed


def rename_to_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back: a `VideoMAE`'s state under the released names, without the class head."""
    back = {ours: theirs for theirs, ours in (NAMES | BIASES).items()}
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith(PATCH_EMBEDDING):
            renamed[name.replace(PATCH_EMBEDDING, "patch_embed.proj")] = value
        elif (found := LAYER.fullmatch(name)) is None:
            renamed[name] = value
        elif found[2] == PARTS[0]:
            layer = f"network.encoder.layer.{found[1]}."
            renamed[f"blocks.{found[1]}.{FUSED}"] = torch.cat([state[layer + part] for part in PARTS])
        elif found[2] not in PARTS:
            renamed[f"blocks.{found[1]}.{_renamed(found[2], back)}"] = value
    return renamed


def _renamed(inner: str, names: Mapping[str, str]) -> str:
    """`inner`, such as "mlp.fc1.weight", with its module's other name; a bias may be named as a whole."""
    module, _, kind = inner.rpartition(".")
    return names[inner] if inner in names else f"{names.get(module, module)}.{kind}"


def _misfit(weights: Weights, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"weights {str(weights.path)!r} are no VideoMAEv2 of this form ({first_line(error)}); "
        f"get the file from {SOURCE}"
    )
