"""How much is computed at a time is a matter of memory: the faces are the same."""

import pytest
import torch

from latentsync.diffusion.condition import FaceMemory
from latentsync.diffusion.sampling import Batching


@pytest.fixture(params=["frame_pipeline", "temporal_pipeline"])
def pipeline(request):
    return request.getfixturevalue(request.param)


def drawn(pipeline, frames, monkeypatch, batching=None, memory=None, steps=2, **options):
    if batching is not None:
        monkeypatch.setattr(pipeline, "batching", batching)
    generator = torch.Generator().manual_seed(2)
    faces = torch.rand(frames, 3, 32, 32, generator=generator) * 2 - 1
    windows = torch.randn(frames, 20, 16, generator=generator)
    noise = pipeline.draw_noise(torch.Generator().manual_seed(0))
    settings = pipeline.sampling(steps, 1.5, **options)
    return torch.stack(list(pipeline.stream(faces, windows, noise, settings, memory=memory)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batching", "frames"),
    [
        (Batching(3), 5),
        (Batching(3), 14),
        (Batching(8, windows=3), 5),  # less than a window
        (Batching(8, windows=3), 8),
        (Batching(8, windows=3), 21),  # three windows and a tail
        (Batching(8, joint_guidance=False), 14),
    ],
)
def test_the_faces_do_not_depend_on_it(pipeline, frames, batching, monkeypatch):
    plain = drawn(pipeline, frames, monkeypatch)
    other = drawn(pipeline, frames, monkeypatch, batching)
    assert len(other) == frames
    assert torch.allclose(plain, other, atol=1e-4)


@pytest.mark.parametrize("options", [{"cache_interval": 2}, {"guidance_window": (0.0, 0.5)},
                                     {"cache_interval": 2, "guidance_window": (0.0, 0.5)}])  # fmt: skip
def test_nor_with_a_cache_or_part_of_the_guidance(pipeline, options, monkeypatch):
    plain = drawn(pipeline, 14, monkeypatch, steps=4, **options)
    batching = Batching(2, windows=2, joint_guidance=False)
    other = drawn(pipeline, 14, monkeypatch, batching, steps=4, **options)
    assert torch.allclose(plain, other, atol=1e-4)


def test_a_face_goes_through_the_autoencoder_once(temporal_pipeline, monkeypatch):
    """Windows overlap by two frames, which upstream's way would encode again."""
    encoded = []
    encode = temporal_pipeline.encode
    monkeypatch.setattr(temporal_pipeline, "encode", lambda f, m: encoded.append(len(f)) or encode(f, m))
    drawn(temporal_pipeline, 21, monkeypatch)
    assert sum(encoded) == 21


def test_faces_that_come_again_are_not_encoded_again(pipeline, monkeypatch):
    encoded, memory = [], FaceMemory()
    encode = pipeline.encode
    monkeypatch.setattr(pipeline, "encode", lambda f, m: encoded.append(len(f)) or encode(f, m))
    plain = drawn(pipeline, 13, monkeypatch)
    first = drawn(pipeline, 13, monkeypatch, memory=memory)
    second = drawn(pipeline, 13, monkeypatch, memory=memory)
    assert sum(encoded) == 26 and len(memory) == 13
    assert torch.equal(first, plain) and torch.equal(second, plain)


def test_batching_counts_from_one():
    with pytest.raises(ValueError, match="0 frames"):
        Batching(0)
