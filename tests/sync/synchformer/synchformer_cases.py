"""Inputs of the reference cases as the networks take them."""

import numpy as np
import torch


def tiled_video(tensors, period, size):
    """Frames of `size` px from the tiles of a case, (..., T, 3, H, W) in [-1, 1]."""
    shift = 128 + 60 * tensors["input.tile.segment"] + 30 * tensors["input.tile.frame"]
    shift = shift + 30 * tensors["input.tile.channel"]
    tile = np.clip(np.rint(shift + 28 * tensors["input.tile.noise"]), 0, 255).astype(np.float32)
    rows, columns = (np.arange(size) % step for step in period)
    frames = torch.from_numpy(tile[..., rows, :][..., columns])
    return (frames / 255 - 0.5) / 0.5


def spectrogram(tensors):
    parts = [tensors[f"input.spec.{name}"].astype(np.float64) for name in ("noise", "segment", "row")]
    return torch.from_numpy(sum(parts).astype(np.float16).astype(np.float32))


def as_tensors(arrays):
    return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}


def check(found, tensors, info, name):
    """`found` against an expected result of a case, as far as that is stored."""
    wanted = tensors[f"output.{name}"]
    sample = info["outputs"][name].get("sample")
    found = found.detach().numpy()
    assert list(found.shape) == info["outputs"][name]["shape"], name
    if sample:
        found = found[tuple(slice(a, None, b) for a, b in zip(sample["start"], sample["step"], strict=True))]
    assert np.abs(found - wanted).max() <= 1e-4 * (1 + wanted.std()), name
