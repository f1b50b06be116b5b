"""One training step of the full recipe, as a function: networks and a batch in, named losses out.

Stage 1 learns to denoise frames; stage 2 adds motion modules, and losses on the picture that the prediction
implies: LPIPS on the lower half, TREPA on the clip, sync with the sound. `B` clips, `F` frames, `R` side of a
face, `C h w` latents, `N D` audio tokens of a frame, `T` mel columns. Source: scripts/train_unet.py of
bytedance/LatentSync (arXiv 2412.09262); audio dropout is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler
from einops import rearrange
from torch import Tensor, nn

from latentsync.diffusion.losses import predicted_latents
from latentsync.diffusion.noise import released_scheduler, training_noise
from latentsync.diffusion.sync_loss import sync_losses
from latentsync.diffusion.trepa import trepa_loss
from latentsync.face.mask import latent_mask
from latentsync.quality.lpips import Lpips
from latentsync.quality.videomae import VideoMAE
from latentsync.sync.stable_syncnet import StableSyncNet

Network = TypeVar("Network", bound=nn.Module)


class FaceBatch(NamedTuple):
    """Windows of clips: `faces` and `reference` (B, F, 3, R, R) in [-1, 1], `tokens` (B, F, N, D), `mel` (B,
    1, 80, T).
    """

    faces: Tensor
    reference: Tensor
    tokens: Tensor
    mel: Tensor


@dataclass(frozen=True)
class Supervision:
    """Weights of the losses, 0 to leave one out, and what the denoiser is given.

    `audio_dropout`: share of clips that hear nothing, so that guidance has something to subtract; upstream
    has none. `mixed_noise_alpha`: see `training_noise`.
    """

    recon_weight: float = 1.0
    perceptual_weight: float = 0.0
    trepa_weight: float = 0.0
    sync_weight: float = 0.0
    audio_dropout: float = 0.1
    mixed_noise_alpha: float | None = 1.0


@dataclass(frozen=True)
class Teachers:
    """What a step knows beside the network that learns: the mouth mask (1, R, R), when noise is how strong,
    and the frozen networks that the losses ask, of which only the autoencoder is always needed.
    """

    vae: AutoencoderKL
    mask: Tensor
    scheduler: DDIMScheduler = field(default_factory=released_scheduler)
    lpips: Lpips | None = None
    videomae: VideoMAE | None = None
    syncnet: StableSyncNet | None = None

    def __post_init__(self) -> None:
        for network in (self.vae, self.lpips, self.videomae, self.syncnet):
            if network is not None:
                network.eval().requires_grad_(False)

    def to(self, device: torch.device, dtype: torch.dtype) -> "Teachers":
        """The same on `device`; networks compute in `dtype`, all but LPIPS, whose differences are small."""
        for network in (self.vae, self.videomae, self.syncnet):
            if network is not None:
                nn.Module.to(network, device, dtype)
        if self.lpips is not None:
            self.lpips.to(device, torch.float32)
        return replace(self, mask=self.mask.to(device))

    @property
    def stride(self) -> int:
        """Pixels a latent pixel, each way."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)


class Encoded(NamedTuple):
    """Latents (B, C, F, h, w) float32 of faces, of faces whose mouth is hidden, and of the reference."""

    clean: Tensor
    masked: Tensor
    reference: Tensor


def stage_losses(
    unet: nn.Module,
    batch: FaceBatch,
    teachers: Teachers,
    supervision: Supervision,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Scalars: "loss", the weighted sum, and before their weights "recon" (mean squared error of the noise),
    "lpips", "trepa" and "sync", as far as their weights are not 0.

    What is random comes from `generator`, None for torch's global one. The gradient reaches `unet` alone.
    """
    B, frames = batch.faces.shape[:2]
    scheduler = teachers.scheduler
    encoded = encode_faces(teachers.vae, batch, teachers.mask, generator)
    noise = training_noise(encoded.clean, mixed_alpha=supervision.mixed_noise_alpha, generator=generator)
    steps = int(scheduler.config.num_train_timesteps)
    timesteps = (_uniform(B, noise, generator) * steps).long()  # one a clip, for all its frames
    noisy = scheduler.add_noise(encoded.clean, noise, timesteps)
    hears = _uniform(B, noise, generator) >= supervision.audio_dropout
    hole = latent_mask(teachers.mask, teachers.stride).expand(B, 1, frames, -1, -1)
    seen = torch.cat([noisy, hole, encoded.masked, encoded.reference], dim=1)
    prediction = unet(seen, timesteps, batch.tokens * hears.view(B, 1, 1, 1)).sample.float()
    losses = {"recon": F.mse_loss(prediction, noise)}
    alpha_bar = scheduler.alphas_cumprod.to(noisy)[timesteps].view(B, 1, 1, 1, 1)
    clean = predicted_latents(noisy, prediction, alpha_bar, "epsilon")
    losses |= drawn_losses(clean, batch, hears, teachers, supervision)
    return {"loss": weighted_sum(losses, supervision), **losses}


def drawn_losses(
    clean: Tensor, batch: FaceBatch, hears: Tensor, teachers: Teachers, supervision: Supervision
) -> dict[str, Tensor]:
    """What the judges say of the picture that latents `clean` (B, C, F, h, w) stand for; decoded only when
    one of them looks at pixels. `hears` (B,): which clips were given their sound.
    """
    losses: dict[str, Tensor] = {}
    syncnet = _needed(teachers.syncnet, "SyncNet") if supervision.sync_weight else None
    in_latents = syncnet is not None and syncnet.config.latent_space
    looks = supervision.perceptual_weight or supervision.trepa_weight or (syncnet and not in_latents)
    drawn = decode_latents(teachers.vae, clean) if looks else clean
    if supervision.perceptual_weight:
        pair = (lower_half(pixels).flatten(0, 1) for pixels in (drawn, batch.faces))
        losses["lpips"] = _needed(teachers.lpips, "LPIPS")(*pair).mean()
    if supervision.trepa_weight:
        clips = (pixels.transpose(1, 2) for pixels in (drawn, batch.faces))
        losses["trepa"] = trepa_loss(_needed(teachers.videomae, "VideoMAE"), *clips)
    if syncnet is not None:
        told = sync_losses(syncnet, clean.transpose(1, 2) if in_latents else drawn, batch.mel)
        losses["sync"] = (told * hears).sum() / hears.sum().clamp(min=1)  # who hears nothing cannot know
    return losses


def weighted_sum(losses: Mapping[str, Tensor], supervision: Supervision) -> Tensor:
    """The loss that is minimised."""
    weights = {
        "recon": supervision.recon_weight,
        "lpips": supervision.perceptual_weight,
        "trepa": supervision.trepa_weight,
        "sync": supervision.sync_weight,
    }
    return torch.stack([weights[name] * value for name, value in losses.items()]).sum()


@torch.no_grad()
def encode_faces(
    vae: AutoencoderKL, batch: FaceBatch, mask: Tensor, generator: torch.Generator | None = None
) -> Encoded:
    """Samples of the posteriors of a batch; `mask` (1, R, R), 0 where the mouth is hidden."""
    pictures = (batch.faces, batch.faces * mask, batch.reference)
    shift = _shift(vae)
    latents = []
    for pixels in pictures:
        posterior = vae.encode(pixels.flatten(0, 1).to(vae.dtype)).latent_dist
        sample = (posterior.sample(generator).float() - shift) * vae.config.scaling_factor
        latents.append(rearrange(sample, "(b f) c h w -> b c f h w", b=len(pixels)))
    return Encoded(*latents)


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pixels (B, F, 3, R, R) float32 of latents (B, C, F, h, w), not clamped, with their gradient."""
    frames = rearrange(latents, "b c f h w -> (b f) c h w") / vae.config.scaling_factor + _shift(vae)
    return vae.decode(frames.to(vae.dtype)).sample.float().unflatten(0, (len(latents), -1))


def lower_half(pixels: Tensor) -> Tensor:
    """The rows from the middle on, where the mouth is, of (..., R, R)."""
    return pixels[..., pixels.shape[-2] // 2 :, :]


def _needed(network: Network | None, name: str) -> Network:
    if network is None:
        raise ValueError(f"the weight of its loss is not 0, but there is no {name}")
    return network


def _uniform(count: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Numbers (count,) in [0, 1), drawn where the generator is and moved to where `like` is."""
    device = like.device if generator is None else generator.device
    return torch.rand(count, generator=generator, device=device).to(like.device)


def _shift(vae: AutoencoderKL) -> float:
    return float(getattr(vae.config, "shift_factor", None) or 0.0)
