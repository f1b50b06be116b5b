"""A job measured several times, and then done.

A first run, as far as one window, warms up and is kept apart; the measured runs follow, in a folder of their
own; the last run, not measured, writes the wanted output. None of it changes a frame.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

import torch

from latentsync.device import pick_device
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.dubbing.job import check_temp_dir, dub
from latentsync.dubbing.plots import load_matplotlib
from latentsync.dubbing.profile import Profile, Run
from latentsync.dubbing.report import DubReport, Progress, ProgressCallback
from latentsync.dubbing.settings import DubSettings
from latentsync.errors import MediaError
from latentsync.media import check_output
from latentsync.profiling import Profiler, measure_memory

TRACE = "trace.json"
TRACED_FRAMES = 16  # with stacks 5 to 11 MB a frame; viewers give up at some hundred


def profile_dub(
    video: str | Path,
    audio: str | Path,
    output: str | Path,
    *,
    runs: int = 3,
    memory: bool = False,
    with_stack: bool = False,
    folder: str | Path | None = None,
    model: str | Path | LipsyncPipeline | None = None,
    progress: ProgressCallback | None = None,
    **options: object,
) -> Profile:
    """`dub`, measured: its first window to warm up, `runs` whole runs, and one that writes `output`.

    `memory`: also a peak a stage. `with_stack`: the first TRACED_FRAMES once more, one stage at a time, for a
    trace with Python's stacks that chrome://tracing and Perfetto open. The files go to `folder` (default:
    OUTPUT.profile). Raises: what `dub` does, and ImportError without matplotlib or psutil, before any work.
    """
    settings = DubSettings(**options)  # type: ignore[arg-type]
    folder = Path(f"{output}.profile") if folder is None else Path(folder)
    if runs < 1:
        raise ValueError(f"{runs} profiled runs: at least 1 is needed for a profile")
    check_output(Path(output), [Path(video), Path(audio)])
    check_temp_dir(settings.temp_dir)
    _check_folder(folder)
    load_matplotlib()
    device = pick_device(settings.device)
    options = {**options, "seed": settings.seed}  # drawn once, if at all
    job = partial(dub, video, audio, model=model, **options)
    shares = _shares(progress, jobs=1 + runs)
    with tempfile.TemporaryDirectory(prefix="latentsync-", dir=settings.temp_dir) as scratch:
        result, trace = Path(scratch) / f"run{Path(output).suffix}", Path(scratch) / TRACE
        measured = partial(_measure, partial(job, result, temp_dir=None), device, memory)
        warm_up = measured(_stop_at(1))
        measured_runs = [measured(next(shares)) for _ in range(runs)]
        if with_stack:
            with _trace(device, trace, memory=memory) as profiler, suppress(_Enough):
                job(result, temp_dir=None, threads=False, profiler=profiler, progress=_stop_at(TRACED_FRAMES))
        report = job(output, progress=next(shares))
        profile = Profile(report, warm_up, tuple(measured_runs), memory, folder)
        profile.save()
        if with_stack:
            shutil.move(trace, folder / TRACE)
    return profile


def _measure(
    job: Callable[..., DubReport], device: torch.device, memory: bool, progress: ProgressCallback | None
) -> Run:
    """One run of `job`, or as far as `progress` lets it go, and what its stages took."""
    began = time.perf_counter()
    with measure_memory(device) if memory else nullcontext() as meter, suppress(_Enough):
        profiler = Profiler(detailed=True, device=device, memory=meter)
        job(profiler=profiler, progress=progress)
    return Run(time.perf_counter() - began, profiler.records)


class _Enough(Exception):
    """Ends a job whose result nobody wants."""


def _stop_at(frames: int) -> ProgressCallback:
    """Ends a job when it has written so many frames."""

    def tell(progress: Progress) -> None:
        if progress.frames >= frames:
            raise _Enough

    return tell


@contextmanager
def _trace(device: torch.device, path: Path, *, memory: bool) -> Iterator[Profiler]:
    """torch.profiler over what this thread does, saved at `path`; the profiler names the stages in it."""
    cpu, cuda = torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA
    activities = [cpu, cuda] if device.type == "cuda" else [cpu]
    with torch.profiler.profile(activities=activities, with_stack=True, profile_memory=memory) as tracer:
        yield Profiler(detailed=True, traced=True)
    tracer.export_chrome_trace(str(path))


def _check_folder(folder: Path) -> None:
    """Refuse before the first run what could not be written after the last."""
    if folder.exists() and not folder.is_dir():
        raise MediaError(f"{folder} is a file; the profile needs a folder of that name")
    if not folder.parent.is_dir():
        raise MediaError(f"the folder {str(folder.parent)!r} for the profile does not exist; make it first")


def _shares(progress: ProgressCallback | None, jobs: int) -> Iterator[ProgressCallback | None]:
    """What tells `progress` of each of `jobs` runs as if they were one long job."""
    began = time.perf_counter()

    def part(job: int) -> Callable[[Progress], None]:
        def tell(here: Progress) -> None:
            assert progress is not None
            total, elapsed = here.frames_total, time.perf_counter() - began
            progress(Progress(job * total + here.frames, jobs * total, elapsed))

        return tell

    for job in range(jobs):
        yield None if progress is None else part(job)
