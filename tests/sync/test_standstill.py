"""The test on one batch finds each fault that it is for, and lets a sound batch pass."""

import pytest
import torch
from sync.tiny_syncnet import MODEL
from torch import nn

from latentsync.sync.stable_syncnet import StableSyncNet
from latentsync.sync.standstill import overfit


@pytest.fixture
def network() -> StableSyncNet:
    torch.manual_seed(0)
    return StableSyncNet.from_upstream(MODEL, num_frames=16, resolution=32)


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    """Eight windows whose label is in the brightness of the faces."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([1.0, 0.0] * 4)
    faces = torch.rand(8, 48, 16, 32, generator=generator) * 0.2 + labels.view(8, 1, 1, 1) - 0.5
    return {"faces": faces, "mel": torch.randn(8, 1, 80, 52, generator=generator), "label": labels}


def test_a_sound_batch_passes_and_the_network_stays_as_it_was(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    samples = batch()
    report = overfit(network, samples["faces"], samples)
    assert report.is_passed and report.accuracy == 1.0 and report.steps < 100
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def spoil_faces(samples):
    samples["faces"] = samples["faces"][:1].expand(8, -1, -1, -1).clone()


def spoil_mel(samples):
    samples["mel"][3, 0, 5, 5] = torch.nan


def spoil_labels(samples):
    samples["label"] = torch.zeros(8)
    samples["mel"][:] = torch.inf


def contradict(samples):
    samples["faces"][1], samples["mel"][1] = samples["faces"][0], samples["mel"][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (spoil_faces, "the faces of all samples are the same"),
        (spoil_mel, "the mel hold numbers that are not finite"),
        (spoil_labels, "all labels are 0"),
        (contradict, "1 samples have the same faces and sound as another, but the other label"),
    ],
)
def test_a_fault_of_the_batch_is_named(network, spoil, wanted):
    samples = batch()
    if spoil is spoil_faces:  # the sound alone must not tell
        samples["mel"] = samples["mel"][:1].expand(8, -1, -1, -1).clone()
    spoil(samples)
    report = overfit(network, samples["faces"], samples, steps=20)
    assert not report.is_passed and wanted in str(report)


def test_an_encoder_without_gradient_is_named(network):
    class Cut(nn.Module):
        def forward(self, x):
            return torch.rand(len(x), 128, 1, 1)

    network.visual_encoder = Cut()
    samples = batch()
    report = overfit(network, samples["faces"], samples, steps=5)
    assert "no gradient reaches visual_encoder" in str(report)


def test_an_encoder_that_says_the_same_of_everything_is_named(network):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.said = nn.Parameter(torch.ones(1, 128, 1, 1))

        def forward(self, x):
            return self.said.expand(len(x), -1, -1, -1)

    network.audio_encoder = Constant()
    samples = batch()
    samples["faces"] = torch.zeros_like(samples["faces"])
    report = overfit(network, samples["faces"], samples, steps=5)
    assert "the audio encoder says the same of every window" in str(report)
    assert "the faces of all samples are the same" in str(report)
