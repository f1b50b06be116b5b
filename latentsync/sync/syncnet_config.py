"""The YAML of a SyncNet, field by field as upstream names them, so that a user's own file loads unchanged.

Sections `model`, `data`, `ckpt`, `optimizer`, `run` of bytedance/LatentSync's configs/syncnet/*.yaml;
defaults are those of the released network (syncnet_16_pixel_attn).
"""

import math
from dataclasses import dataclass, field
from typing import Any

from latentsync.sync.stable_syncnet import StableSyncNet


@dataclass(frozen=True)
class SyncNetDataConfig:
    """Footage and faces. Paths are of training only; `train_fileslist` wins over `train_data_dir`."""

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


@dataclass(frozen=True)
class SyncNetCheckpointConfig:
    resume_ckpt_path: str = ""
    inference_ckpt_path: str = ""
    save_ckpt_steps: int = 2500


@dataclass(frozen=True)
class SyncNetOptimizerConfig:
    lr: float = 1e-5
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class SyncNetRunConfig:
    max_train_steps: int = 10_000_000
    validation_steps: int = 2500
    mixed_precision_training: bool = True
    seed: int = 42


@dataclass(frozen=True)
class SyncNetConfig:
    """A whole upstream YAML; `model` holds `audio_encoder` and `visual_encoder`."""

    model: dict[str, Any] = field(default_factory=dict)
    data: SyncNetDataConfig = field(default_factory=SyncNetDataConfig)
    ckpt: SyncNetCheckpointConfig = field(default_factory=SyncNetCheckpointConfig)
    optimizer: SyncNetOptimizerConfig = field(default_factory=SyncNetOptimizerConfig)
    run: SyncNetRunConfig = field(default_factory=SyncNetRunConfig)

    @property
    def mel_columns(self) -> int:
        """Columns of mel (80 a second) that belong to `num_frames`."""
        return math.ceil(80 / self.data.video_fps * self.data.num_frames)

    def build(self) -> StableSyncNet:
        """The network with new weights. Raises: ValueError for encoders that do not fit together."""
        data = self.data
        return StableSyncNet.from_upstream(
            self.model,
            num_frames=data.num_frames,
            resolution=data.resolution,
            lower_half=data.lower_half,
            latent_space=data.latent_space,
        )
