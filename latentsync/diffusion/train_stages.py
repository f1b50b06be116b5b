"""Trains the full U-Net, stage 1 or 2, or LoRA on it, from footage and frozen networks: build, loop, save."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import diffusers.utils.logging
import transformers.utils.logging
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from latentsync.device import pick_dtype
from latentsync.diffusion.initial_unet import initial_unet, select_trainable
from latentsync.diffusion.lora import add_lora
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.released_config import ReleasedConfig
from latentsync.diffusion.stage_config import check_stages, loop_config, settings_of, supervision_of
from latentsync.diffusion.stage_footage import collate, open_footage
from latentsync.diffusion.stage_parts import find_files, open_audio_encoder, open_stage_vae, open_teachers
from latentsync.diffusion.stage_results import PIPELINE, left_as_found, make_pipeline, save_results
from latentsync.diffusion.stages import FaceBatch, stage_losses
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.training import Losses, fit, keyed_batches, newest_checkpoint, record_config, save_once

Validation = Callable[[LipsyncPipeline, int], Mapping[str, float]]  # (model, step) -> numbers for the log
DTYPES = {"fp16": "float16", "bf16": "bfloat16", "no": "float32"}  # of frozen networks

logger = logging.getLogger(__name__)


def train_stages(
    config: ReleasedConfig, accelerator: Accelerator, *, validation: Validation | None = None
) -> Path:
    """Train as `config` says, in `data.train_output_dir`, going on from its newest checkpoint; gives the
    folder of the model.

    At each validation, and at the end, the averaged weights are written there, and `validation` is called.
    Raises: ConfigError, CheckpointError (with every file that is missing), FileNotFoundError, FootageError,
    ImportError (LoRA without PEFT) before the first step; then what `fit` raises.
    """
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    check_stages(config)
    loop_config(config, samples=1, processes=1)
    folder = Path(config.data.train_output_dir)
    is_new = newest_checkpoint(folder) is None
    files = find_files(config, with_initial=is_new)
    encoder = open_audio_encoder(files.audio_encoder, config.model.cross_attention_dim)
    vae, frozen = (open_stage_vae(files.vae, config) for _ in range(2))  # to be written, to be asked
    dtype = pick_dtype(DTYPES[accelerator.mixed_precision], accelerator.device)
    teachers = open_teachers(config, files, frozen).to(accelerator.device, dtype)
    unet = build_unet(config, files.initial)
    dataset = open_footage(config, encoder, folder, accelerator)
    loop = loop_config(config, samples=len(dataset), processes=accelerator.num_processes)
    record_config(config, folder, accelerator)
    supervision, written = supervision_of(config), set()

    def step(model: nn.Module, batch: FaceBatch, number: int) -> Losses:
        return stage_losses(model, batch, teachers, supervision)

    def write(done: int) -> None:
        save_results(make_pipeline(unet, vae, encoder, config), folder, config, done)
        written.add(done)

    def validate(model: nn.Module, done: int) -> Mapping[str, float]:
        write(done)
        if validation is None:
            return {}
        with left_as_found(unet, frozen):
            return validation(make_pipeline(unet, frozen, encoder, config), done)

    fit(
        unet,
        keyed_batches(dataset, loop, accelerator, collate),
        step,
        loop,
        folder,
        accelerator,
        validate=validate,
        settings=settings_of(config, samples=len(dataset)),
    )
    if accelerator.distributed_type == DistributedType.FSDP:
        logger.warning("no process holds the whole network: no model folder is written, only checkpoints")
        return folder
    with save_once(accelerator) as is_writer:
        if is_writer and loop.steps not in written:
            write(loop.steps)
    return folder / PIPELINE


def build_unet(config: ReleasedConfig, initial: Path | None) -> UNet3DConditionModel:
    """The network with its first weights, and with those marked that learn.

    Raises: ConfigError, CheckpointError, ImportError.
    """
    unet = initial_unet(config, initial)
    if config.run.enable_gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if config.train.lora_rank:
        add_lora(unet, config.train.lora_rank, within=config.run.trainable_modules)
    else:
        select_trainable(unet, config.run.trainable_modules)
    trained = sum(parameter.numel() for parameter in unet.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in unet.parameters())
    logger.info("%.1f of %.1f million weights are trained", trained / 1e6, total / 1e6)
    return unet
