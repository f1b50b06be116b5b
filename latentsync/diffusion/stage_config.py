"""A recipe of two-stage training, as upstream's YAML says it -> what the loop and the step take.

Numbers that this code cannot train with are refused before anything is loaded.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from latentsync.config import load_config, read_sections
from latentsync.diffusion.released_config import ReleasedConfig
from latentsync.diffusion.stages import Supervision
from latentsync.diffusion.train import TrainUNetConfig
from latentsync.errors import ConfigError
from latentsync.training import LoopConfig

FRAME_SECTIONS = {"loop", "loss", "inference"}  # of `TrainUNetConfig` alone
STAGE_SECTIONS = {"ckpt", "optimizer", "train", "weights"}  # of `ReleasedConfig` alone
FREE = ("guidance_scale", "inference_steps", "max_train_steps", "max_train_epochs")  # of `run`, when resumed
FPS, RATE_HZ, TICKS = 25, 16_000, [2, 2]


def load_recipe(path: str, overrides: list[str]) -> TrainUNetConfig | ReleasedConfig:
    """The YAML at `path`: of single frames on cached latents, or of two stages in upstream's words.

    Which it is, its sections say: `loop`, `loss` and `inference` are of the first, `ckpt`, `optimizer`,
    `train` and `weights` of the second; without any of them, `data.packed` is of the first. Raises:
    FileNotFoundError, ConfigError.
    """
    sections = read_sections(path)
    frames, stages = FRAME_SECTIONS & sections.keys(), STAGE_SECTIONS & sections.keys()
    if frames and stages:
        raise ConfigError(
            f"configuration {path} mixes two recipes: {', '.join(sorted(frames))} of single frames, "
            f"{', '.join(sorted(stages))} of two stages; see configs/unet/ for one of each"
        )
    if frames or (not stages and "packed" in sections.get("data", ())):
        if wrong := [override for override in overrides if override.startswith("train.")]:
            raise ConfigError(
                f"{', '.join(wrong)}: of two-stage training alone, and so are --lora_rank and "
                f"--export_upstream; {path} is a recipe of single frames"
            )
        return load_config(TrainUNetConfig, path, overrides)
    return load_config(ReleasedConfig, path, overrides)


def precision_of(config: ReleasedConfig, flag: str | None) -> str | None:
    """What an Accelerator is told: the command line's `flag`, else "no" where the YAML forbids anything else,
    else nothing, so that `accelerate launch` decides.
    """
    return flag or (None if config.run.mixed_precision_training else "no")


def check_stages(config: ReleasedConfig) -> None:
    """Raise ConfigError for what cannot be trained with, naming the key."""
    data, run, train, model = config.data, config.run, config.train, config.model
    given = {
        "data.video_fps": (data.video_fps, data.video_fps == FPS, "25, the rate of the footage"),
        "data.audio_sample_rate": (data.audio_sample_rate, data.audio_sample_rate == RATE_HZ, "16000"),
        "data.audio_feat_length": (data.audio_feat_length, list(data.audio_feat_length) == TICKS, "[2, 2]"),
        "data.num_frames": (data.num_frames, data.num_frames >= 1, "1 or more"),
        "data.train_output_dir": (data.train_output_dir, bool(data.train_output_dir), "the run's folder"),
        "model.add_audio_layer": (model.add_audio_layer, model.add_audio_layer, "true"),
        "train.audio_dropout": (train.audio_dropout, 0 <= train.audio_dropout < 1, "in [0, 1)"),
        "train.max_dropped_share": (
            train.max_dropped_share,
            0 <= train.max_dropped_share <= 1,
            "in [0, 1]",
        ),
        "train.lora_rank": (train.lora_rank, train.lora_rank >= 0, "0 or more"),
        "run.mixed_noise_alpha": (run.mixed_noise_alpha, run.mixed_noise_alpha >= 0, "0 or more"),
        "run.max_train_steps": (
            run.max_train_steps,
            run.max_train_steps > 0 or (run.max_train_steps == -1 and run.max_train_epochs > 0),
            "more than 0, or -1 with run.max_train_epochs more than 0",
        ),
        "model.in_channels": (
            model.in_channels,
            model.in_channels == 3 * model.out_channels + 1,
            f"{3 * model.out_channels + 1}: noisy, masked and reference latents of model.out_channels "
            f"{model.out_channels} each, and the mask",
        ),
    }
    for name in ("sync_loss_weight", "perceptual_loss_weight", "recon_loss_weight", "trepa_loss_weight"):
        weight = getattr(run, name)
        given[f"run.{name}"] = (weight, weight >= 0, "0 or more")
    for name, (value, is_right, wanted) in given.items():
        if not is_right:
            raise ConfigError(f"{name} is {value}; it must be {wanted}")
    _check_window(config)


def _check_window(config: ReleasedConfig) -> None:
    frames, most = (
        config.data.num_frames,
        config.model.motion_module_kwargs.temporal_position_encoding_max_len,
    )
    if config.model.use_motion_module and frames > most:
        raise ConfigError(
            f"data.num_frames is {frames}, but the motion modules know {most} positions "
            "(model.motion_module_kwargs.temporal_position_encoding_max_len)"
        )
    if supervision_of(config).trepa_weight and frames % 2:
        raise ConfigError(f"data.num_frames is {frames}; TREPA looks at pairs of frames: it must be even")


def supervision_of(config: ReleasedConfig) -> Supervision:
    """Weights as far as they count: those of pixels only with `pixel_space_supervise`, that of sync only with
    `use_syncnet`.
    """
    run = config.run
    sees = run.pixel_space_supervise
    return Supervision(
        recon_weight=run.recon_loss_weight,
        perceptual_weight=run.perceptual_loss_weight if sees else 0.0,
        trepa_weight=run.trepa_loss_weight if sees else 0.0,
        sync_weight=run.sync_loss_weight if run.use_syncnet else 0.0,
        audio_dropout=config.train.audio_dropout,
        mixed_noise_alpha=run.mixed_noise_alpha if run.use_mixed_noise else None,
    )


def loop_config(config: ReleasedConfig, *, samples: int, processes: int) -> LoopConfig:
    """How the loop runs over an epoch of `samples`; steps are those of `max_train_epochs` when
    `max_train_steps` is -1. Raises: ConfigError for a number out of range.
    """
    data, run, optimizer, train = config.data, config.run, config.optimizer, config.train
    steps = run.max_train_steps
    if steps == -1:
        a_step = data.batch_size * train.gradient_accumulation_steps * processes
        steps = max(1, run.max_train_epochs * samples // max(1, a_step))
    try:
        return LoopConfig(
            steps=steps,
            batch_size=data.batch_size,
            gradient_accumulation_steps=train.gradient_accumulation_steps,
            learning_rate=optimizer.lr,
            scale_lr=optimizer.scale_lr,
            lr_scheduler=optimizer.lr_scheduler,
            warmup_steps=optimizer.lr_warmup_steps,
            weight_decay=train.weight_decay,
            max_gradient_norm=optimizer.max_grad_norm,
            ema_decay=train.ema_decay,
            seed=run.seed,
            num_workers=data.num_workers,
            save_every=config.ckpt.save_ckpt_steps,
            keep_last=train.keep_last,
            validate_every=train.validate_steps,
            log_every=train.log_every,
        )
    except ValueError as error:
        raise ConfigError(_in_upstreams_words(str(error))) from error


def settings_of(config: ReleasedConfig, *, samples: int) -> Mapping[str, Any]:
    """What must be the same when a run is resumed, beside the loop's own: the network, the losses, and how
    much footage there is; no paths.
    """
    return {
        "data": {
            "num_frames": config.data.num_frames,
            "resolution": config.data.resolution,
            "clips": samples,
        },
        "run": {name: value for name, value in asdict(config.run).items() if name not in FREE},
        "model": asdict(config.model),
        "train": {"audio_dropout": config.train.audio_dropout, "lora_rank": config.train.lora_rank},
    }


OUR_NAMES: Mapping[str, str] = {
    "loop.steps": "run.max_train_steps",
    "loop.batch_size": "data.batch_size",
    "loop.learning_rate": "optimizer.lr",
    "loop.lr_scheduler": "optimizer.lr_scheduler",
    "loop.warmup_steps": "optimizer.lr_warmup_steps",
    "loop.max_gradient_norm": "optimizer.max_grad_norm",
    "loop.seed": "run.seed",
    "loop.num_workers": "data.num_workers",
    "loop.save_every": "ckpt.save_ckpt_steps",
    "loop.validate_every": "train.validate_steps",
    "loop.": "train.",  # the others
}


def _in_upstreams_words(message: str) -> str:
    """An error of `LoopConfig` with the keys of the YAML."""
    key = next(name for name in OUR_NAMES if message.startswith(name))
    return OUR_NAMES[key] + message.removeprefix(key)
