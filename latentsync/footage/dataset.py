"""Clips that serve -> training samples. The seed, the epoch and the index decide each one, nothing else does.

`F` frames, `R` side of a face, `N` audio tokens of a frame, `D` width. `FaceWindows` is for the U-Net,
`SyncWindows` for SyncNet; which windows are drawn follows UNetDataset and SyncNetDataset of
bytedance/LatentSync, without their endless retries. The same in any number of worker processes.
"""

from collections.abc import Callable, Iterator, Sequence
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
Augment: TypeAlias = Callable[[Tensor, np.random.Generator], Tensor]  # of pixels (F, 3, R, R) in [-1, 1]
NEGATIVE_SHARE = 0.5


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator that belongs to one sample."""
    return np.random.default_rng([seed, epoch, index])


def unet_min_frames(frames: int) -> int:
    """The shortest clip in which each window of `frames` finds another beside it, as upstream: 48 for 16."""
    return 3 * frames


def sync_min_frames(frames: int, min_shift_frames: int = 1) -> int:
    """The shortest clip in which each window has another `min_shift_frames` away; two windows as upstream."""
    return max(2 * frames, frames + 2 * min_shift_frames - 1)


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


class _Windows(Dataset[dict[str, Any]]):
    """What both data sets share: which clips, at which size, and how a window is read."""

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
        with open_clip(clip, self.resolution, allow_upscale=self.allow_upscale) as opened:
            windows = [opened.faces(start, start + self.frames) for start in starts]
        return [normalize(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()) for images in windows]

    def _mel_window(self, clip: ClipFile, start: int) -> Tensor:
        return mel_window(self.mel.load(clip), start, self.frames)


class FaceWindows(_Windows):
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


class SyncWindows(_Windows):
    """Windows of sound with the faces that belong to them (label 1) or, half of the time, others (label 0).

    The others come from the same clip, at least `min_shift_frames` away, or with the share
    `other_clip_share` from another clip, of another speaker where speakers are known. A sample: `faces`
    (3 F, H, R) float32 in [-1, 1], frame-major, H = R or with `lower_half` the rows from R / 2; `mel`
    (1, 80, T); `label` float32 (); `clip`, `start` of the sound; `shown_clip`, `shown_start` of the faces.
    `augment` changes the pixels of one sample by the sample's generator.

    Raises: FootageError for no clips, clips too short, faces smaller than `resolution`, or nobody else to
    take faces from; ValueError for numbers out of range.
    """

    def __init__(
        self,
        clips: Sequence[KnownClip],
        mel: FeatureCache,
        *,
        resolution: int,
        frames: int = 16,
        lower_half: bool = True,
        min_shift_frames: int = 1,
        other_clip_share: float = 0.0,
        augment: Augment | None = None,
        seed: int = 0,
        repeats: int = 1,
        allow_upscale: bool = False,
    ) -> None:
        if min_shift_frames < 1 or not 0 <= other_clip_share <= 1:
            raise ValueError(
                f"min_shift_frames {min_shift_frames} and other_clip_share {other_clip_share}: "
                "expected at least 1 and a share in [0, 1]"
            )
        super().__init__(
            clips,
            mel,
            resolution=resolution,
            frames=frames,
            min_frames=sync_min_frames(frames, min_shift_frames),
            seed=seed,
            repeats=repeats,
            allow_upscale=allow_upscale,
        )
        self.lower_half, self.min_shift_frames = lower_half, min_shift_frames
        self.other_clip_share, self.augment = other_clip_share, augment
        self._others = Others([clip.file for clip in self.clips]) if other_clip_share else None

    def __getitem__(self, place: Place) -> dict[str, Any]:
        number, rng = self._draw(place)
        start = int(rng.integers(self._last_start(number) + 1))
        is_true = bool(rng.random() >= NEGATIVE_SHARE)
        shown, shown_start = (number, start) if is_true else self._wrong(rng, number, start)
        (faces,) = self._pixels(self.clips[shown].file, shown_start)
        if self.augment is not None:
            faces = self.augment(faces, rng)
        if self.lower_half:
            faces = faces[..., faces.shape[-2] // 2 :, :]
        clip = self.clips[number].file
        return {
            "faces": faces.flatten(0, 1),  # frame-major: the channels of frame 0, then those of frame 1
            "mel": self._mel_window(clip, start),
            "label": torch.tensor(float(is_true)),
            "clip": clip.name,
            "start": start,
            "shown_clip": self.clips[shown].file.name,
            "shown_start": shown_start,
        }

    def _wrong(self, rng: np.random.Generator, number: int, start: int) -> tuple[int, int]:
        """Another window: the number of its clip, and its first frame."""
        if self._others is not None and rng.random() < self.other_clip_share:
            other = self._others.draw(rng, number)
            return other, int(rng.integers(self._last_start(other) + 1))
        return number, distant_start(
            rng, start, last=self._last_start(number), distance=self.min_shift_frames
        )


class Others:
    """Draws, for a clip, one of the clips that somebody else speaks in; without speakers, any other clip."""

    def __init__(self, clips: Sequence[ClipFile]) -> None:
        speakers = [clip.speaker or str(clip.path) for clip in clips]
        names, owner, counts = np.unique(speakers, return_inverse=True, return_counts=True)
        self._by_speaker = np.argsort(owner, kind="stable")
        self._count = counts[owner]
        self._first = (np.cumsum(counts) - counts)[owner]
        if len(names) < 2:
            raise FootageError(
                f"all {len(clips)} clips are of one speaker ({speakers[0]}), so no faces of others can be "
                "shown; set other_clip_share to 0"
            )

    def draw(self, rng: np.random.Generator, number: int) -> int:
        """The number of a clip that clip `number`'s speaker is not in."""
        first, count = int(self._first[number]), int(self._count[number])
        place = int(rng.integers(len(self._by_speaker) - count))
        return int(self._by_speaker[place if place < first else place + count])


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
