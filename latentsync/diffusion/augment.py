"""Changes of a training picture that make one face look like many: colour, light, proportions. One draw
serves a whole clip.

`pixels` are float RGB in [-1, 1], (..., 3, H, W).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Colour:
    """One draw: pixels -> mix @ (gain * pixels + shift), bent by `gamma`."""

    gain: tuple[float, float, float]
    shift: tuple[float, float, float]
    gamma: float
    saturation: float
    mirrored: bool


NO_COLOUR = Colour((1.0,) * 3, (0.0,) * 3, 1.0, 1.0, False)
LUMA = (0.299, 0.587, 0.114)  # BT.601
TINT_KNOTS = 3  # a side: between them a tint changes evenly


def draw_colour(rng: np.random.Generator, strength: float = 1.0) -> Colour:
    """A random change of light and colour; `strength` 0 gives none but the mirror."""
    light = 1 + strength * rng.uniform(-0.3, 0.3)
    cast = 1 + strength * rng.uniform(-0.12, 0.12, 3)
    red, green, blue = (float(value) for value in light * cast)
    one, two, three = (
        float(value) for value in strength * (rng.uniform(-0.15, 0.15) + rng.uniform(-0.05, 0.05, 3))
    )
    return Colour(
        gain=(red, green, blue),
        shift=(one, two, three),
        gamma=float(np.exp(strength * rng.uniform(-0.35, 0.35))),
        saturation=float(1 + strength * rng.uniform(-0.5, 0.4)),
        mirrored=bool(rng.random() < 0.5),
    )


def apply_colour(pixels: Tensor, colour: Colour) -> Tensor:
    """`pixels` under `colour`, clamped to [-1, 1]."""
    if colour.mirrored:
        pixels = pixels.flip(-1)
    gain, shift, luma = (
        torch.tensor(value).to(pixels).view(3, 1, 1) for value in (colour.gain, colour.shift, LUMA)
    )
    unit = ((pixels * gain + shift).clamp(-1, 1) + 1) / 2
    unit = unit.pow(colour.gamma)
    grey = (unit * luma).sum(dim=-3, keepdim=True)
    return ((grey + colour.saturation * (unit - grey)) * 2 - 1).clamp(-1, 1)


def tinted(pixels: Tensor, most: float, rng: np.random.Generator) -> Tensor:
    """`pixels` (3, H, W) under a light that is not theirs, a little other from place to place: each colour
    times exp(x), x normal with a deviation of up to `most`.
    """
    spread = rng.uniform(0, most)
    knots = rng.normal(0, spread, (3, 1, 1)) + rng.normal(0, spread, (3, TINT_KNOTS, TINT_KNOTS))
    light = F.interpolate(
        torch.from_numpy(knots)[None].to(pixels), pixels.shape[-2:], mode="bilinear", align_corners=True
    )
    return ((pixels + 1) * light[0].exp() - 1).clamp(-1, 1)


@dataclass(frozen=True)
class Proportions:
    """One draw: the picture zoomed by (x, y) about its middle and moved by shares (x, y) of its size."""

    zoom: tuple[float, float]
    shift: tuple[float, float]


@dataclass(frozen=True)
class Spread:
    """How far a draw of proportions goes either way: shares of the size, and sides of the face."""

    zoom: float
    stretch: float
    x: float
    y: float


# Faces differ in where the mouth lies between brows and chin; an aligned crop shows it up to some 5 % off.
FACES = Spread(zoom=0.12, stretch=0.06, x=0.04, y=0.07)
# Mouths, in where a model draws them: a smile sits high, and who saw few people puts all where theirs were.
MOUTHS = Spread(zoom=0.2, stretch=0.15, x=0.04, y=0.15)
# One face, from frame to frame.
POSES = Spread(zoom=0.05, stretch=0.03, x=0.03, y=0.03)


def draw_proportions(rng: np.random.Generator, spread: Spread = FACES) -> Proportions:
    """Random ones."""
    zoom = 1 + rng.uniform(-spread.zoom, spread.zoom)
    stretch = 1 + rng.uniform(-spread.stretch, spread.stretch)
    x, y = rng.uniform(-spread.x, spread.x), rng.uniform(-spread.y, spread.y)
    return Proportions(zoom=(float(zoom), float(zoom * stretch)), shift=(float(x), float(y)))


def apply_proportions(pixels: Tensor, proportions: Proportions) -> Tensor:
    """`pixels` (B, 3, H, W) zoomed and moved; beyond the border the border goes on."""
    (zoom_x, zoom_y), (x, y) = proportions.zoom, proportions.shift
    theta = torch.tensor([[1 / zoom_x, 0.0, -2 * x / zoom_x], [0.0, 1 / zoom_y, -2 * y / zoom_y]])
    grid = F.affine_grid(
        theta.expand(len(pixels), -1, -1).to(pixels), list(pixels.shape), align_corners=False
    )
    moved = F.grid_sample(pixels, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return moved.clamp(-1, 1)
