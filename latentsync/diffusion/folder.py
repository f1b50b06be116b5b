"""A model folder in our own layout -> the pipeline; nothing in it is imported or unpickled on its word."""

from pathlib import Path

import torch
from safetensors import SafetensorError

from latentsync.checkpoint import check_stored, first_line, read_json
from latentsync.diffusion.original import INDEX, UNET_FILE
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.errors import CheckpointError

PARTS = {  # what a model folder may name; anything else would import code of the folder's choosing
    "vae": {"AutoencoderKL"},
    "audio_encoder": {"WhisperModel"},
    "unet": {"UNet3DConditionModel"},
    "refiner": {"UNet2DModel"},
    "articulator": {"Articulator"},
}
OPTIONAL = ("refiner", "articulator")
PART_LIBRARIES = {
    "diffusers",
    "transformers",
    "latentsync.diffusion.unet",
    "latentsync.diffusion.articulator",
}


def open_folder(folder: Path, dtype: torch.dtype) -> LipsyncPipeline:
    """The pipeline of a folder in our own layout, on the CPU. Raises: CheckpointError."""
    _check_index(folder)
    try:
        pipeline = LipsyncPipeline.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, use_safetensors=True
        )
        for part in PARTS:
            if part not in OPTIONAL or pipeline.components[part] is not None:
                check_stored(folder / part, pipeline.components[part].state_dict())
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        NotImplementedError,
        SafetensorError,
    ) as error:
        raise CheckpointError(f"model {str(folder)!r} cannot be loaded: {first_line(error)}") from error
    return pipeline


def _check_index(folder: Path) -> None:
    """Refuse a folder that is not one of our pipelines before anything in it is imported or loaded."""
    path = folder / INDEX
    if not path.is_file():
        held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
        raise CheckpointError(
            f"model folder {str(folder)!r} has neither {INDEX} nor {UNET_FILE} (it holds {held}); "
            "checkpoints/README.md says what fits"
        )
    index = read_json(path)
    if index.get("_class_name") != "LipsyncPipeline":
        raise CheckpointError(
            f"{path} does not describe a LipsyncPipeline; see checkpoints/README.md for what fits"
        )
    for part, entry in index.items():
        if not isinstance(entry, list):
            continue
        library, name = (*entry, None, None)[:2]
        if part in OPTIONAL and library is None:
            continue
        is_scheduler = part == "scheduler" and library == "diffusers" and str(name).endswith("Scheduler")
        if not is_scheduler and not (library in PART_LIBRARIES and name in PARTS.get(part, ())):
            raise CheckpointError(
                f"{path} names {library}.{name} as its {part}; that is not a part of a LipsyncPipeline"
            )
        if not (folder / part).is_dir():
            raise CheckpointError(
                f"model folder {str(folder)!r} lacks its part {part!r}; copy the folder again"
            )
