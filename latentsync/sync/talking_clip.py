"""A video as judges need it: at 25 fps, with its sound at 16 kHz, and every face in it followed and cut out.

`F` frames (ticks of 25 a second from the first picture on), `T` samples; sample 640 k sounds with frame k.
The file is read twice, once to find the faces and once to cut them, so that memory does not grow with its
length but for the 16 kHz sound.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from latentsync.face.detect import Detector
from latentsync.face.tracks import FaceTrack, find_tracks
from latentsync.footage.survey import SURVEY_SIDE, spread
from latentsync.media import VideoReader, audio_info, read_audio, resample
from latentsync.sync.judge import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, FaceCut

BATCH_FRAMES = 32


@dataclass(frozen=True, eq=False)
class TalkingClip:
    """What was found in a video. `waveform` (T,) float32, empty without a sound track; `notes` say what was
    resampled.
    """

    path: Path
    frames: int
    tracks: tuple[FaceTrack, ...]
    waveform: Tensor
    notes: tuple[str, ...]

    def sound(self, start: int, stop: int) -> Tensor:
        """The waveform of the frames [start, stop), shorter where the sound ends before."""
        return self.waveform[max(0, start) * SAMPLES_PER_FRAME : max(0, stop) * SAMPLES_PER_FRAME]


def open_talking_clip(path: str | Path, detector: Detector) -> TalkingClip:
    """Read a video through once. Raises: FileNotFoundError, MediaError."""
    path = Path(path)
    with VideoReader(path) as reader:
        info = reader.info
        counted = _Counted(_ticks(reader))
        tracks = tuple(find_tracks(counted, detector))
        notes = [] if info.fps == FPS else [f"{float(info.fps):.4g} fps shown at {FPS}"]
        sound = np.zeros(0, np.float32)
        if info.has_audio:
            rate = audio_info(path).rate
            notes += [] if rate == SAMPLE_RATE_HZ else [f"sound of {rate} Hz heard at {SAMPLE_RATE_HZ}"]
            late = round(counted.first_time * SAMPLE_RATE_HZ)  # samples that sound before the first picture
            sound = read_audio(path, SAMPLE_RATE_HZ)
            sound = sound[late:] if late >= 0 else np.pad(sound, (-late, 0))
    return TalkingClip(path, counted.count, tracks, torch.from_numpy(sound), tuple(notes))


class CutFaces:
    """The faces of a track as a judge wants them, uint8 (<= 32, 3, H, W) batch by batch; to iterate is to
    read the file again. Afterwards `motion` and `brightness` say, in levels of 8 bits, how much the place of
    the face changes over the track, and how light it is.
    """

    def __init__(
        self, clip: TalkingClip, track: FaceTrack, cut: FaceCut, frames: range | None = None
    ) -> None:
        self.clip, self.track, self.face_cut = clip, track, cut
        self.frames = range(track.start, track.stop) if frames is None else frames
        self.motion = self.brightness = 0.0

    def __iter__(self) -> Iterator[Tensor]:
        places = self.face_cut.places(self.track)[self.frames.start - self.track.start :]
        looked_at = {self.frames[number] for number in spread(len(self.frames))} if self.frames else set()
        box = np.median(self.track.boxes, axis=0).round().astype(int).clip(0)
        looks: list[np.ndarray] = []
        with VideoReader(self.clip.path) as reader:
            shown = zip(self.frames, islice(_ticks(reader), self.frames.start, None), strict=False)
            while batch := list(islice(shown, BATCH_FRAMES)):
                images = [frame.image for _, frame in batch]
                looks += [
                    _look(image, box)
                    for (number, _), image in zip(batch, images, strict=True)
                    if number in looked_at
                ]
                yield self.face_cut.cut(images, places[: len(images)])
                places = places[len(images) :]
        if looks:
            self.brightness = float(np.mean(looks))
            self.motion = float(np.abs(np.diff(looks, axis=0)).mean()) if len(looks) > 1 else 0.0


class _Counted:
    """Frames on their way past, counted, with the time of the first."""

    def __init__(self, frames: Iterator[Any]) -> None:
        self._frames, self.count, self.first_time = frames, 0, Fraction(0)

    def __iter__(self) -> Iterator[Any]:
        for frame in self._frames:
            if self.count == 0:
                self.first_time = frame.time
            self.count += 1
            yield frame


def _ticks(reader: VideoReader) -> Iterator[Any]:
    """The frame that each tick of 25 a second shows."""
    return (tick.frame for tick in resample(reader, Fraction(FPS)))


def _look(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The lower half of a fixed place in the picture, small: a face that speaks changes there."""
    x0, y0, x1, y1 = box.tolist()
    lower = image[(y0 + y1) // 2 : max(y1, y0 + 2), x0 : max(x1, x0 + 1)]
    if lower.size == 0:
        return np.zeros((SURVEY_SIDE // 2, SURVEY_SIDE, 3), np.float32)
    size = (SURVEY_SIDE, SURVEY_SIDE // 2)
    return cv2.resize(lower, size, interpolation=cv2.INTER_AREA).astype(np.float32)
