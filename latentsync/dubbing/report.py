"""What a job tells: its progress while it runs, and afterwards a report of what was done, how long it took
and with what.
"""

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from latentsync.errors import MediaError

PACKAGES = ("latentsync", "torch", "diffusers", "transformers", "av", "mediapipe", "numpy")


@dataclass(frozen=True)
class Progress:
    """Frames written so far, of how many, after how long."""

    frames: int
    frames_total: int
    elapsed_seconds: float

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.elapsed_seconds if self.elapsed_seconds > 0 else 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """None until a first frame is there."""
        rate = self.frames_per_second
        return (self.frames_total - self.frames) / rate if rate else None


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True)
class DubReport:
    """A finished job. `faces_found` counts source frames shown with a face, `frames_redrawn` those whose
    mouth was redrawn; the other `frames_passed_through` left exactly as they came. `seconds_by_stage` counts
    every stage's own time; stages overlap, so their sum may exceed `total_seconds`. `peak_memory_bytes` is
    the process's.
    """

    video: str
    audio: str
    output: str
    model: str
    frames: int
    faces_found: int
    frames_redrawn: int
    frames_passed_through: int
    width: int
    height: int
    fps: float
    duration_seconds: float
    total_seconds: float
    seconds_by_stage: dict[str, float]
    peak_memory_bytes: int
    seed: int
    settings: dict[str, Any]
    versions: dict[str, str]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    def table(self) -> str:
        """Seconds a stage, slowest first, and what they add up to."""
        busy = sum(self.seconds_by_stage.values()) or 1.0
        rows = sorted(self.seconds_by_stage.items(), key=lambda item: -item[1])
        lines = [f"{name:<10}{seconds:9.2f} s {100 * seconds / busy:5.1f} %" for name, seconds in rows]
        lines.append(
            f"{'total':<10}{self.total_seconds:9.2f} s, {self.frames} frames, "
            f"{self.frames / self.total_seconds:.2f} frames/s, "
            f"peak memory {self.peak_memory_bytes / 2**20:.0f} MiB"
        )
        return "\n".join(lines)


def report_place(output: str | Path) -> Path:
    """Where the report of a result lies: beside it. Raises: MediaError when a folder has that name."""
    place = Path(f"{output}.report.json")
    if place.is_dir():
        raise MediaError(f"{place} is a folder; the report needs that name")
    return place


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result; a missing one says so."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
