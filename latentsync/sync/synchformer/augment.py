"""Changes of pictures and sound that leave lips and voice together: for training.

`Augmentation` is upstream's, of one sample: pictures are uint8 (..., 3, H, W), sound float32 (N,) in [-1, 1]
at 16 kHz; every change is drawn from the generator given. `changed_people` is SyncNet's, of a batch. Source:
v-iashin/Synchformer (dataset/transforms.py); its reverberation is sox's, here a decaying noise.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.signal import fftconvolve, lfilter
from torch import Tensor

from latentsync.audio.mel import SYNCHFORMER_FLOOR
from latentsync.sync.augment import MEL_FLOOR, augment_faces, augment_mel
from latentsync.sync.synchformer.crops import SAMPLE_RATE_HZ
from latentsync.sync.synchformer.inputs import MEL_MEAN, MEL_SPREAD

LUMA = (0.2989, 0.587, 0.114)
GAIN = 2.0
LOW_PASS_HZ, LOW_PASS_Q = 100.0, 0.707
PITCH_CENTS = 1000
NOISE = 0.01
REVERB_SECONDS = 0.4
SILENCE = (math.log(SYNCHFORMER_FLOOR) - MEL_MEAN) / (2 * MEL_SPREAD)
SYNCNET_PER_UNIT = 2 * MEL_SPREAD * 8 / math.log(1e10)  # SyncNet's mel has 8 for 100 dB, this one nepers


@dataclass(frozen=True)
class Augmentation:
    """How often, and how strongly; shares in [0, 1].

    `strength` scales the changes of brightness, contrast and saturation (up to 80 %) and of hue (20 %).
    """

    flip: float = 0.5
    colour: float = 0.0
    strength: float = 1.0
    grey: float = 0.0
    sound: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "colour", "grey", "sound"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"the share of {name} is {getattr(self, name)}; expected 0 to 1")

    def pictures(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        """The same changes to all of `frames`."""
        if rng.random() < self.colour:
            frames = _jittered(frames, self.strength, rng)
        if rng.random() < self.grey:
            frames = _grey(frames.float()).round_().to(torch.uint8).expand_as(frames)
        if rng.random() < self.flip:
            frames = frames.flip(-1)
        return frames

    def waveform(self, sound: Tensor, rng: np.random.Generator) -> Tensor:
        """Each of five changes with the share `sound`, one after the other."""
        changed = sound.numpy()
        for change in (reverberated, louder, higher, muffled, noisy):
            if rng.random() < self.sound:
                changed = np.ascontiguousarray(change(changed, rng), dtype=np.float32)
        return torch.from_numpy(changed)


def changed_people(video: Tensor, audio: Tensor, *, by_segment: bool) -> tuple[Tensor, Tensor]:
    """Normalised `video` (B, S, T, 3, H, W) and `audio` (B, S, 1, F, columns) of other faces and voices (see
    `latentsync.sync.augment`), drawn for each segment, or for all segments of a crop together.
    """
    if by_segment:
        faces, heard = changed_people(
            video.flatten(0, 1)[:, None], audio.flatten(0, 1)[:, None], by_segment=False
        )
        return faces.view_as(video), heard.view_as(audio)
    faces = augment_faces(video.flatten(1, 3)).view_as(video)
    mel = (audio[..., :-1] - SILENCE) * SYNCNET_PER_UNIT + MEL_FLOOR  # the last column has no sound
    mel = augment_mel(mel.permute(0, 2, 3, 1, 4).flatten(3)).unflatten(3, (mel.shape[1], -1))
    heard = (mel.permute(0, 3, 1, 2, 4) - MEL_FLOOR) / SYNCNET_PER_UNIT + SILENCE
    return faces, torch.cat([heard, audio[..., -1:]], dim=-1)


def zoomed(frames: Tensor, side: int) -> Tensor:
    """Squares uint8 (T, 3, S, S) at another side, bilinear without antialiasing as upstream."""
    size = (side, side)
    return F.interpolate(frames.float(), size, mode="bilinear").round_().clamp_(0, 255).to(torch.uint8)


def _jittered(frames: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue in a random order."""
    pixels = frames.float() / 255
    spread = 0.8 * strength
    low, high = max(0.0, 1 - spread), 1 + spread
    for change in rng.permutation(4):
        share = float(rng.uniform(low, high))
        if change == 0:
            pixels = pixels * share
        elif change == 1:
            mean = _grey(pixels).mean()
            pixels = mean + share * (pixels - mean)
        elif change == 2:
            grey = _grey(pixels)
            pixels = grey + share * (pixels - grey)
        else:
            pixels = turned(pixels, float(rng.uniform(-0.2, 0.2)) * strength)
        pixels = pixels.clamp(0, 1)
    return (255 * pixels).round_().to(torch.uint8)


def turned(pixels: Tensor, turns: float) -> Tensor:
    """Hue moved by a share of a full turn, by a rotation around the grey axis in YIQ."""
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    cos, sin = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    turn = torch.tensor([[1, 0, 0], [0, cos, -sin], [0, sin, cos]], dtype=torch.float32)
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.einsum("ij,...jhw->...ihw", matrix, pixels)


def _grey(pixels: Tensor) -> Tensor:
    """(..., 1, H, W)"""
    weights = torch.tensor(LUMA).view(3, 1, 1)
    return (pixels * weights).sum(dim=-3, keepdim=True)


def louder(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Twice the amplitude, clipped."""
    return np.clip(GAIN * sound, -1, 1)


def noisy(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White noise on top."""
    return sound + NOISE * rng.standard_normal(len(sound)).astype(np.float32)


def muffled(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A second-order low pass (the audio EQ cookbook's)."""
    angle = 2 * np.pi * LOW_PASS_HZ / SAMPLE_RATE_HZ
    alpha, cos = np.sin(angle) / (2 * LOW_PASS_Q), np.cos(angle)
    b = np.array([(1 - cos) / 2, 1 - cos, (1 - cos) / 2]) / (1 + alpha)
    a = np.array([1, -2 * cos / (1 + alpha), (1 - alpha) / (1 + alpha)])
    return np.asarray(lfilter(b, a, sound))


def reverberated(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A room without the direct sound, as loud as before."""
    time = np.arange(int(REVERB_SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    room = rng.standard_normal(len(time)) * np.exp(-6.9 * time / REVERB_SECONDS)
    wet = fftconvolve(sound, room)[: len(sound)]
    return wet * (np.sqrt(np.square(sound).mean()) / max(float(np.sqrt(np.square(wet).mean())), 1e-9))


def higher(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All frequencies of the spectrum of short frames moved up by PITCH_CENTS; nothing moves in time."""
    ratio = 2 ** (PITCH_CENTS / 1200)
    fft, hop = 512, 128
    window = torch.hann_window(fft)
    if len(sound) < fft:
        return sound
    spectrum = torch.stft(torch.from_numpy(sound), fft, hop, window=window, return_complex=True)
    source = torch.arange(spectrum.shape[0]) / ratio
    low = source.long().clamp(max=spectrum.shape[0] - 2)
    share = (source - low).unsqueeze(1)
    magnitude = spectrum.abs()
    moved = (1 - share) * magnitude[low] + share * magnitude[low + 1]
    phase = torch.from_numpy(rng.uniform(0, 2 * np.pi, (spectrum.shape[0], 1))).float()
    steps = torch.arange(spectrum.shape[1]) * hop
    phase = phase + 2 * np.pi * torch.arange(spectrum.shape[0])[:, None] * steps / fft
    return torch.istft(torch.polar(moved, phase), fft, hop, window=window, length=len(sound)).numpy()
