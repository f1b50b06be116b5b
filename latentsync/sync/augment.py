"""Changes of a training window that make one speaker look and sound like many; lips and sound stay in step.

`B` windows, `F` frames folded into the channels, `H W` pixels, `T` mel columns. Each window has a draw of its
own, which serves all of its frames. Torch's generator decides.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # BT.601
ZOOM, STRETCH, SHIFT, TURN = 0.15, 0.08, 0.06, 0.12  # shares of the size, radians
LIGHT, CAST, OFFSET, GAMMA, COLOUR = 0.35, 0.12, 0.2, 0.4, 0.6
GREY_SHARE = 0.3
BEND, SHADE, STAIN = 0.05, 0.35, 0.12  # shares of the size, of the light, of the range
BLUR_SHARE, GRAIN = 0.4, 0.06
LOUDNESS, TILT, NOISE = 0.6, 0.5, 0.15  # in the units of syncnet_mel: 8 for 100 dB
SHALLOW, DEEP = 2.5, 8.0  # so far below the loudest there is only noise
BAND_SHIFT, BAND_HOLE = 5, 12
MEL_FLOOR, MEL_CEILING = -4.0, 4.0


def augment_faces(faces: Tensor) -> Tensor:
    """Faces (B, 3 F, H, W) in [-1, 1] of other proportions and features, under another light, some mirrored,
    grey, blurred or grainy.
    """
    return _grained(_blurred(_recoloured(_moved(faces)))).clamp(-1, 1)


def augment_mel(mel: Tensor) -> Tensor:
    """Mel (B, 1, 80, T) in [-4, 4] of another voice in another room, at another loudness."""
    B, _, bands, _ = mel.shape
    device = mel.device
    shifts = torch.randint(-BAND_SHIFT, BAND_SHIFT + 1, (B,), device=device)
    rows = (torch.arange(bands, device=device) - shifts[:, None]).clamp(0, bands - 1)
    mel = mel.gather(2, rows[:, None, :, None].expand_as(mel))
    slope = torch.linspace(-1, 1, bands, device=device).view(1, 1, bands, 1)
    mel = mel + LOUDNESS * _signed(B, device) + TILT * slope * _signed(B, device)
    loudest = mel.amax(dim=(1, 2, 3), keepdim=True)
    depth = SHALLOW + (DEEP - SHALLOW) * torch.rand(B, 1, 1, 1, device=device)
    noise = NOISE * torch.rand(B, 1, 1, 1, device=device) * torch.randn_like(mel)
    mel = torch.maximum(mel, loudest - depth) + noise
    width = torch.randint(0, BAND_HOLE + 1, (B, 1), device=device)
    start = (torch.rand(B, 1, device=device) * (bands - width)).long()
    number = torch.arange(bands, device=device)
    hole = (number >= start) & (number < start + width)
    mean = mel.mean(dim=(1, 2, 3), keepdim=True)
    return torch.where(hole[:, None, :, None], mean, mel).clamp(MEL_FLOOR, MEL_CEILING)


def _moved(faces: Tensor) -> Tensor:
    """Zoomed, turned, moved, mirrored and bent; beyond the border the border goes on."""
    B, _, H, W = faces.shape
    device, aspect = faces.device, H / W
    zoom = 1 + ZOOM * _signed(B, device).flatten()
    tall = zoom * (1 + STRETCH * _signed(B, device).flatten())
    angle = TURN * _signed(B, device).flatten()
    mirror = torch.where(torch.rand(B, device=device) < 0.5, -1.0, 1.0)
    x, y = (2 * SHIFT * _signed(B, device).flatten() for _ in range(2))
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack(
        [
            torch.stack([mirror * cos / zoom, -sin * aspect / zoom, x], dim=1),
            torch.stack([mirror * sin / aspect / tall, cos / tall, y], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, [B, 1, H, W], align_corners=False)
    grid = grid + 2 * BEND * _smooth(B, 2, H, W, device, cells=4).permute(0, 2, 3, 1)
    return F.grid_sample(faces, grid.to(faces.dtype), padding_mode="border", align_corners=False)


def _recoloured(faces: Tensor) -> Tensor:
    (B, _, H, W), device = faces.shape, faces.device
    rgb = faces.unflatten(1, (-1, 3))
    light = 1 + LIGHT * _signed(B, device, 1) + CAST * _signed(B, device, 3)
    offset = OFFSET * _signed(B, device, 1) + OFFSET / 3 * _signed(B, device, 3)
    unit = ((rgb * light[:, None] + offset[:, None]).clamp(-1, 1) + 1) / 2
    unit = unit.clamp(min=1e-3).pow((GAMMA * _signed(B, device, 1)[:, None]).exp())
    unit = unit * (1 + SHADE * _smooth(B, 1, H, W, device, cells=3)[:, None])
    unit = unit + STAIN * _smooth(B, 3, H, W, device, cells=6)[:, None]
    luma = torch.tensor(LUMA, device=device).view(3, 1, 1)
    grey = (unit * luma).sum(dim=2, keepdim=True)
    keep = 1 + COLOUR * _signed(B, device, 1)[:, None]
    keep = torch.where(torch.rand(B, 1, 1, 1, 1, device=device) < GREY_SHARE, 0.0, keep)
    return ((grey + keep * (unit - grey)) * 2 - 1).flatten(1, 2)


def _blurred(faces: Tensor) -> Tensor:
    """Some windows as from a smaller picture: averaged over 3x3 pixels, by a share of its own."""
    share = torch.rand(len(faces), 1, 1, 1, device=faces.device)
    share = torch.where(share < BLUR_SHARE, share / BLUR_SHARE, 0.0)
    return torch.lerp(faces, F.avg_pool2d(faces, 3, 1, 1, count_include_pad=False), share)


def _grained(faces: Tensor) -> Tensor:
    """Noise that is new in every frame, as of a sensor."""
    level = GRAIN * torch.rand(len(faces), 1, 1, 1, device=faces.device)
    return faces + level * torch.randn_like(faces)


def _smooth(windows: int, channels: int, H: int, W: int, device: torch.device, *, cells: int) -> Tensor:
    """Fields (B, C, H, W) without edges, about in [-1, 1]: random numbers on a coarse grid, and between."""
    coarse = torch.rand(windows, channels, cells, 2 * cells, device=device) * 2 - 1
    return F.interpolate(coarse, (H, W), mode="bicubic", align_corners=True)


def _signed(windows: int, device: torch.device, channels: int = 1) -> Tensor:
    """(B, C, 1, 1), even in [-1, 1]."""
    return torch.rand(windows, channels, 1, 1, device=device) * 2 - 1
