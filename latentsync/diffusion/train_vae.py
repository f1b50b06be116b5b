"""Trains the autoencoder of a small model: faces -> latents -> faces, on random crops of packed clips.

`B` batch, `R` resolution; pixels are RGB in [-1, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from latentsync.diffusion.augment import apply_colour, draw_colour
from latentsync.diffusion.dataset import Clip, ClipSampler, load_clips, step_rng
from latentsync.training import LoopConfig, Losses, drawn_batches, fit, record_config, save_once

MOUTH_ROW, MOUTH_COLUMN = 0.60, 0.50  # where the mouth lies in an aligned face, as a share of its size


@dataclass(frozen=True)
class VaeConfig:
    """Shape of the AutoencoderKL; the number of levels gives the stride 2^(levels - 1)."""

    block_out_channels: list[int] = field(default_factory=lambda: [24, 48, 96, 128])
    latent_channels: int = 16
    layers_per_block: int = 1
    norm_num_groups: int = 8


@dataclass(frozen=True)
class TrainVaeConfig:
    data: str = "???"
    output: str = "???"
    crop: int = 64
    mouth_share: float = 0.6
    kl_weight: float = 1e-6
    gradient_weight: float = 0.5
    blur_weight: float = 0.5
    model: VaeConfig = field(default_factory=VaeConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


def build_vae(config: VaeConfig, resolution: int) -> AutoencoderKL:
    """An AutoencoderKL with plain convolutional levels and no attention."""
    levels = len(config.block_out_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(config.block_out_channels),
        latent_channels=config.latent_channels,
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_num_groups,
        mid_block_add_attention=False,
        sample_size=resolution,
        scaling_factor=1.0,
    )


def random_crops(
    clips: list[Clip], sampler: ClipSampler, rng: np.random.Generator, config: TrainVaeConfig
) -> Tensor:
    """A batch (B, 3, crop, crop) of coloured pieces of faces, more of them near the mouth."""
    crops = []
    for index in sampler.draw(config.loop.batch_size, rng):
        clip = clips[index]
        face = (
            torch.from_numpy(clip.faces[rng.integers(clip.frames)].copy()).permute(2, 0, 1).float() / 127.5
            - 1
        )
        size = face.shape[-1]
        cut = int(np.clip(round(config.crop * rng.uniform(0.75, 1.4)), 16, size))
        if rng.random() < config.mouth_share:
            top = round(MOUTH_ROW * size - cut / 2 + rng.normal(0, size / 16))
            left = round(MOUTH_COLUMN * size - cut / 2 + rng.normal(0, size / 10))
        else:
            top, left = rng.integers(0, size - cut + 1, 2)
        top, left = int(np.clip(top, 0, size - cut)), int(np.clip(left, 0, size - cut))
        piece = face[None, :, top : top + cut, left : left + cut]
        piece = F.interpolate(
            piece, (config.crop, config.crop), mode="bicubic", antialias=True, align_corners=False
        )[0]
        crops.append(apply_colour(piece.clamp(-1, 1), draw_colour(rng)))
    return torch.stack(crops)


class Restored(NamedTuple):
    """`pixels` (B, 3, R, R) after a sample of the posterior, whose mean and log variance are `moments`
    (B, 2 C, h, w).
    """

    pixels: Tensor
    moments: Tensor


class Restorer(nn.Module):
    """The autoencoder as one call: what lies around a model (DistributedDataParallel) sees `forward` only."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor) -> Restored:
        posterior = self.vae.encode(pixels).latent_dist
        return Restored(self.vae.decode(posterior.sample()).sample, posterior.parameters)


def reconstruction_losses(restorer: nn.Module, pixels: Tensor, config: TrainVaeConfig) -> Losses:
    """L1 of pixels, of their gradients and of their 4x4 means, and the KL divergence."""
    restored, moments = restorer(pixels)
    restored, posterior = restored.float(), DiagonalGaussianDistribution(moments)
    l1 = (restored - pixels).abs().mean()
    gradient = (restored.diff(dim=-1) - pixels.diff(dim=-1)).abs().mean()
    gradient = gradient + (restored.diff(dim=-2) - pixels.diff(dim=-2)).abs().mean()
    blur = (F.avg_pool2d(restored, 4) - F.avg_pool2d(pixels, 4)).abs().mean()
    kl = posterior.kl().mean()
    loss = l1 + config.gradient_weight * gradient + config.blur_weight * blur + config.kl_weight * kl
    return {"loss": loss, "l1": l1, "gradient": gradient, "blur": blur, "kl": kl}


@torch.no_grad()
def psnr(vae: AutoencoderKL, clips: list[Clip], frames_per_clip: int = 4) -> Mapping[str, float]:
    """PSNR in dB over [0, 1] of whole faces and of the mouth region (1/4 of the rows around it)."""
    whole, mouth = [], []
    for clip in clips:
        picked = np.linspace(0, clip.frames - 1, frames_per_clip).astype(int)
        pixels = torch.from_numpy(clip.faces[picked].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
        pixels = pixels.to(vae.device)
        error = (
            (vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1) - pixels) / 2
        ).square()
        size = pixels.shape[-1]
        rows = slice(int((MOUTH_ROW - 0.13) * size), int((MOUTH_ROW + 0.13) * size))
        columns = slice(int((MOUTH_COLUMN - 0.25) * size), int((MOUTH_COLUMN + 0.25) * size))
        whole.append(float(error.mean()))
        mouth.append(float(error[..., rows, columns].mean()))
    return {"psnr": float(-10 * np.log10(whole).mean()), "psnr_mouth": float(-10 * np.log10(mouth).mean())}


def train_vae(config: TrainVaeConfig, accelerator: Accelerator) -> AutoencoderKL:
    """Train, set the scaling factor to 1 / std of the latents, save to `config.output`."""
    clips, held_back = load_clips(config.data, "train"), load_clips(config.data, "val")
    sampler, folder = ClipSampler(clips), Path(config.output)
    torch.manual_seed(config.loop.seed)
    vae = build_vae(config.model, clips[0].faces.shape[1])
    record_config(config, folder, accelerator)

    def draw(number: int) -> Tensor:
        return random_crops(clips, sampler, step_rng(config.loop.seed, number), config)

    def step(model: nn.Module, pixels: Tensor, number: int) -> Losses:
        with accelerator.autocast():
            return reconstruction_losses(model, pixels, config)

    fit(
        Restorer(vae),
        drawn_batches(draw, accelerator),
        step,
        config.loop,
        folder,
        accelerator,
        validate=lambda model, _: psnr(model.vae, held_back),
        settings={**vars(config), "data": None, "output": None},
    )
    vae.register_to_config(scaling_factor=1.0 / _latent_std(vae, clips))
    with save_once(accelerator) as is_writer:
        if is_writer:
            vae.save_pretrained(folder / "vae")
    return vae


@torch.no_grad()
def _latent_std(vae: AutoencoderKL, clips: list[Clip]) -> float:
    faces = np.stack([clip.faces[clip.frames // 2] for clip in clips[:: max(1, len(clips) // 32)]])
    pixels = torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 127.5 - 1
    return float(vae.encode(pixels.to(vae.device)).latent_dist.mode().std())
