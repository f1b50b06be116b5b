"""Waveform -> mel spectrograms, one function a recipe. `T` audio steps; waveforms are mono float in [-1, 1]
at 16 kHz.

`whisper_mel` follows openai/whisper `audio.py` (log_mel_spectrogram), which the released LatentSync weights
hear. `syncnet_mel` follows Rudrabha/Wav2Lip `audio.py` with bytedance/LatentSync's numbers
(configs/audio.yaml), which its SyncNets hear. `syncnet_mfcc` is python_speech_features 0.6 with its defaults,
which the original SyncNet hears. `synchformer_mel` is what Synchformer hears (v-iashin/Synchformer,
AudioMelSpectrogram): the power mel of torchaudio's defaults, in natural logarithms.
"""

import functools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

SAMPLE_RATE_HZ = 16_000
WHISPER_FFT = 400
WHISPER_HOP = 160
WHISPER_COLUMNS_PER_SECOND = SAMPLE_RATE_HZ // WHISPER_HOP  # 100
SYNCNET_BANDS = 80
SYNCNET_BAND_EDGES_HZ = (55.0, 7600.0)
SYNCNET_FFT = 800
SYNCNET_HOP = 200
SYNCNET_COLUMNS_PER_SECOND = SAMPLE_RATE_HZ // SYNCNET_HOP  # 80
SYNCNET_PREEMPHASIS = 0.97
SYNCNET_FLOOR_DB, SYNCNET_REFERENCE_DB = -100.0, 20.0
SYNCNET_LIMIT = 4.0
MFCC_WINDOW, MFCC_HOP, MFCC_FFT = 400, 160, 512
MFCC_COLUMNS_PER_SECOND = SAMPLE_RATE_HZ // MFCC_HOP  # 100
MFCC_COUNT, MFCC_BANDS, MFCC_LIFTER, MFCC_PREEMPHASIS = 13, 26, 22, 0.97
INT16_SCALE = 32768  # SyncNet hears 16-bit samples, not [-1, 1]
SYNCHFORMER_BANDS = 128
SYNCHFORMER_FFT, SYNCHFORMER_WINDOW, SYNCHFORMER_HOP = 1024, 400, 160
SYNCHFORMER_FLOOR = 1e-6  # added to the power
COLUMNS_PER_BLOCK = 6000  # a minute or more: bounds the memory of the complex spectrum


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
    filters = filters.to(waveform.device)
    for magnitude in _magnitude_blocks(padded, WHISPER_FFT, WHISPER_HOP, waveform.numel() // WHISPER_HOP):
        yield (filters @ magnitude.square()).clamp(min=1e-10).log10()


@functools.cache
def syncnet_filters() -> Tensor:
    """Slaney mel filters, (80, 401), float64."""
    filters = mel_filter_bank(
        1 + SYNCNET_FFT // 2,
        SYNCNET_BANDS,
        *SYNCNET_BAND_EDGES_HZ,
        SAMPLE_RATE_HZ,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters.T).to(torch.float64)


def syncnet_mel(waveform: Tensor) -> Tensor:
    """Mel of a whole recording in decibels, (80, 1 + T // 200), float32 in [-4, 4]; silence is -4.

    Column `i` is centred on sample 200 i, with zeros around the recording; computed in float64, as upstream
    does.

    Raises: ValueError for a waveform that is not one-dimensional or shorter than one FFT window (50 ms).
    """
    if waveform.ndim != 1 or waveform.numel() < SYNCNET_FFT:
        raise ValueError(f"expected a mono waveform of >= {SYNCNET_FFT} samples, got {tuple(waveform.shape)}")
    sound = waveform.double()
    sound = torch.cat([sound[:1], sound[1:] - SYNCNET_PREEMPHASIS * sound[:-1]])
    padded = F.pad(sound, (SYNCNET_FFT // 2, SYNCNET_FFT // 2))
    columns = 1 + sound.numel() // SYNCNET_HOP
    filters = syncnet_filters().to(sound.device)
    blocks = _magnitude_blocks(padded, SYNCNET_FFT, SYNCNET_HOP, columns)
    mel = torch.cat([filters @ magnitude for magnitude in blocks], dim=1)
    decibels = 20 * mel.clamp(min=10 ** (SYNCNET_FLOOR_DB / 20)).log10() - SYNCNET_REFERENCE_DB
    share = (decibels - SYNCNET_FLOOR_DB) / -SYNCNET_FLOOR_DB  # -100 dB -> 0, 0 dB -> 1
    return (SYNCNET_LIMIT * (2 * share - 1)).clamp(-SYNCNET_LIMIT, SYNCNET_LIMIT).float()


def syncnet_mfcc(waveform: Tensor) -> Tensor:
    """MFCC of a whole recording, (13, T) float32 at 100 columns a second; row 0 is the log of the energy.

    Column `i` hears samples [160 i, 160 i + 400), zeros past the end; T = 1 + ceil((samples - 400) / 160).
    Float samples are rounded to the 16 bits that the network was trained on; int16 is taken as it is.

    Raises: ValueError for a waveform that is empty or not one-dimensional.
    """
    energy, bands = mfcc_power(waveform)
    lifter = 1 + MFCC_LIFTER / 2 * torch.sin(torch.pi / MFCC_LIFTER * torch.arange(MFCC_COUNT))
    mfcc = lifter.to(bands)[:, None] * (_cosines().to(bands.device) @ bands.log())
    mfcc[0] = energy.log()
    return mfcc.float()


def mfcc_power(waveform: Tensor) -> tuple[Tensor, Tensor]:
    """What `syncnet_mfcc` takes the logarithm of: energy (T,) and mel bands (26, T), float64, none zero."""
    if waveform.ndim != 1 or waveform.numel() == 0:
        raise ValueError(f"expected a mono waveform of >= 1 sample, got {tuple(waveform.shape)}")
    if waveform.is_floating_point():
        waveform = (waveform.double() * INT16_SCALE).round().clamp(-INT16_SCALE, INT16_SCALE - 1)
    sound = waveform.double()
    sound = torch.cat([sound[:1], sound[1:] - MFCC_PREEMPHASIS * sound[:-1]])
    columns = 1 + max(0, -(-(sound.numel() - MFCC_WINDOW) // MFCC_HOP))
    sound = F.pad(sound, (0, (columns - 1) * MFCC_HOP + MFCC_WINDOW - sound.numel()))
    filters, energies, bands = mfcc_filters().to(sound.device), [], []
    for block in sound.unfold(0, MFCC_WINDOW, MFCC_HOP).split(COLUMNS_PER_BLOCK):
        power = torch.fft.rfft(block, MFCC_FFT).abs().square() / MFCC_FFT
        energies.append(power.sum(dim=1))
        bands.append(filters @ power.T)
    least = torch.finfo(torch.float64).eps
    energy, band = torch.cat(energies), torch.cat(bands, dim=1)
    return energy.where(energy != 0, least), band.where(band != 0, least)


@functools.cache
def mfcc_filters() -> Tensor:
    """HTK mel triangles from 0 to 8000 Hz on whole FFT bins, (26, 257), float64."""
    top = 2595 * math.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    mels = torch.linspace(0, top, MFCC_BANDS + 2, dtype=torch.float64)
    edges = ((MFCC_FFT + 1) * 700 * (10 ** (mels / 2595) - 1) / SAMPLE_RATE_HZ).floor()
    low, centre, high = (edges[i : i + MFCC_BANDS, None] for i in range(3))
    bins = torch.arange(1 + MFCC_FFT // 2, dtype=torch.float64)
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return torch.where(bins < centre, rising, falling).clamp(min=0)


@functools.cache
def _cosines() -> Tensor:
    """The first rows of an orthonormal DCT-II, (13, 26), float64."""
    rows, columns = torch.arange(MFCC_COUNT).double()[:, None], torch.arange(MFCC_BANDS).double()
    table = torch.cos(torch.pi / MFCC_BANDS * rows * (columns + 0.5)) * math.sqrt(2 / MFCC_BANDS)
    table[0] /= math.sqrt(2)
    return table


@functools.cache
def synchformer_filters() -> Tensor:
    """HTK mel filters without normalisation, (128, 513), float32."""
    filters = mel_filter_bank(
        1 + SYNCHFORMER_FFT // 2,
        SYNCHFORMER_BANDS,
        0.0,
        SAMPLE_RATE_HZ / 2,
        SAMPLE_RATE_HZ,
        norm=None,
        mel_scale="htk",
    )
    return torch.from_numpy(filters.T).to(torch.float32)


def synchformer_mel(waveform: Tensor) -> Tensor:
    """Natural logarithm of mel power, (128, 1 + T // 160), float32; silence is ln 1e-6.

    Column `i` is centred on sample 160 i, the recording mirrored at its ends. Synchformer takes it segment by
    segment (`sync.synchformer.inputs`), each mirrored at its own ends.

    Raises: ValueError for a waveform that is not one-dimensional or too short to be mirrored (32 ms).
    """
    return (synchformer_mel_power(waveform) + SYNCHFORMER_FLOOR).log()


def synchformer_mel_power(waveform: Tensor) -> Tensor:
    """`synchformer_mel` before the logarithm."""
    half = SYNCHFORMER_FFT // 2
    if waveform.ndim != 1 or waveform.numel() <= half:
        raise ValueError(f"expected a mono waveform of > {half} samples, got {tuple(waveform.shape)}")
    padded = F.pad(waveform.float()[None], (half, half), mode="reflect")[0]
    filters = synchformer_filters().to(waveform.device)
    columns = 1 + waveform.numel() // SYNCHFORMER_HOP
    blocks = _magnitude_blocks(padded, SYNCHFORMER_FFT, SYNCHFORMER_HOP, columns, SYNCHFORMER_WINDOW)
    return torch.cat([filters @ magnitude.square() for magnitude in blocks], dim=1)


def _magnitude_blocks(
    padded: Tensor, fft: int, hop: int, columns: int, length: int | None = None
) -> Iterator[Tensor]:
    """Magnitudes of Hann windows in blocks of (1 + fft // 2, <= COLUMNS_PER_BLOCK); together `columns`.

    A window of `length` samples, by default `fft`, stands in the middle of zeros.
    """
    length = length or fft
    window = torch.hann_window(length, dtype=padded.dtype, device=padded.device)
    for start in range(0, columns, COLUMNS_PER_BLOCK):
        stop = min(start + COLUMNS_PER_BLOCK, columns)
        piece = padded[start * hop : (stop - 1) * hop + fft]
        spectrum = torch.stft(
            piece, fft, hop, win_length=length, window=window, center=False, return_complex=True
        )
        yield spectrum.abs()
