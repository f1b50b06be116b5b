"""Which model a job uses: a folder, a Hub id, or a pipeline that is already loaded -> a pipeline on its
device.
"""

import json
from pathlib import Path

import diffusers.utils.logging
import torch
import transformers.utils.logging
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open

from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.errors import CheckpointError

DEFAULT_MODEL = Path(__file__).resolve().parents[2] / "checkpoints" / "latentsync-tiny"
PARTS = {  # what a model folder may name; anything else would import code of the folder's choosing
    "vae": {"AutoencoderKL"},
    "audio_encoder": {"WhisperModel"},
    "unet": {"UNet3DConditionModel"},
}
PART_LIBRARIES = {"diffusers", "transformers", "latentsync.diffusion.unet"}


def load_model(
    model: str | Path | LipsyncPipeline | None, device: torch.device, dtype: torch.dtype
) -> tuple[LipsyncPipeline, str]:
    """The pipeline and its name; None is the embedded default, a name that is no folder a Hub id.

    Raises: CheckpointError for a folder that is missing, incomplete, damaged or of another kind.
    """
    if isinstance(model, LipsyncPipeline):
        fits = model.device == device and model.unet.dtype == dtype
        return model if fits else model.to(device, dtype), str(
            model.config.get("_name_or_path") or "given pipeline"
        )
    folder = _local_folder(model)
    _check_index(folder)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    try:
        pipeline = LipsyncPipeline.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, use_safetensors=True
        )
        _check_weights(folder, pipeline)
        pipeline.to(device)
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        NotImplementedError,
        SafetensorError,
    ) as error:
        raise CheckpointError(f"model {str(folder)!r} cannot be loaded: {_first_line(error)}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, str(model) if model is not None else "latentsync-tiny (embedded default)"


def _local_folder(model: str | Path | None) -> Path:
    """The folder of a model, downloaded into the Hub's cache when `model` is an id such as owner/name."""
    folder = DEFAULT_MODEL if model is None else Path(model)
    if folder.is_dir():
        return folder
    if (
        model is None
        or folder.exists()
        or folder.is_absolute()
        or len(folder.parts) != 2
        or ".." in folder.parts
    ):
        raise CheckpointError(
            f"model {str(folder)!r} is not a folder; pass a model folder, a Hub id such as owner/name, "
            "or leave --model out for the embedded default in checkpoints/latentsync-tiny"
        )
    try:
        return Path(snapshot_download(folder.as_posix(), allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise CheckpointError(
            f"model {str(folder)!r} is neither a folder here nor to be had from the Hub: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_weights(folder: Path, pipeline: LipsyncPipeline) -> None:
    """Raise ValueError for a tensor that a part has but its files lack: libraries leave it random."""
    for part in PARTS:
        held: set[str] = set()
        for path in sorted((folder / part).glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                held.update(file.keys())
        if missing := sorted(set(pipeline.components[part].state_dict()) - held):
            raise ValueError(
                f"its {part} lacks {len(missing)} tensor(s), {missing[0]} first; copy the folder again"
            )


def _check_index(folder: Path) -> None:
    """Refuse a folder that is not one of our pipelines before anything in it is imported or loaded."""
    path = folder / "model_index.json"
    if not path.is_file():
        held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
        raise CheckpointError(
            f"model folder {str(folder)!r} has no model_index.json (it holds {held}); "
            "checkpoints/README.md says what fits"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); copy the model folder again") from error
    if not isinstance(index, dict) or index.get("_class_name") != "LipsyncPipeline":
        raise CheckpointError(
            f"{path} does not describe a LipsyncPipeline; see checkpoints/README.md for what fits"
        )
    for part, entry in index.items():
        if not isinstance(entry, list):
            continue
        library, name = (*entry, None, None)[:2]
        is_scheduler = part == "scheduler" and library == "diffusers" and str(name).endswith("Scheduler")
        if not is_scheduler and not (library in PART_LIBRARIES and name in PARTS.get(part, ())):
            raise CheckpointError(
                f"{path} names {library}.{name} as its {part}; that is not a part of a LipsyncPipeline"
            )
        if not (folder / part).is_dir():
            raise CheckpointError(
                f"model folder {str(folder)!r} lacks its part {part!r}; copy the folder again"
            )
