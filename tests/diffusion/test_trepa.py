"""TREPA: what must hold of a distance of clips, and what it does to them on the way."""

import pytest
import torch
from tiny_auxiliary import save_videomae

from latentsync.diffusion.trepa import clip_features, trepa_loss
from latentsync.quality.videomae import open_videomae


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return open_videomae(save_videomae(tmp_path_factory.mktemp("trepa") / "vit.pth"))


def clip(seed, frames=16, size=24, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, frames, size, size, generator=generator) * 2 - 1


def test_equal_clips_are_0_apart_and_others_within_its_bound(model):
    a, b = clip(0), clip(1)
    assert trepa_loss(model, a, a) == 0
    assert 0 < trepa_loss(model, a, b) <= 4 / 22
    assert torch.allclose(trepa_loss(model, a, b), trepa_loss(model, b, a))


def test_it_is_the_mean_over_channels_of_squared_differences_of_unit_vectors(model):
    ours, theirs = (clip_features(model, clip(seed)) for seed in (0, 1))
    assert torch.allclose(ours.norm(dim=1), torch.ones(2))
    expected = (2 - 2 * (ours * theirs).sum(dim=1)).mean() / 22  # |u - v|^2 of unit vectors
    assert torch.allclose(trepa_loss(model, clip(0), clip(1)), expected, rtol=1e-3)  # 2 - 2 cos cancels


def test_the_order_of_frames_counts(model):
    a = clip(0)
    assert trepa_loss(model, a.flip(2), a) > 0


def test_the_gradient_flows_through_the_prediction_alone(model):
    prediction, target = clip(0).requires_grad_(True), clip(1).requires_grad_(True)
    loss = trepa_loss(model, prediction, target)
    loss.backward()
    assert loss.ndim == 0 and loss.dtype == torch.float32
    assert torch.isfinite(prediction.grad).all()
    assert (prediction.grad.abs().amax(dim=(0, 1, 3, 4)) > 0).all()  # every frame is told something
    assert target.grad is None


def test_a_step_along_the_gradient_brings_the_clips_nearer(model):
    prediction, target = clip(0).requires_grad_(True), clip(1)
    before = trepa_loss(model, prediction, target)
    (slope,) = torch.autograd.grad(before, prediction)
    with torch.no_grad():
        assert trepa_loss(model, prediction - 0.01 * slope / slope.abs().max(), target) < before


def test_the_network_sees_its_own_size_in_0_to_1(model):
    seen = []
    hook = model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    clip_features(model, clip(0, size=32))
    clip_features(model, 3 * clip(0, size=48))  # bicubic may overshoot, and so may a decoder
    hook.remove()
    assert torch.equal(seen[0], clip(0, size=32) / 2 + 0.5)
    assert seen[1].shape == (2, 3, 16, 32, 32)
    assert (seen[1].min(), seen[1].max()) == (0, 1)


def test_a_model_in_half_precision_gives_nearly_the_same(model, tmp_path):
    """bfloat16 keeps 8 bits."""
    half = open_videomae(save_videomae(tmp_path / "vit.pth"), dtype=torch.bfloat16)
    whole, rough = clip_features(model, clip(0)), clip_features(half, clip(0))
    assert rough.dtype == torch.float32
    assert (torch.cosine_similarity(whole, rough) > 0.99).all()


def test_clips_that_cannot_be_compared_are_refused(model):
    with pytest.raises(ValueError, match="two clips"):
        trepa_loss(model, clip(0), clip(0, frames=14))
    with pytest.raises(ValueError, match="multiple of 2"):
        trepa_loss(model, clip(0, frames=15), clip(1, frames=15))
