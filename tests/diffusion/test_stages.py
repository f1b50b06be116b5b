"""The step of the two-stage recipe: what each loss is, and where its gradient goes."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from tiny_stages import (
    CHANNELS,
    FRAMES,
    SIDE,
    STRIDE,
    random_batch,
    tiny_syncnet,
    tiny_teachers,
    tiny_unet,
    tiny_vae,
)
from torch import nn

from latentsync.diffusion import stages
from latentsync.diffusion.noise import training_noise
from latentsync.diffusion.stages import Supervision, decode_latents, encode_faces, lower_half, stage_losses
from latentsync.diffusion.sync_loss import check_syncnet, sync_losses
from latentsync.errors import ConfigError
from latentsync.face.mask import mouth_mask

ALL = Supervision(perceptual_weight=0.1, trepa_weight=10.0, sync_weight=0.05)
LATENT_SIDE = SIDE // STRIDE


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    return tiny_teachers(tmp_path_factory.mktemp("weights"))


def rng(seed=3):
    return torch.Generator().manual_seed(seed)


class Oracle(nn.Module):
    """Predicts the noise that was added, which it is told, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = torch.zeros(1)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, sample, timesteps, tokens):
        self.sample, self.timesteps, self.tokens = sample, timesteps, tokens
        return type("Out", (), {"sample": self.gain * self.noise})


@pytest.fixture
def oracle(monkeypatch):
    """A network that knows the noise, through the function that draws it."""
    network = Oracle()

    def drawn(*arguments, **options):
        network.noise = training_noise(*arguments, **options)
        return network.noise

    monkeypatch.setattr(stages, "training_noise", drawn)
    return network


@pytest.fixture
def clean_latents(monkeypatch):
    """The latents that the losses on the picture are given."""
    seen = []
    original = stages.drawn_losses

    def keep(clean, *arguments):
        seen.append(clean)
        return original(clean, *arguments)

    monkeypatch.setattr(stages, "drawn_losses", keep)
    return seen


def test_mixed_noise_has_variance_1_and_the_correlation_that_it_says():
    latents = torch.zeros(1, 4, 3, 120, 120)
    for alpha in (0.5, 1.0, 2.0):
        noise = training_noise(latents, mixed_alpha=alpha, generator=rng())
        frames = noise.transpose(0, 2).flatten(1)
        assert noise.var() == pytest.approx(1, abs=0.02)  # 3 standard deviations of 57600 numbers, shared
        correlation = torch.corrcoef(frames)[0, 1]
        assert correlation == pytest.approx(alpha**2 / (1 + alpha**2), abs=0.02)


def test_noise_that_is_not_mixed_is_one_frames():
    latents = torch.zeros(2, 4, 3, 30, 30)
    noise = training_noise(latents, mixed_alpha=None, generator=rng())
    assert noise.shape == latents.shape
    assert torch.equal(noise[:, :, 0], noise[:, :, 2])
    assert not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize("alpha", [1.0, None])
def test_the_right_prediction_implies_the_clean_latents(teachers, oracle, clean_latents, alpha):
    batch = random_batch()
    losses = stage_losses(oracle, batch, teachers, Supervision(mixed_noise_alpha=alpha), rng())
    assert losses["recon"] == 0 and losses["loss"] == 0
    encoded = encode_faces(teachers.vae, batch, teachers.mask, rng())  # the first that the generator draws
    # at the noisiest time 15 times the rounding of float32 of numbers about 3
    assert torch.allclose(clean_latents[0], encoded.clean, atol=1e-4)


def test_the_network_sees_noisy_mask_masked_and_reference_in_this_order(teachers, oracle):
    batch = random_batch()
    stage_losses(oracle, batch, teachers, Supervision(), rng())
    encoded = encode_faces(teachers.vae, batch, teachers.mask, rng())
    noisy, hole, masked, reference = oracle.sample.split([CHANNELS, 1, CHANNELS, CHANNELS], dim=1)
    assert oracle.sample.shape == (2, 13, FRAMES, LATENT_SIDE, LATENT_SIDE)
    alpha_bar = teachers.scheduler.alphas_cumprod[oracle.timesteps].view(2, 1, 1, 1, 1)
    expected = alpha_bar.sqrt() * encoded.clean + (1 - alpha_bar).sqrt() * oracle.noise
    assert torch.allclose(noisy, expected, atol=1e-6)
    assert torch.equal(masked, encoded.masked) and torch.equal(reference, encoded.reference)
    assert torch.equal(hole[1, 0, 5], teachers.mask[0, ::STRIDE, ::STRIDE])
    assert not torch.allclose(encoded.masked, encoded.clean)


