"""Training steps keep to the device of the batch: no GPU was at hand, the meta device stands in for one."""

import dataclasses

import pytest
import torch
from one_device import OneDevice
from tiny_stages import random_batch, tiny_teachers, tiny_unet

from latentsync.diffusion import train
from latentsync.diffusion.losses import MouthReader, region_weights
from latentsync.diffusion.noise import small_scheduler
from latentsync.diffusion.stages import Supervision, stage_losses
from latentsync.diffusion.train import Batch, TrainUNetConfig, denoising_losses, train_reader
from latentsync.face.mask import latent_mask, mouth_mask

META = torch.device("meta")
ALL = Supervision(perceptual_weight=0.1, trepa_weight=10.0, sync_weight=0.05)


def on_meta(batch):
    return type(batch)(*(value.to(META) for value in batch))


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1.0, None])
@pytest.mark.parametrize("latent_sync", [False, True])
def test_a_step_of_two_stages_computes_where_its_batch_is(tmp_path, alpha, latent_sync):
    teachers = tiny_teachers(tmp_path, latent_sync=latent_sync).to(META, torch.bfloat16)
    unet = tiny_unet().to(META)
    unet.enable_gradient_checkpointing()
    batch = on_meta(random_batch(clips=1))
    with OneDevice():
        losses = stage_losses(unet, batch, teachers, dataclasses.replace(ALL, mixed_noise_alpha=alpha))
        losses["loss"].backward()
    assert {value.device for value in losses.values()} == {META}
    assert all(parameter.grad.device == META for parameter in unet.parameters())


def test_the_stand_in_notices_what_stayed_behind(tmp_path):
    teachers = tiny_teachers(tmp_path).to(META, torch.float32)
    left = dataclasses.replace(teachers, mask=mouth_mask(64))
    with OneDevice(), pytest.raises(RuntimeError, match="tensors of two devices"):
        stage_losses(tiny_unet().to(META), on_meta(random_batch(clips=1)), left, Supervision())


def frame_batch(count=4):
    latents = [torch.randn(count, 4, 16, 16) for _ in range(4)]
    return Batch(*latents, tokens=torch.randn(count, 5, 16), motion=torch.randn(count, 6))


def test_a_step_of_single_frames_computes_where_its_batch_is():
    reader = MouthReader(4, 6)
    reader(torch.zeros(1, 4, 16, 16))
    mask = latent_mask(mouth_mask(64), 4)
    unet = tiny_unet(motion=False, use_inflated_groupnorm=True).to(META)
    weights = region_weights(mask, mouth=3.0, hole=1.0, kept=0.1).to(META)
    fixed = {"mask": mask.to(META), "weights": weights, "reader": reader.to(META)}
    with OneDevice():
        losses = denoising_losses(
            unet, on_meta(frame_batch()), scheduler=small_scheduler(), config=TrainUNetConfig(), **fixed
        )
        losses["loss"].backward()
    assert {value.device for value in losses.values()} == {META}


def test_the_reader_of_mouths_is_trained_on_the_device_it_will_be_asked_on(monkeypatch):
    monkeypatch.setattr(train, "READER_STEPS", 2)

    class Data:
        def draw(self, step):
            return frame_batch()

    with OneDevice():
        reader = train_reader(Data(), seed=0, device=META)
    assert {parameter.device for parameter in reader.parameters()} == {META}
    assert not any(parameter.requires_grad for parameter in reader.parameters())
