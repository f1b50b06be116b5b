"""DeepCache: upstream's numbers, what a cached step may skip, and where the kept state serves."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch.utils.flop_counter import FlopCounterMode

from latentsync.diffusion.feature_cache import FeatureCache
from latentsync.diffusion.unet import UNet3DConditionModel


def small_unet() -> UNet3DConditionModel:
    torch.manual_seed(0)
    unet = UNet3DConditionModel(
        block_out_channels=(32, 32, 64),
        down_block_types=("CrossAttnDownBlockMotion", "CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion", "CrossAttnUpBlockMotion"),
        layers_per_block=2,
        norm_num_groups=8,
        cross_attention_dim=16,
        num_attention_heads=4,
        motion_num_attention_heads=4,
    ).eval()
    for parameter in unet.parameters():  # zero-initialised layers would hide what runs
        parameter.data += 0.02 * torch.randn_like(parameter)
    return unet


def small_inputs(size: tuple[int, int] = (8, 8)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(2, 13, 4, *size, generator=generator)
    return sample, torch.tensor([500, 500]), torch.randn(2, 4, 5, 16, generator=generator)


@pytest.mark.golden
def test_loop_agrees_with_the_deepcache_helper_around_upstream(golden):
    info, weights, tensors = golden("latentsync", "unet_deepcache")
    config = info["config"]
    state = {key: torch.from_numpy(value) for key, value in weights["model"].items()}
    unet = UNet3DConditionModel.from_upstream(config["unet"], state)
    scheduler = DDIMScheduler.from_config(config["scheduler"])
    scheduler.set_timesteps(config["steps"])
    assert scheduler.timesteps.tolist() == tensors["output.timesteps"].tolist()
    still, tokens, start = (
        torch.from_numpy(tensors[f"input.{name}"]) for name in ("static_channels", "audio_tokens", "latents")
    )
    audio = torch.stack([torch.zeros_like(tokens), tokens])
    for suffix, interval in (("", config["cache_interval"]), ("_nocache", 1)):
        cache = FeatureCache(interval, config["cache_branch_id"])
        latents, wanted = start.repeat(1, 1, len(tokens), 1, 1), tensors[f"output.latents_per_step{suffix}"]
        for index, t in enumerate(scheduler.timesteps):
            cache.begin(index, 2 * len(tokens))
            with torch.no_grad():
                x = torch.cat([latents.repeat(2, 1, 1, 1, 1), still.repeat(2, 1, 1, 1, 1)], dim=1)
                deaf, hearing = unet(x, t, audio, cache=cache).sample.chunk(2)
            predicted = deaf + config["guidance_scale"] * (hearing - deaf)
            latents = scheduler.step(predicted, t, latents).prev_sample
            error = np.abs(latents.numpy() - wanted[index]).max()
            assert error <= 1e-4 * (1 + wanted[index].std()), (suffix, index, error)


@pytest.mark.parametrize("size", [(8, 8), (12, 10)])
@pytest.mark.parametrize("branch", range(9))
def test_full_step_and_repeated_input_equal_the_plain_network(size, branch):
    unet, (sample, timestep, audio) = small_unet(), small_inputs(size)
    cache = FeatureCache(interval=2, branch=branch)
    with torch.no_grad():
        plain = unet(sample, timestep, audio).sample
        for step in range(2):
            cache.begin(step, 8)
            assert cache.reuses == (step == 1)
            assert torch.allclose(unet(sample, timestep, audio, cache=cache).sample, plain, atol=1e-5)


def test_cached_step_sees_new_latents_through_the_first_skip_only():
    unet, (sample, timestep, audio) = small_unet(), small_inputs()
    cache = FeatureCache(interval=2)
    with torch.no_grad():
        cache.begin(0, 8)
        first = unet(sample, timestep, audio, cache=cache).sample
        kept = cache.state
        cache.begin(1, 8)
        second = unet(sample + 1, timestep, audio, cache=cache).sample
    assert cache.state is kept
    assert not torch.allclose(first, second)


def flops(unet: UNet3DConditionModel, cache: FeatureCache | None) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(*small_inputs(), cache=cache)
    return counter.get_total_flops()


@pytest.mark.slow
def test_each_branch_costs_more_and_the_first_runs_one_layer_only():
    unet = small_unet()
    costs = []
    for branch in (0, 1, 4):
        cache = FeatureCache(interval=2, branch=branch)
        cache.begin(0, 8)
        full = flops(unet, cache)
        cache.begin(1, 8)
        costs.append(flops(unet, cache))
        assert full == flops(unet, None)
    assert costs[0] < costs[1] < costs[2] < full
    ran: list[str] = []
    for name, module in unet.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    cache = FeatureCache(interval=2)
    cache.begin(0, 8)
    with torch.no_grad():
        unet(*small_inputs(), cache=cache)
        ran.clear()
        cache.begin(1, 8)
        unet(*small_inputs(), cache=cache)
    up = {".".join(name.split(".")[:4]) for name in ran if name.startswith("up_blocks")}
    assert up == {"up_blocks.2.resnets.2", "up_blocks.2.attentions.2", "up_blocks.2.motion_modules.2"}
    assert not any(name.startswith(("down_blocks", "mid_block")) for name in ran)


def test_a_batch_that_loses_its_deaf_half_goes_on_with_the_other():
    cache = FeatureCache(interval=3)
    cache.begin(0, 8)
    state = cache.keep(torch.arange(8.0)[:, None, None, None])
    cache.begin(1, 4)
    assert cache.reuses and torch.equal(cache.state, state[4:])
    cache.begin(2, 8)  # a batch that grows has no state to go on with
    assert not cache.reuses


@pytest.mark.parametrize("wrong", [{"interval": 0}, {"branch": -1}])
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="cache interval"):
        FeatureCache(**wrong)


def test_a_branch_beyond_the_network_is_refused():
    with pytest.raises(ValueError, match="branch 9"):
        unet = small_unet()
        unet(*small_inputs(), cache=FeatureCache(branch=9))


@pytest.mark.slow
def test_the_deepcache_package_works_on_our_pipeline_too(temporal_pipeline):
    """Its helper hooks blocks by name; its steps are those of our own cache."""
    helper_class = pytest.importorskip("DeepCache").DeepCacheSDHelper
    pipeline, generator = temporal_pipeline, torch.Generator().manual_seed(3)
    faces = torch.rand(8, 3, 32, 32, generator=generator) * 2 - 1
    windows = torch.randn(8, 20, 16, generator=generator)
    noise = pipeline.draw_noise(torch.Generator().manual_seed(4))

    def drawn(**options) -> torch.Tensor:
        settings = pipeline.sampling(6, 1.5, **options)
        return torch.stack(list(pipeline.stream(faces, windows, noise, settings)))

    ours, plain = drawn(cache_interval=3), drawn()
    helper = helper_class(pipe=pipeline)
    helper.set_params(cache_interval=3, cache_branch_id=0)
    helper.enable()
    try:
        theirs = drawn()
    finally:
        helper.disable()
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(ours, plain, atol=1e-3)
    assert torch.equal(drawn(), plain)  # and it can be taken off again


@pytest.mark.slow
def test_a_compiled_network_draws_the_same():
    """Traced by torch.compile, run by its eager backend: what is compiled is the right graph."""
    unet, (sample, timestep, audio) = small_unet(), small_inputs()

    def steps() -> list[torch.Tensor]:
        cache, drawn = FeatureCache(interval=2), []
        with torch.no_grad():
            for step in range(3):
                cache.begin(step, 8)
                drawn.append(unet(sample + step, timestep, audio, cache=cache).sample)
        return drawn

    plain = steps()
    unet.compile(backend="eager")
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, steps(), strict=True))
