"""Any video file -> pictures at 25 fps and sound at 16 kHz as a Synchformer was made to take them.

`T` frames, `H W` pixels, `N` samples. Everything goes by timestamps: frame k is the picture nearest to
k / 25 s after the first, sample 0 sounds with it. Pictures are whole scenes, made smaller, or one person's
aligned face (`Viewing.kind`).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentsync.errors import FaceNotFound, MediaError
from latentsync.face import Detector, align, similarity, template, track
from latentsync.footage.clip import open_clip
from latentsync.footage.listing import ClipFile
from latentsync.media import Resampled, VideoReader, read_audio, resample
from latentsync.sync.synchformer.crops import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from latentsync.sync.synchformer.inputs import square
from latentsync.sync.synchformer.viewing import FACE, Viewing

SILENT_DB = -60.0
STILL_LEVELS = 0.3  # mean change of 8-bit levels from frame to frame; a film of a photograph stays below it


@dataclass(frozen=True)
class AvClip:
    """`frames` uint8 (T, 3, H, W) at 25 fps, before the square is cut; `waveform` float32 (N,) at 16 kHz from
    the first of them on. `first_frame` says which of the file's that is.
    """

    name: str
    frames: Tensor
    waveform: Tensor
    first_frame: int = 0


def read_clip(
    path: str | Path,
    viewing: Viewing,
    *,
    detector: Detector | None = None,
    start_seconds: float = 0.0,
    seconds: float | None = None,
    keep_priming: bool = False,
) -> AvClip:
    """A clip, or `seconds` of it from `start_seconds` on.

    Raises: FileNotFoundError; MediaError; FaceNotFound where a picture has no face and the viewing wants one;
    ValueError for a viewing of faces without a `detector`.
    """
    path = Path(path)
    first = round(start_seconds * FPS)
    stop = None if seconds is None else first + round(seconds * FPS)
    shown = []
    for number, picture in enumerate(islice(pictures(path, viewing, detector), first, stop), first):
        if picture is None:
            raise FaceNotFound(
                f"no face in {path} at {number / FPS:.2f} s; pass a clip that shows one throughout"
            )
        shown.append(picture)
    if not shown:
        raise MediaError(f"{path} has no pictures from {start_seconds:g} s on")
    heard = slice(first * SAMPLES_PER_FRAME, None if stop is None else stop * SAMPLES_PER_FRAME)
    return AvClip(path.stem, torch.stack(shown), sound_of(path, keep_priming=keep_priming)[heard])


def face_clip(
    file: ClipFile, viewing: Viewing, *, first_frame: int = 0, max_frames: int | None = None
) -> AvClip:
    """A clip of aligned faces as `latentsync.footage` knows them, at the size of `viewing`; of it at most
    `max_frames` from `first_frame` on.
    """
    with open_clip(file, viewing.side, allow_upscale=True) as clip:
        last = clip.frames if max_frames is None else min(clip.frames, first_frame + max_frames)
        faces = torch.from_numpy(clip.faces(first_frame, last)).permute(0, 3, 1, 2)
        sound = clip.waveform[first_frame * SAMPLES_PER_FRAME : last * SAMPLES_PER_FRAME]
        return AvClip(file.name, faces, torch.from_numpy(sound.astype(np.float32)), first_frame)


def pictures(path: Path, viewing: Viewing, detector: Detector | None = None) -> Iterator[Tensor | None]:
    """One picture a tick of 25 a second, uint8 (3, H, W); None where the face is not seen.

    Raises: see `read_clip`.
    """
    with VideoReader(path) as reader:
        ticks = resample(reader, Fraction(FPS))
        if viewing.kind != FACE:
            for tick in ticks:
                yield shrunk(tick.frame.image, viewing.side)
            return
        if detector is None:
            raise ValueError("this network looks at faces: pass a detector that finds them")
        yield from _faces(ticks, viewing.side, detector)


def _faces(ticks: Iterable[Resampled], side: int, detector: Detector) -> Iterator[Tensor | None]:
    target = template(side)
    for tracked in track((tick.frame for tick in ticks), detector):
        if tracked.face is None:
            yield None
            continue
        matrix = similarity(tracked.face.anchors[None], target)
        yield align([tracked.frame.image], matrix, side)[0]


def shrunk(image: np.ndarray, side: int) -> Tensor:
    """A picture uint8 (H, W, 3) with its shorter side at `side` px: uint8 (3, H, W), bicubic, antialiased."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    height, width = pixels.shape[1:]
    if min(height, width) == side:
        return pixels.contiguous()
    scale = side / min(height, width)
    size = [max(side, round(length * scale)) for length in (height, width)]
    resized = F.interpolate(pixels[None].float(), size=size, mode="bicubic", antialias=True)
    return resized[0].round_().clamp_(0, 255).to(torch.uint8)


def sound_of(path: Path, *, keep_priming: bool = False) -> Tensor:
    """The sound of a video from its first picture on, float32 (N,).

    With `keep_priming` it begins with what the decoder has first, wherever the pictures begin. Raises:
    MediaError where there is none.
    """
    sound = read_audio(path, SAMPLE_RATE_HZ, keep_priming=keep_priming)
    if not keep_priming:
        with VideoReader(path) as reader:
            late = round(next(iter(reader)).time * SAMPLE_RATE_HZ)
        sound = sound[late:] if late >= 0 else np.pad(sound, (-late, 0))
    return torch.from_numpy(np.ascontiguousarray(sound))


def windows(
    shown: Iterable[Tensor | None], viewing: Viewing, hop_frames: int
) -> Iterator[tuple[int, Tensor]]:
    """Stretches as long as one judgement looks at, cut to the square: (first frame, uint8 (T, 3, C, C)).

    They begin every `hop_frames` (a multiple of the step of the segments), and the last one ends with the
    last whole segment. A stretch in which the face is lost is left out. Holds one stretch of pictures.
    """
    held: deque[Tensor | None] = deque(maxlen=viewing.span_frames)
    waiting: tuple[int, Tensor | None] | None = None  # the latest stretch, if it is not due by itself
    for number, picture in enumerate(shown):
        if picture is not None:
            picture = square(picture, viewing.crop, viewing.corner(*picture.shape[1:]))
        held.append(picture)
        start = number + 1 - viewing.span_frames
        if start < 0 or start % viewing.step_frames:
            continue
        waiting = start, _whole(list(held))
        if start % hop_frames == 0:
            yield from _seen(waiting)
            waiting = None
    if waiting is not None:
        yield from _seen(waiting)


def _whole(held: list[Tensor | None]) -> Tensor | None:
    stretch = [picture for picture in held if picture is not None]
    return torch.stack(stretch) if len(stretch) == len(held) else None


def _seen(stretch: tuple[int, Tensor | None]) -> Iterator[tuple[int, Tensor]]:
    start, shown = stretch
    if shown is not None:
        yield start, shown


def check_content(path: Path, waveform: Tensor, frames: Tensor) -> None:
    """Raise MediaError where there is nothing to judge: silence, or pictures that do not move."""
    loudness = 20 * np.log10(max(float(waveform.std()), 1e-12)) if len(waveform) > 1 else -np.inf
    if loudness < SILENT_DB:
        raise MediaError(f"{path} is silent ({loudness:.0f} dB): there is nothing to compare lips with")
    change = float(frames[1:].float().sub(frames[:-1].float()).abs().mean()) if len(frames) > 1 else 0.0
    if change < STILL_LEVELS:
        raise MediaError(f"{path} shows a still picture (it changes by {change:.2f} levels a frame)")
