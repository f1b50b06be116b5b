"""What a denoiser sees besides the noise: faces encoded once each, and a window of them put together.

`F` frames, `C h w` latents, `R` pixels of an aligned face.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EncodedFace:
    """Latents (C, h, w) of one face, with the mouth hidden and whole."""

    masked: Tensor
    whole: Tensor


@dataclass(frozen=True)
class Condition:
    """What a window's denoiser sees besides the noise: mask (1, F, h, w), masked and reference latents (C, F,
    h, w).
    """

    mask: Tensor
    masked: Tensor
    reference: Tensor

    def __len__(self) -> int:
        return self.mask.shape[1]


class FaceMemory:
    """Latents of faces (3, R, R) by a hash of their pixels, for streams that show a frame again."""

    def __init__(self) -> None:
        self._known: dict[bytes, EncodedFace] = {}

    def __len__(self) -> int:
        return len(self._known)

    def encoded(
        self, faces: list[Tensor], encode: Callable[[Tensor], list[EncodedFace]]
    ) -> list[EncodedFace]:
        """The latents of each face; what is not known goes through `encode` (F, 3, R, R) in one batch."""
        keys = [hashlib.blake2b(face.cpu().numpy().tobytes(), digest_size=16).digest() for face in faces]
        fresh = {key: face for key, face in zip(keys, faces, strict=True) if key not in self._known}
        if fresh:
            self._known.update(zip(fresh, encode(torch.stack(list(fresh.values()))), strict=True))
        return [self._known[key] for key in keys]
