"""Where a job's time and memory go: stages that nest, with and without what is inside them.

    profiler = Profiler(detailed=True)
    with profiler("draw"):               # a stage of the job
        with stage("denoise"): ...       # a part of it, anywhere below, in code that knows of no profiler

A job is a chain of iterators that pull each other, several in one thread. So a stage of the job stands by
itself: while it waits for another one in its thread it stands still, in time and in memory. Its parts nest.
A stage is therefore called the same whether stages overlap or not: ("draw", "denoise", "step").
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

Item = TypeVar("Item")
StagePath = tuple[str, ...]
SAMPLE_SECONDS = 0.02  # 0.5 % of a busy core, with 0.01 0.7 %
NOTHING = nullcontext()

_here = threading.local()  # .span: the innermost open stage of a thread


@dataclass
class Record:
    """A stage's visits, added up: `seconds` with its parts, `own_seconds` without. `peak_bytes` is the most
    that the device, or on a CPU the process, held while it ran, whoever asked for it; 0 when not measured.
    """

    visits: int = 0
    seconds: float = 0.0
    own_seconds: float = 0.0
    peak_bytes: int = 0


class Memory(Protocol):
    """A meter of memory."""

    def take(self) -> int:
        """The most bytes held at once since the last call."""
        ...


class Profiler:
    """Records of one job's stages, from any number of threads.

    `detailed`: also what `stage` marks, and wait for `device` at the ends of stages that use it; else the
    stages of the job alone, by the clock. `memory`: also a peak a stage. `traced`: name the stages in the
    trace of a running torch.profiler.
    """

    def __init__(
        self,
        *,
        detailed: bool = False,
        device: torch.device | None = None,
        memory: Memory | None = None,
        traced: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.records: dict[StagePath, Record] = {}
        self.detailed, self.traced, self.clock = detailed, traced, clock
        self.finish = _finisher(device) if detailed and device is not None else None
        self._memory = memory
        self._running: set[Span] = set()
        self._lock = threading.Lock()

    def __call__(self, name: str, *, on_device: bool = False) -> "Span":
        """A stage of the job; `on_device` when it leaves work for the device."""
        return Span(self, (name,), None, on_device)

    def each(self, name: str, items: Iterable[Item], *, on_device: bool = False) -> Iterator[Item]:
        """`items`, the making of each a visit of the stage `name`."""
        iterator = iter(items)
        try:
            while True:
                with self(name, on_device=on_device) as span:
                    try:
                        item = next(iterator)
                    except StopIteration:
                        span.visits = 0
                        return
                yield item
        finally:
            if close := getattr(iterator, "close", None):  # ends the stages below when the reader stops early
                close()

    @property
    def seconds_by_stage(self) -> dict[str, float]:
        """Seconds of the job's stages, parts included."""
        return {path[0]: record.seconds for path, record in self.records.items() if len(path) == 1}

    def opened(self, span: "Span") -> None:
        """From here on memory is also `span`'s, and no longer that of the stages that wait for it."""
        if self._memory is not None:
            with self._lock:
                self._note_memory(self._memory)
                self._running.difference_update(span.waiting())
                self._running.add(span)

    def closed(self, span: "Span", seconds: float) -> None:
        """Add a visit of `seconds`, waiting left out."""
        with self._lock:
            if self._memory is not None:
                self._note_memory(self._memory)
                self._running.discard(span)
                self._running.update(span.waiting())
            record = self.records.setdefault(span.path, Record())
            record.visits += span.visits
            record.seconds += seconds
            record.own_seconds += seconds - span.inner_seconds
            record.peak_bytes = max(record.peak_bytes, span.peak_bytes)

    def _note_memory(self, memory: Memory) -> None:
        """The peak since the last stage began or ended belongs to every stage that was running."""
        peak = memory.take()
        for span in self._running:
            span.peak_bytes = max(span.peak_bytes, peak)


