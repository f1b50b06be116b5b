"""Audio features at 50 Hz -> one window of tokens a video frame; mel -> the window that a SyncNet hears.

`T` rows of 50 Hz, `L` hidden states a row, `N = 2 (left + right + 1) L` tokens a frame, `D` width. Follows
Audio2Feature.feature2chunks of bytedance/LatentSync, but gives exactly as many windows as frames (upstream
adds 1-2). Mel windows follow crop_audio_window of its SyncNet data set: they begin with the first of the
video frames that are judged with them.
"""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentsync.audio.mel import SYNCNET_COLUMNS_PER_SECOND

FEATURES_PER_SECOND = 50
SYNCNET_FPS = 25  # of the clips that SyncNets learn from: how wide a window is


def window_rows(frame: int, fps: float | Fraction, left: int = 2, right: int = 2) -> range:
    """Feature rows that frame number `frame` hears, [centre - 2 left, centre + 2 (right + 1)); may leave the
    clip.
    """
    centre = int(frame * FEATURES_PER_SECOND / float(fps))
    return range(centre - 2 * left, centre + 2 * (right + 1))


def frame_count(rows: int, fps: float | Fraction) -> int:
    """Video frames needed to cover `rows` feature rows: the last one may be partly silent."""
    return math.ceil(Fraction(rows, FEATURES_PER_SECOND) * Fraction(fps))


def frame_windows(
    features: Tensor, fps: float | Fraction, *, left: int = 2, right: int = 2, frames: int | None = None
) -> Tensor:
    """Windows (F, N, D) of `features` (T, L, D); tokens are time-major, rows past either end repeat the end
    row.

    `frames` defaults to as many as the sound lasts. Raises: ValueError for empty features.
    """
    if features.ndim != 3 or features.shape[0] == 0:
        raise ValueError(f"expected features (T >= 1, L, D), got {tuple(features.shape)}")
    count = frame_count(features.shape[0], fps) if frames is None else frames
    rows = torch.tensor([list(window_rows(index, fps, left, right)) for index in range(count)])
    rows = rows.reshape(count, 2 * (left + right + 1)).clamp(0, features.shape[0] - 1)
    return features[rows.to(features.device)].flatten(1, 2)


def stream_windows(
    blocks: Iterable[Tensor], fps: float | Fraction, *, frames: int, left: int = 2, right: int = 2
) -> Iterator[Tensor]:
    """The windows of `frame_windows`, (N, D) one at a time, from feature blocks (t, L, D) read as they are
    needed.

    Holds no more features than one window and one block. Raises: ValueError when `blocks` gives nothing.
    """
    source = iter(blocks)
    buffer = next(source, None)
    if buffer is None:
        raise ValueError("no audio features: the soundtrack is empty")
    offset, ended = 0, False
    for index in range(frames):
        rows = window_rows(index, fps, left, right)
        while not ended and offset + buffer.shape[0] < rows.stop:
            block = next(source, None)
            ended = block is None
            if block is not None:
                keep = max(0, min(rows.start - offset, buffer.shape[0] - 1))
                buffer, offset = torch.cat([buffer[keep:], block]), offset + keep
        picked = torch.tensor(rows, device=buffer.device).clamp(min=0).sub(offset)
        yield buffer[picked.clamp(0, buffer.shape[0] - 1)].flatten(0, 1)


def mel_columns(frames: int = 16) -> int:
    """Columns of the mel that a SyncNet of `frames` video frames hears: 52 for 16, 80 for 25."""
    return math.ceil(Fraction(frames * SYNCNET_COLUMNS_PER_SECOND, SYNCNET_FPS))


def mel_start(frame: int, fps: float | Fraction) -> int:
    """First mel column of video frame number `frame`."""
    return int(frame * SYNCNET_COLUMNS_PER_SECOND / Fraction(fps))


def mel_window(
    mel: Tensor | np.ndarray,
    start_frame: int,
    frames: int = 16,
    *,
    fps: float | Fraction = 25,
    beyond: float | None = None,
) -> Tensor:
    """The part (1, bands, W) of `mel` (bands, T) that belongs to `frames` video frames from `start_frame` on.

    `W` is `mel_columns(frames)` at every rate, for a network hears no other width. Of an array, which may be
    mapped from disk, only that part is read, and copied. `beyond` is what columns past the sound hold.
    Raises: ValueError for a window that leaves the sound, where nothing is to lie beyond.
    """
    start, columns = mel_start(start_frame, fps), mel_columns(frames)
    is_inside = start_frame >= 0 and start + columns <= mel.shape[-1]
    if mel.ndim != 2 or (not is_inside and (beyond is None or start_frame < 0)):
        raise ValueError(
            f"frames [{start_frame}, {start_frame + frames}) need {columns} mel columns from {start} on, but "
            f"the mel is {tuple(mel.shape)}"
        )
    part = mel[:, start : start + columns]
    window = torch.from_numpy(np.array(part)) if isinstance(part, np.ndarray) else part
    if beyond is not None:
        window = F.pad(window, (0, columns - window.shape[1]), value=beyond)
    return window[None]


def mel_windows(mel: Tensor, fps: float | Fraction = 25, *, frames: int = 16) -> Tensor:
    """The windows (F, 1, bands, W) of `mel` (bands, T): one for each video frame at which a whole one begins.

    Raises: ValueError for a mel shorter than one window.
    """
    windows = [mel_window(mel, 0, frames, fps=fps)]
    while mel_start(len(windows), fps) + mel_columns(frames) <= mel.shape[1]:
        windows.append(mel_window(mel, len(windows), frames, fps=fps))
    return torch.stack(windows)
