"""Files in the layout of the released ones, of tiny random networks: what a user has on disk, in small."""

from pathlib import Path

import torch
import yaml
from diffusers import AutoencoderKL
from torch import Tensor

from latentsync.audio.whisper import encoder_config, rename_to_openai
from latentsync.diffusion.unet import UNet3DConditionModel

MODEL = {
    "block_out_channels": [32, 32, 64, 64],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 384,
}
DIMS = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 384,
    "n_audio_head": 6,
    "n_audio_layer": 1,
    "n_vocab": 10,
    "n_text_ctx": 4,
    "n_text_state": 384,
    "n_text_head": 6,
    "n_text_layer": 1,
}


def unet_state(*, motion: bool = True, decoder_only: bool = False, **changes: object) -> dict[str, Tensor]:
    """The tensors of a tiny U-Net under upstream's names."""
    torch.manual_seed(7)
    model = UNet3DConditionModel.from_upstream(
        {**MODEL, "use_motion_module": motion, "motion_module_decoder_only": decoder_only, **changes}
    )
    for parameter in model.parameters():  # what is zero at first would hide mistakes
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model.upstream_state_dict()


def whisper_state(width: int = 384, layers: int = 1) -> dict[str, Tensor]:
    """Encoder tensors, and one of the decoder, under openai's names."""
    from transformers import WhisperModel

    torch.manual_seed(8)
    dims = {**DIMS, "n_audio_state": width, "n_audio_head": width // 64, "n_audio_layer": layers}
    encoder = WhisperModel(encoder_config(dims)).encoder.state_dict()
    state = {rename_to_openai(f"encoder.{key}"): value for key, value in encoder.items()}
    return {**state, "decoder.token_embedding.weight": torch.zeros(10, width)}


def save_unet(path: Path, state: dict[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"global_step": 123, "state_dict": state}, path)
    return path


def save_whisper(path: Path, width: int = 384) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dims = {**DIMS, "n_audio_state": width, "n_audio_head": width // 64}
    torch.save({"dims": dims, "model_state_dict": whisper_state(width)}, path)
    return path


def save_vae(folder: Path, **changes: object) -> Path:
    torch.manual_seed(9)
    arguments = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        **changes,
    }
    AutoencoderKL(**arguments).save_pretrained(folder)
    return folder


def save_config(path: Path, *, resolution: int = 64, **changes: object) -> Path:
    """A YAML in upstream's form, of what differs from the released one."""
    path.write_text(yaml.safe_dump({"data": {"resolution": resolution}, "model": {**MODEL, **changes}}))
    return path


def save_released(folder: Path) -> Path:
    """A whole folder: U-Net, Whisper, autoencoder, and the YAML that fits."""
    save_unet(folder / "latentsync_unet.pt", unet_state())
    save_whisper(folder / "whisper" / "tiny.pt")
    save_vae(folder / "vae")
    save_config(folder / "unet.yaml")
    return folder
