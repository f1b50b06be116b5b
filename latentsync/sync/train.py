"""Trains a SyncNet: footage -> windows of lips and sound -> a network that says which belong together.

`B` windows, `K` windows of a clip, `F` frames, `R` side of a face. Two ways of teaching: upstream's, pairs
with a label (`windows_per_clip` 1), and windows of clips that are wrong answers to each other, gathered from
all processes. Source: bytedance/LatentSync (arXiv 2412.09262).
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.utils.data import default_collate

from latentsync.errors import ConfigError
from latentsync.footage.content import ContentKeys
from latentsync.footage.features import FeatureCache, SyncNetMel
from latentsync.footage.listing import INDEX, ClipFile, find_clips, packed_clips
from latentsync.footage.survey import KnownClip, Rules, Surveyor
from latentsync.footage.sync_windows import ClipWindows, SyncWindows, balanced, sync_min_frames
from latentsync.sync.accuracy import measure_accuracy
from latentsync.sync.augment import augment_faces, augment_mel
from latentsync.sync.losses import pair_loss, window_losses
from latentsync.sync.open_syncnet import SyncNetwork, load_weights
from latentsync.sync.stable_syncnet import StableSyncNet
from latentsync.sync.standstill import OverfitReport, causes_of_standstill, overfit, sampled_report
from latentsync.sync.syncnet_config import SyncNetConfig
from latentsync.training import (
    LoopConfig,
    Losses,
    alarm_when_stuck,
    fit,
    keyed_batches,
    read_log,
    record_config,
    save_once,
)

ENCODED_AT_ONCE = 64  # frames
OVERFIT_PAIRS = 32
QUESTIONS = 1  # the seed of what is asked
STUCK_WITHIN = 0.01  # of ln 2
BEST, RESULT, LOG, ALARM = "best", "syncnet", "log.jsonl", "alarm.txt"
CHOSEN_BY = "val_roc_auc"  # needs no threshold, so that it is less of a lottery than accuracy
PLACES = (  # a run may move to another disk
    "train_output_dir",
    "train_fileslist",
    "train_data_dir",
    "val_fileslist",
    "val_data_dir",
    "audio_mel_cache_dir",
    "vae_path",
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SyncFootage:
    """What a network learns from, and what it is asked about (None: nothing was held back)."""

    training: SyncWindows | ClipWindows
    validation: SyncWindows | None
    clips: tuple[KnownClip, ...]


class Library:
    """Clips that serve for a configuration, their sound turned into mel, and windows of them."""

    def __init__(self, config: SyncNetConfig) -> None:
        data = config.data
        self.config, cache = config, data.audio_mel_cache_dir or Path(data.train_output_dir) / "cache"
        keys = ContentKeys(cache)
        self.survey, self.mel = Surveyor(cache, keys), FeatureCache(cache, SyncNetMel(), keys)
        self.shapes = {
            "resolution": data.resolution,
            "frames": data.num_frames,
            "lower_half": data.lower_half,
            "allow_upscale": data.allow_upscale,
        }

    def select(
        self, files: list[ClipFile], shift: int, windows: int = 1, *, frames: int | None = None
    ) -> tuple[KnownClip, ...]:
        """Those of `files` in which so many windows lie so far apart. Raises: FootageError."""
        data = self.config.data
        least = sync_min_frames(frames or data.num_frames, shift, windows)
        rules = Rules(least, max_dropped_share=data.max_dropped_share)
        kept = self.survey.select(files, rules).kept
        self.mel.fill(clip.file for clip in kept)
        return kept

    def windows_to_ask(self, files: list[ClipFile], *, frames: int | None = None) -> SyncWindows:
        """Pairs for validation, the same ones for every network and seed; of so many `frames`, by default as
        many as the network sees.
        """
        data = self.config.data
        frames = data.num_frames if frames is None else frames
        shift = data.val_min_shift_frames or data.min_shift_frames
        shapes: dict[str, Any] = {**self.shapes, "frames": frames}
        return SyncWindows(
            self.select(files, shift, frames=frames),
            self.mel,
            min_shift_frames=shift,
            other_clip_share=data.other_clip_share,
            seed=QUESTIONS,
            **shapes,
        )

    def windows_to_learn(self, clips: tuple[KnownClip, ...]) -> SyncWindows | ClipWindows:
        """Pairs, or with `windows_per_clip` above 1 windows of clips."""
        data = self.config.data
        drawn = {"min_shift_frames": data.min_shift_frames, "seed": self.config.run.seed, **self.shapes}
        shown = balanced(clips, data.speaker_power)
        if data.windows_per_clip > 1:
            return ClipWindows(shown, self.mel, windows=data.windows_per_clip, **drawn)
        return SyncWindows(shown, self.mel, other_clip_share=data.other_clip_share, **drawn)


def open_footage(config: SyncNetConfig) -> SyncFootage:
    """The footage that a configuration names. Raises: FileNotFoundError, FootageError."""
    data, library = config.data, Library(config)
    files = find_clips(data.train_fileslist, data.train_data_dir)
    clips = library.select(files, data.min_shift_frames, data.windows_per_clip)
    held_back = held_back_clips(config)
    asked = library.windows_to_ask(held_back) if held_back else None
    return SyncFootage(library.windows_to_learn(clips), asked, clips)


def held_back_clips(config: SyncNetConfig) -> list[ClipFile]:
    """The clips for validation: those that are named, else the split "val" of packed training footage."""
    data = config.data
    if data.val_fileslist or data.val_data_dir:
        return find_clips(data.val_fileslist, data.val_data_dir, split="val")
    if not data.train_fileslist and (Path(data.train_data_dir) / INDEX).is_file():
        return [clip for clip in packed_clips(data.train_data_dir) if clip.split == "val"]
    return []


class Viewer:
    """Faces of a batch as the network takes them, on `device`: pixels, or latents of a `vae`.

    Raises: ValueError for a network of latents without a `vae`.
    """

    def __init__(self, config: SyncNetConfig, device: torch.device, vae: AutoencoderKL | None) -> None:
        if config.data.latent_space and vae is None:
            raise ValueError("a SyncNet of latents needs an autoencoder: set data.vae_path")
        self.device = device
        self.vae = vae if config.data.latent_space else None
        if self.vae is not None:
            self.vae.to(device).eval().requires_grad_(False)  # pyright: ignore[reportArgumentType]

    def __call__(self, faces: Tensor) -> Tensor:
        """(B, F*C, H, W) of faces (B, 3 F, H, W) in [-1, 1]."""
        faces = faces.to(self.device, non_blocking=True)
        return faces if self.vae is None else self._encoded(self.vae, faces)

    @torch.no_grad()
    def _encoded(self, vae: AutoencoderKL, faces: Tensor) -> Tensor:
        pictures = faces.unflatten(1, (-1, 3)).flatten(0, 1).to(vae.dtype)
        parts = [vae.encode(part).latent_dist.sample() for part in pictures.split(ENCODED_AT_ONCE)]  # pyright: ignore[reportAttributeAccessIssue]
        latents = torch.cat(parts).float() * vae.config.scaling_factor
        return latents.unflatten(0, (len(faces), -1)).flatten(1, 2)


def sync_losses(
    model: nn.Module,
    batch: Mapping[str, Any],
    config: SyncNetConfig,
    see: Callable[[Tensor], Tensor],
    accelerator: Accelerator,
) -> Losses:
    """Losses of a batch of `SyncWindows` or `ClipWindows`; "bce" is ln 2 for a network that knows nothing."""
    data, run = config.data, config.run
    in_groups = "clip_number" in batch
    faces, mel = (batch[name].flatten(0, 1) if in_groups else batch[name] for name in ("faces", "mel"))
    if data.augment:
        faces, mel = augment_faces(faces), augment_mel(mel)
    with accelerator.autocast():
        vision, audio = model(see(faces), mel)
    if not in_groups:
        bce = pair_loss(vision, audio, batch["label"])
        return {"loss": bce, "bce": bce}
    clips = batch["clip_number"].repeat_interleave(data.windows_per_clip)
    losses = window_losses(
        vision, audio, clips, temperature=run.temperature, other_clip_share=data.other_clip_share
    )
    return {"loss": losses["bce"] + run.contrastive_weight * losses["contrastive"], **losses}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Tensors alone, stacked: names do not travel to the device."""
    return default_collate(
        [{name: value for name, value in sample.items() if isinstance(value, Tensor)} for sample in samples]
    )


