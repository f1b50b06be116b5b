"""Released files -> one of our model folders (safetensors), and a model's U-Net -> upstream's `.pt`.

Nothing is rounded but by an asked-for dtype: a U-Net that goes into a folder and comes back is bit for bit
the same.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latentsync.checkpoint import check_stored, read_json, read_weights
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.errors import CheckpointError
from latentsync.media import make_part

PROVENANCE = "provenance.json"  # beside model_index.json: where a converted folder came from
MAX_SHARD_SIZE = "10GB"
HASH_BLOCK_BYTES = 1 << 24


def to_folder(
    unet: str | Path,
    output: str | Path,
    *,
    config: str | Path | None = None,
    whisper: str | Path | None = None,
    vae: str | Path | None = None,
    resolution: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a model folder of released files; `output` appears when it is whole. Arguments as in
    `LipsyncPipeline.from_original`.

    Raises: FileExistsError when `output` is there already; FileNotFoundError, ConfigError, CheckpointError.
    """
    output, unet = Path(output), Path(unet)
    _refuse_existing(output)
    pipeline = LipsyncPipeline.from_original(
        unet, config=config, whisper=whisper, vae=vae, resolution=resolution, dtype=dtype
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        pipeline.save_pretrained(part, safe_serialization=True, max_shard_size=MAX_SHARD_SIZE)
        weights = read_weights(unet)
        record = {
            "source": unet.name,
            "sha256": file_sha256(unet),
            "release": weights.release.name if weights.release else None,
            "global_step": _whole(weights.extra.get("global_step")),
            "resolution": pipeline.resolution,
            "dtype": str(dtype).removeprefix("torch."),
        }
        (part / PROVENANCE).write_text(json.dumps(record, indent=1) + "\n")
        part.chmod(0o755)
        part.rename(output)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return output


def to_upstream(folder: str | Path, output: str | Path) -> Path:
    """Write the U-Net of a model folder as upstream's code loads it: {"global_step", "state_dict"}.

    Raises: FileExistsError when `output` is there already; CheckpointError for a folder without such a U-Net.
    """
    folder, output = Path(folder), Path(output)
    _refuse_existing(output)
    place = folder / "unet" if (folder / "unet").is_dir() else folder
    if not (place / "config.json").is_file():
        raise CheckpointError(f"{str(folder)!r} is no model folder: it has no unet/config.json")
    unet = _stored_unet(place)
    if unet.config["audio_tokens"] is not None or unet.config["use_inflated_groupnorm"]:
        raise CheckpointError(
            f"the U-Net of {str(folder)!r} has layers that upstream's code does not know (audio positions, "
            "norms per frame): only U-Nets of the released kind can be written for it"
        )
    record = read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    output.parent.mkdir(parents=True, exist_ok=True)
    write_upstream(unet.upstream_state_dict(), _whole(record.get("global_step")) or 0, output)
    return output


def write_upstream(tensors: Mapping[str, Tensor], step: int, output: Path) -> None:
    """Write a U-Net's `upstream_state_dict` in the layout of upstream's checkpoints, over one there."""
    part = make_part(output)
    try:
        torch.save({"global_step": step, "state_dict": dict(tensors)}, part)
        part.rename(output)
    finally:
        part.unlink(missing_ok=True)


def _stored_unet(place: Path) -> UNet3DConditionModel:
    """The U-Net of a folder in the number type it is stored in, with every tensor from its files."""
    try:
        with safe_open(next(place.glob("*.safetensors")), framework="pt") as file:
            dtype = file.get_tensor(next(iter(file.keys()))).dtype
        unet = UNet3DConditionModel.from_pretrained(
            str(place), local_files_only=True, use_safetensors=True, dtype=dtype
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError, StopIteration) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the U-Net in {str(place)!r} cannot be loaded: {reason}") from error
    check_stored(place, unet.state_dict())
    return unet


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _whole(value: object) -> int | None:
    """A count of steps, None for anything else that a file may say."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _refuse_existing(output: Path) -> None:
    if os.path.lexists(output):
        raise FileExistsError(f"{str(output)!r} is there already; pass another name, or remove it first")
