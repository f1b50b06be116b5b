"""What a synthetic talker says: a sound, and beside it how the mouth moves, by a law that is known.

`F` frames at 25 a second, `T` samples at 16 kHz. The law: lips open as a vowel asks, and the sound is as
loud as they are open: amplitude = gain * (0.2 + 0.8 * openness), both times the stress of the syllable;
spread lips raise the second formant, rounded ones lower it. Frame k shows the lips at k / 25 s, when sample
640 k sounds. Formants are usual values of American English (Peterson and Barney 1952).
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from latentsync.audio.loudness import log_energy

FPS = 25
SAMPLE_RATE_HZ = 16_000
CONTROL_RATE_HZ = 1000
SAMPLES_PER_CONTROL = SAMPLE_RATE_HZ // CONTROL_RATE_HZ  # 16
FFT, HOP = 512, 128
LIPS_SECONDS, GAIN_SECONDS, FORMANT_SECONDS = 0.03, 0.012, 0.02  # deviations of the smoothing
LOUDNESS_OF_CLOSED_LIPS = 0.2
BANDWIDTHS_HZ = (70.0, 90.0, 130.0, 200.0)
FOURTH_FORMANT_HZ = 3500.0


@dataclass(frozen=True)
class Phone:
    """A sound with its lips: `openness` in [0, 1], `spread` from rounded (-1) to wide (1)."""

    name: str
    openness: float
    spread: float
    formants_hz: tuple[float, float, float] = (500.0, 1500.0, 2500.0)
    voice: float = 0.0  # gain
    noise: float = 0.0  # gain
    hiss: bool = False  # whether the noise lies above 4 kHz


VOWELS = (
    Phone("a", 1.0, 0.1, (730, 1200, 2450), voice=1.0),
    Phone("e", 0.65, 0.55, (530, 1840, 2480), voice=0.9),
    Phone("i", 0.3, 1.0, (290, 2260, 3000), voice=0.8),
    Phone("o", 0.7, -0.55, (500, 880, 2400), voice=0.9),
    Phone("u", 0.3, -1.0, (310, 820, 2250), voice=0.8),
    Phone("ə", 0.5, 0.0, (500, 1400, 2450), voice=0.85),
)
CONSONANTS = (
    Phone("m", 0.0, 0.0, (260, 1050, 2300), voice=0.6),
    Phone("b", 0.0, 0.0, (220, 900, 2300), voice=0.3),
    Phone("p", 0.0, 0.0),
    Phone("s", 0.12, 0.5, noise=0.3, hiss=True),
    Phone("f", 0.06, 0.1, noise=0.12),
    Phone("l", 0.35, 0.1, (360, 1250, 2700), voice=0.6),
)
SILENCE = Phone("-", 0.02, 0.0)


@dataclass(frozen=True, eq=False)
class Speech:
    """A sound, (T,) float32 in [-1, 1], and the lips that make it: `openness` (F,) in [0, 1], `spread` (F,)
    in [-1, 1].
    """

    waveform: np.ndarray
    openness: np.ndarray
    spread: np.ndarray

    @property
    def frames(self) -> int:
        return len(self.openness)


def babble(frames: int, rng: np.random.Generator) -> Speech:
    """Syllables without a meaning, in phrases with pauses, by a voice that `rng` draws."""
    script = _script(frames / FPS + 0.2, rng)
    controls = _controls(script)
    count = frames * SAMPLE_RATE_HZ // FPS
    sound = _voiced(controls, count, rng) + _noisy(controls, count, rng)
    sound *= rng.uniform(0.15, 0.6) / max(float(np.abs(sound).max()), 1e-6)
    room = 10 ** -rng.uniform(1.5, 3) * float(np.sqrt(np.mean(sound**2)))  # 30 to 60 dB below the voice
    sound += room * rng.standard_normal(count)
    shown = np.arange(frames) * (CONTROL_RATE_HZ // FPS)
    return Speech(
        sound.clip(-1, 1).astype(np.float32), controls["openness"][shown], controls["spread"][shown]
    )


def lips_of(waveform: np.ndarray, frames: int) -> Speech:
    """Lips for any sound (T,) at 16 kHz: as open as it is loud at 300 to 3000 Hz, as wide as it is bright.

    Openness is power to the quarter, above a twentieth of the loudest; spread the balance of 1.6 to 3.5 kHz
    against 0.3 to 0.9 kHz about its median.
    """
    log_power = log_energy(waveform, FPS, frames)
    loudness = 10 ** ((log_power - log_power.max(initial=-np.inf)) / 4)
    openness = ((loudness - 0.05) / 0.95).clip(0, 1)
    bright, dark = (_band_log_power(waveform, frames, *edges) for edges in ((1600, 3500), (300, 900)))
    balance = gaussian_filter1d(bright - dark, 1.0)
    spread = np.tanh((balance - np.median(balance)) * np.where(openness > 0.1, 1.0, 0.0))
    return Speech(np.asarray(waveform, np.float32), openness, gaussian_filter1d(spread, 0.75))


def _band_log_power(waveform: np.ndarray, frames: int, low: float, high: float) -> np.ndarray:
    """log10 power of a band around each frame's time, (F,)."""
    half = FFT
    padded = np.pad(waveform.astype(np.float64), (half, half + frames * SAMPLE_RATE_HZ // FPS))
    starts = np.arange(frames) * SAMPLE_RATE_HZ // FPS
    pieces = np.stack([padded[start : start + 2 * half] for start in starts]) * np.hanning(2 * half)
    frequencies = np.fft.rfftfreq(2 * half, 1 / SAMPLE_RATE_HZ)
    inside = (frequencies >= low) & (frequencies < high)
    return np.log10((np.abs(np.fft.rfft(pieces))[:, inside] ** 2).sum(axis=1) + 1e-6)


def _script(seconds: float, rng: np.random.Generator) -> list[tuple[Phone, float, float]]:
    """(phone, seconds, stress) one after the other: phrases of 3 to 9 syllables between pauses."""
    script: list[tuple[Phone, float, float]] = []
    total, pace = 0.0, rng.uniform(0.8, 1.25)

    def say(phone: Phone, duration: float, stress: float = 1.0) -> None:
        nonlocal total
        script.append((phone, duration, stress))
        total += duration

    say(SILENCE, rng.uniform(0.05, 0.3))
    while total < seconds:
        for _ in range(int(rng.integers(3, 10))):
            stress = rng.uniform(0.55, 1.0)
            if rng.random() < 0.8:
                say(CONSONANTS[rng.integers(len(CONSONANTS))], rng.uniform(0.05, 0.11) / pace, stress)
            say(VOWELS[rng.integers(len(VOWELS))], rng.uniform(0.09, 0.24) / pace, stress)
            if rng.random() < 0.2:
                say(CONSONANTS[rng.integers(len(CONSONANTS))], rng.uniform(0.05, 0.11) / pace, stress)
        say(SILENCE, rng.uniform(0.15, 0.7))
    return script


def _controls(script: list[tuple[Phone, float, float]]) -> dict[str, np.ndarray]:
    """Smoothed tracks at CONTROL_RATE_HZ, what the law makes louder made so."""
    counts = np.round([seconds * CONTROL_RATE_HZ for _, seconds, _ in script]).astype(int)
    stress = np.repeat([stress for _, _, stress in script], counts)

    def track(values: list[float], seconds: float) -> np.ndarray:
        return gaussian_filter1d(np.repeat(values, counts).astype(np.float64), seconds * CONTROL_RATE_HZ)

    phones = [phone for phone, _, _ in script]
    openness = gaussian_filter1d(
        np.repeat([phone.openness for phone in phones], counts) * stress, LIPS_SECONDS * CONTROL_RATE_HZ
    )
    law = LOUDNESS_OF_CLOSED_LIPS + (1 - LOUDNESS_OF_CLOSED_LIPS) * openness
    stressed = gaussian_filter1d(stress, LIPS_SECONDS * CONTROL_RATE_HZ)
    return {
        "openness": openness,
        "spread": track([phone.spread for phone in phones], LIPS_SECONDS) * stressed,
        "voice": track([phone.voice for phone in phones], GAIN_SECONDS) * law * stressed,
        "hiss": track([phone.noise * phone.hiss for phone in phones], GAIN_SECONDS) * stressed,
        "breath": track([phone.noise * (not phone.hiss) for phone in phones], GAIN_SECONDS) * stressed,
        **{
            f"formant{i}": track([phone.formants_hz[i] for phone in phones], FORMANT_SECONDS)
            for i in range(3)
        },
    }


def _voiced(controls: dict[str, np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """Glottal pulses through moving formants, as loud as `controls` say."""
    time = np.arange(count) / SAMPLE_RATE_HZ
    wander = gaussian_filter1d(rng.standard_normal(count // 800 + 4), 3)
    pitch = rng.uniform(90, 230) * (1 + 0.25 * np.interp(time * 20, np.arange(len(wander)), wander))
    phase = np.cumsum(pitch / SAMPLE_RATE_HZ)
    pulses = (1 - phase % 1) ** 3 - 0.25  # falls fast after each closure; no mean
    tract = rng.uniform(0.9, 1.15)  # a short one raises all formants
    moving = [controls[f"formant{i}"] * tract for i in range(3)]
    formants = np.stack([*moving, np.full_like(moving[0], FOURTH_FORMANT_HZ * tract)])
    return _shaped(pulses, _formant_gains(formants, count), controls["voice"], count)


def _noisy(controls: dict[str, np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """Hiss above 4 kHz and breath of all frequencies."""
    frequencies = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE_HZ)
    columns = _columns(count)
    high = np.repeat((1 / (1 + np.exp(-(frequencies - 4000) / 300)))[:, None], columns, axis=1)
    noise = rng.standard_normal(count)
    return _shaped(noise, high, controls["hiss"], count) + _shaped(
        noise, np.ones_like(high), controls["breath"], count
    )


def _columns(count: int) -> int:
    return count // HOP + 2


def _formant_gains(formants: np.ndarray, count: int) -> np.ndarray:
    """Resonances in series at each column of the spectrogram, (1 + FFT / 2, columns)."""
    frequencies = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE_HZ)[:, None]
    at = np.minimum(np.arange(_columns(count)) * HOP // SAMPLES_PER_CONTROL, formants.shape[1] - 1)
    gain = np.ones((len(frequencies), len(at)))
    for centre, bandwidth in zip(formants[:, at], BANDWIDTHS_HZ, strict=True):
        ratio = frequencies / centre
        gain /= np.sqrt((1 - ratio**2) ** 2 + (ratio * bandwidth / centre) ** 2)
    return gain


def _shaped(source: np.ndarray, gains: np.ndarray, loudness: np.ndarray, count: int) -> np.ndarray:
    """`source` with the spectrum of `gains`, each column brought to the same level, then to `loudness`."""
    window = np.sqrt(np.hanning(FFT + 1)[:-1])
    padded = np.pad(source, (FFT // 2, FFT + HOP))
    shaped = np.zeros(len(padded) + FFT)
    for column in range(gains.shape[1]):
        start = column * HOP
        piece = padded[start : start + FFT]
        if len(piece) < FFT:
            break
        spectrum = np.fft.rfft(piece * window) * gains[:, column]
        level = np.sqrt((np.abs(spectrum) ** 2).mean()) + 1e-9
        shaped[start : start + FFT] += np.fft.irfft(spectrum / level) * window
    at = np.minimum(np.arange(count) / SAMPLES_PER_CONTROL, len(loudness) - 1)
    return shaped[FFT // 2 : FFT // 2 + count] * np.interp(at, np.arange(len(loudness)), loudness)
