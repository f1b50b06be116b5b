"""What both extractors share: a pre-norm transformer layer that turns a row of tokens into one.

`B` batch, `N` tokens, `D` width. Source: v-iashin/Synchformer (arXiv 2401.16423), TransformerEncoderLayer
with a class token; the layer's names are torch's, as in its checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TokenAggregator(nn.TransformerEncoderLayer):
    """Tokens (B, N, D) -> (B, D): what a learned class token has gathered from them, not normalised."""

    def __init__(self, width: int, heads: int, *, mlp_ratio: int = 4, eps: float = 1e-6) -> None:
        super().__init__(
            width,
            heads,
            mlp_ratio * width,
            dropout=0.0,
            activation=F.gelu,
            layer_norm_eps=eps,
            batch_first=True,
            norm_first=True,
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def gather(self, tokens: Tensor, kept: Tensor | None = None) -> Tensor:
        """One row (B, D) of `tokens` (B, N, D); where `kept` (B, N) is False, nothing is looked at."""
        B = tokens.shape[0]
        tokens = torch.cat([self.cls_token.expand(B, -1, -1), tokens], dim=1)
        ignored = None
        if kept is not None:  # the class token itself always stays
            ignored = F.pad(~kept, (1, 0), value=False)
        return self(tokens, src_key_padding_mask=ignored)[:, 0]
