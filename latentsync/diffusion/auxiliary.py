"""Which weights the losses of a training run need beside its own, where they lie, and from where they come.

A loss with weight 0 needs nothing. What is missing is said before the first step, all of it at once.
"""

from dataclasses import dataclass
from pathlib import Path

from latentsync.errors import CheckpointError
from latentsync.quality.lpips import TRUNK_SOURCE, WEIGHTS_SOURCE
from latentsync.quality.videomae import SOURCE as VIDEOMAE_SOURCE

CHECKPOINTS = Path("checkpoints")


@dataclass(frozen=True)
class AuxiliaryFiles:
    """Places of the weights; None: not needed. `lpips` None: the 1x1 layers that come with this package."""

    vgg16: Path | None = CHECKPOINTS / "auxiliary" / "vgg16-397923af.pth"
    lpips: Path | None = None
    videomae: Path | None = CHECKPOINTS / "auxiliary" / "vit_g_hybrid_pt_1200e_ssv2_ft.pth"
    syncnet: Path | None = CHECKPOINTS / "stable_syncnet.pt"


@dataclass(frozen=True)
class Need:
    """The loss that a file of `AuxiliaryFiles` is for, the setting that asks for it, and its source."""

    loss: str
    weight_key: str
    source: str


NEEDS = {
    "vgg16": Need("LPIPS", "run.perceptual_loss_weight", TRUNK_SOURCE),
    "lpips": Need("LPIPS", "run.perceptual_loss_weight", WEIGHTS_SOURCE),
    "videomae": Need("TREPA", "run.trepa_loss_weight", VIDEOMAE_SOURCE),
    "syncnet": Need("SyncNet", "run.sync_loss_weight", "Hub ByteDance/LatentSync-1.5, stable_syncnet.pt"),
}


def find_auxiliary(
    *,
    perceptual_loss_weight: float = 0.0,
    trepa_loss_weight: float = 0.0,
    sync_loss_weight: float = 0.0,
    places: AuxiliaryFiles | None = None,
) -> AuxiliaryFiles:
    """The files that losses of these weights need, None for the others; looked for in `places`.

    A run without pixel losses or without a SyncNet passes 0 for them. Raises: CheckpointError with a line for
    every file that is not there.
    """
    weights = {
        "run.perceptual_loss_weight": perceptual_loss_weight,
        "run.trepa_loss_weight": trepa_loss_weight,
        "run.sync_loss_weight": sync_loss_weight,
    }
    found: dict[str, Path | None] = {}
    missing: list[str] = []
    for name, need in NEEDS.items():
        path, weight = getattr(places or AuxiliaryFiles(), name), weights[need.weight_key]
        comes_along = name == "lpips" and path is None
        if weight == 0 or comes_along:
            found[name] = None
            continue
        try:
            found[name] = require_weights(
                path, loss=need.loss, weight_key=need.weight_key, weight=weight, source=need.source
            )
        except CheckpointError as error:
            missing.append(str(error))
    if missing:
        raise CheckpointError("\n".join(missing))
    return AuxiliaryFiles(**found)


def require_weights(path: Path | None, *, loss: str, weight_key: str, weight: float, source: str) -> Path:
    """`path`, if the file, or the folder of a saved network, is there.

    Raises: CheckpointError saying which setting asks for it, from where to get it and how to do without.
    """
    if path is not None and (path.is_file() or (path / "config.json").is_file()):
        return path
    needed = f"weights for {loss}, but no path to them is set" if path is None else str(path)
    raise CheckpointError(
        f"{weight_key} is {weight:g}, which needs {needed}; get it from {source}, or set {weight_key}=0"
    )
