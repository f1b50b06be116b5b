"""Sync of a clip by sliding windows: a sound that is shifted is read as shifted, by as many frames."""

import math

import numpy as np
import pytest
import torch
from footage_clips import face_images, opening, voice
from tiny_stages import tiny_syncnet
from torch import nn

from latentsync.dubbing.sync_reading import read_sync, reading_of, syncnet_judge
from latentsync.face.mask import normalize

FRAMES = 16
SAMPLES = 640


def noise(count, seed=0):
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("early", [-7, -1, 0, 3, 15])
def test_the_offset_is_that_of_the_sound_and_positive_where_it_is_early(early):
    events = noise(80)
    vision = events[20:60]
    audio = events[20 + early : 60 + early]  # what is seen at s is heard at s - early
    offset, confidence = reading_of(vision, audio)
    assert offset == early
    assert confidence > 0.8  # noise agrees by about 0


def test_what_does_not_belong_together_is_not_trusted():
    _, confidence = reading_of(noise(40), noise(40, seed=1))
    assert confidence < 0.2  # the highest of 31 means of 25 to 40 cosines of 64 numbers


def test_embeddings_are_compared_by_direction():
    vision, audio = noise(30), noise(30) + 0.1 * noise(30, seed=2)
    assert reading_of(7 * vision, audio) == pytest.approx(reading_of(vision, 0.1 * audio), rel=1e-4)


class Ideal(nn.Module):
    """Sees how far a mouth is open in each frame of a window, and hears how loud each is."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.judge = tiny_syncnet()
        self.config = self.judge.config

    def prepare(self, faces):
        return self.judge.prepare(faces)

    def visual_encoder(self, frames):
        darkness = -frames.unflatten(1, (FRAMES, 3)).mean(dim=(2, 3, 4))
        return darkness - darkness.mean(dim=1, keepdim=True)

    def audio_encoder(self, mel):
        at_frames = (torch.arange(FRAMES) * 3.2 + 1.6).long()
        loudness = mel[:, 0, 20:50, :].mean(dim=1)[:, at_frames]
        return loudness - loudness.mean(dim=1, keepdim=True)


def clip(frames=70, late=0):
    """Faces (F, 3, 64, 64) and a sound that comes `late` frames after the lips."""
    mouth = opening(frames + 40, 3)
    images = face_images(mouth[20 : 20 + frames], 3, 64)
    heard = voice(mouth[20 - late : 20 - late + frames], 3)
    return normalize(torch.from_numpy(images).permute(0, 3, 1, 2)), torch.from_numpy(heard)


@pytest.mark.parametrize("late", [-6, 0, 4])
def test_windows_of_faces_and_sound_are_those_of_one_time(late):
    faces, waveform = clip(late=late)
    offset, confidence = read_sync(Ideal(), faces, waveform)
    assert offset == -late and confidence > 0.4


def test_the_result_does_not_depend_on_how_many_windows_go_at_once(monkeypatch):
    faces, waveform = clip()
    expected = read_sync(tiny_syncnet(), faces, waveform)
    monkeypatch.setattr("latentsync.dubbing.sync_reading.BATCH_WINDOWS", 3)
    assert read_sync(tiny_syncnet(), faces, waveform) == pytest.approx(expected, abs=1e-5)


def test_clips_too_short_for_a_window_have_no_reading():
    faces, waveform = clip()
    for short in ((faces[:15], waveform), (faces, waveform[: 10 * SAMPLES])):
        assert all(math.isnan(number) for number in read_sync(tiny_syncnet(), *short))
    assert np.isfinite(read_sync(tiny_syncnet(), faces[:16], waveform).confidence)


def test_a_syncnet_of_latents_is_no_judge_of_clips():
    with pytest.raises(ValueError, match="of latents"):
        syncnet_judge(tiny_syncnet(latent_space=True))
