"""What lies in a model folder: JSON, and safetensors that must hold every tensor of a network."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from latentsync.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises: CheckpointError when the file is none."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); copy the folder again") from error
    if not isinstance(held, dict):
        raise CheckpointError(f"{path} holds a {type(held).__name__}; expected a JSON object")
    return held


def check_stored(folder: Path, names: Iterable[str]) -> None:
    """Raise CheckpointError for a tensor of a model, by `names`, that the safetensors of its folder lack:
    libraries leave it random.
    """
    held: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            held.update(file.keys())
    if missing := sorted(set(names) - held):
        raise CheckpointError(
            f"{str(folder)!r} lacks {len(missing)} tensor(s), {missing[0]} first; copy the folder again"
        )
