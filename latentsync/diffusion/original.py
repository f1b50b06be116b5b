"""Released files -> the parts of a LipsyncPipeline: U-Net, Whisper, autoencoder, and how they were used.

A released model is several files of different makers: `latentsync_unet.pt` and `whisper/tiny.pt` in one
folder (Hub repository ByteDance/LatentSync-1.5 or -1.6), the autoencoder stabilityai/sd-vae-ft-mse elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor
from transformers import WhisperModel

from latentsync.audio.whisper import from_openai
from latentsync.checkpoint import (
    RELEASES,
    Identity,
    Release,
    Weights,
    first_line,
    openai_dims,
    read_json,
    read_weights,
)
from latentsync.diffusion.released_config import ReleasedConfig, ReleasedModelConfig, load_released_config
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.errors import CheckpointError

INDEX = "model_index.json"  # what diffusers puts into a pipeline's folder, such as ours
UNET_FILE = "latentsync_unet.pt"
WHISPER_FILES = {384: "whisper/tiny.pt", 768: "whisper/small.pt"}  # by the U-Net's audio width
VAE_FOLDERS = ("vae", "sd-vae-ft-mse", "stabilityai/sd-vae-ft-mse")  # where users keep it beside the U-Net
VAE_HUB_ID = "stabilityai/sd-vae-ft-mse"
VAE_REVISION = "31f26fdeee1355a5c34592e401dd41e45d25a493"
VAE_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
VAE_CONFIG: Mapping[str, Any] = {  # of a bare file: what Stable Diffusion 1.5's autoencoder is
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 256,
}
SCALING_FACTOR = 0.18215  # what the U-Nets were trained with
BUILDING = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError)  # bad numbers
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
HUB_FILES = ["*.json", "*.safetensors", UNET_FILE, "whisper/*.pt"]


@dataclass(frozen=True)
class OriginalParts:
    """What a released model is made of, and the numbers it was trained with."""

    unet: UNet3DConditionModel
    audio_encoder: WhisperModel
    vae: AutoencoderKL
    resolution: int
    fps: int
    window: int


def open_original(
    unet: str | Path,
    *,
    config: str | Path | ReleasedConfig | None = None,
    whisper: str | Path | None = None,
    vae: str | Path | None = None,
    resolution: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> OriginalParts:
    """The parts of a released model, on the CPU in `dtype`, memory-mapped where the file has it already.

    `config`: upstream's YAML; without it the network is read off its tensors. `whisper`: tiny.pt or small.pt,
    by default beside `unet`. `vae`: a folder, a file or a Hub id, by default beside `unet`, else from the
    Hub. `resolution` (pixels of a face) must be given for a file that neither `config` nor its size or place
    identifies. Raises: FileNotFoundError, ConfigError, CheckpointError.
    """
    weights = read_weights(unet, expect="unet")
    if isinstance(config, str | Path):
        config = load_released_config(config)
    size = _resolution(weights, config, resolution)
    model = _model_config(weights, config)
    data = (config or ReleasedConfig()).data
    if list(data.audio_feat_length) != [2, 2] or data.audio_sample_rate != 16_000:
        raise CheckpointError(
            f"audio_feat_length {list(data.audio_feat_length)} at {data.audio_sample_rate} Hz: only [2, 2] "
            "at 16000 Hz, what every released weight hears, is supported"
        )
    network = _build_unet(weights, model)
    beside = weights.path.parent
    _check_window(network, data.num_frames, data.video_fps)
    heard = read_weights(_whisper_file(whisper, beside, model.cross_attention_dim), expect="whisper")
    if heard.identity.audio_width != model.cross_attention_dim:
        raise CheckpointError(
            f"{str(heard.path)!r} is {heard.identity}, but the U-Net hears a width of "
            f"{model.cross_attention_dim}: pass {WHISPER_FILES.get(model.cross_attention_dim, 'its Whisper')}"
        )
    encoder = build_whisper(heard)
    autoencoder = open_vae(vae_place(vae, beside), latent_channels=model.out_channels)
    for part in (network, encoder, autoencoder):
        torch.nn.Module.to(part, dtype)  # diffusers' own warns of layers to keep, of which there are none
    return OriginalParts(
        unet=network,
        audio_encoder=encoder,
        vae=autoencoder,
        resolution=size,
        fps=data.video_fps,
        window=data.num_frames,
    )


def find_original(folder: Path) -> Path | None:
    """The U-Net of a folder laid out like the released Hub repositories; None in a folder of ours."""
    path = folder / UNET_FILE
    return path if path.is_file() and not (folder / INDEX).is_file() else None


def download(hub_id: str, revision: str | None = None) -> Path:
    """The folder of a Hub repository in the Hub's cache, ours or a released one; resumes, honours
    HF_HUB_OFFLINE, and pins the revision of the released ones.

    Raises: CheckpointError when it is neither in the cache nor to be had.
    """
    known = next((release.revision for release in RELEASES if release.hub_id == hub_id), None)
    return _snapshot(hub_id, revision or known, HUB_FILES)


def open_vae(
    place: str | Path, *, latent_channels: int = 4, scaling_factor: float | None = SCALING_FACTOR
) -> AutoencoderKL:
    """The autoencoder of a diffusers folder (config.json and one weights file) or of a bare weights file.

    `scaling_factor` None: what its own configuration says. Raises: FileNotFoundError, CheckpointError.
    """
    place = Path(place)
    folder_config = place / "config.json" if place.is_dir() else None
    file = _vae_file(place) if folder_config else place
    settings = dict(VAE_CONFIG)
    if folder_config is not None:
        if not folder_config.is_file():
            raise CheckpointError(
                f"autoencoder folder {str(place)!r} has no config.json; copy the folder again"
            )
        settings = read_json(folder_config)
        if settings.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
            raise CheckpointError(
                f"{folder_config} describes a {settings['_class_name']}; expected an AutoencoderKL "
                f"such as {VAE_HUB_ID}"
            )
    weights = read_weights(file, expect="vae")
    shift = settings.get("shift_factor")
    try:
        settings["shift_factor"] = None if shift is None else float(shift)
        with torch.device("meta"):
            if scaling_factor is not None:
                settings["scaling_factor"] = scaling_factor
            vae = AutoencoderKL.from_config(settings)
    except BUILDING as error:
        raise _misfit(place, error) from error
    if vae.config.latent_channels != latent_channels:
        raise CheckpointError(
            f"autoencoder {str(place)!r} has {vae.config.latent_channels} latent channels, the U-Net expects "
            f"{latent_channels}: pass {VAE_HUB_ID}"
        )
    _assign(vae, _modern_attention(weights.tensors), weights.path)
    return vae.eval()


def _model_config(weights: Weights, config: ReleasedConfig | None) -> ReleasedModelConfig:
    """The given network section, or the released one as far as the tensors tell; checked against them."""
    found = weights.identity
    if config is None:
        model = replace(
            ReleasedModelConfig(),
            use_motion_module=bool(found.has_motion),
            motion_module_decoder_only=bool(found.is_decoder_only),
            add_audio_layer=found.audio_width is not None,
            cross_attention_dim=found.audio_width or ReleasedModelConfig.cross_attention_dim,
            motion_module_mid_block=any(n.startswith("mid_block.motion") for n in weights.tensors),
        )
    else:
        model = config.model
    for what, ours, theirs in _differences(model, found):
        raise CheckpointError(
            f"{str(weights.path)!r} is {found}, but the configuration wants {what} {theirs} (found {ours}): "
            "pass the YAML that belongs to the file, as in configs/unet/"
        )
    return model


def _differences(model: ReleasedModelConfig, found: Identity) -> list[tuple[str, object, object]]:
    """(what, found, wanted) where tensors and configuration disagree."""
    pairs = [
        ("stage", found.stage, 2 if model.use_motion_module else 1),
        ("input channels", found.in_channels, model.in_channels),
        ("widths", list(found.block_out_channels or ()), list(model.block_out_channels)),
        ("audio layers:", found.audio_width is not None, model.add_audio_layer),
    ]
    if model.use_motion_module:
        pairs.append(("motion_module_decoder_only", found.is_decoder_only, model.motion_module_decoder_only))
    if model.add_audio_layer:
        pairs.append(("an audio width of", found.audio_width, model.cross_attention_dim))
    return [(what, ours, theirs) for what, ours, theirs in pairs if ours != theirs]


def _resolution(weights: Weights, config: ReleasedConfig | None, given: int | None) -> int:
    """Pixels of a face, from what was said and what is known of the file."""
    release = weights.release
    configured = None if config is None else config.data.resolution
    if given is not None and configured is not None and given != configured:
        raise CheckpointError(
            f"resolution {given} was passed, but the configuration says {configured}: pass one"
        )
    said = configured if given is None else given
    if release is not None and said not in (None, release.resolution):
        raise CheckpointError(
            f"{str(weights.path)!r} is {release.name}, trained at {release.resolution} px, but {said} px was "
            f"asked for: pass {_yaml_for(release)}"
        )
    size = said if said is not None else release.resolution if release else None
    if size is None:
        raise CheckpointError(
            f"{str(weights.path)!r} ({weights.path.stat().st_size:,} bytes) is no published file, and 1.5 "
            "and 1.6 look alike: say its resolution, 256 or 512, or pass its YAML"
        )
    if size < 64 or size % 8:
        raise CheckpointError(f"resolution {size} is not a multiple of 8 from 64 up")
    return size


def _yaml_for(release: Release) -> str:
    return "configs/unet/stage2_512.yaml" if release.resolution == 512 else "configs/unet/stage2.yaml"


def _build_unet(weights: Weights, model: ReleasedModelConfig) -> UNet3DConditionModel:
    try:
        return UNet3DConditionModel.from_upstream(
            ReleasedConfig(model=model).model_section(), weights.tensors
        )
    except BUILDING as error:
        raise _misfit(weights.path, error) from error


def _whisper_file(given: str | Path | None, beside: Path, width: int) -> Path:
    if given is not None:
        return Path(given)
    if width not in WHISPER_FILES:
        raise CheckpointError(f"audio width {width}: no published Whisper belongs to it; pass its file")
    path = beside / WHISPER_FILES[width]
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(path)!r} does not exist: the U-Net hears through Whisper; put {path.name} there "
            "(checkpoints/README.md says from where) or pass its place"
        )
    return path


def build_whisper(weights: Weights) -> WhisperModel:
    """A Whisper's encoder; its file may lack the decoder, nothing else."""
    tensors = {key: value for key, value in weights.tensors.items() if key.startswith("encoder.")}
    try:
        return from_openai(openai_dims(weights), tensors)
    except BUILDING as error:
        raise _misfit(weights.path, error) from error


