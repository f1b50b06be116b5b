"""Loudness at the times of frames, on sounds whose answer is known."""

import numpy as np
import pytest

from latentsync.audio.loudness import log_energy
from latentsync.audio.mel import SAMPLE_RATE_HZ


def test_loudness_follows_a_burst_and_is_centred_on_its_frame():
    seconds = np.arange(2 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    burst = np.sin(2 * np.pi * 800 * seconds) * np.exp(-(((seconds - 1.0) / 0.1) ** 2))
    energy = log_energy(burst, fps=25, frames=50)
    assert energy.argmax() == 25
    np.testing.assert_allclose(energy[25 - 4 : 25], energy[25 + 4 : 25 : -1], atol=0.01)
    assert energy[0] == pytest.approx(energy.max() - 5)  # the floor: 50 dB


def test_loudness_ignores_hum_and_is_silent_past_the_end():
    seconds = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    voice, hum = np.sin(2 * np.pi * 800 * seconds), np.sin(2 * np.pi * 50 * seconds)
    loud, low = log_energy(voice, 25, 40), log_energy(voice + hum, 25, 40)
    np.testing.assert_allclose(loud[3:22], low[3:22], atol=0.02)  # 4th-order slopes leave a little of the hum
    assert np.ptp(loud[30:]) == 0 and loud[30] < loud[10] - 4


def test_loudness_of_silence_is_flat():
    assert np.ptp(log_energy(np.zeros(SAMPLE_RATE_HZ), 25, 25)) == 0


def test_loudness_wants_mono():
    with pytest.raises(ValueError, match="mono"):
        log_energy(np.zeros((2, 100)), 25, 3)
