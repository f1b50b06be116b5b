"""What networks hear of a training clip, worked out once and kept on disk, mapped when read.

`T` mel columns or feature rows, `L` hidden states a row, `N` tokens of a frame, `D` width. A file's name is
the recipe (with its version and the hash of its weights) and the clip's content key: no two recordings meet
in one, as they do where files are kept by base name. One that cannot be read is made again.
"""

import hashlib
import logging
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperModel

from latentsync.audio.mel import SYNCNET_BANDS, syncnet_mel
from latentsync.audio.whisper import encode, inner_context
from latentsync.audio.windows import window_rows
from latentsync.errors import FootageError
from latentsync.footage.clip import FPS, open_clip
from latentsync.footage.content import ContentKeys, written_aside
from latentsync.footage.listing import ClipFile

HASH_DIGITS = 16

logger = logging.getLogger(__name__)


class Recipe(Protocol):
    """A way to make features of a sound; `name` changes whenever the features would."""

    @property
    def name(self) -> str: ...

    def compute(self, waveform: np.ndarray) -> np.ndarray:
        """The features of a waveform (T,) at 16 kHz."""
        ...

    def fits(self, features: np.ndarray) -> bool:
        """Whether an array can be what `compute` gives."""
        ...


class SyncNetMel:
    """`syncnet_mel`, (80, T) float32."""

    name = "syncnet_mel-1"

    def compute(self, waveform: np.ndarray) -> np.ndarray:
        return syncnet_mel(torch.from_numpy(waveform)).numpy()

    def fits(self, features: np.ndarray) -> bool:
        return features.ndim == 2 and features.shape[0] == SYNCNET_BANDS and features.dtype == np.float32


class WhisperStates:
    """All hidden states of a Whisper encoder, (T, L + 1, D) float16 at 50 Hz; windows are cut when read.

    The encoder does not travel to worker processes that are spawned: `FeatureCache.fill` comes first.
    """

    def __init__(self, model: WhisperModel) -> None:
        self.model: WhisperModel | None = model
        self.name = f"whisper-1-{_weights_hash(model)}"
        self.states, self.width = model.config.encoder_layers + 1, model.config.d_model

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"model": None}

    def compute(self, waveform: np.ndarray) -> np.ndarray:
        if self.model is None:
            raise FootageError(
                "Whisper's features of a clip are missing in a worker process; fill the cache before loading"
            )
        states = encode(torch.from_numpy(waveform), self.model, context=inner_context(self.model))
        features = states.cpu().numpy().astype(np.float16)
        if not np.isfinite(features).all():
            raise FootageError("Whisper's states leave the range of float16 (65504); are its weights sound?")
        return features

    def fits(self, features: np.ndarray) -> bool:
        return features.shape[1:] == (self.states, self.width) and features.dtype == np.float16


class FeatureCache:
    """The features of clips by one recipe, below `folder`."""

    def __init__(self, folder: str | Path, recipe: Recipe, keys: ContentKeys) -> None:
        self.folder, self.recipe, self.keys = Path(folder), recipe, keys

    def load(self, clip: ClipFile) -> np.ndarray:
        """The clip's features, mapped from disk, made first where they are missing or damaged.

        Raises: MediaError for a clip without sound or a disk that cannot be written to.
        """
        path = self.place(clip)
        features = self._stored(path)
        if features is None:
            features = self._made(clip, path)
        return features

    def fill(self, clips: Iterable[ClipFile], *, rank: int = 0, ranks: int = 1) -> None:
        """Make what is missing; of several processes each takes every `ranks`-th clip."""
        for clip in islice(clips, rank, None, ranks):
            self.load(clip)

    def place(self, clip: ClipFile) -> Path:
        key = self.keys.of(clip)
        return self.folder / self.recipe.name / key[:2] / f"{key}.npy"

    def _stored(self, path: Path) -> np.ndarray | None:
        if not path.is_file():
            return None
        try:
            features = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            logger.warning("%s is damaged (%s) and is made again", path, error)
            return None
        if not self.recipe.fits(features):
            logger.warning("%s holds %s %s and is made again", path, features.dtype, features.shape)
            return None
        return features

    def _made(self, clip: ClipFile, path: Path) -> np.ndarray:
        with open_clip(clip) as opened:
            features = self.recipe.compute(opened.waveform)
        with written_aside(path) as file:
            np.save(file, features)
        return features


def token_window(states: np.ndarray, start: int, frames: int) -> Tensor:
    """What a U-Net hears in the frames [start, start + frames): float32 (F, N, D) of states (T, L, D).

    The same as `frame_windows` of the whole clip, cut; rows past either end repeat the end row.
    """
    rows = np.array([window_rows(frame, FPS) for frame in range(start, start + frames)])
    return torch.from_numpy(states[rows.clip(0, len(states) - 1)]).float().flatten(1, 2)


def _weights_hash(model: WhisperModel) -> str:
    """Of an encoder's tensors and their names, whatever the device."""
    digest = hashlib.sha256(f"{model.config.encoder_attention_heads} heads\0".encode())
    for name, tensor in sorted(model.encoder.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:HASH_DIGITS]
