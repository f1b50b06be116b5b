"""A tiny random pipeline in a folder, and short clips of the public-domain portrait and of nobody."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from dubbing_clips import empty, portrait, write_clip, write_sound

from latentsync.diffusion.noise import small_scheduler
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.train_audio import AudioConfig, build_encoder
from latentsync.diffusion.unet import UNet3DConditionModel


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A pipeline folder of random weights."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    unet = UNet3DConditionModel(
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        num_attention_heads=4,
        motion_num_attention_heads=4,
    )
    encoder = build_encoder(AudioConfig(width=16, heads=2, layers=1, positions=32))
    pipeline = LipsyncPipeline(
        vae,
        encoder,
        unet,
        small_scheduler(),
        resolution=64,
        window=8,
        overlap=2,
        inference_steps=1,
        guidance_scale=1.0,
    )
    folder = tmp_path_factory.mktemp("model")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Folder with `face.mp4` (12 frames at 25 fps), `nobody.mp4` and `speech.wav` (0.4 s)."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "face.mp4", [portrait(index / 4) for index in range(12)])
    write_clip(folder / "nobody.mp4", [empty()] * 8)
    write_sound(folder / "speech.wav", 0.4)
    return folder