def _check_window(network: UNet3DConditionModel, frames: int, fps: int) -> None:
    """Raise CheckpointError for a window that the network cannot see at once."""
    most = int(network.config["motion_max_seq_length"]) if network.has_motion else 1000
    if not 1 <= frames <= most or fps < 1:
        raise CheckpointError(
            f"the configuration's num_frames {frames} at video_fps {fps}: this U-Net sees 1 to {most} frames "
            "at a time, and released weights 16 at 25"
        )


def _misfit(path: Path, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return CheckpointError(f"{str(path)!r} does not fit its configuration: {reason}")


def vae_place(given: str | Path | None, beside: Path) -> Path:
    """Where an autoencoder is: `given` if it is a file or folder, one in the folder `beside`, else the Hub.

    Raises: FileNotFoundError; CheckpointError where the Hub has none.
    """
    if given is not None and Path(given).exists():
        return Path(given)
    if given is None:
        for name in VAE_FOLDERS:
            if (beside / name / "config.json").is_file():
                return beside / name
    hub_id = VAE_HUB_ID if given is None else str(given)
    if hub_id.count("/") != 1 or hub_id.startswith((".", "/")):
        raise FileNotFoundError(f"autoencoder {hub_id!r} is neither a folder, a file nor a Hub id")
    revision = VAE_REVISION if hub_id == VAE_HUB_ID else None
    return _snapshot(hub_id, revision, ["config.json", "diffusion_pytorch_model.safetensors"])


def _vae_file(folder: Path) -> Path:
    for name in VAE_FILES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"autoencoder folder {str(folder)!r} has no {VAE_FILES[0]}; copy the folder again")


def _modern_attention(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of the attention layers as diffusers gives them since 0.17; the published file is older."""
    renamed = {}
    for name, value in tensors.items():
        if ".attentions." in name:
            *place, layer, kind = name.split(".")
            name = ".".join([*place, OLD_ATTENTION.get(layer, layer), kind])
        renamed[name] = value
    return renamed


def _assign(model: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a model built on the meta device its tensors, all of them, without a copy."""
    try:
        model.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise _misfit(path, error) from error


def _snapshot(hub_id: str, revision: str | None, files: list[str]) -> Path:
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=files))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise CheckpointError(
            f"{hub_id!r} is neither a folder here nor to be had from the Hub: {first_line(error)}"
        ) from error
