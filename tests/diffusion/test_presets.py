"""Presets are sets of switches, and a sampler keeps the noise that was trained with."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from latentsync.diffusion.noise import released_scheduler, small_scheduler
from latentsync.diffusion.presets import PRESETS, with_sampler


@pytest.mark.parametrize("make", [released_scheduler, small_scheduler])
def test_another_sampler_keeps_the_trained_noise(make):
    scheduler = make()
    other = with_sampler(scheduler, "dpm")
    assert isinstance(other, DPMSolverMultistepScheduler)
    assert other.config.prediction_type == scheduler.config.prediction_type
    assert torch.allclose(other.alphas_cumprod[:-1], scheduler.alphas_cumprod[:-1])
    assert with_sampler(scheduler, "ddim") is scheduler


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_draws_a_finite_picture_that_hears(frame_pipeline, name):
    preset, pipeline = PRESETS[name], frame_pipeline
    before = pipeline.scheduler
    settings = pipeline.sampling(
        preset.steps,
        2.0,
        cache_interval=preset.cache_interval,
        guidance_window=(0.0, preset.guidance_stop),
    )
    generator = torch.Generator().manual_seed(0)
    faces = torch.rand(4, 3, 32, 32, generator=generator) * 2 - 1
    noise, windows = pipeline.draw_noise(generator), torch.randn(4, 20, 16, generator=generator)
    try:
        pipeline.scheduler = with_sampler(before, preset.scheduler)
        drawn = torch.stack(list(pipeline.stream(faces, windows, noise, settings)))
        other = torch.stack(list(pipeline.stream(faces, windows + 1, noise, settings)))
    finally:
        pipeline.scheduler = before
    assert torch.isfinite(drawn).all()
    assert not torch.allclose(drawn, other)


def test_guidance_holds_within_its_window_only(frame_pipeline):
    settings = frame_pipeline.sampling(10, 2.0, guidance_window=(0.2, 0.5))
    assert [settings.is_guided(step) for step in range(10)] == [False] * 2 + [True] * 3 + [False] * 5
    assert not frame_pipeline.sampling(10, 1.0).is_guided(0)


def test_an_unknown_sampler_is_named():
    with pytest.raises(ValueError, match="euler9"):
        with_sampler(DDIMScheduler(), "euler9")
