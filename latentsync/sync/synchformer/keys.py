"""Names of tensors: upstream's files <-> our networks. The only place that knows both.

Ours are upstream's but for the layers of AST, which transformers 5 renamed, and for the 2-D patch embedding
of Motionformer, which nobody uses.
"""

from collections.abc import Mapping

from torch import Tensor

from latentsync.sync.synchformer.spectrogram_transformer import from_transformers_4

WRAPPER = "module."  # of DistributedDataParallel
UNUSED = "patch_embed."
AST = "ast."
STAGE_ONE = {"v_encoder.": "vfeat_extractor.", "a_encoder.": "afeat_extractor."}


def from_original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under our names, of a file of upstream's or of ours."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        owner, leaf = split_owner(name.removeprefix(WRAPPER))
        if leaf.startswith(UNUSED):
            continue
        if leaf.startswith(AST):
            (leaf,) = from_transformers_4({leaf.removeprefix(AST): tensor})
            leaf = AST + leaf
        renamed[owner + leaf] = tensor
    return renamed


def extractors_of(contrast: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The extractors of a stage I network under the names that they have in a `Synchformer`."""
    return {
        new + name.removeprefix(old): tensor
        for name, tensor in contrast.items()
        for old, new in STAGE_ONE.items()
        if name.startswith(old)
    }


def split_owner(name: str) -> tuple[str, str]:
    """The extractor that a tensor belongs to, with its dot, and the rest; ("", name) for others."""
    for owner in (*STAGE_ONE, *STAGE_ONE.values()):
        if name.startswith(owner):
            return owner, name.removeprefix(owner)
    return "", name
