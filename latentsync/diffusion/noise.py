"""Noise of a clip: one frame's worth, shown to every frame, so that a seed gives the same picture at any
chunk size.
"""

import torch
from diffusers import DDIMScheduler
from torch import Tensor


def draw_noise(
    shape: tuple[int, int, int], generator: torch.Generator | None, *, dtype: torch.dtype
) -> Tensor:
    """Noise (C, 1, h, w) of `shape` (C, h, w), drawn on the generator's device (CPU without one).

    Drawn in float32 and rounded, so that a seed means the same noise in every dtype.
    """
    channels, height, width = shape
    device = generator.device if generator is not None else torch.device("cpu")
    size = (channels, 1, height, width)
    return torch.randn(size, generator=generator, device=device, dtype=torch.float32).to(dtype)


def released_scheduler() -> DDIMScheduler:
    """The sampler of the released weights (configs/scheduler_config.json of bytedance/LatentSync)."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def small_scheduler() -> DDIMScheduler:
    """The sampler of our small models: v prediction down to zero signal, few trailing steps (Lin et al.
    2023).
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
