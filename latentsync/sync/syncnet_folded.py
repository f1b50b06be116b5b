"""The original SyncNet for whole clips: every window of a run of frames or of MFCC columns, in batches.

`F` frames, `T` MFCC columns, `D` width. Each window of five frames becomes a picture of 15 channels, so that
3-D convolutions, which have no depth after the first one, are 2-D ones; batch norms are folded into them. The
same numbers as `SyncNet` to 1e-5; how much faster, benchmarks/syncnet.py says.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from latentsync.sync.syncnet import COLUMNS, COLUMNS_PER_FRAME, FRAMES, SyncNet

LIP_BATCH = 16  # windows: about 150 MB of activations
SOUND_BATCH = 64


class FoldedSyncNet(nn.Module):
    """A `SyncNet` in evaluation mode, rewritten; later changes of the original do not reach it."""

    def __init__(self, syncnet: SyncNet) -> None:
        super().__init__()
        syncnet = syncnet.eval()
        with torch.no_grad():
            self.lips = nn.Sequential(*_folded(syncnet.netcnnlip), nn.Flatten(), *_folded(syncnet.netfclip))
            self.sound = nn.Sequential(*_folded(syncnet.netcnnaud), nn.Flatten(), *_folded(syncnet.netfcaud))
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def encode_lips(self, frames: Tensor) -> Tensor:
        """Embeddings (F - 4, D) of frames (F, 3, 224, 224), BGR in 0..255; row `i` sees [i, i + 5)."""
        windows = frames.unfold(0, FRAMES, 1).permute(0, 4, 1, 2, 3)  # no copy yet
        rows = [
            self.lips(batch.flatten(1, 2).float().contiguous(memory_format=torch.channels_last))
            for batch in windows.split(LIP_BATCH)
        ]
        return torch.cat(rows)

    @torch.inference_mode()
    def encode_sound(self, mfcc: Tensor) -> Tensor:
        """Embeddings of `mfcc` (13, T), one a frame; row `i` hears columns [4 i, 4 i + 20)."""
        windows = mfcc.unfold(1, COLUMNS, COLUMNS_PER_FRAME).transpose(0, 1)[:, None]
        return torch.cat([self.sound(batch.contiguous()) for batch in windows.split(SOUND_BATCH)])


def _folded(layers: nn.Sequential) -> list[nn.Module]:
    """The layers with norms folded into what they follow, and 3-D ones made flat."""
    new: list[nn.Module] = []
    for layer in layers:
        before = new[-1] if new else None
        if isinstance(layer, nn.BatchNorm1d) and isinstance(before, nn.Linear):
            new[-1] = fuse_linear_bn_eval(before, layer)
        elif isinstance(layer, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
            new[-1] = fuse_conv_bn_eval(before, layer)
        elif isinstance(layer, nn.BatchNorm3d) and isinstance(before, nn.Conv3d):
            new[-1] = _flat_conv(fuse_conv_bn_eval(before, layer))
        elif isinstance(layer, nn.MaxPool3d):
            stride, padding = _across(layer.stride), _across(layer.padding)
            new.append(nn.MaxPool2d(_across(layer.kernel_size), stride, padding))
        else:
            new.append(layer)
    return new


def _flat_conv(conv: nn.Conv3d) -> nn.Conv2d:
    """A convolution whose kernel is as deep as its input, as one over (depth x channels)."""
    weight = conv.weight.transpose(1, 2).flatten(1, 2)  # frame-major, as the windows are flattened
    stride, padding = _across(conv.stride), _across(conv.padding)
    flat = nn.Conv2d(weight.shape[1], weight.shape[0], _across(conv.kernel_size), stride, padding)
    flat.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
    flat.bias = conv.bias
    return flat


def _across(size: Any) -> tuple[int, int]:
    """(down, across) of a 3-D layer's size, be it one number or (deep, down, across)."""
    return (size, size) if isinstance(size, int) else (size[1], size[2])
