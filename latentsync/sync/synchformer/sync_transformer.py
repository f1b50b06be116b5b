"""Features of lips and sound -> classes: a small transformer that reads both and answers on its first token.

`B` batch, `L` tokens in all, `D` width. Source: v-iashin/Synchformer, GlobalTransformer (its blocks follow
karpathy/minGPT); sub-modules are named as in its checkpoints.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

HEADS = ("off_head", "sync_head")  # of offset classes, of "can be judged or not"


class SelfAttention(nn.Module):
    """Attention of all tokens to all."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared out over {heads} attention heads")
        self.heads, self.dropout = heads, dropout
        self.key = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.resid_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            rearrange(layer(x), "b l (h d) -> b h l d", h=self.heads)
            for layer in (self.query, self.key, self.value)
        )
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.resid_drop(self.proj(rearrange(out, "b h l d -> b l (h d)")))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.ln2 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class PositionTable(nn.Module):
    """Learned positions of up to `length` tokens."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.pos_emb = nn.Parameter(torch.randn(1, length, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pos_emb[:, : x.shape[1]]


class SyncTransformer(nn.Module):
    """[class token, visual tokens, separator, audio tokens] -> logits (B, `classes`).

    `positions` = visual + audio tokens + 2. The head is called `head`, one of HEADS. Raises: ValueError for
    an unknown head.
    """

    def __init__(
        self,
        width: int = 768,
        heads: int = 8,
        layers: int = 3,
        *,
        positions: int = 198,
        classes: int = 21,
        head: str = "off_head",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"the head of a SyncTransformer is one of {', '.join(HEADS)}, got {head!r}")
        self.head_name = head
        self.OFF_tok = nn.Parameter(torch.randn(1, 1, width))
        self.MOD_tok = nn.Parameter(torch.randn(1, 1, width))
        self.vis_in_lnorm = nn.LayerNorm(width)
        self.aud_in_lnorm = nn.LayerNorm(width)
        self.pos_emb_cfg = PositionTable(positions, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.ln_f = nn.LayerNorm(width)
        self.add_module(head, nn.Linear(width, classes))
        self.apply(_initialise)

    @property
    def head(self) -> nn.Linear:
        """The last layer, under whichever name."""
        return self.get_submodule(self.head_name)  # pyright: ignore[reportReturnType]

    def forward(self, vision: Tensor, audio: Tensor) -> Tensor:
        """Logits (B, classes) of `vision` and `audio`, (B, ., D) each, segment-major."""
        return self.head(self.encode(vision, audio)[:, 0])

    def encode(self, vision: Tensor, audio: Tensor) -> Tensor:
        """The normalised sequence (B, L, D) that the head reads the first token of.

        Raises: ValueError for more tokens than there are positions. Fewer use the first positions, as
        upstream does when it cuts a table to fewer segments; a network has to be trained for that.
        """
        B = len(vision)
        token, separator = (token.expand(B, -1, -1) for token in (self.OFF_tok, self.MOD_tok))
        x = torch.cat([token, self.vis_in_lnorm(vision), separator, self.aud_in_lnorm(audio)], dim=1)
        known = self.pos_emb_cfg.pos_emb.shape[1]
        if x.shape[1] > known:
            raise ValueError(
                f"{vision.shape[1]} visual and {audio.shape[1]} audio tokens need {x.shape[1]} positions; "
                f"this network has {known}: pass fewer segments"
            )
        return self.ln_f(self.blocks(self.drop(self.pos_emb_cfg(x))))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
