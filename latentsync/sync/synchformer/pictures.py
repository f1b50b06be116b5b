"""Similarity matrices of segments as a picture: video (v) and audio (a) against each other and themselves."""

import logging
from pathlib import Path

from latentsync.sync.synchformer.contrast import Similarities, scaled_rows

FOLDER = Path("viz") / "sim_matrices"
DOTS_PER_INCH = 100

logger = logging.getLogger(__name__)


def draw_similarities(found: Similarities, picture: Path) -> None:
    """Draw all four, each row from its lowest to its highest, into a PNG.

    Raises: ImportError, with the remedy, where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'latentsync[train]'") from error
    figure = Figure(figsize=(8, 8), layout="constrained")
    for number, (name, matrix) in enumerate(zip(found._fields, found, strict=True)):
        axes = figure.add_subplot(2, 2, number + 1)
        axes.imshow(scaled_rows(matrix.float()).numpy(), vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(name)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=DOTS_PER_INCH, format="png")


def draw_if_possible(found: Similarities | None, folder: Path, phase: str, step: int) -> None:
    """`viz/sim_matrices/<phase>_<step>.png` below a run's folder; without matplotlib only a word about it."""
    if found is None:
        return
    try:
        draw_similarities(found, folder / FOLDER / f"{phase}_{step:06d}.png")
    except ImportError as error:
        logger.warning("no picture of the similarities: %s", error)
