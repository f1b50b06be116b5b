"""Windows of lips and sound for SyncNet, as they belong together or not. The seed, the epoch and the index
decide each sample, nothing else does.

`F` frames, `R` side of a face, `T` mel columns, `K` windows of one clip. `SyncWindows` draws what
SyncNetDataset of bytedance/LatentSync draws: one window and one label; `ClipWindows` several windows of one
clip, each of which is a wrong answer to all the others.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from latentsync.errors import FootageError
from latentsync.footage.dataset import Place, Windows, distant_start
from latentsync.footage.features import FeatureCache
from latentsync.footage.listing import ClipFile
from latentsync.footage.survey import KnownClip

Augment: TypeAlias = Callable[[Tensor, np.random.Generator], Tensor]  # of pixels (F, 3, R, R) in [-1, 1]
NEGATIVE_SHARE = 0.5


def sync_min_frames(frames: int, min_shift_frames: int = 1, windows: int = 1) -> int:
    """The shortest clip in which each window has another `min_shift_frames` away (two windows long, as
    upstream), and in which so many `windows` lie that far from each other.
    """
    return max(2 * frames, frames + 2 * min_shift_frames - 1, frames + (windows - 1) * min_shift_frames)


class SyncWindows(Windows):
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


class ClipWindows(Windows):
    """`windows` windows of one clip, at least `min_shift_frames` from each other, in the order of their time.

    A sample: `faces` (K, 3 F, H, R) float32 in [-1, 1], as those of `SyncWindows`; `mel` (K, 1, 80, T) of the
    same times; `starts` int64 (K,); `clip`, and `clip_number` int64 ().

    Raises: FootageError for no clips, clips too short, or faces smaller than `resolution`; ValueError for
    numbers out of range.
    """

    def __init__(
        self,
        clips: Sequence[KnownClip],
        mel: FeatureCache,
        *,
        resolution: int,
        windows: int,
        frames: int = 16,
        lower_half: bool = True,
        min_shift_frames: int = 5,
        seed: int = 0,
        repeats: int = 1,
        allow_upscale: bool = False,
    ) -> None:
        if min_shift_frames < 1 or windows < 2:
            raise ValueError(
                f"min_shift_frames {min_shift_frames} and windows {windows}: expected at least 1 and 2"
            )
        super().__init__(
            clips,
            mel,
            resolution=resolution,
            frames=frames,
            min_frames=sync_min_frames(frames, min_shift_frames, windows),
            seed=seed,
            repeats=repeats,
            allow_upscale=allow_upscale,
        )
        self.windows, self.lower_half, self.min_shift_frames = windows, lower_half, min_shift_frames
        first: dict[ClipFile, int] = {}  # a clip that is there twice has one number
        self._numbers = [first.setdefault(clip.file, number) for number, clip in enumerate(self.clips)]

    def __getitem__(self, place: Place) -> dict[str, Any]:
        number, rng = self._draw(place)
        clip, last = self.clips[number].file, self._last_start(number)
        starts = spread_starts(rng, self.windows, last=last, distance=self.min_shift_frames)
        faces = torch.stack(self._pixels(clip, *starts))
        if self.lower_half:
            faces = faces[..., faces.shape[-2] // 2 :, :]
        return {
            "faces": faces.flatten(1, 2),
            "mel": torch.stack([self._mel_window(clip, start) for start in starts]),
            "starts": torch.tensor(starts),
            "clip": clip.name,
            "clip_number": torch.tensor(self._numbers[number]),
        }


def spread_starts(rng: np.random.Generator, count: int, *, last: int, distance: int) -> list[int]:
    """`count` rising starts in [0, last], each at least `distance` after the one before.

    Raises: ValueError where they do not fit.
    """
    slack = last - (count - 1) * distance
    if slack < 0:
        raise ValueError(f"{count} starts {distance} frames apart do not fit into [0, {last}]")
    gaps = np.sort(rng.integers(slack + 1, size=count))
    return [int(gap) + number * distance for number, gap in enumerate(gaps)]


def balanced(clips: Sequence[KnownClip], power: float) -> list[KnownClip]:
    """`clips`, some of them several times, so that a speaker of t seconds is drawn about as t ** power is.

    1 leaves all as they are, 0 lets every speaker speak as often. Clips without a speaker are their own.
    Raises: ValueError for a power outside of [0, 1].
    """
    if not 0 <= power <= 1:
        raise ValueError(f"a speaker_power of {power}: expected a number in [0, 1]")
    if power == 1:
        return list(clips)
    counts = Counter(_speaker(clip.file) for clip in clips)
    frames: Counter[str] = Counter()
    for clip in clips:
        frames[_speaker(clip.file)] += clip.facts.usable_frames
    wanted = {speaker: frames[speaker] ** power / count for speaker, count in counts.items()}  # of a clip
    least = min(wanted.values(), default=1.0)
    return [clip for clip in clips for _ in range(round(wanted[_speaker(clip.file)] / least))]


def _speaker(clip: ClipFile) -> str:
    return clip.speaker or str(clip.path)


class Others:
    """Draws, for a clip, one of the clips that somebody else speaks in; without speakers, any other clip."""

    def __init__(self, clips: Sequence[ClipFile]) -> None:
        speakers = [_speaker(clip) for clip in clips]
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
