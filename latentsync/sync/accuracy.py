"""How often a SyncNet tells windows in sync from others: footage in, shares of right answers out.

A cosine above 0.5 says that lips and sound belong together, as in bytedance/LatentSync. The same samples for
the same seed, so that networks are compared on the same questions.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from latentsync.audio.mel import SYNCNET_COLUMNS_PER_SECOND
from latentsync.audio.windows import SYNCNET_FPS, mel_columns
from latentsync.footage.sync_windows import SyncWindows
from latentsync.sync.losses import agreement, cosine_loss

THRESHOLD = 0.5
STEP_FRAMES = 5  # between the windows of one question: 16 columns of mel, a whole number
QUANTILE_95 = 1.96

See = Callable[[Tensor], Tensor]  # faces (B, 3 F, H, R) -> what the network takes, on its device


@dataclass(frozen=True)
class Answer:
    """One question: the cosine, whether lips and sound belong together, and by how many frames they do not
    (None: another clip, 0: they do).
    """

    clip: str
    cosine: float
    is_true: bool
    shift_frames: int | None

    @property
    def is_right(self) -> bool:
        return (self.cosine > THRESHOLD) == self.is_true


@dataclass(frozen=True)
class Accuracy:
    """All answers, and the binary cross entropy over them."""

    answers: tuple[Answer, ...]
    loss: float

    @property
    def share(self) -> float:
        """Of right answers, in [0, 1]."""
        return _share(self.answers)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `share`, as if windows were independent; those of one clip are not."""
        n, p, z = len(self.answers), self.share, QUANTILE_95
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return middle - half, middle + half

    @property
    def roc_auc(self) -> float:
        """How often a pair in sync has the higher cosine than one that is not; needs no threshold."""
        right = torch.tensor([a.cosine for a in self.answers if a.is_true])
        wrong = torch.tensor([a.cosine for a in self.answers if not a.is_true])
        if not len(right) or not len(wrong):
            return math.nan
        above = (right[:, None] > wrong).double() + 0.5 * (right[:, None] == wrong).double()
        return float(above.mean())

    def numbers(self) -> dict[str, float]:
        """For a log: share, loss, threshold-free share, and mean cosines."""
        return {
            "val_accuracy": self.share,
            "val_loss": self.loss,
            "val_roc_auc": self.roc_auc,
            "val_cosine_in_sync": _mean([a.cosine for a in self.answers if a.is_true]),
            "val_cosine_off": _mean([a.cosine for a in self.answers if not a.is_true]),
        }

    def as_dict(self) -> dict[str, Any]:
        """All numbers, as JSON can hold them."""
        return {
            "windows": len(self.answers),
            "accuracy": self.share,
            "accuracy_95": self.interval,
            "roc_auc": self.roc_auc,
            "loss": self.loss,
            "by_shift": {name: share for name, (share, _) in self.by_shift().items()},
            "by_clip": {name: share for name, (share, _) in self.by_clip().items()},
        }

    def table(self) -> str:
        """Accuracy in all, by distance and by clip."""
        low, high = self.interval
        lines = [
            f"{self.share:.1%} of {len(self.answers)} windows ({low:.1%} to {high:.1%}), ROC AUC "
            f"{self.roc_auc:.3f}, loss {self.loss:.3f}"
        ]
        for groups in (self.by_shift(), self.by_clip()):
            lines += ["", *(f"{share:7.1%} of {count:5d}  {name}" for name, (share, count) in groups.items())]
        return "\n".join(lines)

    def by_shift(self) -> dict[str, tuple[float, int]]:
        """Share of right answers and their number, by how far lips and sound are apart."""
        return _grouped(self.answers, _distance)

    def by_clip(self) -> dict[str, tuple[float, int]]:
        """The same, by the clip that the sound is of."""
        return _grouped(self.answers, lambda answer: answer.clip)


@torch.no_grad()
def measure_accuracy(
    syncnet: nn.Module,
    windows: SyncWindows,
    *,
    samples: int,
    batch_size: int,
    see: See,
    frames: int | None = None,
) -> Accuracy:
    """Ask `syncnet` about `samples` of `windows`, as many of each clip; `see` prepares the faces of a batch.

    `windows` that are `stretch_frames(frames, several)` long are answered by the mean cosine of several
    windows of `frames`, by default as long as they are. The network is asked as it is: put it into evaluation
    mode first. Raises: FootageError.
    """
    device = next(syncnet.parameters()).device
    frames = windows.frames if frames is None else frames
    places = [divmod(number, len(windows)) for number in range(samples)]
    answers: list[Answer] = []
    losses: list[float] = []
    for batch in DataLoader(windows, batch_size, sampler=places, generator=torch.Generator()):
        faces, mel = _slid(batch["faces"], batch["mel"], frames)
        vision, audio = syncnet(see(faces), mel.to(device))
        cosines = agreement(vision, audio).unflatten(0, (len(batch["label"]), -1)).mean(dim=1)
        losses.append(float(cosine_loss(cosines, batch["label"].to(device))) * len(cosines))
        answers += _answers(batch, cosines.tolist())
    return Accuracy(tuple(answers), sum(losses) / len(answers))


def stretch_frames(frames: int, windows: int) -> int:
    """How long so many windows of `frames` are together."""
    return frames + (windows - 1) * STEP_FRAMES


def _slid(faces: Tensor, mel: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Windows (B K, 3 F, H, R) and (B K, 1, 80, T) of stretches of faces and mel, `STEP_FRAMES` apart."""
    seen = faces.unflatten(1, (-1, 3)).unfold(1, frames, STEP_FRAMES).movedim(-1, 2).flatten(2, 3)
    step = round(STEP_FRAMES * SYNCNET_COLUMNS_PER_SECOND / SYNCNET_FPS)
    heard = mel.unfold(3, mel_columns(frames), step).movedim(3, 1)
    return seen.flatten(0, 1), heard.flatten(0, 1)


def _answers(batch: dict[str, Any], cosines: list[float]) -> Iterator[Answer]:
    columns = (batch[name] for name in ("clip", "shown_clip", "start", "shown_start", "label"))
    for cosine, (clip, shown, start, shown_start, label) in zip(
        cosines, zip(*columns, strict=True), strict=True
    ):
        shift = int(shown_start) - int(start) if clip == shown else None
        yield Answer(clip, cosine, bool(label), shift)


def _distance(answer: Answer) -> str:
    if answer.is_true:
        return "in sync"
    if answer.shift_frames is None:
        return "another clip"
    low = next(edge for edge in (25, 13, 9, 5, 1) if abs(answer.shift_frames) >= edge)
    return {25: "25 frames or more", 13: "13 to 24", 9: "9 to 12", 5: "5 to 8", 1: "1 to 4"}[low]


def _grouped(answers: tuple[Answer, ...], key: Callable[[Answer], str]) -> dict[str, tuple[float, int]]:
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(key(answer), []).append(answer)
    return {name: (_share(group), len(group)) for name, group in sorted(groups.items())}


def _share(answers: tuple[Answer, ...] | list[Answer]) -> float:
    return sum(answer.is_right for answer in answers) / len(answers)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
