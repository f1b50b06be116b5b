"""A file of weights -> what it holds, by the reader for what its first bytes say it is; never code.

PyTorch's files go through the unpickler that knows tensors only, and like safetensors they are memory-mapped.
"""

import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from latentsync.errors import CheckpointError, first_line

HEAD_BYTES = 512
MIN_BYTES = 64
ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = (b"\x80\x02", b"\x80\x03", b"\x80\x04")  # PyTorch before 1.6
SAFETENSORS_HEADER_OFFSET = 8
MAX_SAFETENSORS_HEADER_BYTES = 100_000_000
UNREADABLE = (  # what torch's readers raise on damaged files
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    AttributeError,
    TypeError,
    AssertionError,
    ArithmeticError,
    struct.error,
)


def load(path: Path) -> Any:
    """What the file holds, by the loader for what its first bytes say it is."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if size < MIN_BYTES:
        raise CheckpointError(
            f"weights {str(path)!r} are {size} bytes long, too short for any tensor: download the file again"
        )
    if head.startswith(ZIP_MAGIC):
        return _load_torch(path, mmap=True)
    if head.startswith(PICKLE_MAGIC):
        return _load_torch(path, mmap=False)
    if head[SAFETENSORS_HEADER_OFFSET : SAFETENSORS_HEADER_OFFSET + 1] == b"{":
        return _load_safetensors(path)
    raise CheckpointError(f"weights {str(path)!r} {_what_it_is(head)}; expected a .pt or .safetensors file")


def _what_it_is(head: bytes) -> str:
    text = head.lstrip()[:100].lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "are a web page, an error page of the server most likely: download the file again"
    if text.startswith(b"version https://git-lfs"):
        return "are a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"
    if text.startswith((b"{", b"[")):
        return "are JSON, such as an error message: download the file again"
    if not any(head):
        return "hold zeros only, as an interrupted download does: download the file again"
    return f"begin with {head[:8].hex(' ')}, which no weights do"


def _load_torch(path: Path, *, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"hold more than tensors ({found[1]})" if found else "are damaged, or hold more than tensors"
        raise CheckpointError(
            f"weights {str(path)!r} {what}: opening them could run code of their author, so they stay "
            "closed; download the file again, or ask for one of tensors alone (safetensors)"
        ) from error
    except UNREADABLE as error:
        if mmap and not _is_whole_zip(path):
            raise CheckpointError(
                f"weights {str(path)!r} are cut short ({path.stat().st_size} bytes): download the file again"
            ) from error
        raise CheckpointError(
            f"weights {str(path)!r} cannot be read as a PyTorch file ({first_line(error)}): "
            "download the file again"
        ) from error


def _is_whole_zip(path: Path) -> bool:
    """Whether the directory at the end of a zip file is there."""
    try:
        with zipfile.ZipFile(path):
            return True
    except (zipfile.BadZipFile, OSError):
        return False


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"weights {str(path)!r} cannot be read as safetensors ({first_line(error)}), "
            "perhaps cut short: download the file again"
        ) from error
