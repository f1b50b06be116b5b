"""Trains the audio encoder of a small model: a Whisper encoder that learns to tell the mouth's shape from the
sound.

`B` batch, `P` feature rows (50 Hz) of a window, `K` mouth measures. The encoder is what stays; the head only
teaches.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import WhisperModel

from latentsync.audio.mel import WHISPER_COLUMNS_PER_SECOND, whisper_mel
from latentsync.audio.whisper import encode, encoder_config, hidden_states, inner_context
from latentsync.audio.windows import FEATURES_PER_SECOND, frame_windows, window_rows
from latentsync.diffusion.dataset import Clip, ClipSampler, load_clips, step_rng, told_correlation
from latentsync.training import LoopConfig, Losses, drawn_batches, fit, record_config, save_once

FPS = 25
ROWS_PER_FRAME = FEATURES_PER_SECOND // FPS
COLUMNS_PER_ROW = WHISPER_COLUMNS_PER_SECOND // FEATURES_PER_SECOND


@dataclass(frozen=True)
class AudioConfig:
    """Shape of the encoder; `positions` rows of 50 Hz are one window (Whisper itself has 1500)."""

    width: int = 96
    heads: int = 4
    layers: int = 3
    positions: int = 64
    bands: int = 80
    dropout: float = 0.1


@dataclass(frozen=True)
class TrainAudioConfig:
    data: str = "???"
    output: str = "???"
    velocity_weight: float = 0.5
    noise: float = 0.05
    model: AudioConfig = field(default_factory=AudioConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


def build_encoder(config: AudioConfig) -> WhisperModel:
    """A WhisperModel with a small encoder and no text decoder."""
    whisper = encoder_config(
        {
            "n_mels": config.bands,
            "n_audio_ctx": config.positions,
            "n_audio_state": config.width,
            "n_audio_head": config.heads,
            "n_audio_layer": config.layers,
        }
    )
    whisper.dropout = config.dropout
    model = WhisperModel(whisper)
    model.requires_grad_(False)
    model.encoder.requires_grad_(True)
    model.encoder.embed_positions.requires_grad_(False)
    return model


class MouthTeacher(nn.Module):
    """Encoder and head: mel windows (B, bands, 2 P) -> mouth motion (B, P // 2 frames, K)."""

    def __init__(self, encoder: WhisperModel, layers: int, width: int, measures: int) -> None:
        super().__init__()
        self.whisper = encoder
        tokens = len(window_rows(0, FPS)) * (layers + 1)
        self.head = nn.Sequential(
            nn.Dropout(0.1), nn.Linear(tokens * width, 96), nn.GELU(), nn.Linear(96, measures)
        )

    def forward(self, mel: Tensor) -> Tensor:
        states = torch.stack(hidden_states(mel, self.whisper.encoder), dim=2)
        return self.read(states)

    def read(self, states: Tensor) -> Tensor:
        """Mouth motion of features (B, P, L + 1, D)."""
        windows = [frame_windows(rows, FPS) for rows in states.float()]
        return self.head(torch.stack(windows).flatten(2))


def mel_of(clip: Clip, bands: int) -> Tensor:
    """The clip's mel, (bands, at least 4 columns a frame): cut or padded so that the frames are covered."""
    mel = whisper_mel(torch.from_numpy(clip.waveform), bands)
    wanted = clip.frames * ROWS_PER_FRAME * COLUMNS_PER_ROW
    return F.pad(mel, (0, max(0, wanted - mel.shape[1])))[:, :wanted]


def augment_mel(mel: Tensor, rng: np.random.Generator, noise: float) -> Tensor:
    """Another voice and another room: bands shifted and tilted, a noise floor, blots in frequency."""
    mel = mel.roll(int(rng.integers(-3, 4)), dims=0)
    tilt = torch.linspace(-1, 1, mel.shape[0])[:, None] * rng.uniform(-0.15, 0.15)
    mel = mel + tilt.float() + rng.uniform(-0.15, 0.15)
    floor = mel.max() - rng.uniform(0.8, 2.0)
    mel = torch.maximum(mel, floor) + noise * torch.from_numpy(rng.standard_normal(mel.shape)).float()
    if rng.random() < 0.5:
        width = int(rng.integers(2, 10))
        start = int(rng.integers(0, mel.shape[0] - width))
        mel[start : start + width] = mel.mean()
    return mel


class MouthWindows:
    """Draws training windows: mel (B, bands, 2 P), mouth motion (B, P // 2, K) in units of its spread."""

    def __init__(self, clips: list[Clip], config: TrainAudioConfig) -> None:
        self.clips, self.config = clips, config
        self.sampler = ClipSampler(clips)
        self.mels = [mel_of(clip, config.model.bands) for clip in clips]
        self.motion = [clip.mouth_motion() for clip in clips]
        self.spread = np.concatenate(self.motion).std(axis=0)

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        rng = step_rng(self.config.loop.seed, step)
        frames = self.config.model.positions // ROWS_PER_FRAME
        mels, motions = [], []
        for index in self.sampler.draw(self.config.loop.batch_size, rng):
            start = int(rng.integers(0, self.clips[index].frames - frames + 1))
            columns = slice(
                start * ROWS_PER_FRAME * COLUMNS_PER_ROW, (start + frames) * ROWS_PER_FRAME * COLUMNS_PER_ROW
            )
            mels.append(augment_mel(self.mels[index][:, columns].clone(), rng, self.config.noise))
            motions.append(torch.from_numpy(self.motion[index][start : start + frames] / self.spread).float())
        return torch.stack(mels), torch.stack(motions)


@torch.no_grad()
def tell(teacher: MouthTeacher, clip: Clip) -> np.ndarray:
    """Mouth motion (F, K) told from the clip's sound, heard as at inference."""
    features = encode(
        torch.from_numpy(clip.waveform), teacher.whisper, context=inner_context(teacher.whisper)
    )
    windows = frame_windows(features, FPS, frames=clip.frames)
    return teacher.head(windows.flatten(1)).numpy()


def train_audio(config: TrainAudioConfig, accelerator: Accelerator) -> WhisperModel:
    """Train, save the encoder to `config.output`/audio_encoder."""
    clips, held_back = load_clips(config.data, "train"), load_clips(config.data, "val")
    folder = Path(config.output)
    record_config(config, folder, accelerator)
    windows = MouthWindows(clips, config)
    torch.manual_seed(config.loop.seed)
    teacher = MouthTeacher(
        build_encoder(config.model), config.model.layers, config.model.width, clips[0].mouth.shape[1]
    )

    def step(model: nn.Module, batch: tuple[Tensor, Tensor], number: int) -> Losses:
        mel, truth = batch
        told = model(mel)
        shape = F.smooth_l1_loss(told, truth)
        velocity = F.smooth_l1_loss(told.diff(dim=1), truth.diff(dim=1))
        return {"loss": shape + config.velocity_weight * velocity, "shape": shape, "velocity": velocity}

    teacher = fit(
        teacher,
        drawn_batches(windows.draw, accelerator),
        step,
        config.loop,
        folder,
        accelerator,
        validate=lambda model, _: told_correlation((tell(model, clip) for clip in held_back), held_back),
        settings={
            "model": config.model,
            "velocity_weight": config.velocity_weight,
            "noise": config.noise,
        },
    )
    with save_once(accelerator) as is_writer:
        if is_writer:
            teacher.whisper.save_pretrained(folder / "audio_encoder")
    return teacher.whisper
