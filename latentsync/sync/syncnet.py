"""The original SyncNet (v2): five frames of a face and 0.2 s of MFCC in, one vector each out, compared by
distance.

`B` windows, `F` frames, `T` MFCC columns at 100 a second. Frames are BGR in 0..255, 224 x 224. Source:
joonson/syncnet_python `SyncNetModel.py` (Chung and Zisserman, "Out of time", 2016); sub-modules are numbered
as in `syncnet_v2.model`.
"""

from torch import Tensor, nn

FRAMES = 5  # of a window
SIDE = 224
COLUMNS = 20  # of MFCC a window
COLUMNS_PER_FRAME = 4
MFCC_ROWS = 13
WIDTH = 1024


class SyncNet(nn.Module):
    """Embeds windows of lips and of sound, (B, 1024) each, not normalised: what belongs together lies close.

    `FoldedSyncNet` does the same for all windows of a clip, faster.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_conv2d(1, 64, 3, padding=1),
            nn.MaxPool2d(1, 1),
            *_conv2d(64, 192, 3, padding=1),
            nn.MaxPool2d(3, (1, 2)),
            *_conv2d(192, 384, 3, padding=1),
            *_conv2d(384, 256, 3, padding=1),
            *_conv2d(256, 256, 3, padding=1),
            nn.MaxPool2d(3, 2),
            *_conv2d(256, 512, (5, 4)),
        )
        self.netfcaud = _head(width)
        self.netcnnlip = nn.Sequential(
            *_conv3d(3, 96, (FRAMES, 7, 7), stride=(1, 2, 2)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv3d(96, 256, (1, 5, 5), stride=(1, 2, 2), padding=(0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1)),
            *_conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1)),
            *_conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv3d(256, 512, (1, 6, 6)),
        )
        self.netfclip = _head(width)

    def forward(self, frames: Tensor, mfcc: Tensor) -> tuple[Tensor, Tensor]:
        """`forward_lip` of the frames and `forward_audio` of their sound."""
        return self.forward_lip(frames), self.forward_audio(mfcc)

    def forward_lip(self, frames: Tensor) -> Tensor:
        """Embeddings (B, 1024) of windows (B, 3, 5, 224, 224), BGR in 0..255."""
        return self.netfclip(self.lip_features(frames))

    def forward_audio(self, mfcc: Tensor) -> Tensor:
        """Embeddings (B, 1024) of windows (B, 1, 13, 20) of `audio.mel.syncnet_mfcc`."""
        return self.netfcaud(self.audio_features(mfcc))

    def lip_features(self, frames: Tensor) -> Tensor:
        """What `forward_lip` makes its embedding of, (B, 512)."""
        return self.netcnnlip(frames).flatten(1)

    def audio_features(self, mfcc: Tensor) -> Tensor:
        """What `forward_audio` makes its embedding of, (B, 512)."""
        return self.netcnnaud(mfcc).flatten(1)


def _conv2d(inside: int, outside: int, kernel: int | tuple[int, int], *, padding: int = 0) -> list[nn.Module]:
    return [nn.Conv2d(inside, outside, kernel, padding=padding), nn.BatchNorm2d(outside), nn.ReLU()]


def _conv3d(
    inside: int,
    outside: int,
    kernel: tuple[int, int, int],
    *,
    stride: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int, int] = (0, 0, 0),
) -> list[nn.Module]:
    conv = nn.Conv3d(inside, outside, kernel, stride, padding)
    return [conv, nn.BatchNorm3d(outside), nn.ReLU()]


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, width))
