"""Stages of a profile as bars: seconds with and without a stage's parts, and peaks of memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from latentsync.dubbing.profile import StageProfile

MIB = 2**20
DOTS_PER_INCH = 150
ALL, OWN = "#9ecae1", "#3182bd"


def load_matplotlib() -> "type[Figure]":
    """matplotlib's Figure, without its global state. Raises: ImportError that says how to install it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a profile's plots need matplotlib: pip install 'latentsync[profile]'") from error
    return Figure


def plot_time(path: Path, stages: "Sequence[StageProfile]", runs: int) -> None:
    """Mean seconds a stage with their standard deviation; dark: without the stage's parts."""
    figure, axes = _bars(stages)
    places = range(len(stages))
    axes.barh(
        places,
        [stage.seconds.mean for stage in stages],
        xerr=[stage.seconds.std for stage in stages],
        color=ALL,
        label="with its parts",
    )
    axes.barh(places, [stage.own_seconds.mean for stage in stages], color=OWN, height=0.5, label="its own")
    axes.set(title=f"Time by stage, mean of {runs} run(s)", xlabel="seconds; stages overlap")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=DOTS_PER_INCH)


def plot_memory(path: Path, stages: "Sequence[StageProfile]", runs: int) -> None:
    """Mean peak of memory a stage with its standard deviation."""
    figure, axes = _bars(stages)
    peaks = [stage.peak_memory_bytes for stage in stages]
    axes.barh(
        range(len(stages)),
        [peak.mean / MIB if peak else 0.0 for peak in peaks],
        xerr=[peak.std / MIB if peak else 0.0 for peak in peaks],
        color=ALL,
    )
    axes.set(
        title=f"Peak memory while a stage runs, mean of {runs} run(s)", xlabel="MiB of all stages together"
    )
    figure.savefig(path, dpi=DOTS_PER_INCH)


def _bars(stages: "Sequence[StageProfile]") -> "tuple[Figure, Axes]":
    """A figure with a row for each stage, from the top, its parts indented below it."""
    figure = load_matplotlib()(figsize=(9, 1.5 + 0.3 * len(stages)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(stages)), ["/".join(stage.path) for stage in stages])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes
