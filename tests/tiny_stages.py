"""Tiny real networks for the two-stage recipe, and batches for them."""

from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import AutoencoderKL
from tiny_auxiliary import SYNCNET, save_auxiliary
from torch import Tensor

from latentsync.diffusion.stages import FaceBatch, Teachers
from latentsync.diffusion.train_audio import AudioConfig, build_encoder
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.face.mask import mouth_mask
from latentsync.quality.lpips import Lpips
from latentsync.quality.videomae import open_videomae
from latentsync.sync import StableSyncNet

SIDE, FRAMES, STRIDE, CHANNELS = 64, 16, 4, 4
MODEL: dict[str, Any] = {  # in the words of an upstream YAML
    "in_channels": 3 * CHANNELS + 1,
    "out_channels": CHANNELS,
    "block_out_channels": [32, 32],
    "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
    "cross_attention_dim": 16,
}
LATENT_SYNCNET: dict[str, Any] = {  # 16 frames of 4 x 16 x 16 latents
    "audio_encoder": SYNCNET["audio_encoder"],
    "visual_encoder": {
        "in_channels": FRAMES * CHANNELS,
        "block_out_channels": [32, 128],
        "downsample_factors": [4, 4],
    },
}


def tiny_unet(*, motion: bool = True, seed: int = 5, **changes: Any) -> UNet3DConditionModel:
    """A U-Net in which nothing is zero at first, which would hide mistakes."""
    torch.manual_seed(seed)
    model = UNet3DConditionModel.from_upstream({**MODEL, "use_motion_module": motion, **changes})
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def tiny_vae(*, channels: int = CHANNELS, seed: int = 6, **changes: Any) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        **{
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "block_out_channels": (8, 8, 8),
            "layers_per_block": 1,
            "latent_channels": channels,
            "norm_num_groups": 4,
            "mid_block_add_attention": False,
            "scaling_factor": 0.5,
            **changes,
        }
    )


def tiny_syncnet(*, latent_space: bool = False, **made_for: Any) -> StableSyncNet:
    torch.manual_seed(24)
    model = LATENT_SYNCNET if latent_space else SYNCNET
    options = {"resolution": SIDE, "lower_half": not latent_space, "latent_space": latent_space}
    return StableSyncNet.from_upstream(model, **options | made_for)


def tiny_teachers(folder: Path, *, latent_sync: bool = False) -> Teachers:
    """All judges, from files of the real formats."""
    save_auxiliary(folder)
    return Teachers(
        vae=tiny_vae(),
        mask=mouth_mask(SIDE),
        lpips=Lpips.from_files(folder / "auxiliary/vgg16-397923af.pth", folder / "auxiliary/vgg.pth"),
        videomae=open_videomae(folder / "auxiliary/vit_g_hybrid_pt_1200e_ssv2_ft.pth"),
        syncnet=tiny_syncnet(latent_space=latent_sync),
    )


def save_stage_inputs(folder: Path, **changes: Any) -> Path:
    """All that a run needs, and `stage2.yaml` that names it, in upstream's words: packed footage of 64 px,
    autoencoder, audio encoder, and all judges. `changes` are of `write_packed`.
    """
    from footage_clips import write_packed

    write_packed(folder / "packed", **{"frames": (60, 64, 70), "side": SIDE} | changes)
    tiny_vae().save_pretrained(folder / "vae")
    torch.manual_seed(8)
    build_encoder(AudioConfig(width=16, heads=2, layers=1, positions=32)).save_pretrained(folder / "audio")
    save_auxiliary(folder)
    tiny_syncnet().save_pretrained(folder / "syncnet")
    config = {
        "data": {
            "train_data_dir": str(folder / "packed"),
            "audio_mel_cache_dir": str(folder / "cache"),
            "val_video_path": "",
            "val_audio_path": "",
            "resolution": SIDE,
            "num_workers": 0,
        },
        "run": {"trainable_modules": ["motion_modules.", "attentions."], "inference_steps": 1},
        "model": MODEL,
        "optimizer": {"lr": 2e-3},
        "train": {"log_every": 1, "ema_decay": 0.5},
        "weights": {
            "vae": str(folder / "vae"),
            "audio_encoder": str(folder / "audio"),
            "vgg16": str(folder / "auxiliary/vgg16-397923af.pth"),
            "lpips": str(folder / "auxiliary/vgg.pth"),
            "videomae": str(folder / "auxiliary/vit_g_hybrid_pt_1200e_ssv2_ft.pth"),
            "syncnet": str(folder / "syncnet"),
        },
    }
    path = folder / "stage2.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


STAGE_1 = (  # what makes of it the first stage
    "run.pixel_space_supervise=false",
    "run.use_syncnet=false",
    "run.trainable_modules=[]",
    "model.use_motion_module=false",
)


def random_batch(seed: int = 0, *, clips: int = 2, frames: int = FRAMES) -> FaceBatch:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(clips, *shape, generator=generator) * 2 - 1

    faces = draw(frames, 3, SIDE, SIDE), draw(frames, 3, SIDE, SIDE)
    return FaceBatch(*faces, tokens=draw(frames, 5, 16), mel=4 * draw(1, 80, 52))
