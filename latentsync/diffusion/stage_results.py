"""What a two-stage run leaves: a model folder that dubs, the matrices of LoRA, upstream's `.pt` on request.

Each appears under its name when it is whole, in place of the one before.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ModelMixin
from torch import nn
from transformers import WhisperModel

from latentsync.diffusion.convert import write_upstream
from latentsync.diffusion.lora import merged_state, save_lora
from latentsync.diffusion.noise import released_scheduler
from latentsync.diffusion.original import UNET_FILE
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.released_config import ReleasedConfig
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.training.files import writing

PIPELINE, LORA = "pipeline", "lora"


def make_pipeline(
    unet: UNet3DConditionModel, vae: AutoencoderKL, encoder: WhisperModel, config: ReleasedConfig
) -> LipsyncPipeline:
    """The networks as one model that dubs with the steps and guidance of `config.run`."""
    pipeline = LipsyncPipeline(
        vae,
        encoder,
        unet,
        released_scheduler(),
        resolution=config.data.resolution,
        window=config.data.num_frames,
        overlap=min(4, config.data.num_frames - 1),
        inference_steps=config.run.inference_steps,
        guidance_scale=config.run.guidance_scale,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def left_as_found(*networks: ModelMixin) -> Iterator[None]:
    """Networks that are lent to a dub, which lays them out for speed, come back as they were: their dtype,
    and their memory in order (PyTorch 2.13 on a CPU dies of the gradient through a frozen GroupNorm in bf16
    whose channels come last).
    """
    dtypes = [network.dtype for network in networks]
    try:
        yield
    finally:
        for network, dtype in zip(networks, dtypes, strict=True):
            nn.Module.to(network, dtype=dtype, memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]


def save_results(pipeline: LipsyncPipeline, folder: Path, config: ReleasedConfig, step: int) -> None:
    """Write `folder`/pipeline, with LoRA in its weights where that was trained and `folder`/lora apart, and
    with `train.export_upstream` `folder`/latentsync_unet.pt.

    Raises: TrainingError when the disk is full.
    """
    unet = pipeline.unet
    if config.train.lora_rank:
        _replace(folder / LORA, lambda part: save_lora(unet, part))
        unet = without_lora(unet)
        pipeline = make_pipeline(unet, pipeline.vae, pipeline.audio_encoder, config)
    _replace(folder / PIPELINE, lambda part: pipeline.save_pretrained(part, safe_serialization=True))
    if config.train.export_upstream:
        with writing(folder / UNET_FILE):
            write_upstream(unet.upstream_state_dict(), step, folder / UNET_FILE)


def without_lora(unet: UNet3DConditionModel) -> UNet3DConditionModel:
    """A U-Net of the same effect, on the CPU, whose weights hold what LoRA added."""
    with torch.device("meta"):
        plain = UNet3DConditionModel.from_config(unet.config)
    plain.load_state_dict({name: value.cpu() for name, value in merged_state(unet).items()}, assign=True)
    return plain.eval()


def _replace(target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a folder beside `target`, then put it there."""
    part, old = (target.with_name(f"{target.name}.{ending}") for ending in ("part", "old"))
    with writing(target):
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)
        try:
            write(part)
            if target.exists():
                os.replace(target, old)
            os.replace(part, target)
        finally:
            for left in (part, old):
                shutil.rmtree(left, ignore_errors=True)
