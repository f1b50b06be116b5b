"""Trains the audio encoder of a small model: a Whisper encoder that learns to tell phones and the mouth's
shape from the sound.

`B` batch, `P` feature rows (50 Hz) of a window, `K` mouth measures. First it may learn phones alone, of
spoken sentences; then the mouth, and phones beside it, so that it does not learn the few filmed voices by
heart. The encoder is what stays; the heads only teach.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
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
from latentsync.diffusion.augment_sound import change_pace, change_sound
from latentsync.diffusion.dataset import Clip, ClipSampler, load_clips, step_rng
from latentsync.errors import FootageError
from latentsync.footage.sentences import Sentences, load_sentences
from latentsync.training import LoopConfig, Losses, drawn_batches, fit, record_config, save_once

FPS = 25
ROWS_PER_FRAME = FEATURES_PER_SECOND // FPS
HELD_BACK = 16  # sentences
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
class PhonesConfig:
    """Lessons in phones: `sentences` is a file of scripts/make_sentences.py (none: no such lessons), `loop`
    how long to learn them alone, `weight` and `batch_size` how they go on beside the mouth's.
    """

    sentences: str = ""
    weight: float = 0.3
    batch_size: int = 32
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.weight < 0 or self.batch_size < 1:
            raise ValueError(
                f"phones: weight {self.weight}, batch_size {self.batch_size}; expected 0 or more, 1 or more"
            )


@dataclass(frozen=True)
class TrainAudioConfig:
    """`pace` is by how much, in log, clips are shown and heard faster or slower."""

    data: str = "???"
    output: str = "???"
    velocity_weight: float = 0.5
    pace: float = 0.2
    model: AudioConfig = field(default_factory=AudioConfig)
    phones: PhonesConfig = field(default_factory=PhonesConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.pace <= 1:
            raise ValueError(f"pace is {self.pace}; expected 0 to 1, in log")


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


class PhoneTeacher(nn.Module):
    """Encoder and linear head: mel windows (B, bands, 2 P) -> logits of the phones (B, P, phones)."""

    def __init__(self, encoder: WhisperModel, width: int, phones: int) -> None:
        super().__init__()
        self.whisper = encoder
        self.head = nn.Linear(width, phones)

    def forward(self, mel: Tensor) -> Tensor:
        return self.head(hidden_states(mel, self.whisper.encoder)[-1])


class MouthTeacher(nn.Module):
    """Encoder and heads: mel windows (B, bands, 2 P) -> mouth motion (B, P // 2 frames, K), and of other mel
    windows the logits of their phones.
    """

    def __init__(
        self, encoder: WhisperModel, layers: int, width: int, measures: int, phones: nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.whisper = encoder
        tokens = len(window_rows(0, FPS)) * (layers + 1)
        self.head = nn.Sequential(
            nn.Dropout(0.1), nn.Linear(tokens * width, 96), nn.GELU(), nn.Linear(96, measures)
        )
        self.phones = phones

    def forward(self, mel: Tensor, spoken: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        motion = self.read(torch.stack(hidden_states(mel, self.whisper.encoder), dim=2))
        if self.phones is None or spoken is None:
            return motion, None
        return motion, self.phones(hidden_states(spoken, self.whisper.encoder)[-1])

    def read(self, states: Tensor) -> Tensor:
        """Mouth motion of features (B, P, L + 1, D)."""
        windows = [frame_windows(rows, FPS) for rows in states.float()]
        return self.head(torch.stack(windows).flatten(2))


def mel_of(clip: Clip, bands: int) -> Tensor:
    """The clip's mel, (bands, at least 4 columns a frame): cut or padded so that the frames are covered."""
    mel = whisper_mel(torch.from_numpy(clip.waveform), bands)
    wanted = clip.frames * ROWS_PER_FRAME * COLUMNS_PER_ROW
    return F.pad(mel, (0, max(0, wanted - mel.shape[1])))[:, :wanted]


class MouthWindows:
    """Draws training windows: mel (B, bands, 2 P), mouth motion (B, P // 2, K) in units of its spread."""

    def __init__(self, clips: list[Clip], config: TrainAudioConfig) -> None:
        self.clips, self.config = clips, config
        self.sampler = ClipSampler(clips)
        self.mels = [mel_of(clip, config.model.bands) for clip in clips]
        motions = [clip.mouth_motion() for clip in clips]
        spread = np.concatenate(motions).std(axis=0)
        self.motion = [torch.from_numpy(motion / spread).float() for motion in motions]

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        rng = step_rng(self.config.loop.seed, step)
        frames = self.config.model.positions // ROWS_PER_FRAME
        columns = ROWS_PER_FRAME * COLUMNS_PER_ROW
        mels, motions = [], []
        for index in self.sampler.draw(self.config.loop.batch_size, rng):
            pace = float(np.exp(rng.uniform(-self.config.pace, self.config.pace)))
            taken = ceil(frames * pace) + 1
            if taken > self.clips[index].frames:
                pace, taken = 1.0, frames
            start = int(rng.integers(0, self.clips[index].frames - taken + 1))
            mel = self.mels[index][:, start * columns : (start + taken) * columns]
            mel, motion = change_pace(mel, self.motion[index][start : start + taken], frames, pace)
            mels.append(change_sound(mel, rng))
            motions.append(motion)
        return torch.stack(mels), torch.stack(motions)


class PhoneWindows:
    """Draws windows of spoken sentences: mel (B, bands, 2 P), phones (B, P); the last `HELD_BACK` are only
    asked.
    """

    def __init__(self, spoken: Sentences, config: TrainAudioConfig) -> None:
        self.config = config
        rows = config.model.positions
        long = [one for one in spoken.sentences if len(one.phones) > rows]
        if len(long) <= HELD_BACK:
            raise FootageError(
                f"{len(long)} sentences of {config.phones.sentences} last over "
                f"{rows / FEATURES_PER_SECOND:.2f} s; more than {HELD_BACK} are needed: raise --count of "
                "scripts/make_sentences.py"
            )
        mels = [whisper_mel(torch.from_numpy(one.waveform), config.model.bands) for one in long]
        phones = [torch.from_numpy(one.phones.astype(np.int64)) for one in long]
        pairs = list(zip(mels, phones, strict=True))
        self.pairs, self.held_back = pairs[:-HELD_BACK], pairs[-HELD_BACK:]

    def draw(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """The `count` windows of a step."""
        rng = step_rng(self.config.phones.loop.seed, step)
        mels, phones = [], []
        for index in rng.integers(len(self.pairs), size=count):
            mel, told = self._window(*self.pairs[index], int(rng.integers(2**31)))
            mels.append(change_sound(mel.clone(), rng))
            phones.append(told)
        return torch.stack(mels), torch.stack(phones)

    @torch.no_grad()
    def accuracy(self, teacher: PhoneTeacher) -> Mapping[str, float]:
        """Share of rows whose phone is told rightly, of sentences that were not learned from."""
        windows = [self._window(*pair, number) for number, pair in enumerate(self.held_back)]
        mels, phones = (torch.stack(part) for part in zip(*windows, strict=True))
        device = teacher.head.weight.device
        told = teacher(mels.to(device)).argmax(dim=-1).cpu()
        return {"phone_accuracy": float((told == phones).float().mean())}

    def _window(self, mel: Tensor, phones: Tensor, place: int) -> tuple[Tensor, Tensor]:
        rows = self.config.model.positions
        start = place % (len(phones) - rows)
        columns = slice(start * COLUMNS_PER_ROW, (start + rows) * COLUMNS_PER_ROW)
        return mel[:, columns], phones[start : start + rows]


@torch.no_grad()
def correlation(teacher: MouthTeacher, clips: list[Clip]) -> Mapping[str, float]:
    """Mean over `clips` of Pearson r between told and true aperture and width."""
    scores: dict[str, list[float]] = {"r_aperture": [], "r_width": []}
    for clip in clips:
        told = tell(teacher, clip)
        for name, column in (("r_aperture", 0), ("r_width", 2)):
            scores[name].append(float(np.corrcoef(told[:, column], clip.mouth[:, column])[0, 1]))
    return {name: float(np.mean(values)) for name, values in scores.items()}


@torch.no_grad()
def tell(teacher: MouthTeacher, clip: Clip) -> np.ndarray:
    """Mouth motion (F, K) told from the clip's sound, heard as at inference."""
    features = encode(
        torch.from_numpy(clip.waveform), teacher.whisper, context=inner_context(teacher.whisper)
    )
    windows = frame_windows(features, FPS, frames=clip.frames)
    return teacher.head(windows.flatten(1)).numpy()


def learn_phones(
    teacher: PhoneTeacher, windows: PhoneWindows, folder: Path, accelerator: Accelerator, settings: object
) -> None:
    """Teach the encoder of `teacher` phones alone."""
    loop = windows.config.phones.loop

    def step(model: nn.Module, batch: tuple[Tensor, Tensor], number: int) -> Losses:
        mel, truth = batch
        return {"loss": F.cross_entropy(model(mel).flatten(0, 1), truth.flatten())}

    fit(
        teacher,
        drawn_batches(lambda number: windows.draw(number, loop.batch_size), accelerator),
        step,
        loop,
        folder,
        accelerator,
        validate=lambda model, _: windows.accuracy(model),
        settings=settings,
    )


def train_audio(config: TrainAudioConfig, accelerator: Accelerator) -> WhisperModel:
    """Train, save the encoder to `config.output`/audio_encoder; lessons in phones go to its folder `phones`.

    Raises: MediaError, FootageError, FileNotFoundError, TrainingError.
    """
    clips, held_back = load_clips(config.data, "train"), load_clips(config.data, "val")
    spoken = load_sentences(config.phones.sentences) if config.phones.sentences else None
    folder, width = Path(config.output), config.model.width
    record_config(config, folder, accelerator)
    windows = MouthWindows(clips, config)
    settings = {"model": config.model, "phones": {**vars(config.phones), "sentences": None}}
    torch.manual_seed(config.loop.seed)
    encoder, lessons, phones = build_encoder(config.model), None, None
    if spoken is not None:
        lessons, teacher = PhoneWindows(spoken, config), PhoneTeacher(encoder, width, len(spoken.names))
        learn_phones(teacher, lessons, folder / "phones", accelerator, settings)
        phones = teacher.head
    teacher = MouthTeacher(encoder, config.model.layers, width, clips[0].mouth.shape[1], phones)

    def draw(number: int) -> tuple[Tensor, ...]:
        heard = () if lessons is None else lessons.draw(number, config.phones.batch_size)
        return (*windows.draw(number), *heard)

    def step(model: nn.Module, batch: tuple[Tensor, ...], number: int) -> Losses:
        mel, truth, *heard = batch
        told, logits = model(mel, *heard[:1])
        shape = F.smooth_l1_loss(told, truth)
        velocity = F.smooth_l1_loss(told.diff(dim=1), truth.diff(dim=1))
        losses = {"shape": shape, "velocity": velocity}
        loss = shape + config.velocity_weight * velocity
        if logits is not None:
            losses["phones"] = F.cross_entropy(logits.flatten(0, 1), heard[1].flatten())
            loss = loss + config.phones.weight * losses["phones"]
        return {"loss": loss, **losses}

    teacher = fit(
        teacher,
        drawn_batches(draw, accelerator),
        step,
        config.loop,
        folder,
        accelerator,
        validate=lambda model, _: correlation(model, held_back),
        settings={**settings, "velocity_weight": config.velocity_weight, "pace": config.pace},
    )
    with save_once(accelerator) as is_writer:
        if is_writer:
            teacher.whisper.save_pretrained(folder / "audio_encoder")
    return teacher.whisper
