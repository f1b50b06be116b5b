"""Spoken sentences whose sounds of speech (phones) are known row by row: one safetensors file.

`T` samples at 16 kHz, `P` rows at 50 Hz, 320 samples each.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from latentsync.errors import FootageError, first_line

SAMPLES_PER_ROW = 320
MAKE = "make such a file by scripts/make_sentences.py"
PARTS = {"waveform": "I16", "phones": "U8", "rows": "I32"}


@dataclass(frozen=True, eq=False)
class Sentence:
    """`waveform` (T,) float32 in [-1, 1] and `phones` (P,) uint8, numbers of `PHONES`; T = 320 P."""

    waveform: np.ndarray
    phones: np.ndarray


@dataclass(frozen=True, eq=False)
class Sentences:
    """Sentences and the names of their phones."""

    names: tuple[str, ...]
    sentences: list[Sentence]


def save_sentences(sentences: Iterable[Sentence], names: Iterable[str], path: Path) -> None:
    """Write the file; it appears when it is complete. Raises: FootageError for a path that is taken."""
    if path.exists():
        raise FootageError(f"{path} is there already; name another file for these sentences")
    held = list(sentences)
    tensors = {
        "waveform": np.concatenate([np.round(one.waveform * 32767).astype(np.int16) for one in held]),
        "phones": np.concatenate([one.phones.astype(np.uint8) for one in held]),
        "rows": np.array([len(one.phones) for one in held], np.int32),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    save_file(tensors, part, metadata={"phones": " ".join(names)})
    part.rename(path)


def load_sentences(path: str | Path) -> Sentences:
    """The sentences at `path`. Raises: FileNotFoundError; FootageError for another or a damaged file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no sentences at {str(path)!r}: {MAKE}")
    try:
        with safe_open(path, framework="numpy") as file:
            names = tuple((file.metadata() or {}).get("phones", "").split())
            found = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            if found != PARTS or not names:
                raise FootageError(f"{path} holds {found}, not spoken sentences ({PARTS}): {MAKE}")
            waveform, phones, rows = (file.get_tensor(name) for name in PARTS)
    except (SafetensorError, OSError) as error:
        raise FootageError(f"{path} cannot be read ({first_line(error)}): {MAKE}") from error
    ends = np.cumsum(rows, dtype=np.int64)
    if waveform.ndim != 1 or phones.shape != (len(waveform) // SAMPLES_PER_ROW,) or rows.ndim != 1:
        raise FootageError(f"{path} has {phones.shape} phones for {waveform.shape} samples: {MAKE}")
    if not len(rows) or rows.min() < 1 or ends[-1] != len(phones) or phones.max() >= len(names):
        raise FootageError(f"{path} names lengths or phones that it does not have: {MAKE}")
    sentences = []
    for start, end in zip(ends - rows, ends, strict=True):
        samples = slice(start * SAMPLES_PER_ROW, end * SAMPLES_PER_ROW)
        sentences.append(Sentence(waveform[samples].astype(np.float32) / 32767, phones[start:end]))
    return Sentences(names, sentences)
