"""The one door for weights: a file in, its tensors and what they are out; never code.

Read are PyTorch's `.pt` files (by the unpickler that knows tensors only) and safetensors, both memory-mapped,
so that nothing is copied before it is used. What a file holds is read off its tensors, for names say little:
LatentSync 1.5 and 1.6 have the same tensors and the same file name.
"""

from latentsync.checkpoint.folder import check_stored, read_json
from latentsync.checkpoint.identity import Identity, identify
from latentsync.checkpoint.loading import UNREADABLE
from latentsync.checkpoint.releases import RELEASES, Release, known_release
from latentsync.checkpoint.weights import Weights, assign_exactly, openai_dims, read_weights
from latentsync.errors import first_line

__all__ = [
    "RELEASES",
    "UNREADABLE",
    "Identity",
    "Release",
    "Weights",
    "assign_exactly",
    "check_stored",
    "first_line",
    "identify",
    "known_release",
    "openai_dims",
    "read_json",
    "read_weights",
]
