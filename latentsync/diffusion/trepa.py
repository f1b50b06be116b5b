"""TREPA: drawn clips should look and move like the true ones to a network that knows videos.

`B` clips, `F` frames, `H W` pixels. Source: LatentSync (arXiv 2412.09262), temporal representation alignment.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from latentsync.quality.videomae import VideoMAE


def trepa_loss(model: VideoMAE, prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance of two clips' features on the unit sphere: a float32 scalar of at most 4 / D.

    `prediction` and `target`: (B, 3, F, H, W) in [-1, 1], any H and W. The gradient flows through
    `prediction` alone, and is small (the released model has D = 1408): with `model` in float16 the loss must
    be scaled up before the way back. Raises: ValueError for clips of different shapes or an odd F.
    """
    if prediction.shape != target.shape or prediction.ndim != 5:
        raise ValueError(
            f"expected two clips (B, 3, F, H, W), got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    with torch.no_grad():
        wanted = clip_features(model, target)
    return F.mse_loss(clip_features(model, prediction), wanted)


def clip_features(model: VideoMAE, clips: Tensor) -> Tensor:
    """Unit vectors (B, D) float32 of `clips`, (B, 3, F, H, W) in [-1, 1].

    Resized without smoothing first and not normalised by ImageNet's mean and spread, as the weights of the
    loss were tuned.
    """
    size, frames = model.image_size, clips.shape[2]
    pictures = rearrange(clips.float(), "b c f h w -> (b f) c h w")
    pictures = F.interpolate(pictures, size=(size, size), mode="bicubic")
    pictures = (pictures / 2 + 0.5).clamp(0, 1)
    return F.normalize(model(rearrange(pictures, "(b f) c h w -> b c f h w", f=frames)).float(), dim=1)
