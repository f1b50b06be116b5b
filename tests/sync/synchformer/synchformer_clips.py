"""Tiny networks and clips for the tests of Synchformer's footage, evaluation and training."""

import numpy as np
import torch
from footage_clips import face_images, opening, voice
from synthetic import write_video

from latentsync.sync.synchformer import Synchformer

SIZES = {
    "visual": {"width": 16, "layers": 1, "heads": 2, "resolution": 32, "frames": 8, "patch": 16},
    "audio": {"width": 16, "layers": 1, "heads": 2, "columns": 34},
}
# 8 frames are 5120 samples, so 33 columns of mel and one without sound: 2 moments heard, 4 seen
VIEWING = {
    "side": 40,
    "crop": 32,
    "crop_frames": 22,
    "segments": 3,
    "segment_frames": 8,
    "step_frames": 4,
    "offset_limit_seconds": 0.4,
    "offset_classes": 5,
}


def tiny_synchformer(**sync) -> Synchformer:
    torch.manual_seed(0)
    sync = {"width": 16, "heads": 2, "layers": 1, "positions": 2 + 3 * (4 + 2), "classes": 5, **sync}
    network = Synchformer(**SIZES, sync=sync, viewing=VIEWING)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def talker(path, *, seconds=3.0, seed=0, fps=25, late_frames=0, side=64, **options):
    """A clip whose sound comes `late_frames` (at 25 fps) after the lips; `options` of write_video."""
    ticks = round(seconds * 25)
    mouth = opening(ticks + 80, seed)
    shown, heard = mouth[40 : 40 + ticks], mouth[40 - late_frames : 40 - late_frames + ticks]
    count = round(seconds * fps)
    at_pictures = np.interp(np.arange(count) * 25 / fps, np.arange(ticks), shown)
    images = face_images(at_pictures, seed, side)
    return write_video(path, images, fps=fps, sound=voice(heard, seed)[None], rate=16_000, **options)
