"""Packed clips -> training samples. The step number and the seed decide every sample, whatever ran before.

`F` frames, `R` resolution, `K` mouth measures. Clips lie as `latentsync.preprocess.pack` leaves them; arrays
are memory-mapped.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentsync.errors import MediaError


@dataclass(frozen=True)
class Clip:
    """One packed clip; `faces` (F, R, R, 3) uint8 stays on disk, `mouth` is (F, K), `waveform` (T,) at 16
    kHz.
    """

    name: str
    speaker: str
    split: str
    faces: np.ndarray
    mouth: np.ndarray
    waveform: np.ndarray

    @property
    def frames(self) -> int:
        return len(self.mouth)

    def mouth_motion(self) -> np.ndarray:
        """Mouth measures without the speaker: the clip's median is taken off."""
        return self.mouth - np.median(self.mouth, axis=0, keepdims=True)


def motion_spread(clips: Iterable[Clip]) -> np.ndarray:
    """The spread (K,) of the mouth measures of `clips` about each one's median.

    Raises: MediaError where one of them never changes.
    """
    spread = np.concatenate([clip.mouth_motion() for clip in clips]).std(axis=0)
    if not (np.isfinite(spread) & (spread > 0)).all():
        raise MediaError(f"mouths of these clips do not move: their measures spread by {spread.tolist()}")
    return spread


def told_correlation(told: Iterable[np.ndarray], clips: Iterable[Clip]) -> dict[str, float]:
    """Mean over `clips` of Pearson r between what was `told` of each, (F, K), and its true aperture and
    width.
    """
    pairs = list(zip(told, clips, strict=True))
    return {
        name: float(
            np.mean([np.corrcoef(one[:, column], clip.mouth[:, column])[0, 1] for one, clip in pairs])
        )
        for name, column in (("r_aperture", 0), ("r_width", 2))
    }


def load_clips(folder: str | Path, split: str, *, stride: dict[str, int] | None = None) -> list[Clip]:
    """The clips of `split` in a packed collection; of a speaker in `stride`, only every n-th clip.

    Raises: MediaError when the collection is missing or has no such clip.
    """
    folder = Path(folder)
    index = folder / "clips.json"
    if not index.is_file():
        raise MediaError(f"no packed clips in {str(folder)!r}: run scripts/pack_footage.py first")
    entries = [entry for entry in json.loads(index.read_text()) if entry["split"] == split]
    seen: dict[str, int] = {}
    clips = []
    for entry in entries:
        count = seen[entry["speaker"]] = seen.get(entry["speaker"], -1) + 1
        if count % (stride or {}).get(entry["speaker"], 1):
            continue
        path = folder / entry["name"]
        clips.append(
            Clip(
                name=entry["name"],
                speaker=entry["speaker"],
                split=split,
                faces=np.load(path / "faces.npy", mmap_mode="r"),
                mouth=np.load(path / "mouth.npy"),
                waveform=np.load(path / "waveform.npy"),
            )
        )
    if not clips:
        raise MediaError(f"no {split!r} clips in {str(folder)!r}; its clips.json lists {len(entries)}")
    return clips


def frame_weights(clips: Sequence[Clip]) -> np.ndarray:
    """How much a frame of each clip counts for, (clips,): such that a speaker's share grows with the root of
    its footage, and one much filmed face does not drown others.
    """
    frames: dict[str, int] = {}
    for clip in clips:
        frames[clip.speaker] = frames.get(clip.speaker, 0) + clip.frames
    return np.array([frames[clip.speaker] ** -0.5 for clip in clips])


class ClipSampler:
    """Draws clips by the `frame_weights` of their speakers."""

    def __init__(self, clips: list[Clip]) -> None:
        weights = frame_weights(clips) * [clip.frames for clip in clips]
        self.cumulative = np.cumsum(weights / weights.sum())

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Indices (count,) of clips."""
        picked = np.searchsorted(self.cumulative, rng.random(count), side="right")
        return np.minimum(picked, len(self.cumulative) - 1)


def step_rng(seed: int, step: int) -> np.random.Generator:
    """The generator that belongs to one training step."""
    return np.random.default_rng([seed, step])
