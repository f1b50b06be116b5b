"""The denoiser against reference numbers, and the properties that the pipeline builds on."""

import numpy as np
import pytest
import torch

from latentsync.diffusion.unet import UNet3DConditionModel

TINY = {
    "in_channels": 13,
    "out_channels": 4,
    "block_out_channels": (32, 32),
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 16,
    "num_attention_heads": 4,
    "motion_num_attention_heads": 4,
}


def tiny_unet(seed=0, **changes):
    torch.manual_seed(seed)
    unet = UNet3DConditionModel(**{**TINY, **changes}).eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return unet


def inputs(frames=6, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(batch, 13, frames, 8, 8, generator=generator)
    return sample, torch.tensor([3, 700][:batch]), torch.randn(batch, frames, 5, 16, generator=generator)


@pytest.mark.golden
@pytest.mark.parametrize(
    "case", ["unet_motion", "unet_stage1", "unet_motion_decoder_only", "unet_motion_mid_noaudio"]
)
def test_outputs_agree_with_upstream(golden, case):
    info, weights, tensors = golden("latentsync", case)
    state = {key: torch.from_numpy(value) for key, value in weights["model"].items()}
    unet = UNet3DConditionModel.from_upstream(info["config"], state)
    sets = sorted({key.split(".")[1] for key in tensors if key.startswith("input.")})
    assert sets
    for name in sets:
        sample, timestep = (
            torch.from_numpy(tensors[f"input.{name}.{part}"]) for part in ("sample", "timestep")
        )
        audio = folded = None
        if (key := f"input.{name}.encoder_hidden_states") in tensors:  # not of a network without audio layers
            audio = torch.from_numpy(tensors[key])
            folded = audio.flatten(0, 1)
        calls = {
            "sample": (sample, timestep, audio),
            "sample_no_audio": (sample, timestep, None),
            "sample_scalar_timestep": (sample, int(timestep[0]), folded),
        }
        stored = [output for output in calls if f"output.{name}.{output}" in tensors]
        assert "sample" in stored
        for output in stored:
            arguments, wanted = calls[output], tensors[f"output.{name}.{output}"]
            with torch.no_grad():
                found = unet(*arguments).sample.numpy()
            assert np.abs(found - wanted).max() <= 1e-4 * (1 + wanted.std()), (name, output)


@pytest.mark.golden
def test_a_tensor_that_does_not_belong_is_named(golden):
    info, weights, _ = golden("latentsync", "unet_stage1")
    state = {key: torch.from_numpy(value) for key, value in weights["model"].items()}
    state["down_blocks.9.surprise"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match="surprise"):
        UNet3DConditionModel.from_upstream(info["config"], state)


def test_an_unknown_configuration_key_is_named():
    with pytest.raises(ValueError, match="block_out_chanels"):
        UNet3DConditionModel.from_upstream({"block_out_chanels": [32]})


def test_frames_do_not_depend_on_each_other_without_motion_and_with_norm_per_frame():
    unet = tiny_unet(use_motion_module=False, use_inflated_groupnorm=True)
    sample, timestep, audio = inputs()
    assert not unet.is_temporal
    with torch.no_grad():
        whole = unet(sample, timestep, audio).sample
        alone = torch.cat(
            [unet(sample[:, :, i : i + 1], timestep, audio[:, i : i + 1]).sample for i in range(6)], dim=2
        )
    assert torch.allclose(whole, alone, atol=1e-5)


@pytest.mark.parametrize("changes", [{"use_motion_module": False}, {"use_inflated_groupnorm": True}])
def test_frames_depend_on_each_other_through_motion_or_shared_norm(changes):
    unet = tiny_unet(**changes)
    sample, timestep, audio = inputs()
    other = sample.clone()
    other[:, :, -1] += 1
    assert unet.is_temporal
    with torch.no_grad():
        change = (
            (unet(sample, timestep, audio).sample - unet(other, timestep, audio).sample)[:, :, 0].abs().max()
        )
    assert change > 1e-5


def test_audio_reaches_only_its_own_frame_when_frames_are_independent():
    unet = tiny_unet(use_motion_module=False, use_inflated_groupnorm=True, audio_tokens=5)
    sample, timestep, audio = inputs()
    other = audio.clone()
    other[:, 2] += 1
    with torch.no_grad():
        change = (
            (unet(sample, timestep, audio).sample - unet(sample, timestep, other).sample)
            .abs()
            .amax(dim=(0, 1, 3, 4))
        )
    assert change[2] > 1e-4
    assert change[[0, 1, 3, 4, 5]].max() < 1e-6


def test_no_audio_layers_hear_nothing():
    unet = tiny_unet(add_audio_layer=False)
    sample, timestep, audio = inputs()
    with torch.no_grad():
        assert torch.equal(unet(sample, timestep, audio).sample, unet(sample, timestep, None).sample)


def test_too_many_frames_for_the_motion_modules_are_refused_with_the_limit():
    unet = tiny_unet(motion_max_seq_length=8)
    sample, timestep, audio = inputs(frames=9)
    with pytest.raises(ValueError, match=r"9 frames.*8"):
        unet(sample, timestep, audio)


@pytest.mark.parametrize("changes", [{}, {"use_motion_module": False, "audio_tokens": 5}])
def test_save_and_load_give_the_same_network(tmp_path, changes):
    unet = tiny_unet(**changes)
    unet.save_pretrained(tmp_path)
    again = UNet3DConditionModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(unet(*inputs()).sample, again(*inputs()).sample)
