"""Segments of video -> features: Motionformer with divided space-time attention, then one token a moment.

`B` batch, `S` segments, `T` frames of a segment, `H W` pixels, `D` width; `t h w` tubelets of a segment, `N`
patches of a moment (h w). Source: facebookresearch/Motionformer (divided attention) as v-iashin/Synchformer
uses it (arXiv 2401.16423); sub-modules are named as in its checkpoints, norms in their odd order.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from latentsync.sync.synchformer.aggregate import TokenAggregator

NORM_EPS = 1e-6
OVER_TIME = "(b n) h t d"  # one place of the picture, at all moments
OVER_SPACE = "(b t) h n d"  # one moment, all of its patches


class TubeletEmbedding(nn.Module):
    """Pixels (B, 3, T, H, W) -> one vector a tubelet, (B, D, t, h, w)."""

    def __init__(self, width: int, tubelet: int, patch: int) -> None:
        super().__init__()
        size = (tubelet, patch, patch)
        self.proj = nn.Conv3d(3, width, size, stride=size)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels)


class DividedAttention(nn.Module):
    """Attention inside groups of patches; the class token hears all of them and is heard in every group."""

    def __init__(self, width: int, heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared out over {heads} attention heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, grouping: str, moments: int) -> Tensor:
        """`x` (B, 1 + t N, D), the class token first; `grouping` is OVER_TIME or OVER_SPACE."""
        B = len(x)
        q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.heads)
        own = F.scaled_dot_product_attention(q[:, :, :1], k, v)
        queries, keys, values = (
            rearrange(part[:, :, 1:], f"b h (t n) d -> {grouping}", t=moments) for part in (q, k, v)
        )
        groups = len(queries) // B
        keys, values = (
            torch.cat([repeat(whole[:, :, :1], "b h 1 d -> (b g) h 1 d", g=groups), part], dim=2)
            for whole, part in ((k, keys), (v, values))
        )
        out = F.scaled_dot_product_attention(queries, keys, values)
        out = rearrange(out, f"{grouping} -> b h (t n) d", b=B, t=moments)
        return self.proj(rearrange(torch.cat([own, out], dim=2), "b h l d -> b l (h d)"))


class Mlp(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Leaves out, in training, the whole branch of a sample with probability `share`; others grow for it."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.share == 0:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device, dtype=x.dtype) >= self.share
        return x * kept / (1 - self.share)


class Block(nn.Module):
    """Attention over time, then over space, then an MLP, each after a norm; time is never dropped."""

    def __init__(self, width: int, heads: int, *, mlp_ratio: int, drop_path: float, qkv_bias: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = DividedAttention(width, heads, qkv_bias=qkv_bias)
        self.timeattn = DividedAttention(width, heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, mlp_ratio * width)
        self.norm3 = nn.LayerNorm(width, eps=NORM_EPS)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, moments: int) -> Tensor:
        """Tokens (B, 1 + t N, D), the class token first, then time-major; `moments` is t."""
        x = x + self.timeattn(self.norm3(x), OVER_TIME, moments)
        x = x + self.drop_path(self.attn(self.norm1(x), OVER_SPACE, moments))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class VisualExtractor(nn.Module):
    """Segments of `frames` frames of `resolution` pixels -> features (B, S, t, D), one a moment of a segment.

    t = `frames` / `tubelet`. Other sizes of picture than `resolution` stretch the positions bicubically.
    """

    def __init__(
        self,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        *,
        resolution: int = 224,
        frames: int = 16,
        patch: int = 16,
        tubelet: int = 2,
        mlp_ratio: int = 4,
        qkv_bias: bool = True,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        if resolution % patch or frames % tubelet:
            raise ValueError(
                f"{resolution} px and {frames} frames are no multiples of the patch ({patch} px) and the "
                f"tubelet ({tubelet} frames)"
            )
        self.frames, self.patch, self.tubelet = frames, patch, tubelet
        self.grid = resolution // patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        self.temp_embed = nn.Parameter(torch.zeros(1, frames // tubelet, width))
        self.patch_embed_3d = TubeletEmbedding(width, tubelet, patch)
        shares = [drop_path * block / max(1, layers - 1) for block in range(layers)]
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio=mlp_ratio, drop_path=share, qkv_bias=qkv_bias) for share in shares
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.apply(_initialise)
        for embedding in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(embedding, std=0.02)
        self.spatial_attn_agg = TokenAggregator(width, heads, mlp_ratio=mlp_ratio, eps=NORM_EPS)

    def forward(self, video: Tensor) -> Tensor:
        """Features (B, S, t, D) of `video` (B, S, T, 3, H, W) in [-1, 1].

        Raises: ValueError for pixels or frames that do not fit the patches.
        """
        B = video.shape[0]
        tokens, (t, h, w) = self.encode(video.flatten(0, 1))
        patches = rearrange(self.norm(tokens[:, 1:]), "b (t n) d -> (b t) n d", t=t, n=h * w)
        return rearrange(self.spatial_attn_agg.gather(patches), "(b s t) d -> b s t d", b=B, t=t)

    def encode(self, segments: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Tokens (B, 1 + t h w, D) after the last block, the class token first, and (t, h, w)."""
        T, C, H, W = segments.shape[1:]
        if self.frames != T or C != 3 or H % self.patch or W % self.patch:
            raise ValueError(
                f"segments of {T} frames of {C} x {H} x {W} were given; this network sees {self.frames} "
                f"frames of 3 channels, in multiples of {self.patch} px"
            )
        cubes = self.patch_embed_3d(rearrange(segments, "b t c h w -> b c t h w"))
        t, h, w = cubes.shape[2:]
        patches = rearrange(cubes, "b d t h w -> b t (h w) d") + self.positions(h, w)[:, None]
        patches = patches + self.temp_embed[:, :, None]
        token = (self.cls_token + self.pos_embed[:, :1]).expand(len(segments), -1, -1)
        x = torch.cat([token, patches.flatten(1, 2)], dim=1)
        for block in self.blocks:
            x = block(x, t)
        return x, (t, h, w)

    def positions(self, rows: int, columns: int) -> Tensor:
        """The learned positions of a picture of rows x columns patches, (1, rows columns, D)."""
        table = self.pos_embed[:, 1:]
        if (rows, columns) == (self.grid, self.grid):
            return table
        table = rearrange(table, "1 (h w) d -> 1 d h w", h=self.grid)
        table = F.interpolate(table, (rows, columns), mode="bicubic", align_corners=False)
        return rearrange(table, "1 d h w -> 1 (h w) d")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
