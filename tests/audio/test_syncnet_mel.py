"""The mel that SyncNets hear: against reference numbers, and what must hold of any sound."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from latentsync.audio import mel
from latentsync.audio.mel import syncnet_mel
from latentsync.audio.windows import mel_columns, mel_start, mel_window, mel_windows

AUDIO_CONFIG = Path(__file__).parents[2] / "configs" / "audio.yaml"
OVERLAP_FPS = Fraction(80, 3)  # get_melspec_overlap begins a window at every third column, not at 25 a second


def noise(samples, seed=0):
    return torch.rand(samples, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tone(frequency_hz, samples=16000):
    return 0.5 * torch.sin(2 * torch.pi * frequency_hz * torch.arange(samples, dtype=torch.float64) / 16000)


def slaney(frequency_hz):
    """Slaney's mel scale: straight up to 1 kHz, logarithmic above."""
    straight = np.asarray(frequency_hz) / (200 / 3)
    return np.where(straight < 15, straight, 15 + 27 * np.log(np.maximum(straight, 15) / 15) / np.log(6.4))


def stored(found, wanted):
    """What a case keeps of a full result."""
    spec = wanted.get("sample") or {"start": [0] * found.ndim, "step": [1] * found.ndim}
    return found.numpy()[tuple(slice(a, None, b) for a, b in zip(spec["start"], spec["step"], strict=True))]


@pytest.fixture
def reference(golden):
    """The case, and our mel of its waveform."""
    info, _, tensors = golden("latentsync", "melspectrogram")
    waveform = torch.from_numpy(tensors["input.waveform"].astype(np.float32) / 32768)
    return info, tensors, syncnet_mel(waveform)


@pytest.mark.golden
def test_mel_agrees_with_upstream(reference):
    info, tensors, found = reference
    wanted = info["outputs"]["melspectrogram"]
    assert list(found.shape) == wanted["shape"]
    assert found.dtype == torch.float32
    assert np.abs(stored(found, wanted) - tensors["output.melspectrogram"]).max() <= 1e-4


