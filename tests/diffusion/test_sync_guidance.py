"""Guidance by the draft's sync: judges that always say one thing, and a real one."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from latentsync.audio.mel import syncnet_mel
from latentsync.diffusion.sync_guidance import SyncGuidance
from latentsync.sync.stable_syncnet import StableSyncNet


class Saying:
    """A judge whose confidence is always `value`."""

    dtype = torch.float32

    def __init__(self, value: float, frames: int = 4) -> None:
        self.value, self.heard, self.seen = value, [], []
        self.config = StableSyncNetConfig(frames)

    def prepare(self, faces):
        return faces.flatten(0, 1)

    def __call__(self, frames, mel):
        self.seen.append(frames)
        self.heard.append(mel)
        audio = torch.tensor([[1.0, 0.0]]).expand(len(mel), -1)
        vision = torch.tensor([[self.value, (1 - self.value**2) ** 0.5]]).expand(len(mel), -1)
        return vision, audio


class StableSyncNetConfig:
    latent_space = False

    def __init__(self, num_frames):
        self.num_frames = num_frames


def stream(pipeline, frames=14, **options):
    generator = torch.Generator().manual_seed(2)
    faces = torch.rand(frames, 3, 32, 32, generator=generator) * 2 - 1
    windows = torch.randn(frames, 20, 16, generator=generator)
    noise = pipeline.draw_noise(torch.Generator().manual_seed(0))
    first = options.pop("first_frame", 0)
    settings = pipeline.sampling(6, **options)  # the first five are judged
    return torch.stack(list(pipeline.stream(faces, windows, noise, settings, first_frame=first)))


MEL = torch.arange(400.0).repeat(80, 1)


@pytest.mark.parametrize(("confidence", "scale"), [(1.0, 1.0), (0.5, 1.5), (0.0, 2.0)])
def test_the_scale_follows_the_confidence_from_two_to_one(confidence, scale):
    steering = SyncGuidance(Saying(confidence), MEL, window=8)
    found = steering.scale(
        torch.zeros(3, 4, 8, 16, 16), [0, 6, 12], lambda latents: torch.zeros(8, 3, 32, 32)
    )
    assert found.shape == (3, 1, 1, 1, 1)
    assert torch.allclose(found, torch.tensor(scale), atol=1e-6)


@pytest.mark.slow
def test_a_judge_that_is_undecided_gives_what_a_fixed_guidance_gives(temporal_pipeline):
    steering = SyncGuidance(Saying(0.5), MEL, window=8)
    steered = stream(temporal_pipeline, guidance_scale=1.5, steering=steering)
    assert torch.allclose(steered, stream(temporal_pipeline, guidance_scale=1.5), atol=1e-4)
    assert len(steering.confidences) == 2 * 5  # two windows, five drafts of each


@pytest.mark.slow
def test_a_draft_out_of_sync_is_guided_more(temporal_pipeline):
    apart = [
        (stream(temporal_pipeline, guidance_scale=1.5, steering=SyncGuidance(Saying(c), MEL, window=8))
         - stream(temporal_pipeline, guidance_scale=1.0)).abs().mean()
        for c in (1.0, 0.0)
    ]  # fmt: skip
    assert apart[0] < apart[1]


def test_each_window_is_judged_by_the_sound_of_its_own_time(temporal_pipeline):
    judge = Saying(0.5)
    stream(temporal_pipeline, guidance_scale=1.5, steering=SyncGuidance(judge, MEL, window=8), first_frame=50)
    starts = sorted({int(mel[0, 0, 0, 0]) for mel in judge.heard})
    assert starts == [int(80 / 25 * first) for first in (50, 56)]  # windows of 8 that share 2
    assert judge.heard[0].shape == (1, 1, 80, 13)  # 4 frames at 25 a second, 80 columns a second


def test_what_lies_beyond_the_soundtrack_is_silence():
    steering = SyncGuidance(Saying(0.5), MEL, window=8)
    assert torch.equal(steering._heard(1000), torch.full((1, 80, 13), -4.0))


def test_a_run_too_short_to_judge_takes_the_middle(temporal_pipeline):
    judge = Saying(1.0, frames=8)
    drawn = stream(temporal_pipeline, 5, guidance_scale=1.5, steering=SyncGuidance(judge, MEL, window=8))
    assert not judge.heard
    assert torch.allclose(drawn, stream(temporal_pipeline, 5, guidance_scale=1.5), atol=1e-5)


def test_a_real_judge_sees_decoded_drafts(temporal_pipeline):
    audio = {
        "in_channels": 1,
        "block_out_channels": [32, 64, 128],
        "downsample_factors": [[10, 4], [8, 4], 1],
    }
    vision = {
        "in_channels": 12,
        "block_out_channels": [32, 64, 128],
        "downsample_factors": [[4, 8], [4, 4], 1],
    }
    torch.manual_seed(0)
    judge = StableSyncNet(audio, vision, num_frames=4, resolution=32).eval().requires_grad_(False)
    steering = SyncGuidance(judge, syncnet_mel(torch.randn(16000)), window=8)
    assert torch.isfinite(stream(temporal_pipeline, guidance_scale=1.5, steering=steering)).all()
    assert all(0 <= value <= 1 for value in steering.confidences)


def test_a_judge_of_more_frames_than_are_drawn_is_refused():
    with pytest.raises(ValueError, match="25 frames at a time, the model draws 16"):
        SyncGuidance(Saying(0.5, frames=25), MEL, window=16)


def test_a_sampler_whose_noise_has_another_scale_is_refused(temporal_pipeline, monkeypatch):
    monkeypatch.setattr(temporal_pipeline, "scheduler", EulerDiscreteScheduler())
    with pytest.raises(ValueError, match="EulerDiscreteScheduler"):
        stream(temporal_pipeline, guidance_scale=1.5, steering=SyncGuidance(Saying(0.5), MEL, window=8))
