"""What a run tells while it goes: a line of JSON every few steps, the same to Accelerate's trackers.

Losses stay on the device until a line is due, so that no step waits for a number to be read.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from latentsync.errors import TrainingError
from latentsync.training.files import writing

LOG_NAME = "log.jsonl"
Row = Mapping[str, float]
OnLog = Callable[[Row], None]

logger = logging.getLogger(__name__)


class LossWindow:
    """The losses of the micro-batches since the last line, unread, and where the time went."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget what was collected; the clock starts now."""
        self._losses: list[tuple[int, str, Tensor]] = []
        self._norms: list[Tensor] = []
        self._waited, self._began = 0.0, time.perf_counter()

    def waited(self, seconds: float) -> None:
        self._waited += seconds

    def add(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Keep the named scalars of a micro-batch of `step` (counted from 1)."""
        self._losses.extend((step, name, value.detach()) for name, value in losses.items())

    def add_norm(self, norm: Tensor | float | None) -> None:
        """Keep the length of a step's gradient, as it was before clipping."""
        if norm is not None:
            self._norms.append(torch.as_tensor(norm).detach())

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Mean of each loss over steps and processes; every process must call it, and gets the same losses.

        Raises: TrainingError, in every process, naming the first step at which a loss was no finite number.
        """
        steps = len({step for step, _, _ in self._losses})
        device = accelerator.device
        values = [value.to(device, torch.float32).reshape(1) for _, _, value in self._losses]
        waited = torch.tensor([self._waited], dtype=torch.float32, device=device)
        told = cast(Tensor, accelerator.reduce(torch.cat([*values, waited]), "mean")).tolist()
        seconds = time.perf_counter() - self._began
        by_name: dict[str, list[float]] = {}
        for (step, name, _), value in zip(self._losses, told[:-1], strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss {name!r} is {value} at step {step}: lower the learning rate, or train in bf16"
                    " or no mixed precision where it is fp16"
                )
            by_name.setdefault(name, []).append(value)
        row = {name: sum(values) / len(values) for name, values in by_name.items()}
        norms = torch.stack(self._norms).float() if self._norms else torch.zeros(0)
        if len(norms := norms[norms.isfinite()]):  # a step that a GradScaler skips has none
            row["gradient_norm"] = float(norms.mean())
        return {**row, "seconds_per_step": seconds / steps, "waiting_share": told[-1] / seconds}


class TrainingLog:
    """`log.jsonl` in the run's folder; of an earlier, longer run, only lines up to `start` stay."""

    def __init__(self, folder: Path, accelerator: Accelerator, on_log: OnLog | None, start: int) -> None:
        self.path, self.accelerator, self.on_log = folder / LOG_NAME, accelerator, on_log
        if accelerator.is_main_process:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                _cut(self.path, start)

    def write(self, row: Row) -> None:
        """One line, in the file, to the trackers and to `on_log`; every process calls it with its row."""
        rounded = {name: _rounded(value) for name, value in row.items()}
        if self.accelerator.is_main_process:
            line = json.dumps(rounded)
            logger.info(line)
            with writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        step = int(row["step"])
        self.accelerator.log({name: value for name, value in row.items() if name != "step"}, step=step)
        if self.on_log is not None:
            self.on_log(row)


def log_pictures(accelerator: Accelerator, name: str, pictures: np.ndarray, step: int) -> None:
    """Show pictures, uint8 (N, H, W, 3), in the trackers of the run."""
    for tracker in accelerator.trackers:
        layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        tracker.log_images({name: pictures}, step=step, **layout)


def read_log(path: Path) -> list[dict[str, float]]:
    """The whole lines of a log; a last one cut short by a kill is left out."""
    if not path.is_file():
        return []
    return list(_rows(path.read_text(encoding="utf-8").splitlines()))


def _rows(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row


def _cut(path: Path, last_step: int) -> None:
    rows = read_log(path)
    kept = [row for row in rows if row["step"] <= last_step]
    if path.is_file() and len(kept) < len(path.read_text(encoding="utf-8").splitlines()):
        part = path.with_name(path.name + ".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(part, path)


def _rounded(value: float) -> float | None:
    """Six digits are enough; JSON knows no NaN."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def alarm_when_stuck(
    name: str, *, near: float, tolerance: float, steps: int, alarm: Callable[[int, float], None]
) -> OnLog:
    """An `on_log` that watches the loss `name`: `alarm(step, value)` once it has stayed within `tolerance` of
    `near` for `steps` steps, and again only after it has been elsewhere.

    A binary cross entropy that learns nothing stays at ln 2: `near=math.log(2), tolerance=0.01`.
    """
    since: int | None = None
    has_rung = False

    def on_log(row: Row) -> None:
        nonlocal since, has_rung
        if name not in row:
            return  # a line of validation
        step, value = int(row["step"]), row[name]
        if abs(value - near) > tolerance:
            since, has_rung = None, False
            return
        since = step if since is None else since
        if step - since >= steps and not has_rung:
            has_rung = True
            alarm(step, value)

    return on_log
