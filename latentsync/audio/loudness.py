"""Waveform -> loudness at the time of each video frame, as an open mouth lets it out."""

import numpy as np
from scipy.signal import butter, sosfiltfilt

from latentsync.audio.mel import SAMPLE_RATE_HZ

SPEECH_BAND_HZ = (300.0, 3000.0)  # the vowels' first formants: what an open mouth lets out
SMOOTHING_SECONDS = 0.04  # standard deviation: one frame at 25 fps
SILENCE = 1e-5  # of the loudest power: everything more than 50 dB below counts as equally silent


def log_energy(waveform: np.ndarray, fps: float, frames: int) -> np.ndarray:
    """Loudness at the time of each frame, (frames,) log10 of power, for a mono `waveform`, (T,) at 16 kHz.

    Power of 300-3000 Hz, smoothed by a Gaussian of 40 ms centred on index / fps, floored 50 dB below the
    loudest; frames past the end of the sound hear silence.
    """
    if waveform.ndim != 1:
        raise ValueError(f"expected a mono waveform (T,), got shape {tuple(waveform.shape)}")
    total = round((frames + 1) / fps * SAMPLE_RATE_HZ)
    padded = np.zeros(max(total, len(waveform)), dtype=np.float64)
    padded[: len(waveform)] = waveform
    band = butter(2, SPEECH_BAND_HZ, btype="bandpass", fs=SAMPLE_RATE_HZ, output="sos")
    power = sosfiltfilt(band, padded) ** 2
    taps = _gaussian(SMOOTHING_SECONDS * SAMPLE_RATE_HZ)
    power = np.pad(power, len(taps) // 2, mode="edge")
    centres = np.round(np.arange(frames) / fps * SAMPLE_RATE_HZ).astype(int)
    at_frames = np.array([power[centre : centre + len(taps)] @ taps for centre in centres])
    floor = max(SILENCE * at_frames.max(initial=0.0), np.finfo(np.float64).tiny)
    return np.log10(np.maximum(at_frames, floor))


def _gaussian(deviation: float) -> np.ndarray:
    """The weights of a Gaussian out to four standard deviations, odd in number, with the sum 1."""
    radius = round(4 * deviation)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
    return weights / weights.sum()
