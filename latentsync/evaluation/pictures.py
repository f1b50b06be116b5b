"""A result against a clip that shows the same frames: pictures by region, seam, flicker, points of the lips.

`F` frames, `R` side of an aligned face. Both are cut by the positions of the other clip's face, so that a
face that was put back beside its place counts as wrong. The files are read twice, and never held.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentsync.errors import FaceNotFound, FootageError
from latentsync.face import (
    MediaPipeDetector,
    align,
    mouth_mask,
    normalize,
    paste_mask,
    similarity,
    template,
    track,
)
from latentsync.media import VideoInfo, VideoReader
from latentsync.quality.aperture import MESH_POINTS
from latentsync.quality.contract import RATE_TOLERANCE
from latentsync.quality.flicker import FlickerMeter, drawn_beside_lips
from latentsync.quality.landmarks import landmark_distance
from latentsync.quality.lpips import Lpips
from latentsync.quality.picture import PictureMeter
from latentsync.quality.seam import SeamMeter

RESOLUTION = 256
BATCH_FRAMES = 32
LPIPS_EVERY = 5  # frames
SHOWN = 10  # faces for the contact sheet
REGIONS = ("hole", "mouth")  # of paste_mask: what models put back


@dataclass(frozen=True, eq=False)
class Pictures:
    """Numbers of a comparison; NaN where there was nothing to measure. `shown`: faces for the eye, uint8
    (N, 2, 3, R, R), those of the other clip first.
    """

    frames: int
    psnr_inside: float
    psnr_outside: float
    ssim_inside: float
    ssim_outside: float
    lpips_inside: float
    lpips_outside: float
    seam_ratio: float
    flicker_ratio: float
    landmark_distance: float
    shown: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class FollowedFace:
    """A face through a clip: `matrices` (F, 2, 3) into the aligned face and `points` (F, 468, 2), NaN where
    it is not seen; `shots` (F,), -1 there.
    """

    info: VideoInfo
    matrices: np.ndarray
    points: np.ndarray
    shots: np.ndarray


def follow(path: Path, detector: MediaPipeDetector) -> FollowedFace:
    """Find the face of a clip in each of its own frames. Raises: FileNotFoundError, MediaError."""
    matrices, points, shots, target = [], [], [], template(RESOLUTION)
    with VideoReader(path) as reader:
        for tracked in track(reader, detector):
            face = tracked.face
            shots.append(-1 if face is None else face.shot)
            matrices.append(
                np.full((2, 3), np.nan) if face is None else similarity(face.anchors[None], target)[0]
            )
            points.append(np.full((MESH_POINTS, 2), np.nan) if face is None else face.landmarks[:MESH_POINTS])
        info = reader.info
    return FollowedFace(info, np.array(matrices), np.array(points), np.array(shots))


def compare_pictures(
    result: Path, found: FollowedFace, other: Path, truth: FollowedFace, lpips: Lpips | None = None
) -> Pictures:
    """Compare `result`, whose face is `found`, with `other`, whose face is `truth`, frame by frame from the
    first on; the shorter one counts.

    Raises: FootageError for another size or rate; FaceNotFound where `other` shows no face.
    """
    _check_alike(result, found.info, other, truth.info)
    seen = np.flatnonzero(truth.shots[: len(found.shots)] >= 0)
    if len(seen) == 0:
        raise FaceNotFound(f"no face in {other} where {result.name} could be compared with it")
    hole = mouth_mask(RESOLUTION)[0] < 0.5
    inside, outside = PictureMeter(hole), PictureMeter(~hole)
    seams = [SeamMeter(paste_mask(RESOLUTION, region)) for region in REGIONS]
    flicker, distances = FlickerMeter(drawn_beside_lips(RESOLUTION)), _LpipsMean(lpips, hole)
    wanted = {
        int(seen[place]) for place in np.linspace(0, len(seen) - 1, min(SHOWN, len(seen))).round().astype(int)
    }
    shown, last = [], -1
    for numbers, ours, theirs in _face_pairs(result, other, truth):
        inside.add(ours, theirs)
        outside.add(ours, theirs)
        for meter in seams:
            meter.add(ours, theirs)
        for run in _runs(numbers, truth.shots):
            if numbers[run.start] != last + 1 or truth.shots[numbers[run.start]] != truth.shots[last]:
                flicker.pause()
            flicker.add(ours[run], theirs[run])
            last = numbers[run.stop - 1]
        shown += [torch.stack([theirs[k], ours[k]]) for k, number in enumerate(numbers) if number in wanted]
        distances.add(ours, theirs, numbers)
    return Pictures(
        frames=inside.frames,
        psnr_inside=inside.psnr,
        psnr_outside=outside.psnr,
        ssim_inside=inside.ssim,
        ssim_outside=outside.ssim,
        lpips_inside=distances.mean(0),
        lpips_outside=distances.mean(1),
        seam_ratio=max(meter.ratio for meter in seams),
        flicker_ratio=flicker.ratio,
        landmark_distance=landmark_distance(found.points, truth.points),
        shown=torch.stack(shown)
        if shown
        else torch.zeros(0, 2, 3, RESOLUTION, RESOLUTION, dtype=torch.uint8),
    )


def _runs(numbers: list[int], shots: np.ndarray) -> list[slice]:
    """Places in `numbers` of frames that follow each other in one shot."""
    steps = enumerate(pairwise(numbers), 1)
    breaks = [k for k, (a, b) in steps if b != a + 1 or shots[a] != shots[b]]
    return [slice(start, stop) for start, stop in pairwise([0, *breaks, len(numbers)])]


class _LpipsMean:
    """LPIPS of every few frames, with the true picture put in outside, or inside, of the hole."""

    def __init__(self, lpips: Lpips | None, hole: Tensor) -> None:
        self._lpips, self._hole = lpips, hole
        self._found: list[tuple[float, float]] = []

    @torch.inference_mode()
    def add(self, ours: Tensor, theirs: Tensor, numbers: list[int]) -> None:
        if self._lpips is None:
            return
        for place, number in enumerate(numbers):
            if number % LPIPS_EVERY == 0:
                mine, true = normalize(ours[place][None]), normalize(theirs[place][None])
                mixed = torch.cat([torch.where(where, mine, true) for where in (self._hole, ~self._hole)])
                near = self._lpips(mixed, true.repeat(2, 1, 1, 1))
                self._found.append((float(near[0]), float(near[1])))

    def mean(self, which: int) -> float:
        return float(np.mean([pair[which] for pair in self._found])) if self._found else math.nan


def _face_pairs(result: Path, other: Path, truth: FollowedFace) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Numbers of frames with a face, and those faces of both clips, (<= 32, 3, R, R) uint8, in order."""
    with VideoReader(result) as first, VideoReader(other) as second:
        frames = enumerate(zip(first, second, strict=False))
        while batch := list(islice(frames, BATCH_FRAMES)):
            kept = [
                (number, pair)
                for number, pair in batch
                if number < len(truth.shots) and truth.shots[number] >= 0
            ]
            if kept:
                numbers = [number for number, _ in kept]
                ours, theirs = (
                    align([pair[which].image for _, pair in kept], truth.matrices[numbers], RESOLUTION)
                    for which in (0, 1)
                )
                yield numbers, ours, theirs


def _check_alike(result: Path, ours: VideoInfo, other: Path, theirs: VideoInfo) -> None:
    if (ours.width, ours.height) != (theirs.width, theirs.height):
        raise FootageError(
            f"{result.name} is {ours.width}x{ours.height} px, {other.name} {theirs.width}x{theirs.height}: "
            "they cannot be compared frame by frame"
        )
    if abs(float(ours.fps / theirs.fps) - 1) > RATE_TOLERANCE:
        raise FootageError(
            f"{result.name} has {float(ours.fps):.5g} frames a second, {other.name} {float(theirs.fps):.5g}: "
            "they cannot be compared frame by frame"
        )
