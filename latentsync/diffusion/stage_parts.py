"""The frozen networks of a two-stage run: their files are looked for, all at once, then opened."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from transformers import WhisperModel

from latentsync.checkpoint import check_stored, first_line, read_weights
from latentsync.config import load_config
from latentsync.diffusion.auxiliary import CHECKPOINTS, AuxiliaryFiles, find_auxiliary
from latentsync.diffusion.original import WHISPER_FILES, build_whisper, open_vae, vae_place
from latentsync.diffusion.released_config import ReleasedConfig
from latentsync.diffusion.stage_config import supervision_of
from latentsync.diffusion.stages import Teachers
from latentsync.diffusion.sync_loss import check_syncnet
from latentsync.errors import CheckpointError, ConfigError
from latentsync.face.mask import mouth_mask
from latentsync.quality.lpips import Lpips
from latentsync.quality.videomae import open_videomae
from latentsync.sync.open_syncnet import open_syncnet
from latentsync.sync.stable_syncnet import StableSyncNet
from latentsync.sync.syncnet_config import SyncNetConfig


@dataclass(frozen=True)
class StageFiles:
    """Where the weights of a run are; `initial` None: the U-Net begins anew."""

    vae: Path
    audio_encoder: Path
    initial: Path | None
    auxiliary: AuxiliaryFiles


def find_files(config: ReleasedConfig, *, with_initial: bool = True) -> StageFiles:
    """Look for every file that a run needs, the autoencoder also on the Hub; a run that goes on needs no
    weights to start from.

    Raises: CheckpointError with a line for each that is not there; ConfigError.
    """
    supervision, weights = supervision_of(config), config.weights
    missing: list[str] = []
    auxiliary = AuxiliaryFiles()
    try:
        auxiliary = find_auxiliary(
            perceptual_loss_weight=supervision.perceptual_weight,
            trepa_loss_weight=supervision.trepa_weight,
            sync_loss_weight=supervision.sync_weight,
            places=_auxiliary_places(config),
        )
    except CheckpointError as error:
        missing.append(str(error))
    audio = Path(weights.audio_encoder or _usual_whisper(config))
    if not audio.exists():
        missing.append(
            f"the audio encoder {str(audio)!r} does not exist: put Whisper there (checkpoints/README.md says "
            "from where), or set weights.audio_encoder"
        )
    place = config.ckpt.resume_ckpt_path if with_initial else ""
    initial = Path(place) if place else None
    if initial is not None and not initial.exists():
        missing.append(
            f"ckpt.resume_ckpt_path {str(initial)!r} does not exist: set it to weights to start from, or to "
            '"" to begin anew'
        )
    vae = CHECKPOINTS
    try:
        vae = vae_place(weights.vae or None, CHECKPOINTS)
    except (CheckpointError, FileNotFoundError) as error:
        missing.append(f"{error}; or set weights.vae")
    if missing:
        raise CheckpointError("\n".join(missing))
    return StageFiles(vae, audio, initial, auxiliary)


def open_stage_vae(place: Path, config: ReleasedConfig) -> AutoencoderKL:
    """The autoencoder, in float32, for faces of `data.resolution`. Raises: CheckpointError, ConfigError."""
    vae = open_vae(place, latent_channels=config.model.out_channels, scaling_factor=None)
    vae.register_to_config(_name_or_path="")  # not the author's disk
    stride, side = 2 ** (len(vae.config.block_out_channels) - 1), config.data.resolution
    if side < stride or side % stride:
        raise ConfigError(f"data.resolution is {side}; this autoencoder wants multiples of {stride}")
    return torch.nn.Module.to(vae, torch.float32).requires_grad_(False)


def open_audio_encoder(place: Path, width: int) -> WhisperModel:
    """Whisper's encoder, in float32, of openai's file or a folder of transformers.

    Raises: CheckpointError, also for another width than the U-Net's `width`.
    """
    encoder = _whisper_folder(place) if place.is_dir() else _whisper_file(place)
    if int(encoder.config.d_model) != width:
        raise CheckpointError(
            f"the audio encoder {str(place)!r} has a width of {encoder.config.d_model}, but "
            f"model.cross_attention_dim is {width}: they must be equal"
        )
    return encoder.float().eval().requires_grad_(False)


def open_teachers(config: ReleasedConfig, files: StageFiles, vae: AutoencoderKL) -> Teachers:
    """The networks that the losses of `config` ask, on the CPU. Raises: CheckpointError, ConfigError."""
    found, saves_memory = files.auxiliary, config.run.enable_gradient_checkpointing
    lpips = videomae = syncnet = None
    if saves_memory:
        vae.enable_gradient_checkpointing()
    if found.vgg16 is not None:
        lpips = Lpips.from_files(found.vgg16, found.lpips, gradient_checkpointing=saves_memory)
    if found.videomae is not None:
        videomae = open_videomae(found.videomae, gradient_checkpointing=saves_memory)
    if found.syncnet is not None:
        syncnet = open_syncnet(found.syncnet, _description(config, found.syncnet))
        _check_syncnet_use(config, latent_space=bool(syncnet.config.latent_space))
    teachers = Teachers(
        vae, mouth_mask(config.data.resolution), lpips=lpips, videomae=videomae, syncnet=syncnet
    )
    if syncnet is not None:
        side = config.data.resolution // teachers.stride
        frames, channels = config.data.num_frames, config.model.out_channels
        check_syncnet(syncnet, frames=frames, channels=channels, side=side)
    return teachers


def syncnet_at_hand(config: ReleasedConfig) -> StableSyncNet | None:
    """The SyncNet of a run, as a judge of whole clips, where its file is there and it looks at pixels.

    Raises: CheckpointError, ConfigError for one that cannot be opened.
    """
    place = _auxiliary_places(config).syncnet
    if place is None or not place.exists():
        return None
    syncnet = open_syncnet(place, _description(config, place))
    return None if syncnet.config.latent_space else syncnet


def _description(config: ReleasedConfig, place: Path) -> str | None:
    """The YAML that describes a SyncNet's file; a folder describes itself."""
    return None if place.is_dir() else config.data.syncnet_config_path or None


