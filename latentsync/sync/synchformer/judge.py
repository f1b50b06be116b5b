"""A Synchformer behind the interface of all judges: its classes of offsets become a curve over frames.

`F` frames, `K` classes. The distance at an offset is 1 - the probability of its class, on a line between
classes; as the classes lie 0.2 s apart, a shift is found to within a class.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latentsync.face.tracks import FaceTrack
from latentsync.sync.face_cut import AlignedCut
from latentsync.sync.judge import FPS, SAMPLES_PER_FRAME, Faces, Judge, SyncScore
from latentsync.sync.offset import score_of
from latentsync.sync.synchformer.crops import Crop
from latentsync.sync.synchformer.footage import shrunk, windows
from latentsync.sync.synchformer.inputs import batched, cut
from latentsync.sync.synchformer.measure import HOP_SECONDS, probabilities
from latentsync.sync.synchformer.network import Synchformer
from latentsync.sync.synchformer.viewing import FACE, Viewing


@dataclass(frozen=True)
class SceneCut:
    """The middle square of the whole picture, wherever the face is."""

    viewing: Viewing

    @property
    def size(self) -> tuple[int, int]:
        return self.viewing.side, self.viewing.side

    def places(self, track: FaceTrack) -> np.ndarray:
        """Nothing to say, (F, 0)."""
        return np.zeros((track.frames, 0), np.float32)

    def cut(self, images: Sequence[np.ndarray], places: np.ndarray) -> Tensor:
        side, cut_out = self.viewing.side, []
        for image in images:
            small = shrunk(image, side)
            top, left = ((length - side) // 2 for length in small.shape[1:])
            cut_out.append(small[:, top : top + side, left : left + side])
        return torch.stack(cut_out)


class SynchformerJudge(Judge):
    """Any Synchformer that judges offsets. Raises: ValueError for one that judges something else."""

    name = "synchformer"

    def __init__(self, network: Synchformer, *, device: torch.device | str = "cpu") -> None:
        if not network.judges_offsets:
            raise ValueError(
                "this network says whether an offset can be told, not which; pass one for offsets"
            )
        self.network = network.to(torch.device(device))  # pyright: ignore[reportArgumentType]
        self.network.eval()
        viewing = network.viewing
        self.face_cut = AlignedCut(viewing.side) if viewing.kind == FACE else SceneCut(viewing)
        self.min_frames = viewing.span_frames
        self.tolerance_frames = max(1, round(viewing.grid.step_seconds * FPS))

    def score_sounds(self, faces: Faces, waveforms: Sequence[Tensor]) -> list[SyncScore]:
        viewing = self.network.viewing
        hop = max(1, round(HOP_SECONDS * FPS / viewing.step_frames)) * viewing.step_frames
        answers: list[list[Tensor]] = [[] for _ in waveforms]
        for start, shown in windows(_single(faces), viewing, hop):
            first, stop = start * SAMPLES_PER_FRAME, (start + len(shown)) * SAMPLES_PER_FRAME
            for waveform, found in zip(waveforms, answers, strict=True):
                if stop <= len(waveform):
                    crop = Crop(0, 0, len(shown))
                    inputs = batched([cut(shown, waveform[first:stop], crop, viewing.cuts)])
                    found.append(probabilities(self.network, inputs)[0])
        return [self._score(found) for found in answers]

    def _score(self, found: list[Tensor]) -> SyncScore:
        if not found:
            raise ValueError(
                f"fewer than {self.min_frames} frames of faces and sound: nothing can be compared"
            )
        mean = torch.stack(found).mean(dim=0).double().numpy()
        seconds = self.network.viewing.grid.seconds.astype(np.float64)
        reach = round(float(seconds[-1]) * FPS)
        frames = np.arange(-reach, reach + 1)
        return score_of(torch.from_numpy(1 - np.interp(frames / FPS, seconds, mean)))


def _single(faces: Faces) -> Iterator[Tensor]:
    for part in [faces] if isinstance(faces, Tensor) else faces:
        yield from part
