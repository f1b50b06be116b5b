"""Changes of a training picture that make one face look like many: colour, light, blur. One draw serves a whole clip.

`pixels` are float RGB in [-1, 1], (..., 3, H, W).
"""

from dataclasses import dataclass

import numpy as np
import torch
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