def test_hidden_mouths_tell_nothing_of_what_they_hide(teachers):
    batch, mask = random_batch(), teachers.mask
    other = batch._replace(faces=torch.where(mask == 0, torch.randn_like(batch.faces), batch.faces))
    one, two = (encode_faces(teachers.vae, b, mask, rng()) for b in (batch, other))
    assert torch.equal(one.masked, two.masked)
    assert not torch.allclose(one.clean, two.clean)


def test_times_are_drawn_for_each_clip_and_cover_the_schedule(oracle, teachers, monkeypatch):
    batch = random_batch(clips=1, frames=1)
    many = stages.FaceBatch(*(x.expand(64, *x.shape[1:]) for x in batch))
    generator, times = rng(), []
    for _ in range(8):
        stage_losses(oracle, many, teachers, Supervision(), generator)
        times.append(oracle.timesteps)
    times = torch.cat(times)
    assert times.shape == (512,) and times.dtype == torch.int64
    assert 0 <= times.min() < 10 and 990 <= times.max() < 1000  # missed by chance once in 150 runs
    assert times.float().mean() == pytest.approx(499.5, abs=52)  # 4 standard deviations of 12.8


def test_some_clips_hear_nothing_and_these_alone(oracle, teachers):
    batch = random_batch(clips=1, frames=1)
    many = stages.FaceBatch(*(x.expand(200, *x.shape[1:]) for x in batch))
    stage_losses(oracle, many, teachers, Supervision(audio_dropout=0.25), rng())
    is_deaf = oracle.tokens.abs().amax((1, 2, 3)) == 0
    assert is_deaf.float().mean() == pytest.approx(0.25, abs=0.13)  # 4 standard deviations
    assert torch.equal(oracle.tokens[~is_deaf], many.tokens[~is_deaf])
    stage_losses(oracle, many, teachers, Supervision(audio_dropout=0.0), rng())
    assert torch.equal(oracle.tokens, many.tokens)


