"""Clips that serve -> training samples. The seed, the epoch and the index decide each one, nothing else does.

`F` frames, `R` side of a face, `N` audio tokens of a frame, `D` width. `FaceWindows` is for the U-Net; which
windows are drawn follows UNetDataset of bytedance/LatentSync, without its endless retries. The same in any
number of worker processes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from latentsync.audio.windows import mel_window
from latentsync.errors import FootageError
from latentsync.face.mask import normalize
from latentsync.footage.clip import open_clip
from latentsync.footage.features import FeatureCache, token_window
from latentsync.footage.listing import EXAMPLES, ClipFile
from latentsync.footage.survey import KnownClip

Place: TypeAlias = tuple[int, int] | int  # (epoch, index); an index alone means epoch 0


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator that belongs to one sample."""
    return np.random.default_rng([seed, epoch, index])


def unet_min_frames(frames: int) -> int:
    """The shortest clip in which each window of `frames` finds another beside it, as upstream: 48 for 16."""
    return 3 * frames


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, index) for every index once, in an order of (seed, epoch) alone.

    Accelerate calls `set_epoch` at the start of each pass and shares the batches out over the processes.
    """

    def __init__(self, size: int, *, seed: int, shuffle: bool = True) -> None:
        self.size, self.seed, self.shuffle, self.epoch = size, seed, shuffle, 0

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.size) if self.shuffle else np.arange(self.size)
        return ((self.epoch, int(index)) for index in order)


class Windows(Dataset[dict[str, Any]]):
    """What the data sets share: which clips, at which size, and how a window is read."""

    def __init__(
        self,
        clips: Sequence[KnownClip],
        mel: FeatureCache,
        *,
        resolution: int,
        frames: int,
        min_frames: int,
        seed: int,
        repeats: int,
        allow_upscale: bool,
    ) -> None:
        if not clips:
            raise FootageError("no clips to train on")
        if short := [clip.file.name for clip in clips if clip.facts.usable_frames < min_frames]:
            raise FootageError(
                f"{len(short)} of {len(clips)} clips are shorter than {min_frames} frames, "
                f"{', '.join(short[:EXAMPLES])} among them; select clips by Rules(min_frames={min_frames})"
            )
        smallest = min(clips, key=lambda clip: clip.facts.side)
        if smallest.facts.side < resolution and not allow_upscale:
            raise FootageError(
                f"the faces of {smallest.file.path} are {smallest.facts.side} px wide and {resolution} px "
                f"are wanted; set the resolution to {smallest.facts.side}, pack the footage at {resolution}, "
                "or allow upscaling"
            )
        self.clips, self.mel = list(clips), mel
        self.resolution, self.frames, self.seed = resolution, frames, seed
        self.repeats, self.allow_upscale = repeats, allow_upscale

    def __len__(self) -> int:
        return self.repeats * len(self.clips)

    def _draw(self, place: Place) -> tuple[int, np.random.Generator]:
        """The number of the clip that serves a sample, and the sample's generator."""
        epoch, index = (0, place) if isinstance(place, int) else place
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a data set that has [0, {len(self)})")
        return index % len(self.clips), sample_rng(self.seed, epoch, index)

    def _last_start(self, number: int) -> int:
        return self.clips[number].facts.usable_frames - self.frames

    def _pixels(self, clip: ClipFile, *starts: int) -> list[Tensor]:
        """Windows (F, 3, R, R) float32 in [-1, 1] of one clip, opened once."""
        first, end = min(starts), max(starts) + self.frames
        with open_clip(clip, self.resolution, allow_upscale=self.allow_upscale) as opened:
            if end - first <= len(starts) * self.frames:  # the windows lie close: one pass
                span = opened.faces(first, end)
                windows = [span[start - first :][: self.frames] for start in starts]
            else:
                windows = [opened.faces(start, start + self.frames) for start in starts]
        return [normalize(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()) for images in windows]

    def _mel_window(self, clip: ClipFile, start: int) -> Tensor:
        return mel_window(self.mel.load(clip), start, self.frames)


class FaceWindows(Windows):
    """Windows of faces with a reference from elsewhere in the same clip; one a clip and epoch, or `repeats`.

    A sample: `faces` and `reference` (F, 3, R, R) float32 in [-1, 1], which share no frame; `mel` (1, 80, T);
    with `tokens`, also `tokens` (F, N, D) float32; `clip` its name, `start` and `reference_start` in frames.

    Raises: FootageError for no clips, clips too short, or faces smaller than `resolution`.
    """

    def __init__(
        self,
        clips: Sequence[KnownClip],
        mel: FeatureCache,
        *,
        resolution: int,
        tokens: FeatureCache | None = None,
        frames: int = 16,
        seed: int = 0,
        repeats: int = 1,
        allow_upscale: bool = False,
    ) -> None:
        super().__init__(
            clips,
            mel,
            resolution=resolution,
            frames=frames,
            min_frames=unet_min_frames(frames),
            seed=seed,
            repeats=repeats,
            allow_upscale=allow_upscale,
        )
        self.tokens = tokens

    def __getitem__(self, place: Place) -> dict[str, Any]:
        number, rng = self._draw(place)
        clip, last = self.clips[number].file, self._last_start(number)
        start = int(rng.integers(last + 1))
        reference_start = distant_start(rng, start, last=last, distance=self.frames)
        faces, reference = self._pixels(clip, start, reference_start)
        sample = {
            "faces": faces,
            "reference": reference,
            "mel": self._mel_window(clip, start),
            "clip": clip.name,
            "start": start,
            "reference_start": reference_start,
        }
        if self.tokens is not None:
            sample["tokens"] = token_window(self.tokens.load(clip), start, self.frames)
        return sample


def distant_start(rng: np.random.Generator, start: int, *, last: int, distance: int) -> int:
    """A start in [0, last] that lies at least `distance` from `start`, all such alike.

    Raises: ValueError where there is none.
    """
    before = max(0, start - distance + 1)
    after = max(0, last - (start + distance) + 1)
    if before + after == 0:
        raise ValueError(f"no start in [0, {last}] lies {distance} frames from {start}")
    draw = int(rng.integers(before + after))
    return draw if draw < before else start + distance + draw - before