class Span:
    """One visit of a stage, as a context manager; opened and closed in one thread, never across a `yield`."""

    __slots__ = (
        "above",
        "inner_seconds",
        "mark",
        "on_device",
        "parent",
        "path",
        "peak_bytes",
        "profiler",
        "start",
        "visits",
        "waited_seconds",
    )

    def __init__(self, profiler: Profiler, path: StagePath, parent: "Span | None", on_device: bool) -> None:
        self.profiler, self.path, self.parent, self.on_device = profiler, path, parent, on_device
        self.visits, self.peak_bytes = 1, 0
        self.inner_seconds = self.waited_seconds = 0.0
        self.mark: AbstractContextManager = NOTHING

    def __enter__(self) -> "Span":
        profiler = self.profiler
        if self.on_device and profiler.finish is not None:
            profiler.finish()  # what is still under way belongs to the stage around this one
        self.above: Span | None = getattr(_here, "span", None)
        _here.span = self
        profiler.opened(self)
        if profiler.traced:
            self.mark = torch.profiler.record_function("/".join(self.path))
            self.mark.__enter__()
        self.start = profiler.clock()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        profiler = self.profiler
        try:
            if self.on_device and profiler.finish is not None and kind is None:
                profiler.finish()
        finally:
            elapsed = profiler.clock() - self.start
            self.mark.__exit__(None, None, None)
            _here.span = self.above
            seconds = elapsed - self.waited_seconds
            if self.parent is not None:
                self.parent.inner_seconds += seconds
                self.parent.waited_seconds += self.waited_seconds
            elif self.above is not None and self.above.profiler is profiler:
                self.above.waited_seconds += elapsed
            profiler.closed(self, seconds)

    def waiting(self) -> Iterator["Span"]:
        """The stages of this thread that stand still while this one runs."""
        span = self.above if self.parent is None else None
        while span is not None and span.profiler is self.profiler:
            yield span
            span = span.parent


def stage(name: str) -> AbstractContextManager:
    """A part, called `name`, of the stage that is open in this thread; nothing where nobody profiles."""
    span: Span | None = getattr(_here, "span", None)
    if span is None or not span.profiler.detailed:
        return NOTHING
    return Span(span.profiler, (*span.path, name), span, span.on_device)


def _finisher(device: torch.device) -> Callable[[], None] | None:
    """What waits until `device` has done all that this thread gave it; None for a CPU, never late."""
    if device.type == "mps":
        return torch.mps.synchronize
    if device.type != "cuda":
        return None

    def finish() -> None:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(device))
        event.synchronize()

    return finish


class CudaMemory:
    """The allocator's own peak, which is set back at every reading."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def take(self) -> int:
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak


class SampledMemory:
    """The largest of many readings of `read`, taken by a thread until `close`."""

    def __init__(self, read: Callable[[], int], every_seconds: float = SAMPLE_SECONDS) -> None:
        self._read, self._every_seconds = read, every_seconds
        self._largest = 0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)
        self._thread.start()

    def take(self) -> int:
        with self._lock:
            peak = max(self._largest, self._read())
            self._largest = 0
        return peak

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(self._every_seconds):
            with self._lock:
                self._largest = max(self._largest, self._read())


@contextmanager
def measure_memory(device: torch.device) -> Iterator[Memory]:
    """The meter that fits `device`: CUDA's own peaks, readings of MPS, or of this process's resident memory.

    Raises: ImportError without psutil, on a CPU under macOS or Windows.
    """
    if device.type == "cuda":
        yield CudaMemory(device)
        return
    meter = SampledMemory(torch.mps.current_allocated_memory if device.type == "mps" else resident_reader())
    try:
        yield meter
    finally:
        meter.close()


def resident_reader() -> Callable[[], int]:
    """What reads the resident memory of this process, in bytes; on Linux four times faster than psutil."""
    if sys.platform == "linux":
        statm, page = open("/proc/self/statm", "rb", buffering=0), os.sysconf("SC_PAGE_SIZE")  # noqa: SIM115
        return lambda: int(os.pread(statm.fileno(), 64, 0).split()[1]) * page
    try:
        import psutil
    except ImportError as error:
        raise ImportError(
            "memory by stage needs psutil: pip install 'latentsync[profile]', or leave it out"
        ) from error
    process = psutil.Process()
    return lambda: process.memory_info().rss


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far, in bytes; 0 where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts kilobytes
