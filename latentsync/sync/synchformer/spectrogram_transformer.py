"""Segments of sound -> features: the Audio Spectrogram Transformer, then one token a moment.

`B` batch, `S` segments, `F T` bands and columns of a segment's mel, `f t` patches of it, `D` width. The
network is transformers' ASTModel; its feature extractor is not used, for it computes another spectrogram.
Source: YuanGongND/ast (arXiv 2104.01778) as v-iashin/Synchformer uses it.
"""

import re
from collections.abc import Mapping

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import ASTConfig, ASTModel

from latentsync.sync.synchformer.aggregate import TokenAggregator

SPECIAL_TOKENS = 2  # class and distillation
AGGREGATOR_EPS = 1e-6
# names of transformers 4.x, which checkpoints have -> those of 5.x
RENAMED = (
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.query\.", r"layers.\1.attention.q_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.key\.", r"layers.\1.attention.k_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.value\.", r"layers.\1.attention.v_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"layers.\1.attention.o_proj."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"layers.\1.mlp.fc1."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"layers.\1.mlp.fc2."),
    (r"^encoder\.layer\.(\d+)\.", r"layers.\1."),
)


class AudioExtractor(nn.Module):
    """Mel segments -> features (B, S, t, D), one a moment of a segment.

    t = (columns - patch) // stride + 1; so for f, with `bands`. Raises: ValueError for a mel smaller than a
    patch.
    """

    def __init__(
        self,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        *,
        bands: int = 128,
        columns: int = 66,
        patch: int = 16,
        stride: tuple[int, int] = (10, 10),  # across bands, across columns
        hidden: int | None = None,
        qkv_bias: bool = True,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        if min(bands, columns) < patch:
            raise ValueError(
                f"a mel of {bands} bands and {columns} columns is smaller than {patch} x {patch}"
            )
        self.bands, self.columns, self.patch, self.stride = bands, columns, patch, stride
        self.grid = ((bands - patch) // stride[0] + 1, (columns - patch) // stride[1] + 1)
        self.ast = ASTModel(
            ASTConfig(
                hidden_size=width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=hidden or 4 * width,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                layer_norm_eps=eps,
                patch_size=patch,
                qkv_bias=qkv_bias,
                frequency_stride=stride[0],
                time_stride=stride[1],
                max_length=columns,
                num_mel_bins=bands,
            )
        )
        for embedding in ("cls_token", "distillation_token", "position_embeddings"):
            nn.init.trunc_normal_(getattr(self.ast.embeddings, embedding), std=0.02)
        self.freq_attn_agg = TokenAggregator(width, heads, mlp_ratio=4, eps=AGGREGATOR_EPS)

    def forward(self, audio: Tensor, kept: Tensor | None = None) -> Tensor:
        """Features (B, S, t, D) of `audio` (B, S, 1, F, T), normalised log mel.

        Where `kept`, of the same shape, is False, the content is not heard: a patch with any such place is
        left out of all attention. Raises: ValueError for another size of mel.
        """
        B = audio.shape[0]
        if audio.shape[2:] != (1, self.bands, self.columns):
            raise ValueError(
                f"mel segments of shape {tuple(audio.shape[2:])} were given; this network hears "
                f"(1, {self.bands}, {self.columns})"
            )
        heard = None if kept is None else self.whole_patches(kept.flatten(0, 1))
        states = self.encode(audio.flatten(0, 1), heard)
        f, t = self.grid
        tokens = rearrange(states[:, SPECIAL_TOKENS:], "b (f t) d -> (b t) f d", f=f)
        if heard is not None:
            heard = rearrange(heard, "b (f t) -> (b t) f", f=f)
        return rearrange(self.freq_attn_agg.gather(tokens, heard), "(b s t) d -> b s t d", b=B, t=t)

    def encode(self, segments: Tensor, heard: Tensor | None = None) -> Tensor:
        """Normalised states (B, 2 + f t, D) of `segments` (B, 1, F, T): two special tokens, then patches,
        frequency-major; `heard` (B, f t) says which patches are attended to.
        """
        columns_first = rearrange(segments, "b 1 f t -> b t f")
        if heard is None:
            return self.ast(columns_first).last_hidden_state
        attended = F.pad(heard, (SPECIAL_TOKENS, 0), value=True)
        return self.ast(columns_first, attention_mask=attended).last_hidden_state

    def whole_patches(self, kept: Tensor) -> Tensor:
        """Which patches (B, f t) lie wholly where `kept` (B, 1, F, T) is True."""
        lost = F.max_pool2d((~kept).float(), self.patch, self.stride)
        return lost.flatten(1) == 0


def from_transformers_4(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an ASTModel of transformers 4, under the names that 5 gives them."""
    return {_renamed(name): tensor for name, tensor in tensors.items()}


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMED:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return name
