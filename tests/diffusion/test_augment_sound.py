"""Changed sounds: another voice and pace, but the same course in time."""

import numpy as np
import pytest
import torch

from latentsync.diffusion.augment_sound import NEPERS, change_pace, change_sound


def mel_that_beats(columns=128, bands=80):
    """Loud and quiet in turns, in the middle bands."""
    beat = 0.75 + 0.5 * torch.sin(torch.arange(columns) / 9)
    profile = torch.exp(-(((torch.arange(bands) - 40) / 15) ** 2))
    return -1 + beat * profile[:, None]


def test_the_course_in_time_stays_and_the_voice_does_not():
    mel = mel_that_beats()
    kept, loudness = mel.clone(), mel.amax(dim=0)
    changed = [change_sound(mel, np.random.default_rng(seed)) for seed in range(20)]
    assert torch.equal(mel, kept)  # the input is not written on
    for one in changed:
        assert one.shape == mel.shape and torch.isfinite(one).all()
        r = np.corrcoef(one.amax(dim=0).numpy(), loudness.numpy())[0, 1]
        assert r > 0.5
    assert len({int(one.mean(dim=1).argmax()) for one in changed}) > 5  # other bands are the loudest
    assert torch.equal(changed[3], change_sound(mel, np.random.default_rng(3)))


def test_noise_adds_power_and_never_takes_any():
    mel = torch.full((80, 64), -5.0)  # silence
    mel[40:44, 30] = 1.0  # and a click
    changed = change_sound(mel, np.random.default_rng(0))
    assert changed[:, :16].median() > mel.median() + 1  # 40 dB
    assert pytest.approx(4 * np.log(10)) == NEPERS


@pytest.mark.parametrize("pace", [0.8, 1.0, 1.25])
def test_lips_and_sound_keep_step_at_another_pace(pace):
    frames, given = 32, 42
    times = torch.arange(given).float()
    motion = torch.stack([times, torch.sin(times / 5)], dim=1)
    mel = (torch.arange(given * 4).float() / 4).expand(80, -1)  # tells its own time in frames
    heard, seen = change_pace(mel, motion, frames, pace)
    assert heard.shape == (80, frames * 4) and seen.shape == (frames, 2)
    assert torch.allclose(seen[:, 0], torch.arange(frames) * pace, atol=1e-4)
    assert torch.allclose(heard[0, ::4], seen[:, 0], atol=1e-4)
    assert torch.allclose(seen[:, 1], torch.sin(seen[:, 0] / 5), atol=0.02)


def test_beyond_the_end_the_end_goes_on():
    motion, mel = torch.arange(4.0)[:, None], torch.arange(16.0).expand(80, -1)
    heard, seen = change_pace(mel, motion, 6, 1.0)
    assert seen[:, 0].tolist() == [0, 1, 2, 3, 3, 3] and heard[0, -1] == 15
