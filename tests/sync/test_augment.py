"""Changes of training windows: within range, one draw a window, the mouth still moves."""

import torch

from latentsync.sync import augment
from latentsync.sync.augment import augment_faces, augment_mel


def test_faces_stay_in_range_and_each_window_has_its_own_look():
    torch.manual_seed(0)
    faces = (torch.rand(1, 48, 24, 48) * 2 - 1).expand(8, -1, -1, -1)
    changed = augment_faces(faces)
    assert changed.shape == faces.shape and changed.isfinite().all()
    assert changed.min() >= -1 and changed.max() <= 1
    assert (changed[1:] - changed[:-1]).abs().mean(dim=(1, 2, 3)).min() > 0.01


def test_all_frames_of_a_window_are_changed_alike(monkeypatch):
    torch.manual_seed(1)
    still = (torch.rand(4, 3, 24, 48) * 2 - 1).repeat(1, 16, 1, 1)
    monkeypatch.setattr(augment, "GRAIN", 0.0)
    changed = augment_faces(still).unflatten(1, (16, 3))
    torch.testing.assert_close(changed, changed[:, :1].expand_as(changed), atol=1e-6, rtol=0)


def test_a_mouth_that_opens_still_opens():
    """A dark bar that grows in the middle: after any draw, darker with every frame."""
    torch.manual_seed(2)
    frames = torch.ones(16, 3, 24, 48) * 0.4
    for number in range(16):
        frames[number, :, 12 : 12 + number // 2 + 1, 18:30] = -0.8
    changed = augment_faces(frames.flatten(0, 1).expand(16, -1, -1, -1)).unflatten(1, (16, 3))
    light = changed.mean(dim=(2, 3, 4))
    assert (light[:, 0] > light[:, 15] + 0.005).all()


def test_mel_stays_in_range_and_keeps_its_time():
    torch.manual_seed(3)
    mel = torch.full((6, 1, 80, 52), -4.0)
    mel[..., 20:30] = 2.0
    changed = augment_mel(mel)
    assert changed.min() >= -4 and changed.max() <= 4
    loud = changed.mean(dim=(1, 2))
    assert ((loud[:, 20:30].min(dim=1).values - loud[:, :20].max(dim=1).values) > 0.5).all()
    assert not torch.equal(changed[0], changed[1])


def test_the_seed_decides():
    faces, mel = torch.rand(2, 48, 8, 16), torch.rand(2, 1, 80, 52)
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append((augment_faces(faces), augment_mel(mel)))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
