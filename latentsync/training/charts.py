"""The log of a run as a picture: one panel a number, training as a line, validation as dots."""

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

from latentsync.training.log import LOG_NAME, read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHART_NAME = "losses.png"
COLUMNS = 3
NOT_DRAWN = ("step", "seconds_per_step")
DOTS_PER_INCH = 100

logger = logging.getLogger(__name__)


def draw_losses(log: Path, picture: Path) -> None:
    """Draw every number of `log` (a log.jsonl) over its steps into `picture`, a PNG.

    Raises: ImportError, with the remedy, where matplotlib is not installed.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    trained: set[str] = set()
    for row in read_log(log):
        values = {name: value for name, value in row.items() if name not in NOT_DRAWN and value is not None}
        for name, value in values.items():
            curves.setdefault(name, []).append((int(row["step"]), value))
        trained |= values.keys() if "loss" in row else set()
    figure_class = _load_matplotlib()
    rows = max(1, math.ceil(len(curves) / COLUMNS))
    figure = figure_class(figsize=(4 * COLUMNS, 2.6 * rows), layout="constrained")
    for number, (name, points) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, COLUMNS, number + 1)
        axes.plot(*zip(*points, strict=True), "-" if name in trained else "o-", markersize=4)
        axes.set(title=name, xlabel="step")
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=DOTS_PER_INCH, format="png")


def draw_if_possible(folder: Path) -> None:
    """The chart of the run in `folder`; without matplotlib, a sentence in the log and no chart."""
    try:
        draw_losses(folder / LOG_NAME, folder / CHART_NAME)
    except ImportError as error:
        logger.warning("no chart of the losses: %s", error)


def _load_matplotlib() -> "type[Figure]":
    """matplotlib's Figure, without its global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("charts of losses need matplotlib: pip install 'latentsync[train]'") from error
    return Figure
