"""A file of weights -> its tensors and what they are, checked; and a network that takes exactly these."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentsync.checkpoint.identity import Identity, identify, wanted
from latentsync.checkpoint.loading import load
from latentsync.checkpoint.releases import Release, known_release
from latentsync.errors import CheckpointError, first_line

STATE_KEYS = ("state_dict", "model_state_dict", "ema_state_dict", "model", "module", "model_state")
WRAPPER = "module."  # what DistributedDataParallel puts before every name
NUMBERS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
COUNTS = (torch.int64, *NUMBERS)
OPENAI_DIMS = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")


@dataclass(frozen=True)
class Weights:
    """The tensors of a file, memory-mapped, names without DistributedDataParallel's prefix.

    `extra` is what lay beside them: numbers, strings and lists, such as `global_step` or Whisper's `dims`.
    """

    path: Path
    tensors: dict[str, Tensor]
    identity: Identity
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def release(self) -> Release | None:
        """The published file that this is, None when it is not known."""
        return known_release(self.path)


def read_weights(path: str | Path, *, expect: str | None = None) -> Weights:
    """The tensors of `path` and what they are; with `expect`, only those of that family (see `Identity`).

    Raises: FileNotFoundError; CheckpointError for a file that is damaged, is no weights, would run code, or
    is of another family.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(
            f"weights {str(path)!r} are a folder; expected a .pt or .safetensors file in it"
        )
    if os.path.lexists(path) and not path.is_file():
        raise CheckpointError(
            f"weights {str(path)!r} are no file (a broken link, or a pipe); pass the file itself"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"weights {str(path)!r} do not exist; checkpoints/README.md says where to get them"
        )
    tensors, extra = _tensors_and_rest(path, load(path))
    _check_numbers(path, tensors)
    try:
        identity = identify(tensors)
    except (IndexError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"weights {str(path)!r} have tensors of shapes that no network here has ({first_line(error)}): "
            "download the file again"
        ) from error
    if expect is not None and identity.family != expect:
        raise CheckpointError(
            f"weights {str(path)!r} hold {identity}; expected {wanted(expect)}: pass that file"
        )
    return Weights(path, tensors, identity, extra)


def _check_numbers(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Only real numbers, and counters, that are there."""
    for name, value in tensors.items():
        if value.is_meta or value.dtype not in (COUNTS if name.endswith("num_batches_tracked") else NUMBERS):
            kind = "no values" if value.is_meta else str(value.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"weights {str(path)!r}: {name} has {kind}; expected float32, float16 or bfloat16"
            )


def _tensors_and_rest(path: Path, held: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict in what a file holds, and the plain values beside it."""
    if not isinstance(held, Mapping):
        raise CheckpointError(
            f"weights {str(path)!r} hold a {type(held).__name__}; expected named tensors (a state dict)"
        )
    inner = next((held[key] for key in STATE_KEYS if isinstance(held.get(key), Mapping)), None)
    rest = {} if inner is None else {key: v for key, v in held.items() if key not in STATE_KEYS}
    state = held if inner is None else inner
    tensors = {str(key).removeprefix(WRAPPER): v for key, v in state.items() if isinstance(v, Tensor)}
    others = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if not tensors and (nested := [str(key) for key, value in state.items() if _holds_tensors(value)]):
        where = f"in {nested[0]!r}" if len(nested) == 1 else f"apart, in {', '.join(map(repr, nested[:5]))}"
        raise CheckpointError(
            f"weights {str(path)!r} hold their tensors a level too deep, {where}; expected a state dict, "
            f"alone or under one of {', '.join(STATE_KEYS)}: save one such dict as a file of its own"
        )
    if not tensors:
        keys = ", ".join(map(str, list(state)[:5])) or "nothing"
        raise CheckpointError(f"weights {str(path)!r} hold no tensors but {keys}; expected a state dict")
    if others and inner is not None:
        raise CheckpointError(f"weights {str(path)!r}: {others[0]!r} in the state dict is no tensor")
    return tensors, {**rest, **({key: held[key] for key in others} if inner is None else {})}


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(inner, Tensor) for inner in value.values())


def openai_dims(weights: Weights) -> dict[str, int]:
    """The sizes of an openai Whisper, read off its tensors.

    Raises: CheckpointError when the file's own dims say otherwise.
    """
    tensors = weights.tensors
    conv, table = tensors["encoder.conv1.weight"], tensors.get("encoder.positional_embedding")
    width = int(conv.shape[0])
    found = {
        "n_mels": int(conv.shape[1]),
        "n_audio_ctx": 1500 if table is None else int(table.shape[0]),
        "n_audio_state": width,
        "n_audio_head": max(1, width // 64),  # every published size has heads of 64
        "n_audio_layer": int(weights.identity.layers or 0),
    }
    given = weights.extra.get("dims")
    if not isinstance(given, Mapping):
        return found
    for name in OPENAI_DIMS:
        if given.get(name) != found[name]:
            raise CheckpointError(
                f"weights {str(weights.path)!r}: {name} is {given.get(name)} in the file's dims but "
                f"{found[name]} in its tensors; download the file again"
            )
    return found


def assign_exactly(model: nn.Module, tensors: Mapping[str, Tensor], path: Path, *, source: str) -> None:
    """Give `model`, on the meta device or not, the tensors that `path` held, without a copy.

    Raises: CheckpointError that counts and names tensors missing, unknown or of another shape, and `source`.
    """
    wanted = model.state_dict()
    missing, unknown = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or unknown:
        raise CheckpointError(
            f"weights {str(path)!r} do not fit a {type(model).__name__}: {len(missing)} tensor(s) missing "
            f"{missing[:3]}, {len(unknown)} unknown {unknown[:3]}; get the file from {source}"
        )
    for name, value in tensors.items():
        if value.shape != wanted[name].shape:
            raise CheckpointError(
                f"weights {str(path)!r}: {name} has shape {tuple(value.shape)}, expected "
                f"{tuple(wanted[name].shape)}; get the file from {source}"
            )
    model.load_state_dict(tensors, assign=True)
