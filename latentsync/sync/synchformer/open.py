"""A Synchformer of a file or folder: released by v-iashin, repacked for MMAudio, or saved by us.

What a file holds (stage I, offsets, synchronizability; how many segments and classes) is read off its
tensors, never off its name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError

from latentsync.checkpoint import Weights, assign_exactly, check_stored, first_line, read_json, read_weights
from latentsync.errors import CheckpointError
from latentsync.sync.synchformer.inert import plain, stand_ins
from latentsync.sync.synchformer.keys import from_original
from latentsync.sync.synchformer.network import SegmentContrast, Synchformer
from latentsync.sync.synchformer.upstream_config import looked_up, network_arguments, with_sizes_of
from latentsync.sync.synchformer.viewing import Viewing

SOURCE = "https://github.com/v-iashin/Synchformer (README, Pre-trained models)"
CONFIG_FILE = "config.json"
OFFSETS, SEGMENTS = "synchformer", "synchformer segments"
NOT_TOLD = ("optimizer", "scaler", "lr_scheduler")
TOKENS_A_SEGMENT = 8 + 6  # moments that are seen and heard in one, of the released networks

Network = TypeVar("Network", Synchformer, SegmentContrast)


def open_synchformer(place: str | Path, config: Mapping[str, Any] | None = None) -> Synchformer:
    """The offset or synchronizability network at `place`, on the CPU, in evaluation mode.

    `config` (see `Synchformer.from_upstream`) is for files whose networks are not of the released sizes.
    Raises: FileNotFoundError; CheckpointError for what is damaged, of another kind, or would run code.
    """
    return _open(Synchformer, OFFSETS, Path(place), config)


def open_segments(place: str | Path, config: Mapping[str, Any] | None = None) -> SegmentContrast:
    """The same for a network of stage I."""
    return _open(SegmentContrast, SEGMENTS, Path(place), config)


def read_released(path: str | Path, expect: str | None = None) -> tuple[Weights, dict[str, Any]]:
    """The tensors of a file, and what else it tells: epoch, metrics, `args` as its run was configured."""
    with stand_ins():
        weights = read_weights(path, expect=expect)
    told = {name: plain(value) for name, value in weights.extra.items() if name not in NOT_TOLD}
    return weights, told


def _open(kind: type[Network], family: str, place: Path, config: Mapping[str, Any] | None) -> Network:
    if place.is_dir():
        return _open_folder(kind, place)
    weights, told = read_released(place)
    if weights.identity.family != family:
        wanted = "a network of stage I" if family == SEGMENTS else "one that judges offsets"
        raise CheckpointError(
            f"weights {str(place)!r} hold {weights.identity}; expected {wanted}: pass that file"
        )
    tensors = {name: value.float() for name, value in from_original(weights.tensors).items()}
    try:
        arguments: dict[str, Any] = {**with_sizes_of(network_arguments(config or {}), tensors)}
        viewing = _viewing(arguments["sync"], told)
        if kind is SegmentContrast:
            del arguments["sync"]
        with torch.device("meta"):
            network = kind(**arguments, viewing=viewing.as_config())
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(
            f"weights {str(place)!r} fit no Synchformer ({first_line(error)}); pass the configuration that "
            "it was trained with"
        ) from error
    assign_exactly(network, tensors, place, source=SOURCE)
    return network.eval()


def _viewing(sync: Mapping[str, Any], told: Mapping[str, Any]) -> Viewing:
    """What a network of a file looks at: by its positions, and by its run's configuration if there is one."""
    changed: dict[str, Any] = {}
    if "positions" in sync:
        changed["segments"] = (sync["positions"] - 2) // TOKENS_A_SEGMENT
        span = (changed["segments"] - 1) * Viewing.step_frames + Viewing.segment_frames
        changed["crop_frames"] = max(span, Viewing.crop_frames)
    limit = looked_up(told, "args", "data", "max_off_sec")
    if isinstance(limit, (int, float)) and limit > 0:
        changed["offset_limit_seconds"] = float(limit)
    return Viewing(**changed)


def _open_folder(kind: type[Network], folder: Path) -> Network:
    config = folder / CONFIG_FILE
    if not config.is_file():
        held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
        raise CheckpointError(f"Synchformer folder {str(folder)!r} has no {CONFIG_FILE} (it holds: {held})")
    name = read_json(config).get("_class_name")
    if name != kind.__name__:
        raise CheckpointError(f"folder {str(folder)!r} holds a {name}; a {kind.__name__} was expected")
    try:
        network = kind.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
        check_stored(folder, network.state_dict())
        network.viewing  # noqa: B018  (its settings must make sense)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"Synchformer folder {str(folder)!r} cannot be loaded: {first_line(error)}"
        ) from error
    return network.eval()
