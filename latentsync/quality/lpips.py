"""How far apart two pictures look: LPIPS on VGG16, as a training loss and as a judge.

`B` pictures, `C` channels, `H W` pixels. Source: Zhang et al. 2018 (arXiv 1801.03924), version 0.1. The trunk
is torchvision's VGG16, a file of 553 MB to be fetched. The 1x1 layers, 1472 numbers, lie beside this file
(BSD-2-Clause, their notice with them), so that one download is enough; they are the values of lpips' vgg.pth.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latentsync.checkpoint import assign_exactly, read_weights
from latentsync.errors import CheckpointError

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = (2, 2, 3, 3, 3)  # in each level of VGG16
LEVEL_ENDS = (0, 4, 9, 16, 23, 30)  # in `features`: behind relu1_2, 2_2, 3_3, 4_3, 5_3
SHIFT = (-0.030, -0.088, -0.188)  # ImageNet's mean and spread, for pixels in [-1, 1]
SCALE = (0.458, 0.448, 0.450)
EPS = 1e-10
MIN_PIXELS = 16  # four times halved
CLASSIFIER = "classifier."  # of the trunk's file: what names ImageNet's classes, not needed here
TRUNK_SOURCE = "https://download.pytorch.org/models/vgg16-397923af.pth"
WEIGHTS_SOURCE = "https://github.com/richzhang/PerceptualSimilarity, lpips/weights/v0.1/vgg.pth"
RELEASED_WEIGHTS = Path(__file__).with_name("lpips_vgg.safetensors")


class Lpips(nn.Module):
    """Distance of pictures (B,), 0 for equal ones; frozen, but the gradient flows into the pictures.

    `widths`: channels of the five levels. Tensors are named as in the two public files.
    `gradient_checkpointing` compares one picture after another and keeps nothing but the pictures; the rest
    is computed again on the way back.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, widths: Sequence[int] = WIDTHS, *, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        if len(widths) != len(CONVOLUTIONS):
            raise ValueError(f"VGG16 has {len(CONVOLUTIONS)} levels, got {len(widths)} widths {list(widths)}")
        self.gradient_checkpointing = gradient_checkpointing
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)
        self.features = nn.Sequential(*_features(widths))
        for level, width in enumerate(widths):
            layer = nn.ModuleDict({"model": nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))})
            self.add_module(f"lin{level}", layer)
        self.eval().requires_grad_(False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Distances (B,) float32 of `prediction` and `target`, (B, 3, H, W) in [-1, 1], 16 px or more.

        Raises: ValueError for pictures of different shapes, or smaller.
        """
        if prediction.shape != target.shape or prediction.ndim != 4 or prediction.shape[1] != 3:
            raise ValueError(
                f"expected two (B, 3, H, W), got {tuple(prediction.shape)} and {tuple(target.shape)}"
            )
        if min(prediction.shape[2:]) < MIN_PIXELS:
            raise ValueError(
                f"pictures of {tuple(prediction.shape[2:])} px: LPIPS needs {MIN_PIXELS} px or more"
            )
        if not (self.gradient_checkpointing and prediction.requires_grad):
            return self._distances(prediction, target)
        pairs = zip(prediction.split(1), target.split(1), strict=True)
        return torch.cat([checkpoint(self._distances, *pair, use_reentrant=False) for pair in pairs])

    def _distances(self, prediction: Tensor, target: Tensor) -> Tensor:
        ours, theirs = ((x.to(self.shift.dtype) - self.shift) / self.scale for x in (prediction, target))
        total = torch.zeros(len(prediction), device=prediction.device)
        for level, (start, stop) in enumerate(pairwise(LEVEL_ENDS)):
            layers = self.features[start:stop]
            ours, theirs = layers(ours), layers(theirs)
            weights = self.get_parameter(f"lin{level}.model.1.weight").float()  # (1, C, 1, 1)
            difference = (_unit(ours) - _unit(theirs)).square()
            total = total + (difference * weights).sum(dim=1).mean(dim=(1, 2))
        return total

    @classmethod
    def from_files(
        cls, trunk: str | Path, weights: str | Path | None = None, *, gradient_checkpointing: bool = False
    ) -> "Lpips":
        """The judge of torchvision's vgg16-397923af.pth and of lpips' vgg.pth, which comes with this package
        when `weights` is None. Widths are read off the tensors.

        Raises: FileNotFoundError; CheckpointError for files that are damaged, foreign or of different widths.
        """
        vgg = read_weights(trunk, expect="vgg16")
        layers = read_weights(weights or RELEASED_WEIGHTS, expect="lpips")
        features = {key: value for key, value in vgg.tensors.items() if not key.startswith(CLASSIFIER)}
        lasts = [f"features.{stop - 2}.weight" for stop in LEVEL_ENDS[1:]]  # each level's last convolution
        missing = [key for key in lasts if key not in features or features[key].ndim != 4]
        if missing:
            raise CheckpointError(
                f"weights {str(trunk)!r} lack {missing[0]} of a VGG16; get the file from {TRUNK_SOURCE}"
            )
        widths = [features[key].shape[0] for key in lasts]
        lins = [layers.tensors.get(f"lin{level}.model.1.weight") for level in range(len(lasts))]
        found = [0 if lin is None else lin.numel() for lin in lins]
        if found != widths or len(layers.tensors) != len(widths):
            raise CheckpointError(
                f"weights {str(layers.path)!r} weigh {found} channels, but the VGG16 of {str(trunk)!r} has "
                f"{widths}; get the released pair from {TRUNK_SOURCE} and {WEIGHTS_SOURCE}"
            )
        judge = cls(widths, gradient_checkpointing=gradient_checkpointing)
        assign_exactly(judge, {**features, **layers.tensors}, vgg.path, source=TRUNK_SOURCE)
        return judge.float().requires_grad_(False)


def _features(widths: Sequence[int]) -> Iterator[nn.Module]:
    """VGG16's layers, in torchvision's numbering, without its last pooling."""
    channels = 3
    for level, (width, convolutions) in enumerate(zip(widths, CONVOLUTIONS, strict=True)):
        if level:
            yield nn.MaxPool2d(2)
        for _ in range(convolutions):
            yield nn.Conv2d(channels, width, 3, padding=1)
            yield nn.ReLU(inplace=True)
            channels = width


def _unit(features: Tensor) -> Tensor:
    """`features` (B, C, H, W) of length 1 over the channels, in float32: EPS is 0 in half precision.

    vector_norm has the slope 0 where all channels are 0; a square root would have none (NaN).
    """
    features = features.float()
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + EPS)