def _check_syncnet_use(config: ReleasedConfig, *, latent_space: bool) -> None:
    if not latent_space and not config.run.pixel_space_supervise:
        raise ConfigError(
            "run.use_syncnet is true and the SyncNet looks at pixels, but run.pixel_space_supervise is "
            "false: set it to true, or choose a SyncNet of latents (configs/syncnet/syncnet_16_latent.yaml)"
        )


def _auxiliary_places(config: ReleasedConfig) -> AuxiliaryFiles:
    """The places of `config.weights`, the usual ones where they are empty."""
    usual, weights = AuxiliaryFiles(), config.weights
    return AuxiliaryFiles(
        vgg16=Path(weights.vgg16) if weights.vgg16 else usual.vgg16,
        lpips=Path(weights.lpips) if weights.lpips else usual.lpips,
        videomae=Path(weights.videomae) if weights.videomae else usual.videomae,
        syncnet=_syncnet_place(config) or usual.syncnet,
    )


def _syncnet_place(config: ReleasedConfig) -> Path | None:
    """Where `weights.syncnet`, or else the SyncNet's own YAML as upstream's does, says that it is."""
    if config.weights.syncnet:
        return Path(config.weights.syncnet)
    description = config.data.syncnet_config_path
    if not description or not Path(description).is_file():
        return None
    told = load_config(SyncNetConfig, description).ckpt.inference_ckpt_path
    return Path(told) if told else None


def _usual_whisper(config: ReleasedConfig) -> Path:
    width = config.model.cross_attention_dim
    if width not in WHISPER_FILES:
        raise ConfigError(
            f"model.cross_attention_dim is {width}: no published Whisper has that width "
            f"({', '.join(map(str, WHISPER_FILES))}); set weights.audio_encoder to one that has"
        )
    return CHECKPOINTS / WHISPER_FILES[width]


def _whisper_file(place: Path) -> WhisperModel:
    return build_whisper(read_weights(place, expect="whisper"))


def _whisper_folder(folder: Path) -> WhisperModel:
    try:
        encoder = WhisperModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
        check_stored(folder, (name for name in encoder.state_dict() if name.startswith("encoder.")))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"the audio encoder {str(folder)!r} cannot be loaded: {first_line(error)}"
        ) from error
    return encoder
