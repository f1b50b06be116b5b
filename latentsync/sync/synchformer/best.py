"""The best network of a run, kept beside its checkpoints; and the end of a run that gets no better.

best/  the network of the best validation so far       best.json  which step it was, and how good
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from diffusers.models.modeling_utils import ModelMixin

from latentsync.training import newest_checkpoint, read_log
from latentsync.training.log import LOG_NAME

BEST = "best"
BEST_JSON = "best.json"


class PatienceEnded(Exception):
    """`patience` validations in a row were no better than the best before them."""

    def __init__(self, step: int, patience: int, metric: str, best: float) -> None:
        super().__init__(
            f"stopped after step {step}: {patience} validations without a {metric} above {best:.4g}"
        )
        self.step = step


class Best:
    """Keeps the network with the highest `metric` in `folder`/best; `patience` 0 never ends the run."""

    def __init__(self, folder: Path, metric: str, patience: int = 0) -> None:
        self.folder, self.metric, self.patience = folder, metric, patience
        self._values = _values_so_far(folder, metric)

    def keep(self, network: ModelMixin, step: int, row: Mapping[str, float]) -> None:
        """Save `network` if `row` is better than all before; only one process may call it."""
        value = row[self.metric]
        known = self.stored()
        if known is not None and known["step"] != step and value <= known["value"]:
            return
        part, old = self.folder / f"{BEST}.part", self.folder / f"{BEST}.old"
        for left_over in (part, old):
            shutil.rmtree(left_over, ignore_errors=True)
        network.save_pretrained(part)
        if (self.folder / BEST).exists():
            os.replace(self.folder / BEST, old)
        os.replace(part, self.folder / BEST)
        shutil.rmtree(old, ignore_errors=True)
        told = {"step": step, "metric": self.metric, "value": value, "row": dict(row)}
        (self.folder / BEST_JSON).write_text(json.dumps(told, indent=2), encoding="utf-8")

    def stored(self) -> dict | None:
        """What best.json says, None before the first validation."""
        path = self.folder / BEST_JSON
        if not path.is_file() or not (self.folder / BEST).is_dir():
            return None
        return json.loads(path.read_text(encoding="utf-8"))

    def hear(self, row: Mapping[str, float]) -> None:
        """`on_log` of the loop, in every process. Raises: PatienceEnded."""
        if self.metric not in row:
            return
        self._values.append(row[self.metric])
        best = self._values.index(max(self._values))
        if self.patience and len(self._values) - 1 - best >= self.patience:
            raise PatienceEnded(int(row["step"]), self.patience, self.metric, self._values[best])


def _values_so_far(folder: Path, metric: str) -> list[float]:
    """The validations of a run that goes on, up to the checkpoint that it goes on from."""
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        return []
    last = int(checkpoint.name.rsplit("-", 1)[1])
    rows = read_log(folder / LOG_NAME)
    return [row[metric] for row in rows if row["step"] <= last and row.get(metric) is not None]