def loop_config(config: SyncNetConfig) -> LoopConfig:
    """The loop's settings out of an upstream YAML. Raises: ConfigError for a number out of range."""
    data, run, optimizer = config.data, config.run, config.optimizer
    try:
        return LoopConfig(
            steps=run.max_train_steps,
            batch_size=data.batch_size,
            gradient_accumulation_steps=data.gradient_accumulation_steps,
            learning_rate=optimizer.lr,
            scale_lr=optimizer.scale_lr,
            lr_scheduler=optimizer.lr_scheduler,
            warmup_steps=optimizer.lr_warmup_steps,
            weight_decay=optimizer.weight_decay,
            max_gradient_norm=optimizer.max_grad_norm,
            ema_decay=run.ema_decay,
            seed=run.seed,
            num_workers=data.num_workers,
            save_every=config.ckpt.save_ckpt_steps,
            keep_last=run.keep_last,
            validate_every=run.validation_steps,
            log_every=run.log_every,
        )
    except ValueError as error:
        raise ConfigError(f"the configuration of the run: {error}") from error


def build(config: SyncNetConfig) -> SyncNetwork:
    """The network that a run starts with: new, or of `ckpt.resume_ckpt_path` (weights alone)."""
    torch.manual_seed(config.run.seed)
    network = config.build()
    if config.ckpt.resume_ckpt_path:
        load_weights(network, config.ckpt.resume_ckpt_path)
    return network


