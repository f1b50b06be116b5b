"""Waveform -> mel spectrograms, one function a recipe. `T` audio steps; waveforms are mono float in [-1, 1]
at 16 kHz.

`whisper_mel` follows openai/whisper `audio.py` (log_mel_spectrogram), which the released LatentSync weights
hear.
"""

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

SAMPLE_RATE_HZ = 16_000
WHISPER_FFT = 400
WHISPER_HOP = 160
WHISPER_COLUMNS_PER_SECOND = SAMPLE_RATE_HZ // WHISPER_HOP  # 100
COLUMNS_PER_BLOCK = 6000  # one minute: bounds the memory of the complex spectrum


@functools.cache
def whisper_filters(bands: int) -> Tensor:
    """Slaney mel filters, (bands, 201), float32."""
    filters = mel_filter_bank(
        1 + WHISPER_FFT // 2,
        bands,
        0.0,
        SAMPLE_RATE_HZ / 2,
        SAMPLE_RATE_HZ,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters.T).to(torch.float32)


def whisper_mel(waveform: Tensor, bands: int = 80) -> Tensor:
    """Log-mel of a whole recording, (bands, T // 160): clamped 8 decades below its loudest value, then (x +
    4) / 4.

    Raises: ValueError for a waveform that is not one-dimensional or shorter than one FFT window (25 ms).
    """
    if waveform.ndim != 1 or waveform.numel() < WHISPER_FFT:
        raise ValueError(f"expected a mono waveform of >= {WHISPER_FFT} samples, got {tuple(waveform.shape)}")
    log_mel = torch.cat(list(_log_mel_blocks(waveform.float(), whisper_filters(bands))), dim=1)
    log_mel = torch.maximum(log_mel, log_mel.max() - 8.0)
    return (log_mel + 4.0) / 4.0


def _log_mel_blocks(waveform: Tensor, filters: Tensor) -> Iterator[Tensor]:
    """log10 mel power, block after block of (bands, <= COLUMNS_PER_BLOCK); together T // 160 columns."""
    half = WHISPER_FFT // 2
    padded = F.pad(waveform[None], (half, half), mode="reflect")[0]
    window = torch.hann_window(WHISPER_FFT, device=waveform.device)
    columns = waveform.numel() // WHISPER_HOP
    filters = filters.to(waveform.device)
    for start in range(0, columns, COLUMNS_PER_BLOCK):
        stop = min(start + COLUMNS_PER_BLOCK, columns)
        piece = padded[start * WHISPER_HOP : (stop - 1) * WHISPER_HOP + WHISPER_FFT]
        spectrum = torch.stft(
            piece, WHISPER_FFT, WHISPER_HOP, window=window, center=False, return_complex=True
        )
        yield (filters @ spectrum.abs().square()).clamp(min=1e-10).log10()
