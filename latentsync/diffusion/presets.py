"""Named ways to trade time for likeness: each a set of switches that can also be thrown one by one.

"reference" is what the released weights were shown with (20 DDIM steps); docs/performance.md says how far the
others are from it and how much faster.
"""

from dataclasses import dataclass

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers import KarrasDiffusionSchedulers

SCHEDULERS = {"ddim": DDIMScheduler, "dpm": DPMSolverMultistepScheduler}
NOISE_SETTINGS = (  # what was trained with; a sampler's own settings are not carried over
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "rescale_betas_zero_snr",
)


@dataclass(frozen=True)
class Preset:
    """`guidance_stop`: the share of the steps, from the first, that are guided."""

    scheduler: str
    steps: int
    cache_interval: int = 1
    guidance_stop: float = 1.0


PRESETS = {
    "reference": Preset("ddim", 20),
    "balanced": Preset("dpm", 10, cache_interval=2),
    "fast": Preset("dpm", 5, cache_interval=2, guidance_stop=0.6),
}


def with_sampler(scheduler: KarrasDiffusionSchedulers, name: str) -> KarrasDiffusionSchedulers:
    """The sampler `name` ("ddim", "dpm") for the noise that `scheduler` stands for.

    Raises: ValueError for an unknown name.
    """
    if name not in SCHEDULERS:
        raise ValueError(f"scheduler {name!r} is unknown; expected one of {', '.join(SCHEDULERS)}")
    kind = SCHEDULERS[name]
    if type(scheduler) is kind:
        return scheduler
    noise = {key: scheduler.config[key] for key in NOISE_SETTINGS if key in scheduler.config}
    return kind.from_config(noise)
