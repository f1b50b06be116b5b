"""MFCC as the original SyncNet hears them, against reference numbers and by what they must be."""

import re

import numpy as np
import pytest
import torch

from latentsync.audio import mel
from latentsync.audio.mel import MFCC_HOP, MFCC_WINDOW, mfcc_power, syncnet_mfcc


def sampled(array, output):
    """The stored part of a full result."""
    spec = output.get("sample")
    if spec is None:
        return array
    return array[tuple(slice(a, None, b) for a, b in zip(spec["start"], spec["step"], strict=True))]


def sounds(info, tensors):
    """int16 sounds by number: those of the case, and the constant ones that its note describes."""
    found = {
        name.split(".")[1]: torch.from_numpy(value)
        for name, value in tensors.items()
        if name.endswith(".waveform")
    }
    for number, count, value in re.findall(
        r"sound (\d+) is (\d+) (?:zeros|times the value (\d+))", info["note"]
    ):
        found[number] = torch.full((int(count),), int(value or 0), dtype=torch.int16)
    return found


@pytest.mark.golden
def test_mfcc_agree_with_python_speech_features(golden):
    info, _, tensors = golden("syncnet", "mfcc")
    waveforms, compared = sounds(info, tensors), 0
    for key, output in info["outputs"].items():
        number, name = key.split(".")
        energy, bands = mfcc_power(waveforms[number])
        value = {"mfcc": syncnet_mfcc(waveforms[number]).T, "filter_bank": bands.T, "energy": energy}[name]
        wanted = tensors[f"output.{key}"]
        assert list(value.shape) == output["shape"]
        absolute, relative = (1e-4, 0) if name == "mfcc" else (0, 1e-4)  # powers go to 1e8
        assert np.allclose(sampled(value.numpy(), output), wanted, rtol=relative, atol=absolute), key
        compared += 1
    assert compared == len(info["outputs"]) >= len(waveforms)


def voice(samples):
    generator = torch.Generator().manual_seed(samples)
    return (torch.randn(samples, generator=generator) * 3000).round().clamp(-32768, 32767).to(torch.int16)


def test_a_float_waveform_means_the_16_bit_samples():
    assert torch.equal(syncnet_mfcc(voice(5000)), syncnet_mfcc(voice(5000).float() / 32768))
    loud = torch.tensor([2.0, -2.0] * 400)
    assert torch.equal(syncnet_mfcc(loud), syncnet_mfcc(loud.clamp(-1, 32767 / 32768)))


@pytest.mark.parametrize("samples", [1, 400, 401, 560, 561, 16000])
def test_there_is_a_column_for_every_hop_that_begins_within_the_sound(samples):
    columns = 1 + max(0, -(-(samples - MFCC_WINDOW) // MFCC_HOP))
    assert syncnet_mfcc(voice(samples)).shape == (13, columns)


def test_blocks_add_up_to_the_whole(monkeypatch):
    whole = syncnet_mfcc(voice(20000))
    monkeypatch.setattr(mel, "COLUMNS_PER_BLOCK", 7)
    assert torch.allclose(syncnet_mfcc(voice(20000)), whole, atol=1e-5)


def test_silence_is_finite_and_what_is_no_recording_is_refused():
    assert torch.isfinite(syncnet_mfcc(torch.zeros(4000))).all()
    with pytest.raises(ValueError, match=r"\(0,\)"):
        syncnet_mfcc(torch.zeros(0))
    with pytest.raises(ValueError, match=r"\(1, 16000\)"):
        syncnet_mfcc(torch.zeros(1, 16000))
