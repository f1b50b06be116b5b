"""How faces are drawn: `Sampling` decides the picture, `Batching` only memory and speed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentsync.diffusion.sync_guidance import Steering

StepCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Sampling:
    """How to denoise: `guidance_scale` above 1 costs a second pass that hears nothing, and opens the mouth
    further.

    `guidance_window`: the share [start, stop) of the steps that are guided, the others hear plainly.
    `cache_interval`: only every n-th step runs the whole U-Net, the others keep its deep features
    (`FeatureCache`, cut at skip `cache_branch_id`); 1 is off. `steering` sets the guidance of each window by
    what its draft looks like; `guidance_scale` is then what it starts from. `strength`, in (0, 1]: below 1
    only that share of the steps runs, the last ones, from the footage's own latents under their noise.
    """

    steps: int
    guidance_scale: float = 1.0
    generator: torch.Generator | None = None
    callback_on_step_end: StepCallback | None = None
    guidance_window: tuple[float, float] = (0.0, 1.0)
    cache_interval: int = 1
    cache_branch_id: int = 0
    steering: Steering | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength {self.strength} is outside (0, 1], the share of the steps that run")

    @property
    def first_step(self) -> int:
        """The step, counted from 0, that runs first; at least the last one runs."""
        return min(self.steps - round(self.strength * self.steps), self.steps - 1)

    def is_guided(self, step: int) -> bool:
        """Whether step `step`, counted from 0, subtracts what is drawn without sound."""
        start, stop = self.guidance_window
        return self.guidance_scale != 1.0 and start <= step / self.steps < stop


@dataclass(frozen=True)
class Batching:
    """How much is computed at a time, which decides memory and speed but not the picture: `frames` through
    the autoencoder, `windows` through the denoiser, and whether guidance takes one pass of both halves.
    """

    frames: int
    windows: int = 1
    joint_guidance: bool = True

    def __post_init__(self) -> None:
        if self.frames < 1 or self.windows < 1:
            raise ValueError(f"{self.frames} frames and {self.windows} windows at a time: at least 1 of each")
