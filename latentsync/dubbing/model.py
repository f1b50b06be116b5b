"""Which model a job uses -> a pipeline on its device: the embedded default, a folder, a Hub id, released
files, or a pipeline that is already loaded.
"""

from pathlib import Path

import diffusers.utils.logging
import torch
import transformers.utils.logging

from latentsync.checkpoint import known_release
from latentsync.diffusion.folder import open_folder
from latentsync.diffusion.lora import apply_lora
from latentsync.diffusion.original import UNET_FILE, download, find_original
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.dubbing.memory import is_offloaded
from latentsync.errors import CheckpointError

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
DEFAULT_MODEL = CHECKPOINTS / "latentsync-tiny"
DEFAULT_SYNCNETS = ("syncnet-tiny", "stable_syncnet.pt")  # in CHECKPOINTS
SYNCNET_FILE = "stable_syncnet.pt"


def load_model(
    model: str | Path | LipsyncPipeline | None,
    device: torch.device,
    dtype: torch.dtype,
    *,
    overlap: int | None = None,
    lora: str | Path | None = None,
    **original: str | Path | int | None,
) -> tuple[LipsyncPipeline, str]:
    """The pipeline and its name.

    `model`: None is the embedded default; a folder of ours or of the released layout, a released U-Net's
    file, a Hub id of either kind, or a loaded pipeline. `original` says what released files do not: `config`,
    `whisper`, `vae`, `resolution` of `LipsyncPipeline.from_original`. `overlap`: frames that neighbouring
    windows share, the model's own number by default. `lora`: matrices of a training run, put into the U-Net.
    Raises: FileNotFoundError, ConfigError, CheckpointError for a model that is missing, incomplete, damaged
    or of another kind; ValueError for `lora` with a loaded pipeline.
    """
    original = {name: value for name, value in original.items() if value is not None}
    if isinstance(model, LipsyncPipeline):
        if lora is not None:
            raise ValueError("lora would change the loaded pipeline for good: call apply_lora(pipeline.unet)")
        fits = is_offloaded(model) or (model.device == device and model.unet.dtype == dtype)
        name = str(model.config.get("_name_or_path") or "given pipeline")
        return model if fits else model.to(device, dtype, silence_dtype_warnings=True), name
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    place = _place(model)
    unet = place if place.is_file() else find_original(place)
    if unet is not None:
        pipeline = LipsyncPipeline.from_original(unet, dtype=dtype, **original)  # type: ignore[arg-type]
        name = f"{known.name if (known := known_release(unet)) else unet.name} at {pipeline.resolution} px"
    else:
        if original:
            named = sorted(name.replace("config", "unet_config") for name in original)
            raise CheckpointError(
                f"{', '.join(named)}: only for released files ({UNET_FILE}); model folder "
                f"{str(place)!r} says it itself"
            )
        pipeline = open_folder(place, dtype)
        name = str(model) if model is not None else "latentsync-tiny (embedded default)"
    if lora is not None:
        apply_lora(pipeline.unet, lora)
        name = f"{name} with {lora}"
    if overlap is not None:
        pipeline.set_overlap(overlap)
    pipeline.to(device, silence_dtype_warnings=True)  # pick_dtype says it shorter
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, name


def find_syncnet(model: str | Path | LipsyncPipeline | None) -> Path:
    """The judge of sync that goes with `model`: beside released files, else in checkpoints/.

    Raises: FileNotFoundError when there is none.
    """
    beside = [Path(model), Path(model).parent] if isinstance(model, str | Path) else []
    places = [folder / SYNCNET_FILE for folder in beside] + [CHECKPOINTS / name for name in DEFAULT_SYNCNETS]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(
        f"{SYNCNET_FILE} is neither beside the model nor in {str(CHECKPOINTS)!r}: sync_guidance needs a "
        "SyncNet to judge the drafts; pass its place as syncnet (checkpoints/README.md says from where)"
    )


def _place(model: str | Path | None) -> Path:
    """The folder or file of a model, downloaded into the Hub's cache when `model` is an id such as
    owner/name.
    """
    path = DEFAULT_MODEL if model is None else Path(model)
    if path.is_dir() or path.is_file():
        return path
    is_id = model is not None and not path.is_absolute() and len(path.parts) == 2 and ".." not in path.parts
    if not is_id or path.suffix in (".pt", ".pth", ".safetensors"):
        raise CheckpointError(
            f"model {str(path)!r} does not exist; pass a model folder, {UNET_FILE}, a Hub id such as "
            "owner/name, or leave --model out for the embedded default in checkpoints/latentsync-tiny"
        )
    return download(path.as_posix())