def train_syncnet(
    config: SyncNetConfig, accelerator: Accelerator, *, vae: AutoencoderKL | None = None
) -> SyncNetwork:
    """Train; save the network that answers best on the footage held back, else the last, in
    `train_output_dir`/syncnet.

    A loss that stays at ln 2 raises an alarm: causes are measured, logged and written to alarm.txt. Raises:
    ConfigError, FootageError, CheckpointError, TrainingError, TrainingStopped.
    """
    folder = Path(config.data.train_output_dir)
    see = Viewer(config, accelerator.device, vae)
    with accelerator.main_process_first():  # the others read what it has cached
        footage = open_footage(config)
    network = build(config)
    if isinstance(network, StableSyncNet) and config.run.enable_gradient_checkpointing:
        network.enable_gradient_checkpointing()
    record_config(config, folder, accelerator)
    loop = loop_config(config)
    batches = keyed_batches(footage.training, loop, accelerator, collate)

    def validate(model: nn.Module, step: int) -> Mapping[str, float]:
        if footage.validation is None:
            return {}
        rows = read_log(folder / LOG)
        numbers = measure_accuracy(
            model,
            footage.validation,
            samples=config.data.num_val_samples,
            batch_size=min(config.data.batch_size * config.data.windows_per_clip, 64),
            see=see,
        ).numbers()
        if numbers[CHOSEN_BY] > max((row.get(CHOSEN_BY, -math.inf) for row in rows), default=-math.inf):
            model.save_pretrained(folder / BEST)  # pyright: ignore[reportCallIssue]
        return numbers

    def alarm(step: int, value: float) -> None:
        if not accelerator.is_main_process:
            return
        batch = next(batches(step))
        faces, mel = (batch[name].reshape(-1, *batch[name].shape[-3:]) for name in ("faces", "mel"))
        causes = causes_of_standstill(
            network,
            lambda: network(see(faces), mel),
            windows_a_step=windows_a_step(config, accelerator.num_processes),
            learning_rate=config.optimizer.lr,
            footage=sampled_report([clip.file for clip in footage.clips], folder / "cache"),
        )
        stood = f"step {step}: the loss has stayed at {value:.3f} (ln 2) for {config.run.alarm_steps} steps"
        text = "; ".join([stood, *causes])
        logger.warning(text)
        (folder / ALARM).write_text(text + "\n", encoding="utf-8")

    watch = alarm_when_stuck(
        "bce", near=math.log(2), tolerance=STUCK_WITHIN, steps=config.run.alarm_steps, alarm=alarm
    )
    fit(
        network,
        batches,
        lambda model, batch, _: sync_losses(model, batch, config, see, accelerator),
        loop,
        folder,
        accelerator,
        validate=validate if footage.validation else None,
        settings=_settings(config),
        on_log=watch if config.run.alarm_steps else None,
    )
    with save_once(accelerator) as is_writer:
        if is_writer:
            if (folder / BEST).is_dir():
                load_weights(network, folder / BEST)
            network.save_pretrained(folder / RESULT)
    return network.eval()


def overfit_one_batch(
    config: SyncNetConfig, accelerator: Accelerator, *, vae: AutoencoderKL | None = None
) -> OverfitReport:
    """Whether the network can learn one batch by heart: at most 32 pairs, half of them in sync."""
    see = Viewer(config, accelerator.device, vae)
    count = min(OVERFIT_PAIRS, config.data.batch_size * config.data.windows_per_clip)
    paired = replace(config, data=replace(config.data, windows_per_clip=1))
    batch = send_to_device(balanced_batch(open_footage(paired).training, count), accelerator.device)
    return overfit(build(config).to(accelerator.device), see(batch["faces"]), batch)


def balanced_batch(windows: SyncWindows | ClipWindows, count: int) -> dict[str, Tensor]:
    """The first samples of `windows`: `count` // 2 with label 1, as many with label 0."""
    chosen: dict[float, list[dict[str, Any]]] = {0.0: [], 1.0: []}
    half = max(1, count // 2)
    number = 0
    while any(len(samples) < half for samples in chosen.values()):
        sample = windows[divmod(number, len(windows))]
        same = chosen[float(sample["label"])]
        if len(same) < half:
            same.append(sample)
        number += 1
    return collate([*chosen[1.0], *chosen[0.0]])


def windows_a_step(config: SyncNetConfig, processes: int) -> int:
    """Windows of lips and sound that one update of the weights learns from."""
    data = config.data
    return data.batch_size * data.windows_per_clip * data.gradient_accumulation_steps * processes


def _settings(config: SyncNetConfig) -> Mapping[str, Any]:
    """What must be the same when a run goes on, beside the loop's own settings."""
    looped = {"max_train_steps", "validation_steps", "log_every", "keep_last", "alarm_steps"}
    left = {*PLACES, "batch_size", "gradient_accumulation_steps", "num_workers", "num_val_samples"}
    data = {name: value for name, value in asdict(config.data).items() if name not in left}
    run = {name: value for name, value in asdict(config.run).items() if name not in looped}
    return {"model": config.model, "data": data, "run": run}
