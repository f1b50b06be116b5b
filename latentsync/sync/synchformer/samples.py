"""Clips -> training samples of the three kinds. The seed, the epoch and the index decide each one.

`S` segments, `T` frames. Source: v-iashin/Synchformer (dataset/transforms.py). Stage I takes segments of a
whole clip; stage II a crop whose sound is moved by one of the grid's offsets; synchronizability such a crop,
or sound from elsewhere in the clip, which no offset explains.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from latentsync.errors import FootageError
from latentsync.footage.clip import heard_frames, open_clip
from latentsync.footage.dataset import Place, sample_rng
from latentsync.media import VideoReader, audio_info
from latentsync.sync.synchformer.augment import zoomed
from latentsync.sync.synchformer.crops import (
    FPS,
    SAMPLE_RATE_HZ,
    SAMPLES_PER_FRAME,
    Crop,
    CropOutside,
    equal_lengths,
    offset_crop,
    start_frames,
)
from latentsync.sync.synchformer.footage import AvClip, face_clip, read_clip
from latentsync.sync.synchformer.inputs import SyncInputs, mel_segments, normalize_images, square
from latentsync.sync.synchformer.layouts import FixedOffset, ListedClip
from latentsync.sync.synchformer.lessons import STRIDE, Lessons
from latentsync.sync.synchformer.training_config import DataConfig

Sample = dict[str, Tensor]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moved:
    """A crop, the class that it is, and how it came about."""

    crop: Crop
    target: int
    offset_seconds: float


class AvSamples(Dataset[Sample]):
    """What the three data sets share: which clips, how they are opened, cut into segments, and changed.

    `is_training` switches random squares, starts, jitter and changes of colour and sound on.
    """

    def __init__(
        self, clips: Sequence[ListedClip], config: DataConfig, *, seed: int, is_training: bool
    ) -> None:
        if not clips:
            raise FootageError("no clips to train on")
        self.clips, self.config, self.viewing = list(clips), config, config.viewing
        self.seed, self.is_training = seed, is_training
        self.augmentation = config.augmentation
        self._cumulative = _speaker_shares(clips) if config.balance_speakers and is_training else None

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, place: Place) -> Sample:
        epoch, index = (0, place) if isinstance(place, int) else place
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a data set that has [0, {len(self)})")
        rng = sample_rng(self.seed, epoch, index)
        if self._cumulative is not None:
            index = min(int(np.searchsorted(self._cumulative, rng.random(), side="right")), len(self) - 1)
        return self.sample(self.clips[index], rng)

    def sample(self, listed: ListedClip, rng: np.random.Generator) -> Sample:
        """One sample of a clip."""
        raise NotImplementedError

    def open(self, listed: ListedClip, rng: np.random.Generator) -> AvClip:
        """A clip with as many frames as have their sound, at most `clip_max_len_sec` of them.

        Of a longer one the beginning, or in training any stretch if it shows faces.
        """
        most = self.config.clip_max_len_sec
        if listed.file is not None:
            spare = _frames_of(listed) - round(most * FPS)
            first = int(rng.integers(spare + 1)) if self.is_training and spare > 0 else 0
            first -= first % STRIDE
            frames = round(most * FPS)
            clip = face_clip(listed.file, self.viewing, first_frame=first, max_frames=frames)
        else:
            keep = self.config.keep_priming
            clip = read_clip(listed.path, self.viewing, seconds=most, keep_priming=keep)
        frames = equal_lengths(len(clip.frames), len(clip.waveform), most)
        sound = clip.waveform[: frames * SAMPLES_PER_FRAME]
        return AvClip(listed.key, clip.frames[:frames], sound, clip.first_frame)

    def starts(self, frames: int, rng: np.random.Generator) -> list[int]:
        """First frames of the segments in a stretch: in its middle, or anywhere in training."""
        cuts = self.viewing.cuts.fitted(frames)
        first = None
        if self.is_training and self.config.is_temporal_crop_random:
            first = int(rng.integers(frames - cuts.covered_frames + 1))
        return cuts.starts(frames, first)

    def square(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        """The part of the pictures that is seen, (T, 3, C, C)."""
        side, (H, W) = self.viewing.crop, frames.shape[-2:]
        top, left = self.viewing.corner(H, W)
        if not (self.is_training and self.config.is_spatial_crop_random):
            return square(frames, side, (top, left))
        if rng.random() < self.config.sometimes_upscale_p:
            small = self.config.smaller_input_size
            corner = int(rng.integers(H - small + 1)), int(rng.integers(W - small + 1))
            return zoomed(square(frames, small, corner), side)
        reach = self.config.crop_jitter_px
        if reach is None:
            corner = int(rng.integers(H - side + 1)), int(rng.integers(W - side + 1))
        else:
            down, across = rng.integers(-reach, reach + 1, 2).tolist()
            corner = min(max(0, top + down), H - side), min(max(0, left + across), W - side)
        return square(frames, side, corner)

    def jitter(self, rng: np.random.Generator, first_sample: int, room: int) -> int:
        """By how many samples all of the sound is moved; `room` is what lies behind its end."""
        if not self.is_training:
            return 0
        reach = int(self.config.audio_jitter_sec * SAMPLE_RATE_HZ)
        return int(rng.integers(-min(first_sample, reach), min(room, reach) + 1))

    def too_short(self, listed: ListedClip, error: CropOutside) -> FootageError:
        return FootageError(f"clip {listed.key}: {error}; take it off the list, or ask for less")


class SegmentSamples(AvSamples):
    """Stage I: `video` (S, T, 3, H, W), `audio` (S, 1, F, columns) of one clip.

    Colour, flip and sound change segment by segment. With `lessons` there are also `taught_video` and
    `taught_audio` (S, D), what the teacher says of the unchanged segments.
    """

    lessons: Lessons | None = None

    def sample(self, listed: ListedClip, rng: np.random.Generator) -> Sample:
        clip = self.open(listed, rng)
        size = self.viewing.segment_frames
        try:
            starts = self.starts(len(clip.frames), rng)
        except CropOutside as error:
            raise self.too_short(listed, error) from error
        if self.lessons is not None:  # the teacher was asked about these
            starts = [start - starts[0] % STRIDE for start in starts]
        frames = self.square(clip.frames, rng)
        segments = [frames[start : start + size] for start in starts]
        heard = [start * SAMPLES_PER_FRAME for start in starts]
        length = size * SAMPLES_PER_FRAME
        shift = self.jitter(rng, heard[0], len(clip.waveform) - heard[-1] - length)
        sounds = [clip.waveform[start + shift : start + shift + length] for start in heard]
        if self.is_training:
            segments = [self.augmentation.pictures(segment, rng) for segment in segments]
            sounds = [self.augmentation.waveform(sound, rng) for sound in sounds]
        audio = [mel_segments(sound, [0], length) for sound in sounds]
        sample = {"video": normalize_images(torch.stack(segments)), "audio": torch.cat(audio)}
        if self.lessons is not None:
            rows = [clip.first_frame + start for start in starts]
            sample["taught_video"], sample["taught_audio"] = self.lessons.of(listed.key, rows)
        return sample


class OffsetSamples(AvSamples):
    """Stage II: `video` and `audio` as above, of a crop; `target` () int64, the class of its offset.

    Offsets are drawn from the grid, evenly, or are `fixed` ones. Changes of colour and sound are drawn once
    for all segments.
    """

    def __init__(
        self,
        clips: Sequence[ListedClip],
        config: DataConfig,
        *,
        seed: int,
        is_training: bool,
        fixed: Mapping[str, FixedOffset] | None = None,
    ) -> None:
        if fixed is not None:
            clips = [clip for clip in clips if clip.key in fixed]
            if not clips:
                raise FootageError("no clip of the list has a fixed offset; see data.fixed_offsets")
        super().__init__(clips, config, seed=seed, is_training=is_training)
        self.fixed = fixed

    def sample(self, listed: ListedClip, rng: np.random.Generator) -> Sample:
        clip = self.open(listed, rng)
        try:
            moved = self.moved(listed, clip, rng)
        except CropOutside as error:
            raise self.too_short(listed, error) from error
        inputs = self.cut(clip, moved.crop, rng)
        return {"video": inputs.video, "audio": inputs.audio, "target": torch.tensor(moved.target)}

    def moved(self, listed: ListedClip, clip: AvClip, rng: np.random.Generator) -> Moved:
        """The crop of a clip, and its class. Raises: CropOutside."""
        grid = self.viewing.grid
        if self.fixed is not None:
            known = self.fixed[listed.key]
            crop = self.crop(clip, known.start_seconds, known.offset_seconds)
            return Moved(crop, grid.nearest(known.offset_seconds), known.offset_seconds)
        offset = round(float(rng.choice(grid.seconds)), 2)
        return Moved(self.random_crop(clip, offset, rng), grid.nearest(offset), offset)

    def random_crop(self, clip: AvClip, offset_seconds: float, rng: np.random.Generator) -> Crop:
        """A crop with that offset, from anywhere that has it. Raises: CropOutside."""
        allowed = start_frames(len(clip.frames), self.viewing.crop_frames, offset_seconds)
        return self.crop(clip, int(rng.integers(allowed.start, allowed.stop)) / FPS, offset_seconds)

    def crop(self, clip: AvClip, start_seconds: float, offset_seconds: float) -> Crop:
        return offset_crop(
            len(clip.frames),
            len(clip.waveform),
            crop_frames=self.viewing.crop_frames,
            start_seconds=start_seconds,
            offset_seconds=offset_seconds,
        )

    def cut(self, clip: AvClip, crop: Crop, rng: np.random.Generator) -> SyncInputs:
        """Pictures and mel of the segments of a crop."""
        frames = clip.frames[crop.first_frame : crop.first_frame + crop.frames]
        frames = self.square(frames, rng)
        room = len(clip.waveform) - crop.first_sample - crop.samples
        first = crop.first_sample + self.jitter(rng, crop.first_sample, room)
        sound = clip.waveform[first : first + crop.samples]
        if self.is_training:
            frames, sound = self.augmentation.pictures(frames, rng), self.augmentation.waveform(sound, rng)
        starts, size = self.starts(crop.frames, rng), self.viewing.segment_frames
        video = torch.stack([frames[start : start + size] for start in starts])
        heard = [start * SAMPLES_PER_FRAME for start in starts]
        return SyncInputs(normalize_images(video), mel_segments(sound, heard, size * SAMPLES_PER_FRAME))


class SynchronizabilitySamples(OffsetSamples):
    """Half of the crops with an offset of the grid (`target` 1), half with sound of which nothing is seen
    (0): a whole crop later or earlier. `offset_target` () int64 is the class of the offset, -1 without one.
    """

    def sample(self, listed: ListedClip, rng: np.random.Generator) -> Sample:
        clip = self.open(listed, rng)
        grid, away = self.viewing.grid, self.viewing.crop_seconds
        is_told = bool(rng.random() < 0.5)
        offset = float(rng.choice(grid.seconds)) if is_told else float(rng.choice([-away, away]))
        try:
            inputs = self.cut(clip, self.random_crop(clip, round(offset, 2), rng), rng)
        except CropOutside as error:
            raise self.too_short(listed, error) from error
        return {
            "video": inputs.video,
            "audio": inputs.audio,
            "target": torch.tensor(int(is_told)),
            "offset_target": torch.tensor(grid.nearest(offset) if is_told else -1),
        }


def long_enough(clips: Sequence[ListedClip], frames: int, max_dropped_share: float = 0.2) -> list[ListedClip]:
    """The clips with at least `frames` frames at 25 fps that have their sound; looks into every file.

    Raises: FootageError where more than a share is dropped.
    """
    kept = [clip for clip in clips if _frames_of(clip) >= frames]
    if dropped := len(clips) - len(kept):
        words = f"{dropped} of {len(clips)} clips are shorter than {frames / FPS:g} s"
        if dropped > max_dropped_share * len(clips):
            raise FootageError(
                f"{words}, more than {max_dropped_share:.0%}: ask for less, or for longer clips"
            )
        logger.warning("%s and are left out", words)
    return kept


def _frames_of(clip: ListedClip) -> int:
    if clip.file is not None:
        with open_clip(clip.file) as opened:
            return heard_frames(opened.frames, len(opened.waveform))
    return int(
        min(VideoReader(clip.path).info.duration_seconds, audio_info(clip.path).duration_seconds) * FPS
    )


def _speaker_shares(clips: Sequence[ListedClip]) -> np.ndarray:
    """Cumulative probabilities of the clips: a speaker's share grows with the root of their number."""
    counts: dict[str, int] = {}
    for clip in clips:
        speaker = clip.speaker or clip.key
        counts[speaker] = counts.get(speaker, 0) + 1
    weights = np.array([counts[clip.speaker or clip.key] ** -0.5 for clip in clips])
    return np.cumsum(weights / weights.sum())
