"""Configuration: a YAML and key=value overrides, checked against a frozen dataclass; a typo names its key and
stops the run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from latentsync.errors import ConfigError

Schema = TypeVar("Schema")


def load_config(schema: type[Schema], path: str | Path, overrides: Sequence[str] = ()) -> Schema:
    """The `schema` dataclass filled from the YAML at `path`, then from `overrides` such as "loop.steps=100".

    Raises: FileNotFoundError, ConfigError (a folder, unknown key, wrong type, missing value, not YAML).
    """
    path = _checked(path)
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(schema), OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides))
        )
        return cast(Schema, OmegaConf.to_object(merged))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"configuration {path}: {error}") from error


def read_sections(path: str | Path) -> dict[str, set[str]]:
    """The keys at the top of the YAML at `path`, each with those below it, none for what is no mapping.

    Raises: FileNotFoundError, ConfigError (a folder, not YAML, no mapping).
    """
    path = _checked(path)
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"configuration {path}: {error}") from error
    if not isinstance(held, dict):
        raise ConfigError(f"configuration {path} holds a {type(held).__name__}; expected sections with keys")
    return {
        str(name): {str(key) for key in below} if isinstance(below, dict) else set()
        for name, below in held.items()
    }


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"configuration {str(path)!r} is a folder; pass the YAML file in it")
    if not path.is_file():
        raise FileNotFoundError(f"configuration {str(path)!r} does not exist; the known ones lie in configs/")
    return path


def save_config(config: object, path: str | Path) -> None:
    """Write a configuration dataclass as YAML, as a run's record."""
    OmegaConf.save(OmegaConf.structured(config), path)
