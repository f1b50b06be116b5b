"""The original SyncNet over a clip: ours beside the way of the original evaluation, in time and memory.

    python benchmarks/syncnet.py [--seconds 20]

The plain way holds the clip as one float tensor and stacks windows of five frames by twenty, as
joonson/syncnet_python does. Both run on random weights and frames, each in a process of its own.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from latentsync.audio.mel import syncnet_mfcc
from latentsync.sync.judge import SAMPLES_PER_FRAME, SyncScore
from latentsync.sync.offset import score_of, zero_padded_distances
from latentsync.sync.syncnet import COLUMNS, COLUMNS_PER_FRAME, FRAMES, SIDE, SyncNet
from latentsync.sync.syncnet_judge import SyncNetJudge

PLAIN_BATCH = 20


def network() -> SyncNet:
    torch.manual_seed(0)
    return SyncNet().eval()


def faces(seconds: int) -> Iterator[Tensor]:
    """A second of noise after the other."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(seconds):
        yield torch.randint(0, 256, (25, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def sound(seconds: int) -> Tensor:
    return torch.randn(seconds * 25 * SAMPLES_PER_FRAME, generator=torch.Generator().manual_seed(2)) * 0.1


@torch.no_grad()
def plain(seconds: int) -> SyncScore:
    """Everything as float32 at once, windows stacked, layers as they stand in the file."""
    syncnet = network()
    frames = torch.cat(list(faces(seconds))).flip(1).float().transpose(0, 1)[None]
    mfcc = syncnet_mfcc(sound(seconds))[None, None]
    windows = frames.shape[2] - FRAMES
    lips, heard = [], []
    for start in range(0, windows, PLAIN_BATCH):
        numbers = range(start, min(windows, start + PLAIN_BATCH))
        lips.append(syncnet.forward_lip(torch.cat([frames[:, :, i : i + FRAMES] for i in numbers])))
        columns = [slice(COLUMNS_PER_FRAME * i, COLUMNS_PER_FRAME * i + COLUMNS) for i in numbers]
        heard.append(syncnet.forward_audio(torch.cat([mfcc[..., c] for c in columns])))
    return score_of(zero_padded_distances(torch.cat(lips), torch.cat(heard)).mean(dim=0))


def ours(seconds: int) -> SyncScore:
    return SyncNetJudge(network()).score(faces(seconds), sound(seconds))


WAYS = {"plain": plain, "ours": ours}


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--seconds", type=int, default=20, help="length of the clip (default 20)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if not flags.way:
        for way in WAYS:
            command = [sys.executable, __file__, "--seconds", str(flags.seconds), "--way", way]
            subprocess.run(command, check=True)
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began = time.perf_counter()
    score = WAYS[flags.way](flags.seconds)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{flags.way:<6} {seconds:7.2f} s, {25 * flags.seconds / seconds:6.1f} frames/s, "
        f"{(peak - before) / 1e6:7.0f} MB more, confidence {score.confidence:.5f}"
    )


if __name__ == "__main__":
    main()
