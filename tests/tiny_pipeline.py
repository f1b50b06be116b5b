"""A whole pipeline of random networks, small enough to run in a blink."""

import torch
from diffusers import AutoencoderKL

from latentsync.diffusion.articulator import Articulator
from latentsync.diffusion.noise import small_scheduler
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.refine import build_refiner
from latentsync.diffusion.train_audio import AudioConfig, build_encoder
from latentsync.diffusion.unet import UNet3DConditionModel


def make_pipeline(
    *,
    temporal: bool,
    seed: int = 0,
    resolution: int = 32,
    window: int = 8,
    overlap: int = 2,
    inference_steps: int = 2,
    guidance_scale: float = 1.5,
) -> LipsyncPipeline:
    """Frames that hear each other through motion modules when `temporal`, else frames on their own."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        scaling_factor=0.5,
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
        use_motion_module=temporal,
        use_inflated_groupnorm=not temporal,
    )
    encoder = build_encoder(AudioConfig(width=16, heads=2, layers=1, positions=32))
    pipeline = LipsyncPipeline(
        vae,
        encoder,
        unet,
        small_scheduler(),
        resolution=resolution,
        window=window,
        overlap=overlap,
        inference_steps=inference_steps,
        guidance_scale=guidance_scale,
    )
    for part in (vae, unet, encoder):
        part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def refining_parts(pipeline, *, change=0.1):
    """The parts of `pipeline` with a refiner that does something and is told something."""
    torch.manual_seed(1)
    refiner = build_refiner([8, 16], pipeline.resolution)
    torch.nn.init.normal_(refiner.conv_out.weight, std=change)
    for block in (*refiner.down_blocks, *refiner.up_blocks):
        for resnet in block.resnets:
            torch.nn.init.normal_(resnet.time_emb_proj.weight, std=0.1)
    articulator = Articulator(20, pipeline.unet.config.cross_attention_dim, hidden=8).eval()
    return {**pipeline.components, "refiner": refiner, "articulator": articulator}
