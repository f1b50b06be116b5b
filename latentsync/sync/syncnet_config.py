"""The YAML of a SyncNet, field by field as upstream names them, so that a user's own file loads unchanged.

Sections `model`, `data`, `ckpt`, `optimizer`, `run` of bytedance/LatentSync's configs/syncnet/*.yaml;
defaults are those of the released network (syncnet_16_pixel_attn). What upstream does not know is ours, and
its default leaves training as upstream's.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from latentsync.sync.stable_syncnet import StableSyncNet
from latentsync.sync.wav2lip_syncnet import Wav2LipSyncNet


@dataclass(frozen=True)
class SyncNetDataConfig:
    """Footage and faces. Paths are of training only; a list of files wins over a folder.

    Ours: without footage for validation, the split "val" of a packed `train_data_dir` serves. `vae_path` is
    the autoencoder of a network of latents. `windows_per_clip` K above 1 teaches with K windows of a clip at
    a time, each of which is a wrong answer to the others (`batch_size` counts clips then). Wrong windows are
    `min_shift_frames` away or more, and from other clips with the share `other_clip_share`. A speaker of t
    seconds is drawn about as t ** `speaker_power` is, with 1 every clip once. `augment` changes the faces and
    the sound of each sample.
    """

    train_output_dir: str = "runs/syncnet"
    train_fileslist: str = ""
    train_data_dir: str = ""
    val_fileslist: str = ""
    val_data_dir: str = ""
    audio_mel_cache_dir: str = ""
    num_frames: int = 16
    video_fps: int = 25
    audio_sample_rate: int = 16000
    resolution: int = 256
    latent_space: bool = False
    lower_half: bool = True
    batch_size: int = 256
    num_workers: int = 12
    num_val_samples: int = 2048
    gradient_accumulation_steps: int = 1
    vae_path: str = "stabilityai/sd-vae-ft-mse"
    windows_per_clip: int = 1
    min_shift_frames: int = 1
    val_min_shift_frames: int = 0  # 0: as in training
    other_clip_share: float = 0.0
    speaker_power: float = 1.0
    augment: bool = False
    allow_upscale: bool = False
    max_dropped_share: float = 0.2


@dataclass(frozen=True)
class SyncNetCheckpointConfig:
    resume_ckpt_path: str = ""
    inference_ckpt_path: str = ""
    save_ckpt_steps: int = 2500


@dataclass(frozen=True)
class SyncNetOptimizerConfig:
    """Ours but for `lr` and `max_grad_norm`; upstream's AdamW has the weight decay of torch, 0.01."""

    lr: float = 1e-5
    max_grad_norm: float = 1.0
    scale_lr: bool = False
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0
    weight_decay: float = 0.01


@dataclass(frozen=True)
class SyncNetRunConfig:
    """`contrastive_weight` adds the cross entropy of finding the right window among all that are gathered, at
    `temperature`; `alarm_steps` at ln 2 are too many (0: no alarm).
    """

    max_train_steps: int = 10_000_000
    validation_steps: int = 2500
    mixed_precision_training: bool = True
    enable_gradient_checkpointing: bool = False
    seed: int = 42
    contrastive_weight: float = 0.0
    temperature: float = 0.07
    ema_decay: float = 0.0
    log_every: int = 20
    keep_last: int = 2
    alarm_steps: int = 2000


@dataclass(frozen=True)
class SyncNetConfig:
    """A whole upstream YAML; `model` holds `audio_encoder` and `visual_encoder`, or `wav2lip` alone (the
    arguments of `Wav2LipSyncNet`).
    """

    model: dict[str, Any] = field(default_factory=dict)
    data: SyncNetDataConfig = field(default_factory=SyncNetDataConfig)
    ckpt: SyncNetCheckpointConfig = field(default_factory=SyncNetCheckpointConfig)
    optimizer: SyncNetOptimizerConfig = field(default_factory=SyncNetOptimizerConfig)
    run: SyncNetRunConfig = field(default_factory=SyncNetRunConfig)

    @property
    def mel_columns(self) -> int:
        """Columns of mel (80 a second) that belong to `num_frames`."""
        return math.ceil(80 / self.data.video_fps * self.data.num_frames)

    @property
    def is_wav2lip(self) -> bool:
        return "wav2lip" in self.model

    def build(self) -> StableSyncNet | Wav2LipSyncNet:
        """The network with new weights. Raises: ValueError for encoders that do not fit together, or footage
        that the network is not made for.
        """
        data = self.data
        if self.is_wav2lip:
            made_for = (data.num_frames, data.resolution, data.lower_half, data.latent_space)
            if made_for != (5, 256, True, False):
                raise ValueError(
                    "Wav2Lip's SyncNet sees 5 lower halves of 256 px: expected num_frames, resolution, "
                    f"lower_half, latent_space = 5, 256, True, False, got {made_for}"
                )
            return Wav2LipSyncNet(**(self.model["wav2lip"] or {}))
        return StableSyncNet.from_upstream(
            self.model,
            num_frames=data.num_frames,
            resolution=data.resolution,
            lower_half=data.lower_half,
            latent_space=data.latent_space,
        )


def of_network(network: StableSyncNet | Wav2LipSyncNet) -> SyncNetConfig:
    """A configuration whose `data` say what a network was made for; its `model` is empty."""
    if isinstance(network, Wav2LipSyncNet):
        return SyncNetConfig(data=SyncNetDataConfig(num_frames=5))
    names = ("num_frames", "resolution", "lower_half", "latent_space")
    return SyncNetConfig(data=SyncNetDataConfig(**{name: network.config[name] for name in names}))
