"""A StableSyncNet of a file or folder: `stable_syncnet.pt` as released, or a folder that we saved.

Which of the published networks a file holds is read off its tensors: configs/syncnet/*.yaml are tried for
names and shapes.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from latentsync.checkpoint import assign_exactly, check_stored, first_line, read_json, read_weights
from latentsync.config import load_config
from latentsync.errors import CheckpointError, ConfigError
from latentsync.sync.stable_syncnet import StableSyncNet
from latentsync.sync.syncnet_config import SyncNetConfig
from latentsync.sync.wav2lip_syncnet import Wav2LipSyncNet

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "syncnet"
CONFIG_FILE = "config.json"

logger = logging.getLogger(__name__)

SyncNetwork = StableSyncNet | Wav2LipSyncNet
Network = TypeVar("Network", StableSyncNet, Wav2LipSyncNet)


def open_syncnet(place: str | Path, config: str | Path | None = None) -> StableSyncNet:
    """The network at `place`, on the CPU, in evaluation mode; `config` is the YAML of a file that none of
    ours describes.

    Raises: FileNotFoundError, ConfigError, CheckpointError.
    """
    place = Path(place)
    if place.is_dir():
        return _open_folder(place, StableSyncNet)
    weights = read_weights(place, expect="stable_syncnet")
    paths = [Path(config)] if config is not None else sorted(CONFIGS.glob("*.yaml"))
    for path in paths:
        syncnet = _build(path)
        if isinstance(syncnet, StableSyncNet) and _shapes(syncnet.state_dict()) == _shapes(weights.tensors):
            syncnet.load_state_dict(weights.tensors, assign=True)
            return syncnet.eval()
    tried = ", ".join(path.name for path in paths) or f"nothing in {CONFIGS}"
    raise CheckpointError(
        f"SyncNet {str(place)!r} ({len(weights.tensors)} tensors) is the network of none of {tried}: "
        "pass the YAML that it was trained with"
    )


def open_any_syncnet(place: str | Path, config: str | Path | None = None) -> SyncNetwork:
    """`open_syncnet`, and Wav2Lip's SyncNet where a folder or the YAML says that it is one."""
    place = Path(place)
    if place.is_dir() and (place / CONFIG_FILE).is_file():
        if read_json(place / CONFIG_FILE).get("_class_name") == Wav2LipSyncNet.__name__:
            return _open_folder(place, Wav2LipSyncNet)
    elif config is not None and load_config(SyncNetConfig, config).is_wav2lip:
        network = _build(Path(config))
        load_weights(network, place)
        return network.eval()
    return open_syncnet(place, config)


def load_weights(network: SyncNetwork, place: str | Path) -> None:
    """Give `network` the tensors of a folder that we saved or of a file like upstream's, strictly; a network
    that is narrower, and has the same layers, gets the first channels of each level, and the log says so.

    Raises: FileNotFoundError; CheckpointError for tensors of another network.
    """
    place = Path(place)
    if place.is_dir():
        tensors = _open_folder(place, type(network)).state_dict()  # pyright: ignore[reportArgumentType]
    else:
        tensors = read_weights(place).tensors
    tensors = _first_channels(tensors, network, place)
    assign_exactly(network, tensors, place, source="a run with this configuration")


def _first_channels(tensors: Mapping[str, Tensor], network: nn.Module, place: Path) -> Mapping[str, Tensor]:
    """What a narrower `network` has room for; the tensors as they are where it is no part of theirs."""
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if shapes.keys() != tensors.keys() or not all(
        _has_room(tensors[n], shape) for n, shape in shapes.items()
    ):
        return tensors
    cut = {
        name: tensors[name][tuple(slice(size) for size in shape)].clone() for name, shape in shapes.items()
    }
    if narrowed := sum(tensors[name].shape != tensor.shape for name, tensor in cut.items()):
        logger.info("%s is wider: %d of %d tensors give their first channels", place, narrowed, len(cut))
    return cut


def _has_room(tensor: Tensor, shape: torch.Size) -> bool:
    """Whether a tensor of that shape can be cut out of `tensor`."""
    return tensor.ndim == len(shape) and all(
        there >= here for there, here in zip(tensor.shape, shape, strict=True)
    )


def _build(path: Path) -> SyncNetwork:
    """The network of a YAML on the meta device."""
    config = load_config(SyncNetConfig, path)
    try:
        with torch.device("meta"):
            return config.build()
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise ConfigError(f"configuration {path}: {first_line(error)}") from error


def _open_folder(folder: Path, network_class: type[Network]) -> Network:
    if not (folder / CONFIG_FILE).is_file():
        held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
        raise CheckpointError(f"SyncNet folder {str(folder)!r} has no {CONFIG_FILE} (it holds {held})")
    kind = read_json(folder / CONFIG_FILE).get("_class_name")
    if kind != network_class.__name__:
        raise CheckpointError(
            f"SyncNet folder {str(folder)!r} holds a {kind or 'model of another library'}; expected a "
            f"{network_class.__name__}: pass its folder, or stable_syncnet.pt"
        )
    try:
        syncnet = network_class.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
        check_stored(folder, syncnet.state_dict())
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"SyncNet folder {str(folder)!r} cannot be loaded: {first_line(error)}"
        ) from error
    return syncnet.eval()


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
