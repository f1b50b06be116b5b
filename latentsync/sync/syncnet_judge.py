"""The original SyncNet as a judge: faces and sound -> SyncScore, by the numbers of the original's evaluation.

Source: joonson/syncnet_python `SyncNetInstance.py` (evaluate).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from latentsync.audio.mel import syncnet_mfcc
from latentsync.checkpoint import assign_exactly, read_weights
from latentsync.sync.face_cut import HeadCut
from latentsync.sync.judge import MAX_OFFSET_FRAMES, SAMPLES_PER_FRAME, Faces, Judge, SyncScore, batches
from latentsync.sync.offset import score_of, zero_padded_distances
from latentsync.sync.syncnet import FRAMES, SIDE, SyncNet
from latentsync.sync.syncnet_folded import LIP_BATCH, FoldedSyncNet

MIN_FRAMES = 50  # upstream's shortest track, 2 s
COUNTER = "num_batches_tracked"
SOURCE = "https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model"


def open_original_syncnet(path: str | Path) -> SyncNet:
    """The network of `syncnet_v2.model`, on the CPU, in evaluation mode.

    Raises: FileNotFoundError, CheckpointError.
    """
    weights = read_weights(path, expect="syncnet_v2")
    with torch.device("meta"):
        syncnet = SyncNet()
    tensors = {
        key: value if key.endswith(COUNTER) else value.float() for key, value in weights.tensors.items()
    }
    for key in syncnet.state_dict():
        if key.endswith(COUNTER):  # which files of older PyTorch lack, and nothing here reads
            tensors.setdefault(key, torch.tensor(0))
    assign_exactly(syncnet, tensors, Path(path), source=SOURCE)
    return syncnet.eval()


class SyncNetJudge(Judge):
    """Distances are those of unnormalised vectors; upstream keeps clips with a confidence of 3 or more."""

    name = "syncnet"
    min_frames = MIN_FRAMES

    def __init__(self, syncnet: SyncNet, *, device: torch.device | str = "cpu") -> None:
        self.face_cut = HeadCut(SIDE)
        self.device = torch.device(device)
        self.syncnet = FoldedSyncNet(syncnet).to(self.device)

    def score_sounds(self, faces: Faces, waveforms: Sequence[Tensor]) -> list[SyncScore]:
        lips = self.encode_faces(faces)
        return [score_of(self.distances(lips, waveform).mean(dim=0)) for waveform in waveforms]

    def encode_faces(self, faces: Faces) -> Tensor:
        """One row a window of five faces, (F - 4, 1024); empty for fewer faces."""
        rows = [
            self.syncnet.encode_lips(run.to(self.device).flip(1))  # the weights expect BGR
            for run in batches(faces, LIP_BATCH + FRAMES - 1, overlap=FRAMES - 1)
            if len(run) >= FRAMES
        ]
        return torch.cat(rows) if rows else torch.zeros(0, 0)

    def distances(self, lips: Tensor, waveform: Tensor) -> Tensor:
        """`zero_padded_distances` of the windows that the original compares: one fewer than there are.

        Raises: ValueError where faces and sound share fewer than six frames.
        """
        frames = min(len(lips) + FRAMES - 1, waveform.numel() // SAMPLES_PER_FRAME)
        windows = frames - FRAMES
        if windows < 1:
            raise ValueError(
                f"{len(lips) + FRAMES - 1 if len(lips) else 'fewer than 5'} faces and {waveform.numel()} "
                f"samples at 16 kHz; at least {FRAMES + 1} frames with their sound are needed"
            )
        mfcc = syncnet_mfcc(waveform).to(self.device)
        sound = self.syncnet.encode_sound(mfcc)[:windows]
        return zero_padded_distances(lips[:windows], sound, max_offset=MAX_OFFSET_FRAMES)
