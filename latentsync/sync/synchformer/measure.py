"""By how much sound and picture of a clip are off: a Synchformer asked about stretch after stretch.

`K` classes. DeSync is that of hkchengrex/av-benchmark: the mean of how far the first and the last stretch are
off, whatever the direction.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from latentsync.errors import FaceNotFound, MediaError
from latentsync.face import Detector
from latentsync.sync.synchformer.crops import FPS, SAMPLES_PER_FRAME, Crop
from latentsync.sync.synchformer.footage import check_content, pictures, sound_of, windows
from latentsync.sync.synchformer.inputs import SyncInputs, batched, cut
from latentsync.sync.synchformer.network import Synchformer

HOP_SECONDS = 1.28  # 32 frames: four steps of the segments
BATCH_WINDOWS = 4


@dataclass(frozen=True)
class WindowOffset:
    """What was found in one stretch of a clip; `probabilities` (K,) of the classes of the network."""

    start_seconds: float
    offset_seconds: float
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class ClipOffset:
    """What was found in a clip. Positive offsets: the sound is early; delay it by as much.

    `confidence` is the probability of `offset_seconds` and its two neighbours, after the probabilities of all
    stretches are averaged. `desync_seconds`: see the module.
    """

    windows: tuple[WindowOffset, ...]
    offset_seconds: float
    confidence: float
    desync_seconds: float


def measure_offset(
    path: str | Path,
    network: Synchformer,
    *,
    detector: Detector | None = None,
    hop_seconds: float = HOP_SECONDS,
    batch_windows: int = BATCH_WINDOWS,
    keep_priming: bool = False,
) -> ClipOffset:
    """Judge a clip of any length by stretches that begin every `hop_seconds`.

    Raises: FileNotFoundError; MediaError for no sound, silence, a still picture or too short a clip;
    FaceNotFound where the network looks at faces and finds no stretch with one; ValueError for a network that
    judges something else.
    """
    if not network.judges_offsets:
        raise ValueError("this network says whether an offset can be told, not which; pass one for offsets")
    path, viewing = Path(path), network.viewing
    hop = max(1, round(hop_seconds * FPS / viewing.step_frames)) * viewing.step_frames
    found: list[WindowOffset] = []
    stretches = _inputs(path, network, detector, hop, keep_priming)
    while batch := list(islice(stretches, batch_windows)):
        starts, inputs = zip(*batch, strict=True)
        for start, row in zip(starts, probabilities(network, batched(inputs)), strict=True):
            offset = float(viewing.grid.seconds[int(row.argmax())])
            found.append(WindowOffset(start / FPS, round(offset, 4), tuple(row.tolist())))
    if not found:
        _say_why_nothing(path, network, detector)
    return summary(found, viewing.grid.seconds.tolist())


def summary(found: list[WindowOffset], grid_seconds: list[float]) -> ClipOffset:
    """One answer from those of all stretches of a clip."""
    mean = torch.tensor([window.probabilities for window in found]).mean(dim=0)
    best = int(mean.argmax())
    near = mean[max(0, best - 1) : best + 2]
    ends = (found[0], found[-1])
    return ClipOffset(
        windows=tuple(found),
        offset_seconds=round(grid_seconds[best], 4),
        confidence=float(near.sum()),
        desync_seconds=sum(abs(window.offset_seconds) for window in ends) / len(ends),
    )


@torch.no_grad()
def probabilities(network: Synchformer, inputs: SyncInputs) -> Tensor:
    """Of the classes, (B, K) float32 on the CPU, for a batch of inputs."""
    device, dtype = network.device, network.dtype
    logits = network(inputs.video.to(device, dtype), inputs.audio.to(device, dtype))
    return logits.float().softmax(dim=1).cpu()


def _inputs(
    path: Path, network: Synchformer, detector: Detector | None, hop: int, keep_priming: bool
) -> Iterator[tuple[int, SyncInputs]]:
    """(first frame, inputs) of every stretch that has its sound."""
    viewing = network.viewing
    waveform = sound_of(path, keep_priming=keep_priming)
    is_checked = False
    for start, shown in windows(pictures(path, viewing, detector), viewing, hop):
        first, stop = start * SAMPLES_PER_FRAME, (start + len(shown)) * SAMPLES_PER_FRAME
        if stop > len(waveform):
            return
        if not is_checked:
            check_content(path, waveform, shown)
            is_checked = True
        crop = Crop(0, 0, len(shown))
        yield start, cut(shown, waveform[first:stop], crop, viewing.cuts)


def _say_why_nothing(path: Path, network: Synchformer, detector: Detector | None) -> None:
    """Raise the error for a clip in which no stretch could be judged."""
    viewing = network.viewing
    needed = viewing.span_frames / FPS
    seen = [picture is not None for picture in pictures(path, viewing, detector)]
    seconds = min(len(seen) / FPS, len(sound_of(path)) / FPS / SAMPLES_PER_FRAME)
    if seconds >= needed and not all(seen):
        raise FaceNotFound(
            f"{path} shows a face in {sum(seen)} of {len(seen)} frames and never for {needed:g} s on end; "
            "pass a clip that does"
        )
    raise MediaError(f"{path} has {seconds:.2f} s of pictures with sound; this network needs {needed:g} s")
