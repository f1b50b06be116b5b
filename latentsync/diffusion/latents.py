"""Packed faces -> cached latents, so that training the denoiser never runs the autoencoder.

A clip's variant is the clip under one draw of colour and proportions: `latents` and `masked` float16 (F, C,
h, w), the latter of faces whose mouth is hidden. Files are named by a hash of the autoencoder's weights, so a
new autoencoder gets a new cache.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latentsync.diffusion.augment import (
    NO_COLOUR,
    Colour,
    Proportions,
    apply_colour,
    apply_proportions,
    draw_colour,
    draw_proportions,
)
from latentsync.diffusion.dataset import Clip
from latentsync.face.mask import mouth_mask

BATCH_FRAMES = 32


@dataclass(frozen=True)
class ClipLatents:
    """Latents of one variant of a clip, whole and with the mouth hidden: (F, C, h, w) float16, memory-mapped.

    Where a stride was asked for, F counts every stride-th frame.
    """

    latents: np.ndarray
    masked: np.ndarray


def weights_key(vae: AutoencoderKL) -> str:
    """A short hash of the autoencoder's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def variant_look(clip: Clip, variant: int) -> tuple[Colour, Proportions | None]:
    """How a clip's `variant` looks: 0 is the clip as it is, 1 has other colours, the others other proportions
    as well.
    """
    if variant == 0:
        return NO_COLOUR, None
    seed = int.from_bytes(hashlib.sha256(f"{clip.name}/{variant}".encode()).digest()[:4], "big")
    rng = np.random.default_rng(seed)
    return draw_colour(rng), draw_proportions(rng) if variant > 1 else None


def cached_latents(
    clip: Clip, variant: int, vae: AutoencoderKL, key: str, folder: Path, *, stride: int = 1
) -> ClipLatents:
    """The latents of every `stride`-th frame of a clip's variant, encoded now unless `folder` has them."""
    paths = [folder / key / f"{clip.name}.{variant}.{stride}.{part}.npy" for part in ("latents", "masked")]
    if not all(path.exists() for path in paths):
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        for path, latents in zip(paths, _encode(clip, variant, vae, stride), strict=True):
            partial = path.with_suffix(f".{os.getpid()}.npy")
            np.save(partial, latents.numpy())
            partial.rename(path)
    return ClipLatents(*(np.load(path, mmap_mode="r") for path in paths))


@torch.no_grad()
def _encode(clip: Clip, variant: int, vae: AutoencoderKL, stride: int) -> tuple[Tensor, Tensor]:
    (colour, proportions), whole, masked = variant_look(clip, variant), [], []
    mask = mouth_mask(clip.faces.shape[1])
    for start in range(0, clip.frames, BATCH_FRAMES * stride):
        faces = torch.from_numpy(np.array(clip.faces[start : start + BATCH_FRAMES * stride : stride]))
        pixels = apply_colour(faces.permute(0, 3, 1, 2).float() / 127.5 - 1, colour)
        pixels = pixels if proportions is None else apply_proportions(pixels, proportions)
        for target, picture in ((whole, pixels), (masked, pixels * mask)):
            mean = vae.encode(picture.to(vae.device, vae.dtype)).latent_dist.mode()
            target.append((mean * vae.config.scaling_factor).float().cpu())
    return torch.cat(whole).half(), torch.cat(masked).half()