@pytest.mark.parametrize("latent_sync", [False, True])
def test_the_loss_is_the_weighted_sum_and_every_part_is_what_it_says(tmp_path, clean_latents, latent_sync):
    teachers = tiny_teachers(tmp_path, latent_sync=latent_sync)
    batch, unet = random_batch(), tiny_unet()
    supervision = dataclasses.replace(ALL, audio_dropout=0.0)
    losses = stage_losses(unet, batch, teachers, supervision, rng())
    assert set(losses) == {"loss", "recon", "lpips", "trepa", "sync"}
    assert all(value.shape == () and value.dtype == torch.float32 for value in losses.values())
    expected = losses["recon"] + 0.1 * losses["lpips"] + 10 * losses["trepa"] + 0.05 * losses["sync"]
    assert torch.allclose(losses["loss"], expected)
    clean = clean_latents[0]
    drawn = decode_latents(teachers.vae, clean)
    halves = [lower_half(pixels).flatten(0, 1) for pixels in (drawn, batch.faces)]
    assert torch.allclose(losses["lpips"], teachers.lpips(*halves).mean())
    trepa = stages.trepa_loss(teachers.videomae, drawn.transpose(1, 2), batch.faces.transpose(1, 2))
    assert torch.allclose(losses["trepa"], trepa)
    if latent_sync:
        seen = torch.stack([torch.cat(list(clip.unbind(1))) for clip in clean])  # frame-major
    else:
        seen = torch.stack([torch.cat(list(clip[:, :, SIDE // 2 :])) for clip in drawn])
    vision, audio = teachers.syncnet(seen, batch.mel)
    cosine = F.cosine_similarity(vision, audio)
    assert torch.allclose(losses["sync"], F.binary_cross_entropy(cosine, torch.ones(2)), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "weight"),
    [("lpips", "perceptual_weight"), ("trepa", "trepa_weight"), ("sync", "sync_weight"), ("recon", None)],
)
def test_each_loss_alone_teaches_the_network_and_nobody_else(teachers, name, weight):
    only = Supervision(recon_weight=float(weight is None), **({weight: 1.0} if weight else {}))
    unet, batch = tiny_unet(), random_batch()
    batch.faces.requires_grad_(True)
    losses = stage_losses(unet, batch, teachers, dataclasses.replace(only, audio_dropout=0.0), rng())
    assert set(losses) == {"loss", "recon", name}
    losses["loss"].backward()
    gradients = [p.grad for p in unet.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert all((g != 0).any() for g in gradients)
    frozen = [teachers.vae, teachers.lpips, teachers.videomae, teachers.syncnet]
    assert all(p.grad is None for network in frozen for p in network.parameters())
    assert batch.faces.grad is None or weight is not None  # what is true may be looked at, not changed


def test_a_loss_of_weight_0_asks_nobody(tmp_path):
    bare = stages.Teachers(vae=tiny_vae(), mask=mouth_mask(SIDE))
    losses = stage_losses(tiny_unet(motion=False), random_batch(), bare, Supervision(), rng())
    assert set(losses) == {"loss", "recon"}
    for weight, who in (
        ("perceptual_weight", "LPIPS"),
        ("trepa_weight", "VideoMAE"),
        ("sync_weight", "SyncNet"),
    ):
        with pytest.raises(ValueError, match=f"there is no {who}"):
            stage_losses(tiny_unet(), random_batch(), bare, Supervision(**{weight: 1.0}), rng())


def test_the_generator_decides_all_that_is_random(teachers):
    unet, batch = tiny_unet(), random_batch(clips=1)
    with torch.no_grad():
        one, same, other = (stage_losses(unet, batch, teachers, ALL, rng(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["loss"], other["loss"])
    unet = tiny_unet(motion=False)
    with torch.no_grad():
        torch.manual_seed(9)
        one = stage_losses(unet, batch, teachers, ALL)
        torch.manual_seed(9)
        same = stage_losses(unet, batch, teachers, ALL)
    assert all(torch.equal(one[name], same[name]) for name in one)


@pytest.mark.slow
def test_checkpointing_changes_memory_not_gradients(tmp_path):
    batch, found = random_batch(clips=1), []
    for saves_memory in (False, True):
        teachers, unet = tiny_teachers(tmp_path / str(saves_memory)), tiny_unet()
        unet.train()
        if saves_memory:
            unet.enable_gradient_checkpointing()
            teachers.vae.enable_gradient_checkpointing()
            teachers.lpips.gradient_checkpointing = teachers.videomae.gradient_checkpointing = True
        runs: list[str] = []
        watched = {
            "resnet": unet.down_blocks[0].resnets[0],
            "attention": unet.up_blocks[1].attentions[0],
            "motion": unet.up_blocks[0].motion_modules[0],
            "middle": unet.mid_block.attentions[0],
            "decoder": teachers.vae.decoder.up_blocks[0],
            "videomae": teachers.videomae.network.encoder.layer[0],
        }
        for name, module in watched.items():
            module.register_forward_pre_hook(lambda *_, name=name, runs=runs: runs.append(name))
        losses = stage_losses(unet, batch, teachers, ALL, rng())
        once = sorted(runs)
        runs.clear()
        losses["loss"].backward()
        assert sorted(runs) == (sorted(watched) if saves_memory else [])  # run again on the way back
        assert set(once) == set(watched)
        found.append((losses, [p.grad for p in unet.parameters()]))
    (plain, gradients), (saved, others) = found
    assert all(torch.allclose(plain[name], saved[name], rtol=1e-5) for name in plain)
    for one, other in zip(gradients, others, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["perceptual_weight", "trepa_weight", "sync_weight"])
def test_a_step_of_the_latents_along_the_gradient_lowers_the_loss(teachers, name):
    batch, hears = random_batch(), torch.tensor([True, True])
    only = Supervision(recon_weight=0, **{name: 1.0})
    clean = encode_faces(teachers.vae, batch, teachers.mask, rng()).reference.requires_grad_(True)
    (before,) = stages.drawn_losses(clean, batch, hears, teachers, only).values()
    (slope,) = torch.autograd.grad(before, clean)
    moved = clean - 0.02 * slope / slope.abs().max()
    (after,) = stages.drawn_losses(moved, batch, hears, teachers, only).values()
    assert after < before


def test_sync_is_judged_only_where_the_sound_was_heard(teachers):
    batch = random_batch()
    clean = encode_faces(teachers.vae, batch, teachers.mask, rng()).clean
    only_sync = Supervision(recon_weight=0, sync_weight=1)
    told = sync_losses(teachers.syncnet, decode_latents(teachers.vae, clean), batch.mel)
    for hears in ([True, True], [True, False], [False, True]):
        found = stages.drawn_losses(clean, batch, torch.tensor(hears), teachers, only_sync)["sync"]
        assert torch.allclose(found, told[torch.tensor(hears)].mean())
    assert stages.drawn_losses(clean, batch, torch.tensor([False] * 2), teachers, only_sync)["sync"] == 0


class Fixed(nn.Module):
    """A SyncNet whose embeddings are what they are shown."""

    dtype = torch.float32

    def __init__(self, latent_space: bool = True) -> None:
        super().__init__()
        self.config = type("Config", (), {"latent_space": latent_space, "lower_half": False})

    def forward(self, frames, mel):
        return F.normalize(frames.flatten(1)), F.normalize(mel.flatten(1))


def test_sync_loss_is_minus_log_of_the_cosine_and_stays_finite():
    mel = torch.tensor([1.0, 0.0]).expand(4, 2)[:, None, :, None]
    angles = torch.tensor([0.0, math.pi / 3, math.pi / 2, math.pi])  # agree, 1/2, nothing, the opposite
    shown = torch.stack([angles.cos(), angles.sin()], dim=1).view(4, 1, 2, 1, 1).requires_grad_(True)
    losses = sync_losses(Fixed(), shown, mel)
    assert torch.allclose(losses[:2], torch.tensor([0.0, math.log(2)]), atol=1e-6)
    assert torch.allclose(losses[2:], torch.full((2,), -math.log(1e-4)))
    losses.sum().backward()
    assert torch.isfinite(shown.grad).all()


def test_a_syncnet_that_cannot_judge_the_windows_is_refused():
    check_syncnet(tiny_syncnet(), frames=FRAMES, channels=CHANNELS, side=LATENT_SIDE)
    check_syncnet(tiny_syncnet(latent_space=True), frames=FRAMES, channels=CHANNELS, side=LATENT_SIDE)
    with pytest.raises(ConfigError, match=r"looks at 25 frames at a time, data\.num_frames is 16"):
        check_syncnet(tiny_syncnet(num_frames=25), frames=FRAMES, channels=CHANNELS, side=LATENT_SIDE)
    for channels, side in ((16, LATENT_SIDE), (CHANNELS, 2 * LATENT_SIDE)):
        with pytest.raises(ConfigError, match=f"latents of {channels} x {side} x {side}"):
            check_syncnet(tiny_syncnet(latent_space=True), frames=FRAMES, channels=channels, side=side)
    with pytest.raises(ConfigError, match="faces of 128 px"):
        check_syncnet(tiny_syncnet(resolution=128), frames=FRAMES, channels=CHANNELS, side=LATENT_SIDE)


def test_half_precision_teachers_tell_nearly_the_same(tmp_path):
    """bfloat16 keeps 8 bits."""
    unet, batch = tiny_unet(), random_batch()
    told = []
    for dtype in (torch.float32, torch.bfloat16):
        teachers = tiny_teachers(tmp_path / str(dtype)).to(torch.device("cpu"), dtype)
        assert teachers.lpips.shift.dtype == torch.float32
        with torch.no_grad():
            told.append(stage_losses(unet, batch, teachers, ALL, rng()))
    for name, whole in told[0].items():
        assert torch.isfinite(told[1][name])
        assert told[1][name] == pytest.approx(float(whole), rel=0.15), name
