"""What measured runs of a job told: every stage's seconds and memory, as a table, JSON, CSV and plots."""

import csv
import json
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentsync.dubbing.plots import plot_memory, plot_time
from latentsync.dubbing.report import DubReport
from latentsync.profiling import Record, StagePath

MIB = 2**20


@dataclass(frozen=True)
class Spread:
    """A number over the measured runs; `std` is that of these runs, 0 for a single one."""

    mean: float
    std: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        values = list(values)
        return cls(statistics.fmean(values), statistics.pstdev(values), min(values), max(values))


@dataclass(frozen=True)
class Run:
    """One whole job, and what each of its stages took."""

    total_seconds: float
    records: dict[StagePath, Record]


@dataclass(frozen=True)
class StageProfile:
    """A stage over the measured runs: `seconds` with its parts, `own_seconds` without; `visits` of a run."""

    path: StagePath
    visits: float
    seconds: Spread
    own_seconds: Spread
    peak_memory_bytes: Spread | None

    @property
    def name(self) -> str:
        return "/".join(self.path)


@dataclass(frozen=True)
class Profile:
    """What `profile_dub` found; `report` is that of the run that wrote the output, which was not measured."""

    report: DubReport
    warm_up: Run
    runs: tuple[Run, ...]
    has_memory: bool
    folder: Path

    @property
    def total_seconds(self) -> Spread:
        return Spread.of(run.total_seconds for run in self.runs)

    @property
    def stages(self) -> list[StageProfile]:
        """Parents before their parts, and the slowest first."""
        paths = list(dict.fromkeys(path for run in self.runs for path in run.records))
        found = {path: self._stage(path) for path in paths}
        return [found[path] for path in _slowest_first(found, ())]

    def _stage(self, path: StagePath) -> StageProfile:
        records = [run.records.get(path, Record()) for run in self.runs]
        return StageProfile(
            path,
            visits=statistics.fmean(record.visits for record in records),
            seconds=Spread.of(record.seconds for record in records),
            own_seconds=Spread.of(record.own_seconds for record in records),
            peak_memory_bytes=Spread.of(record.peak_bytes for record in records) if self.has_memory else None,
        )

    def table(self) -> str:
        """A line a stage, its parts indented below it. Stages overlap: shares may add up to more than all."""
        total = self.total_seconds
        lines = [
            f"{'stage':<22}{'visits':>8}{'seconds':>18}{'own':>9}{'of total':>10}" + self._memory("peak")
        ]
        for stage in self.stages:
            name = "  " * (len(stage.path) - 1) + stage.path[-1]
            seconds = f"{stage.seconds.mean:.3f} +- {stage.seconds.std:.3f}"
            lines.append(
                f"{name:<22}{stage.visits:8g}{seconds:>18}{stage.own_seconds.mean:9.3f}"
                f"{100 * stage.seconds.mean / total.mean:8.1f} %" + self._memory(stage.peak_memory_bytes)
            )
        frames = self.report.frames
        lines.append(
            f"{len(self.runs)} run(s): {total.mean:.3f} +- {total.std:.3f} s "
            f"({total.min:.3f} to {total.max:.3f}), {frames} frames, {frames / total.mean:.2f} frames/s; "
            f"warm-up {self.warm_up.total_seconds:.3f} s, without profiler {self.report.total_seconds:.3f} s"
        )
        return "\n".join(lines)

    def _memory(self, peak: Spread | str | None) -> str:
        """The last column, if memory was measured."""
        if not self.has_memory or peak is None:
            return ""
        return f"{f'{peak.mean / MIB:.0f} MiB' if isinstance(peak, Spread) else peak:>12}"

    def to_json(self) -> str:
        report = {key: getattr(self.report, key) for key in ("video", "audio", "output", "model", "frames")}
        content = {
            **report,
            "runs": len(self.runs),
            "total_seconds": asdict(self.total_seconds),
            "seconds_without_profiler": self.report.total_seconds,
            "stages": [self._plain(stage) for stage in self.stages],
            "measured_runs": [_plain_run(run) for run in self.runs],
            "warm_up": _plain_run(self.warm_up),
            "settings": self.report.settings,
            "versions": self.report.versions,
        }
        return json.dumps(content, indent=2)

    @staticmethod
    def _plain(stage: StageProfile) -> dict[str, Any]:
        plain = asdict(stage)
        del plain["path"]
        return {"stage": stage.name, **plain}

    def save(self) -> None:
        """Write profile.json, profile.csv, time_by_stage.png and, when measured, memory_by_stage.png."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "profile.json").write_text(self.to_json() + "\n", encoding="utf-8")
        with (self.folder / "profile.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(self._rows())
        stages = self.stages
        plot_time(self.folder / "time_by_stage.png", stages, len(self.runs))
        if self.has_memory:
            plot_memory(self.folder / "memory_by_stage.png", stages, len(self.runs))

    def _rows(self) -> Iterator[list[object]]:
        """The CSV: a heading and a line a stage; memory is left empty where it was not measured."""
        parts, numbers = ("mean", "std", "min", "max"), ("seconds", "own_seconds", "peak_memory_bytes")
        yield ["stage", "visits", *(f"{number}_{part}" for number in numbers for part in parts)]
        for stage in self.stages:
            spreads = [getattr(stage, number) for number in numbers]
            yield [
                stage.name,
                stage.visits,
                *("" if spread is None else getattr(spread, part) for spread in spreads for part in parts),
            ]


def _slowest_first(stages: dict[StagePath, StageProfile], parent: StagePath) -> Iterator[StagePath]:
    children = [path for path in stages if path[:-1] == parent]
    for path in sorted(children, key=lambda path: -stages[path].seconds.mean):
        yield path
        yield from _slowest_first(stages, path)


def _plain_run(run: Run) -> dict[str, Any]:
    stages = {"/".join(path): asdict(record) for path, record in run.records.items()}
    return {"total_seconds": run.total_seconds, "stages": stages}