@pytest.mark.golden
def test_windows_of_mel_agree_with_upstream(reference):
    info, tensors, mel = reference
    wanted, (count, *shape) = info["outputs"]["melspec_overlap"], info["scalars"]["melspec_overlap_shape"]
    windows = mel_windows(mel, OVERLAP_FPS)
    assert list(windows.shape[1:]) == shape
    assert 0 <= len(windows) - count <= 2  # upstream ends three columns early
    found = windows[[0, 1, count // 2, count - 1]]
    assert list(found.shape) == wanted["shape"]
    assert np.abs(stored(found, wanted) - tensors["output.melspec_overlap"]).max() <= 1e-4


def test_a_window_begins_where_its_frame_is_shown():
    assert [mel_start(frame, 25) for frame in range(6)] == [0, 3, 6, 9, 12, 16]
    assert mel_start(10**6, Fraction(30000, 1001)) == 80 * 10**6 * 1001 // 30000
    assert [mel_columns(frames) for frames in (5, 16, 25)] == [16, 52, 80]


@pytest.mark.parametrize("fps", [24, 25, 29.97, Fraction(50)])
def test_there_is_a_window_for_every_frame_that_has_a_whole_one(fps):
    mel = torch.arange(3 * 200.0).reshape(3, 200)
    windows = mel_windows(mel, fps)
    for frame, window in enumerate(windows):
        assert torch.equal(window, mel[None, :, mel_start(frame, fps) :][..., :52])
        assert torch.equal(window, mel_window(mel, frame, fps=fps))
    assert mel_start(len(windows) - 1, fps) + 52 <= 200 < mel_start(len(windows), fps) + 52


def test_a_window_that_leaves_the_sound_is_refused():
    mel = torch.zeros(80, 60)
    assert len(mel_windows(mel)) == 3
    for wrong in (lambda: mel_window(mel, 3), lambda: mel_window(mel, -1), lambda: mel_windows(mel[:, :51])):
        with pytest.raises(ValueError, match="need 52 mel columns from"):
            wrong()


def test_a_window_of_footage_is_cut_of_an_array_as_upstream_cuts_it(tmp_path):
    np.save(tmp_path / "mel.npy", np.arange(200, dtype=np.float32) + np.zeros((80, 1), np.float32))
    mapped = np.load(tmp_path / "mel.npy", mmap_mode="r")
    for start in range(40):
        window = mel_window(mapped, start)
        assert window.shape == (1, 80, 52) and window[0, 0, 0] == int(80 * start / 25)
    window.zero_()  # a copy of its own, of the window alone
    assert window.untyped_storage().nbytes() == 80 * 52 * 4
    with pytest.raises(ValueError, match=r"frames \[47, 63\) need 52 mel columns from 150"):
        mel_window(mapped, 47)


@pytest.mark.parametrize("frames", range(16, 60))
def test_every_window_with_its_sound_has_its_mel(frames):
    columns = 1 + frames * 640 // 200
    assert mel_window(np.zeros((80, columns), np.float32), frames - 16).shape[2] == 52


def test_silence_lies_beyond_the_sound_where_it_may():
    mel = torch.ones(80, 60)
    window = mel_window(mel, 3, beyond=-4.0)
    assert torch.equal(window[..., :51], mel[None, :, 9:]) and (window[..., 51:] == -4).all()
    assert (mel_window(mel, 1000, beyond=-4.0) == -4).all()
    assert torch.equal(mel_window(mel, 2, beyond=-4.0), mel_window(mel, 2))
    with pytest.raises(ValueError, match=r"frames \[-1, 15\)"):
        mel_window(mel, -1, beyond=-4.0)


@pytest.mark.parametrize("samples", [800, 999, 1000, 16000, 16199, 16200])
def test_there_is_a_column_for_every_200_samples_and_one_more(samples):
    assert syncnet_mel(noise(samples)).shape == (80, 1 + samples // 200)


@pytest.mark.parametrize("loudness", [1e-9, 1e-3, 1.0, 100.0])
def test_values_stay_within_4_and_are_float32(loudness):
    for waveform in (noise(16000) * loudness, noise(16000).double() * loudness):
        columns = syncnet_mel(waveform)
        assert columns.dtype == torch.float32
        assert -4 <= columns.min() <= columns.max() <= 4


def test_silence_is_the_floor():
    assert (syncnet_mel(torch.zeros(3200)) == -4).all()


@pytest.mark.parametrize("frequency_hz", [100, 440, 990, 2500, 7000])
def test_a_pure_tone_is_loudest_in_the_band_around_it(frequency_hz):
    centres = np.linspace(slaney(55), slaney(7600), 82)[1:-1]
    nearest = int(np.abs(centres - slaney(frequency_hz)).argmin())
    loudest = syncnet_mel(tone(frequency_hz))[:, 5:-5].argmax(dim=0)
    assert (loudest - nearest).abs().max() <= 1  # between two centres the narrower band may win


def test_ten_times_louder_is_20_db_higher():
    loud, quiet = syncnet_mel(0.1 * noise(8000)), syncnet_mel(0.01 * noise(8000))
    inside = (quiet > -4) & (loud < 4)
    assert inside.float().mean() > 0.99
    assert (loud - quiet - 20 * 8 / 100)[inside].abs().max() < 1e-4  # 100 dB are 8 units


def test_a_later_sound_is_in_later_columns():
    shifted = syncnet_mel(torch.cat([torch.zeros(3 * 200), noise(8000)]))
    assert torch.allclose(shifted[:, 3:], syncnet_mel(noise(8000)), atol=1e-6)


def test_blocks_add_up_to_the_whole(monkeypatch):
    whole = syncnet_mel(noise(16000))
    monkeypatch.setattr(mel, "COLUMNS_PER_BLOCK", 7)
    assert torch.allclose(syncnet_mel(noise(16000)), whole, atol=1e-6)


def test_what_is_no_mono_waveform_of_a_window_is_refused():
    with pytest.raises(ValueError, match="800"):
        syncnet_mel(torch.zeros(799))
    with pytest.raises(ValueError, match=r"\(2, 16000\)"):
        syncnet_mel(torch.zeros(2, 16000))


def test_the_committed_configuration_says_what_is_computed():
    audio = yaml.safe_load(AUDIO_CONFIG.read_text(encoding="utf-8"))["audio"]
    constants = {
        "sample_rate": mel.SAMPLE_RATE_HZ,
        "num_mels": mel.SYNCNET_BANDS,
        "n_fft": mel.SYNCNET_FFT,
        "win_size": mel.SYNCNET_FFT,
        "hop_size": mel.SYNCNET_HOP,
        "preemphasis": mel.SYNCNET_PREEMPHASIS,
        "min_level_db": mel.SYNCNET_FLOOR_DB,
        "ref_level_db": mel.SYNCNET_REFERENCE_DB,
        "fmin": mel.SYNCNET_BAND_EDGES_HZ[0],
        "fmax": mel.SYNCNET_BAND_EDGES_HZ[1],
        "max_abs_value": mel.SYNCNET_LIMIT,
    }
    assert {key: audio[key] for key in constants} == constants
