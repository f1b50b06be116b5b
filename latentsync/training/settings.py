"""What must be the same when a run goes on: compared by name, so that a refusal can say what differs."""

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, cast

from latentsync.errors import ConfigError
from latentsync.training.config import LoopConfig

FREE = ("steps", "save_every", "keep_last", "log_every", "num_workers", "validate_every")  # may differ
SAMPLES = ("batch_size", "gradient_accumulation_steps")  # may differ if a step still sees as many samples


def run_settings(config: LoopConfig, settings: Any, processes: int) -> dict[str, Any]:
    """What must not change between start and resumption, by dotted name."""
    loop = {name: value for name, value in asdict(config).items() if name not in FREE + SAMPLES}
    samples = config.batch_size * config.gradient_accumulation_steps * processes
    loop["batch_size x gradient_accumulation_steps x processes"] = samples
    flat = _flat({**_plain(settings or {}), "loop": loop})
    return json.loads(json.dumps(flat, default=str))


def check_settings(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises: ConfigError that names each setting of the checkpoint at `path` that is another now."""
    differing = [
        f"{name} ({there.get(name, 'absent')} there, {here.get(name, 'absent')} now)"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise ConfigError(
            f"checkpoint {str(path)!r} was made with another configuration: {', '.join(differing)}; "
            "set these as they were, or train into another folder"
        )


def _plain(settings: Any) -> Mapping[str, Any]:
    """A dataclass as a mapping, a mapping as it is."""
    if is_dataclass(settings) and not isinstance(settings, type):
        return asdict(settings)
    return cast(Mapping[str, Any], settings)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) or is_dataclass(value):
            leaves |= _flat(_plain(value), f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves
