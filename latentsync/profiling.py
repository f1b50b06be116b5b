"""Where a job's time and memory go: every stage's own seconds, and the process's peak resident memory."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class StageTimer:
    """Sums wall-clock seconds by stage. A stage that waits for another in the same thread does not count the
    other's time.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        nested: list[float] = self._local.__dict__.setdefault("nested", [])
        nested.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            own = elapsed - nested.pop()
            if nested:
                nested[-1] += elapsed
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + own

    def each(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """`items`, the time it takes to get each counted as `stage`."""
        iterator = iter(items)
        try:
            while True:
                with self(stage):
                    try:
                        item = next(iterator)
                    except StopIteration:
                        return
                yield item
        finally:
            if close := getattr(iterator, "close", None):  # ends the stages below when the reader stops early
                close()


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far, in bytes; 0 where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts kilobytes
