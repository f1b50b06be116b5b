"""Judges by name: the original SyncNet, StableSyncNet, or the small one that comes with this repository."""

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors import SafetensorError

from latentsync.checkpoint import check_stored, first_line
from latentsync.errors import CheckpointError
from latentsync.sync.judge import Judge
from latentsync.sync.open_syncnet import open_syncnet
from latentsync.sync.stable_judge import StableSyncNetJudge
from latentsync.sync.syncnet_judge import SyncNetJudge, open_original_syncnet

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
PLACES = {  # name: where its weights lie
    "syncnet": CHECKPOINTS / "auxiliary" / "syncnet_v2.model",
    "stable_syncnet": CHECKPOINTS / "stable_syncnet.pt",
    "embedded": CHECKPOINTS / "syncnet-tiny",
}


def default_judge() -> str:
    """The first judge whose weights are here: those that were published, or else the embedded one."""
    return next((name for name, place in PLACES.items() if place.exists()), "embedded")


def open_judge(
    name: str,
    place: str | Path | None = None,
    *,
    vae: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> Judge:
    """The judge called `name`; `place` is its file or folder where that is not the usual one, `vae` the
    folder of the autoencoder that a network of latents needs.

    Raises: ValueError for another name; FileNotFoundError, CheckpointError.
    """
    if name not in PLACES:
        raise ValueError(f"unknown judge {name!r}; expected {', '.join(PLACES)}")
    place = PLACES[name] if place is None else Path(place)
    if not place.exists():
        raise FileNotFoundError(
            f"the judge {name} has no weights at {str(place)!r}: put them there (checkpoints/README.md), "
            "or name a file or folder of them"
        )
    if name == "syncnet":
        return SyncNetJudge(open_original_syncnet(place), device=device)
    syncnet = open_syncnet(place)
    if syncnet.config.latent_space and vae is None:
        raise CheckpointError(f"the judge {str(place)!r} compares latents: name its autoencoder too (--vae)")
    judge = StableSyncNetJudge(syncnet, vae=None if vae is None else open_vae(vae), device=device)
    judge.name = name
    return judge


def open_vae(folder: str | Path) -> AutoencoderKL:
    """The autoencoder of a folder as diffusers saves it. Raises: CheckpointError."""
    try:
        vae = AutoencoderKL.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
        check_stored(Path(folder), vae.state_dict())
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"autoencoder {str(folder)!r} cannot be loaded: {first_line(error)}") from error
    return vae.eval()
