"""Batches of a map-style data set, in an order that seed and position alone decide.

All epochs lie behind each other in one endless line of samples: sample `p` is number `p % len` of epoch
`p // len`, shuffled by (seed, epoch). Micro-batch `m` of all `W` processes together is `W x batch_size`
samples of that line, process after process. So no sample is drawn twice, none is left out, any position can
be gone to without reading what lies before it, and `W` processes see what one process with a `W` times
larger batch would see.
"""

import itertools
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset, Sampler

from latentsync.errors import TrainingError
from latentsync.training.config import LoopConfig

Key = tuple[int, int]


class KeyedBatchSampler(Sampler[list[Key]]):
    """Endless batches of (epoch, index) for process `rank` of `processes`, from micro-batch `start` on."""

    def __init__(
        self, length: int, batch_size: int, *, seed: int, rank: int = 0, processes: int = 1, start: int = 0
    ) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.processes, self.start = rank, processes, start
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __iter__(self) -> Iterator[list[Key]]:
        step = self.processes * self.batch_size
        position = self.start * step + self.rank * self.batch_size
        while True:
            yield [self.key(place) for place in range(position, position + self.batch_size)]
            position += step

    def key(self, position: int) -> Key:
        """(epoch, index) of the sample at `position` of the line."""
        epoch, place = divmod(position, self.length)
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.length)
        return epoch, int(self._order[1][place])


def keyed_batches(
    dataset: Dataset,
    config: LoopConfig,
    accelerator: Accelerator,
    collate: Callable[[list[Any]], Any] | None = None,
    *,
    start_method: str | None = None,
) -> Callable[[int], Iterator[Any]]:
    """`batches` for `fit`: from a micro-batch on, this process's batches, on its device.

    `dataset[(epoch, index)]` must depend on nothing else, no random state either. With `num_workers` the
    data set and `collate` are sent to processes that live as long as the run (`start_method`: "fork",
    "spawn", "forkserver"; None is Python's own choice). Raises: TrainingError for an empty data set.
    """
    length = len(dataset)  # pyright: ignore[reportArgumentType]
    if not length:
        raise TrainingError("the data set is empty: there is nothing to train on")

    def batches(start: int) -> Iterator[Any]:
        sampler = KeyedBatchSampler(
            length,
            config.batch_size,
            seed=config.seed,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
            start=start,
        )
        loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=config.num_workers,
            collate_fn=collate,
            pin_memory=accelerator.device.type == "cuda",
            worker_init_fn=_leave_signals_to_the_loop,
            multiprocessing_context=start_method if config.num_workers else None,
            generator=torch.Generator(),  # else the loader would draw its seed from the global one
        )
        for batch in loader:
            yield send_to_device(batch, accelerator.device, non_blocking=True)

    return batches


def drawn_batches(draw: Callable[[int], Any], accelerator: Accelerator) -> Callable[[int], Iterator[Any]]:
    """`batches` for `fit` from a `draw(number)` whose number alone decides the batch; each process has its
    own numbers, a single one has 0, 1, 2 ...
    """

    def batches(start: int) -> Iterator[Any]:
        for number in itertools.count(start):
            drawn = draw(number * accelerator.num_processes + accelerator.process_index)
            yield send_to_device(drawn, accelerator.device)

    return batches


def _leave_signals_to_the_loop(worker: int) -> None:
    """A Ctrl-C reaches every process of a terminal: the last step still needs its data."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
