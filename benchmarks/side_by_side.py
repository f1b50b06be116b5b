"""Two ways of doing one thing, timed in turns and printed as one row; and what they do it to: the demo."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.dubbing.redraw import face_matrix
from latentsync.face import align, make_detector, normalize, track
from latentsync.media import Frame, VideoReader, read_audio, resample

ASSETS = Path(__file__).resolve().parents[1] / "assets"


@dataclass(frozen=True)
class Demo:
    """Frames of the portrait, the matrices that cut its face out, the faces, the speech and its windows."""

    frames: list[Frame]
    matrices: list[np.ndarray]
    faces: Tensor
    waveform: Tensor
    windows: Tensor

    @property
    def images(self) -> list[np.ndarray]:
        return [frame.image for frame in self.frames]


def open_demo(pipeline: LipsyncPipeline, frames: int) -> Demo:
    """The first `frames` frames of the demo's inputs."""
    seen = []
    with VideoReader(ASSETS / "portrait.mp4") as reader, make_detector("auto") as detector:
        for tracked in track((tick.frame for tick in resample(reader, Fraction(25))), detector):
            seen.append(tracked)
            if len(seen) == frames:
                break
    shown = [item.frame for item in seen]
    matrices = [face_matrix(item.face, pipeline.resolution) for item in seen]
    faces = align([frame.image for frame in shown], np.stack(matrices), pipeline.resolution)
    waveform = torch.from_numpy(read_audio(ASSETS / "speech.wav"))
    windows = torch.stack(list(pipeline.audio_windows(waveform, frames)))
    return Demo(shown, matrices, normalize(faces), waveform, windows)


def timed(ways: dict[str, Callable[[], object]], rounds: int = 3) -> dict[str, float]:
    """Least seconds of each way, taken in turns after one round apart: other work only ever adds to them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return {name: min(values) for name, values in seconds.items()}


def row(name: str, plain: float, ours: float, note: str = "") -> None:
    """Seconds of both and their ratio: above 1 is a gain."""
    print(f"  {name:<44} {plain:8.3f} s {ours:8.3f} s   x{plain / ours:5.2f}   {note}")
