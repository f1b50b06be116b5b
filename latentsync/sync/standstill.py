"""Why a SyncNet does not learn: what is measured when its loss stays at ln 2, and a test on one batch that it
must pass before anybody trains it for days.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from latentsync.footage.check import check
from latentsync.footage.listing import ClipFile
from latentsync.footage.report import FootageReport
from latentsync.sync.losses import agreement, pair_loss

ALIKE = 0.999  # mean cosine of different windows: the encoder says the same of all
FEW_WINDOWS = 256  # arXiv 2412.09262: 1024 windows a step learn, 128 may stay at ln 2
SAMPLED_CLIPS = 60
OVERFIT_STEPS, OVERFIT_RATE = 400, 3e-4
SURE = 0.4  # the loss at which a batch counts as learned by heart

Embed = Callable[[], tuple[Tensor, Tensor]]


@torch.no_grad()
def causes_of_standstill(
    network: nn.Module,
    embed: Embed,
    *,
    windows_a_step: int,
    learning_rate: float,
    footage: FootageReport,
) -> list[str]:
    """What was found, each with its number, the likeliest first; `embed()` gives vision and audio (B, D) of a
    batch by `network`, which is asked in evaluation mode.
    """
    was_training = network.training
    network.eval()
    try:
        vision, audio = (rows.float() for rows in embed())
    finally:
        network.train(was_training)
    found = _collapsed(vision, audio)
    found += [f"of the footage: {finding}" for finding in footage.findings()]
    if windows_a_step < FEW_WINDOWS:
        found.append(
            f"a step learns from {windows_a_step} windows; the authors found 1024 to learn and 128 to stay: "
            "raise batch_size, gradient_accumulation_steps or windows_per_clip"
        )
    found.append(
        f"mean cosine in sync {float(agreement(vision, audio).mean()):.3f}, of wrong pairs "
        f"{float(agreement(vision, audio.roll(1, 0)).mean()):.3f}, learning rate {learning_rate:g}"
    )
    return found


def sampled_report(files: Sequence[ClipFile], cache: str | Path) -> FootageReport:
    """The doctor's report of at most 60 clips, spread over all."""
    chosen = sorted({round(place) for place in np.linspace(0, len(files) - 1, SAMPLED_CLIPS)})
    return check([files[number] for number in chosen], cache)


@dataclass(frozen=True)
class OverfitReport:
    """What became of one batch after `steps`; `findings` say what is broken, and are empty when it was
    learned.
    """

    accuracy: float
    steps: int
    first_loss: float
    last_loss: float
    findings: tuple[str, ...]

    @property
    def is_passed(self) -> bool:
        return not self.findings

    def __str__(self) -> str:
        told = (
            f"one batch: accuracy {self.accuracy:.2f} after {self.steps} steps, "
            f"loss {self.first_loss:.3f} -> {self.last_loss:.3f}"
        )
        return told if self.is_passed else f"{told}; {'; '.join(self.findings)}"


def overfit(
    network: nn.Module, faces: Tensor, batch: Mapping[str, Tensor], *, steps: int = OVERFIT_STEPS
) -> OverfitReport:
    """Train a copy of `network` on one batch until it knows it by heart: `faces` as the network takes them,
    `mel` and `label` of `batch`, all on its device.

    A network and data that are whole reach accuracy 1.0 within some hundred steps.
    """
    student = copy.deepcopy(network).train().requires_grad_(True)
    mel, labels = batch["mel"], batch["label"]
    optimizer = torch.optim.AdamW(student.parameters(), lr=OVERFIT_RATE, weight_decay=0.0)
    first, value, accuracy, norms, taken = float("nan"), float("nan"), 0.0, {}, 0
    for step in range(steps):
        vision, audio = student(faces, mel)
        loss = pair_loss(vision, audio, labels)
        value, taken = float(loss.detach()), step + 1
        accuracy = float(((agreement(vision, audio) > 0.5) == (labels > 0.5)).float().mean())
        if step == 0:
            first = value
        if not np.isfinite(value) or (accuracy == 1.0 and value < SURE):
            break
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            norms = _gradient_norms(student)
        optimizer.step()
    findings: list[str] = []
    if not (accuracy == 1.0 and value < SURE):
        findings = _faults(faces, mel, labels, value, norms) + _collapsed(*_embedded(student, faces, mel))
        findings = findings or ["nothing is broken that could be measured: is the network too small?"]
    return OverfitReport(accuracy, taken, first, value, tuple(findings))


def _faults(faces: Tensor, mel: Tensor, labels: Tensor, loss: float, norms: Mapping[str, float]) -> list[str]:
    """What is wrong with a batch or with the way back through the network."""
    found = []
    for name, values in (("faces", faces), ("mel", mel)):
        if not values.isfinite().all():
            found.append(f"the {name} hold numbers that are not finite")
        elif float(values.float().std(dim=0).mean()) < 1e-4:
            found.append(f"the {name} of all samples are the same")
    if float(labels.float().std()) == 0:
        found.append(f"all labels are {float(labels[0]):g}")
    if clashes := _contradictions(faces, mel, labels):
        found.append(f"{clashes} samples have the same faces and sound as another, but the other label")
    if not np.isfinite(loss):
        found.append("the loss is not finite")
    found += [f"no gradient reaches {name}" for name, norm in norms.items() if norm == 0]
    return found


def _contradictions(faces: Tensor, mel: Tensor, labels: Tensor) -> int:
    seen: dict[bytes, set[float]] = {}
    for face, sound, label in zip(faces, mel, labels, strict=True):
        key = torch.cat([face.float().flatten(), sound.float().flatten()]).cpu().numpy().tobytes()
        seen.setdefault(key, set()).add(float(label))
    return sum(len(found) > 1 for found in seen.values())


def _gradient_norms(network: nn.Module) -> dict[str, float]:
    """Length of the gradient in each encoder."""
    return {
        name: sum(float(p.grad.norm()) for p in encoder.parameters() if p.grad is not None)
        for name, encoder in network.named_children()
    }


@torch.no_grad()
def _embedded(network: nn.Module, faces: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
    vision, audio = network.eval()(faces, mel)
    return vision.float(), audio.float()


def _collapsed(vision: Tensor, audio: Tensor) -> list[str]:
    """A sentence for each encoder that says the same of every window."""
    found = []
    for name, rows in (("visual", vision), ("audio", audio)):
        cosines = rows @ rows.T
        others = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        if len(rows) > 1 and float(cosines[others].mean()) > ALIKE:
            found.append(
                f"the {name} encoder says the same of every window (mean cosine "
                f"{float(cosines[others].mean()):.4f}): lower the learning rate, or start anew"
            )
    return found
