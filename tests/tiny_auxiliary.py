"""Files in the formats of the networks that training losses need, of tiny random networks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsync.quality.lpips import Lpips
from latentsync.sync import StableSyncNet

WIDTHS = (4, 4, 6, 8, 8)  # of VGG16's levels
SYNCNET: dict[str, Any] = {  # 16 lower halves of 64 px faces
    "audio_encoder": {
        "in_channels": 1,
        "block_out_channels": [32, 32, 128],
        "downsample_factors": [[4, 2], [4, 4], [5, 6]],
    },
    "visual_encoder": {
        "in_channels": 48,
        "block_out_channels": [32, 32, 128],
        "downsample_factors": [[1, 2], 4, 8],
    },
}


def vgg16_state(widths: Sequence[int] = WIDTHS) -> dict[str, Tensor]:
    """The trunk under torchvision's names, and a classifier."""
    torch.manual_seed(21)
    features = Lpips(widths).features.state_dict()
    state = {f"features.{name}": value for name, value in features.items()}
    return {**state, "classifier.0.weight": torch.randn(5, widths[-1]), "classifier.0.bias": torch.zeros(5)}


def lpips_state(widths: Sequence[int] = WIDTHS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(22)
    return {
        f"lin{level}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
        for level, width in enumerate(widths)
    }


def videomae_state(width: int = 22, *, layers: int = 2, patch: int = 2) -> dict[str, Tensor]:
    """A fine-tuned VideoMAEv2 under the released names: clips of 16 frames in tubelets of 2, 174 classes."""
    generator = torch.Generator().manual_seed(23)
    hidden = width * 48 // 11

    def draw(*shape: int, around: float = 0.0) -> Tensor:
        return around + 0.3 * torch.randn(shape, generator=generator)

    state = {"patch_embed.proj.weight": draw(width, 3, 2, patch, patch), "patch_embed.proj.bias": draw(width)}
    for block in (f"blocks.{number}." for number in range(layers)):
        state |= {
            f"{block}norm1.weight": draw(width, around=1.0),
            f"{block}norm1.bias": draw(width),
            f"{block}attn.q_bias": draw(width),
            f"{block}attn.v_bias": draw(width),
            f"{block}attn.qkv.weight": draw(3 * width, width),
            f"{block}attn.proj.weight": draw(width, width),
            f"{block}attn.proj.bias": draw(width),
            f"{block}norm2.weight": draw(width, around=1.0),
            f"{block}norm2.bias": draw(width),
            f"{block}mlp.fc1.weight": draw(hidden, width),
            f"{block}mlp.fc1.bias": draw(hidden),
            f"{block}mlp.fc2.weight": draw(width, hidden),
            f"{block}mlp.fc2.bias": draw(width),
        }
    state |= {"fc_norm.weight": draw(width, around=1.0), "fc_norm.bias": draw(width)}
    return {**state, "head.weight": draw(174, width), "head.bias": draw(174)}


def save_vgg16(path: Path, widths: Sequence[int] = WIDTHS) -> Path:
    return _save(path, vgg16_state(widths), is_old=True)


def save_lpips(path: Path, widths: Sequence[int] = WIDTHS) -> Path:
    return _save(path, lpips_state(widths), is_old=True)


def save_videomae(path: Path, *, key: str | None = "module", **sizes: int) -> Path:
    """In half precision under `key`, as released."""
    state = {name: value.half() for name, value in videomae_state(**sizes).items()}
    return _save(path, state if key is None else {key: state})


def save_syncnet(path: Path) -> Path:
    """A StableSyncNet of the configuration `SYNCNET`."""
    torch.manual_seed(24)
    state = StableSyncNet.from_upstream(SYNCNET).state_dict()
    return _save(path, {"global_step": 123, "state_dict": state})


def save_auxiliary(folder: Path) -> Path:
    """All of them, where a run looks for them when `folder` is its folder of checkpoints; 1x1 layers too."""
    save_vgg16(folder / "auxiliary" / "vgg16-397923af.pth")
    save_lpips(folder / "auxiliary" / "vgg.pth")
    save_videomae(folder / "auxiliary" / "vit_g_hybrid_pt_1200e_ssv2_ft.pth")
    save_syncnet(folder / "stable_syncnet.pt")
    return folder


def _save(path: Path, held: object, *, is_old: bool = False) -> Path:
    """`is_old`: as PyTorch saved before 1.6."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(held, path, _use_new_zipfile_serialization=not is_old)
    return path
