"""Raw talking clips -> packed training clips: aligned faces, mouth shapes and sound, one folder of plain
arrays a clip.

`F` frames at 25 fps, `R` resolution. A packed clip `name/` holds `faces.npy` uint8 (F, R, R, 3), `mouth.npy`
float32 (F, len(MOUTH_SHAPE)), `waveform.npy` float32 (T,) at 16 kHz; `clips.json` of the collection lists
clips, speakers, sources.
"""

import json
import logging
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from latentsync.errors import LatentSyncError, MediaError
from latentsync.face import align, similarity, template, track
from latentsync.face.detect import Detector
from latentsync.media.audio import read_audio
from latentsync.media.read import VideoReader, resample

FPS = Fraction(25)
SAMPLE_RATE_HZ = 16_000
MIN_FRAMES = 40
MAX_DROPPED_SHARE = 0.2  # of a collection; above it the run stops, since something is wrong with the footage
BATCH_FRAMES = 32

# distances of MediaPipe mesh points over the eye distance: what a mouth does, without where the head is
MOUTH_SHAPE = {
    "aperture": (13, 14),
    "inner_width": (78, 308),
    "width": (61, 291),
    "outer_height": (0, 17),
    "upper_lip": (0, 4),
    "jaw": (152, 4),
}
EYES = ((33, 133), (263, 362))

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One clip to pack: its file, who speaks, and which part it serves ("train", "val")."""

    path: Path
    speaker: str
    split: str = "train"


@dataclass(frozen=True)
class PackedClip:
    """One line of `clips.json`."""

    name: str
    speaker: str
    split: str
    frames: int


def mouth_shape(landmarks: np.ndarray) -> np.ndarray:
    """The distances of MOUTH_SHAPE, (len(MOUTH_SHAPE),) float32, of mesh points (N, 2) in pixels."""
    left, right = (landmarks[list(pair)].mean(axis=0) for pair in EYES)
    eye_distance = np.linalg.norm(right - left)
    pairs = np.array(list(MOUTH_SHAPE.values()))
    lengths = np.linalg.norm(landmarks[pairs[:, 0]] - landmarks[pairs[:, 1]], axis=1)
    return (lengths / eye_distance).astype(np.float32)


def pack(sources: Iterable[Source], folder: Path, detector: Detector, *, resolution: int) -> list[PackedClip]:
    """Pack every source into `folder`, skipping those packed before; gives the whole collection.

    A clip is dropped, and counted, when it is unreadable, too short or has frames without a face.
    Raises: MediaError when more than MAX_DROPPED_SHARE of the sources are dropped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packed, dropped = [], []
    for source in sources:
        try:
            packed.append(_pack_clip(source, folder, detector, resolution))
        except (LatentSyncError, FileNotFoundError) as reason:
            dropped.append(source)
            logger.warning("dropped %s: %s", source.path.name, reason)
    if len(dropped) > MAX_DROPPED_SHARE * (len(dropped) + len(packed)):
        raise MediaError(
            f"{len(dropped)} of {len(dropped) + len(packed)} clips were dropped; see the warnings above"
        )
    (folder / "clips.json").write_text(json.dumps([asdict(clip) for clip in packed], indent=1))
    return packed


def _pack_clip(source: Source, folder: Path, detector: Detector, resolution: int) -> PackedClip:
    name = source.path.stem
    target = folder / name
    if not target.exists():
        faces, mouth, first_time = _faces(source, detector, resolution)
        waveform = read_audio(source.path, SAMPLE_RATE_HZ)[round(first_time * SAMPLE_RATE_HZ) :]
        partial = folder / f".{name}.part"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        np.save(partial / "faces.npy", faces)
        np.save(partial / "mouth.npy", mouth)
        np.save(partial / "waveform.npy", waveform)
        partial.rename(target)
    frames = len(np.load(target / "mouth.npy"))
    return PackedClip(name=name, speaker=source.speaker, split=source.split, frames=frames)


def _faces(source: Source, detector: Detector, resolution: int) -> tuple[np.ndarray, np.ndarray, Fraction]:
    """Aligned faces (F, R, R, 3) and mouth shapes (F, K) of a clip at 25 fps, and the time of its first
    frame.
    """
    images, anchors, shapes, times = [], [], [], []
    faces: list[torch.Tensor] = []

    def flush() -> None:
        if images:
            matrices = similarity(np.stack(anchors), template(resolution))
            faces.append(align(images, matrices, resolution))
            images.clear()
            anchors.clear()

    with VideoReader(source.path) as reader:
        frames = (tick.frame for tick in resample(reader, FPS))
        for tracked in track(frames, detector):
            if tracked.face is None:
                raise MediaError(
                    f"no face in frame {tracked.frame.index} of {source.path}; training needs one in each"
                )
            images.append(tracked.frame.image)
            anchors.append(tracked.face.anchors)
            times.append(tracked.frame.time)
            shapes.append(mouth_shape(tracked.face.landmarks))
            if len(images) == BATCH_FRAMES:
                flush()
        flush()
    if len(shapes) < MIN_FRAMES:
        raise MediaError(
            f"{source.path} has {len(shapes)} frames at 25 fps; at least {MIN_FRAMES} are needed"
        )
    pixels = torch.cat(faces).permute(0, 2, 3, 1).contiguous()
    return pixels.numpy(), np.stack(shapes), times[0]
