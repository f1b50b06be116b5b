"""The YAML of a released U-Net, field by field as upstream names them, so that a user's own file loads
unchanged.

Sections `data`, `ckpt`, `run`, `model`, `optimizer` of bytedance/LatentSync's configs/unet/*.yaml; defaults
are those of stage 2 (LatentSync 1.5). The sections `train` and `weights` are ours: what upstream has no word
for.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from latentsync.config import load_config


@dataclass(frozen=True)
class ReleasedDataConfig:
    """Footage and faces; paths are of training only."""

    syncnet_config_path: str = "configs/syncnet/syncnet_16_pixel_attn.yaml"
    train_output_dir: str = "runs/unet"
    train_fileslist: str = ""
    train_data_dir: str = ""
    audio_embeds_cache_dir: str = ""
    audio_mel_cache_dir: str = ""
    val_video_path: str = "assets/portrait.mp4"
    val_audio_path: str = "assets/speech.wav"
    batch_size: int = 1
    num_workers: int = 12
    num_frames: int = 16
    resolution: int = 256
    mask_image_path: str = ""
    audio_sample_rate: int = 16000
    video_fps: int = 25
    audio_feat_length: list[int] = field(default_factory=lambda: [2, 2])


@dataclass(frozen=True)
class ReleasedCheckpointConfig:
    resume_ckpt_path: str = ""
    save_ckpt_steps: int = 10_000


@dataclass(frozen=True)
class ReleasedRunConfig:
    """Losses and steps; `guidance_scale` and `inference_steps` are of validation."""

    pixel_space_supervise: bool = True
    use_syncnet: bool = True
    sync_loss_weight: float = 0.05
    perceptual_loss_weight: float = 0.1
    recon_loss_weight: float = 1.0
    trepa_loss_weight: float = 10.0
    guidance_scale: float = 1.5
    inference_steps: int = 20
    trainable_modules: list[str] = field(default_factory=list)
    seed: int = 1247
    use_mixed_noise: bool = True
    mixed_noise_alpha: float = 1.0
    mixed_precision_training: bool = True
    enable_gradient_checkpointing: bool = True
    max_train_steps: int = 10_000_000
    max_train_epochs: int = -1


@dataclass(frozen=True)
class MotionConfig:
    num_attention_heads: int = 8
    num_transformer_block: int = 1
    attention_block_types: list[str] = field(default_factory=lambda: ["Temporal_Self", "Temporal_Self"])
    temporal_position_encoding: bool = True
    temporal_position_encoding_max_len: int = 24
    temporal_attention_dim_div: int = 1
    zero_initialize: bool = True


@dataclass(frozen=True)
class ReleasedModelConfig:
    """Arguments of upstream's U-Net; `attention_head_dim` is the number of heads."""

    act_fn: str = "silu"
    add_audio_layer: bool = True
    attention_head_dim: int = 8
    block_out_channels: list[int] = field(default_factory=lambda: [320, 640, 1280, 1280])
    center_input_sample: bool = False
    cross_attention_dim: int = 384
    down_block_types: list[str] = field(
        default_factory=lambda: ["CrossAttnDownBlock3D"] * 3 + ["DownBlock3D"]
    )
    mid_block_type: str = "UNetMidBlock3DCrossAttn"
    up_block_types: list[str] = field(default_factory=lambda: ["UpBlock3D"] + ["CrossAttnUpBlock3D"] * 3)
    downsample_padding: int = 1
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    in_channels: int = 13
    layers_per_block: int = 2
    mid_block_scale_factor: int = 1
    norm_eps: float = 1e-5
    norm_num_groups: int = 32
    out_channels: int = 4
    sample_size: int = 64
    resnet_time_scale_shift: str = "default"
    use_inflated_groupnorm: bool = False
    use_motion_module: bool = True
    motion_module_resolutions: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    motion_module_mid_block: bool = False
    motion_module_decoder_only: bool = False
    motion_module_type: str = "Vanilla"
    motion_module_kwargs: MotionConfig = field(default_factory=MotionConfig)


@dataclass(frozen=True)
class ReleasedOptimizerConfig:
    lr: float = 1e-5
    scale_lr: bool = False
    max_grad_norm: float = 1.0
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0


@dataclass(frozen=True)
class StageTrainConfig:
    """What upstream's recipe lacks. `audio_dropout`: share of clips that hear nothing, so that guidance has
    something to subtract. `validate_steps` 0 validates at each checkpoint, `ema_decay` 0 averages nothing,
    `lora_rank` 0 trains the weights themselves. `export_upstream` also writes the U-Net as upstream's `.pt`.
    Of the footage, `max_dropped_share` may be unfit; `allow_upscale` takes faces smaller than `resolution`.
    """

    audio_dropout: float = 0.1
    gradient_accumulation_steps: int = 1
    weight_decay: float = 1e-2
    ema_decay: float = 0.999
    keep_last: int = 2
    log_every: int = 20
    validate_steps: int = 0
    lora_rank: int = 0
    export_upstream: bool = False
    max_dropped_share: float = 0.2
    allow_upscale: bool = False


@dataclass(frozen=True)
class WeightsConfig:
    """Places of the frozen networks; "" is the usual one in checkpoints/ (its README.md says from where).

    `vae`: a diffusers folder, a file or a Hub id. `audio_encoder`: whisper/tiny.pt, small.pt, or a folder of
    transformers. `syncnet`: a file, which `data.syncnet_config_path` describes, or a folder that we saved.
    """

    vae: str = ""
    audio_encoder: str = ""
    vgg16: str = ""
    lpips: str = ""
    videomae: str = ""
    syncnet: str = ""


@dataclass(frozen=True)
class ReleasedConfig:
    """A whole upstream YAML, and our sections."""

    data: ReleasedDataConfig = field(default_factory=ReleasedDataConfig)
    ckpt: ReleasedCheckpointConfig = field(default_factory=ReleasedCheckpointConfig)
    run: ReleasedRunConfig = field(default_factory=ReleasedRunConfig)
    model: ReleasedModelConfig = field(default_factory=ReleasedModelConfig)
    optimizer: ReleasedOptimizerConfig = field(default_factory=ReleasedOptimizerConfig)
    train: StageTrainConfig = field(default_factory=StageTrainConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)

    def model_section(self) -> Mapping[str, Any]:
        """What `UNet3DConditionModel.from_upstream` takes."""
        return asdict(self.model)


def load_released_config(path: str | Path) -> ReleasedConfig:
    """An upstream YAML. Raises: FileNotFoundError, ConfigError naming an unknown key or a wrong type."""
    return load_config(ReleasedConfig, path)
