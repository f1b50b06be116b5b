"""One stream, two readers in one thread: what one has read waits for the other, and nothing else is kept.

itertools.tee does the same in blocks of 57 items, which for frames of 6 MB is a third of a gigabyte.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def fork(items: Iterable[Item]) -> tuple[Iterator[Item], Iterator[Item]]:
    """Two iterators that both give all of `items`, in order."""
    source = iter(items)
    waiting: tuple[deque[Item], deque[Item]] = (deque(), deque())

    def read(own: deque[Item], other: deque[Item]) -> Iterator[Item]:
        while True:
            if not own:
                try:
                    item = next(source)
                except StopIteration:
                    return
                other.append(item)
                yield item
                del item
            else:
                yield own.popleft()

    first, second = waiting
    return read(first, second), read(second, first)
