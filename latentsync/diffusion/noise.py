"""Noise of a clip. When drawing: one frame's worth, shown to every frame, so that a seed gives the same
picture at any chunk size. When training: that, or a mixture of what frames share and what each has alone.
"""

import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
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


def training_noise(
    latents: Tensor, *, mixed_alpha: float | None, generator: torch.Generator | None = None
) -> Tensor:
    """Noise of variance 1 for `latents` (B, C, F, h, w), which give shape, dtype and device.

    With `mixed_alpha` = a, frames share a part of variance a^2 / (1 + a^2), which is then their correlation,
    and the rest is each one's own; None repeats one frame's noise. Sources: arXiv 2305.10474, section 3
    (mixed), 2308.09716 (repeated). `generator` None is torch's global one.
    """
    B, C, _, h, w = latents.shape
    kind = {"generator": generator, "device": latents.device, "dtype": latents.dtype}
    shared = randn_tensor((B, C, 1, h, w), **kind)
    if mixed_alpha is None:
        return shared.expand_as(latents)
    share = mixed_alpha**2 / (1 + mixed_alpha**2)
    return share**0.5 * shared + (1 - share) ** 0.5 * randn_tensor(latents.shape, **kind)


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
