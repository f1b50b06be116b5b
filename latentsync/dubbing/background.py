"""Stages that work at the same time: an iterator that a thread runs ahead, by a few items and no more."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
WAIT_SECONDS = 0.1
END = object()


def run_ahead(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """`items` in order, up to `depth` of them made in advance by a thread; its exceptions are raised here.

    The thread ends when the items do or when this iterator is closed.
    """
    made: queue.Queue = queue.Queue(maxsize=depth)
    stop = threading.Event()
    failure: list[BaseException] = []

    def put(item: object) -> None:
        while not stop.is_set():
            try:
                made.put(item, timeout=WAIT_SECONDS)
                return
            except queue.Full:
                continue

    def work() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                put(item)
                if stop.is_set():
                    break
        except BaseException as error:  # handed over: the reader raises it
            failure.append(error)
        finally:
            if close := getattr(iterator, "close", None):
                close()
            put(END)

    thread = threading.Thread(target=work, name="run-ahead", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not END:
            yield item
        if failure:
            raise failure.pop()
    finally:
        stop.set()
        thread.join()
