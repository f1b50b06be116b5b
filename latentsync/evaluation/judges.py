"""Every judge of sync whose weights are here."""

from collections.abc import Sequence
from pathlib import Path

import torch

from latentsync.quality.lpips import TRUNK_SOURCE, Lpips
from latentsync.sync.judge import Judge
from latentsync.sync.open_judge import PLACES, open_judge
from latentsync.sync.synchformer.judge import SynchformerJudge
from latentsync.sync.synchformer.open import open_synchformer
from latentsync.sync.synchformer.places import EMBEDDED

SYNCHFORMER = "synchformer"
NAMES = (*PLACES, SYNCHFORMER)


def judges_at_hand(
    asked: Sequence[str] = (), *, device: torch.device | str = "cpu", vae: str | Path | None = None
) -> list[Judge]:
    """Those `asked` for, each a name or NAME=FILE; without any, all whose weights lie in checkpoints/.

    Raises: ValueError for an unknown name; FileNotFoundError, CheckpointError for weights.
    """
    if asked:
        return [_open(*_split(text), device, vae) for text in asked]
    places = {**PLACES, SYNCHFORMER: EMBEDDED}
    return [_open(name, None, device, vae) for name, place in places.items() if place.exists()]


def missing(judges: Sequence[Judge], lpips: Lpips | None, vgg16: Path) -> list[str]:
    """What cannot be measured since its weights are not here, in sentences."""
    notes = (
        []
        if judges
        else [f"no judge of sync is at hand: none of {', '.join(NAMES)} has its weights in place"]
    )
    if lpips is None:
        notes.append(f"LPIPS is left out: its VGG16 is not at {vgg16} (get it from {TRUNK_SOURCE})")
    return notes


def _split(text: str) -> tuple[str, Path | None]:
    name, _, place = text.partition("=")
    if name not in NAMES:
        raise ValueError(f"unknown judge {name!r}; expected {', '.join(NAMES)}, or one of them with =FILE")
    return name, Path(place) if place else None


def _open(name: str, place: Path | None, device: torch.device | str, vae: str | Path | None) -> Judge:
    if name == SYNCHFORMER:
        return SynchformerJudge(open_synchformer(place or EMBEDDED), device=device)
    return open_judge(name, place, vae=vae, device=device)
