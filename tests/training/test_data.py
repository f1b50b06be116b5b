"""The order of the data: every sample once an epoch, the same whoever shares it and wherever it begins."""

from collections import Counter
from itertools import islice

import pytest
import torch
from accelerate import Accelerator
from toy_run import Points

from latentsync.errors import TrainingError
from latentsync.training import KeyedBatchSampler, LoopConfig, drawn_batches, keyed_batches


def keys(count, **options):
    return list(islice(KeyedBatchSampler(**{"length": 10, "batch_size": 3, "seed": 5, **options}), count))


def test_an_epoch_has_every_sample_once_and_the_next_another_order():
    line = [key for batch in keys(10) for key in batch]
    assert Counter(line) == {(epoch, index): 1 for epoch in range(3) for index in range(10)}
    orders = [[index for epoch, index in line if epoch == wanted] for wanted in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert keys(10, seed=6) != keys(10)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_out_what_one_with_a_larger_batch_would_draw(processes):
    shares = [keys(7, rank=rank, processes=processes) for rank in range(processes)]
    together = [[key for share in shares for key in share[number]] for number in range(7)]
    assert together == keys(7, batch_size=3 * processes)


def test_accumulated_batches_are_those_of_one_with_a_larger_batch():
    pairs = keys(8)
    assert [pairs[2 * i] + pairs[2 * i + 1] for i in range(4)] == keys(4, batch_size=6)


def test_a_start_in_the_middle_continues_the_line():
    assert keys(4, start=9) == keys(13)[9:]
    assert keys(1, start=10**9)  # nothing before it is gone through


def test_a_data_set_smaller_than_a_batch_is_repeated():
    (batch,) = keys(1, length=2)
    assert [epoch for epoch, _ in batch] == [0, 0, 1]


class Untouchable(Points):
    """A data set that nobody may read twice, or out of order, in one process."""

    read: list

    def __init__(self):
        super().__init__()
        self.read = []

    def __getitem__(self, key):
        self.read.append(key)
        return super().__getitem__(key)


def test_nothing_before_the_start_is_read():
    data, config = Untouchable(), LoopConfig(batch_size=3, seed=5)
    next(keyed_batches(data, config, Accelerator(cpu=True))(7))
    assert data.read == keys(8)[7]


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "start_method"), [(1, None), (2, "fork"), (2, "spawn")])
def test_workers_give_the_same_batches_in_the_same_order(workers, start_method):
    accelerator = Accelerator(cpu=True)
    expected = keyed_batches(Points(), LoopConfig(batch_size=3), accelerator)(2)
    config = LoopConfig(batch_size=3, num_workers=workers)
    batches = keyed_batches(Points(), config, accelerator, start_method=start_method)(2)
    for found, wanted in islice(zip(batches, expected, strict=True), 6):
        assert torch.equal(found, wanted)


def test_a_data_set_decides_nothing_about_the_global_generator():
    state = torch.get_rng_state()
    next(keyed_batches(Points(), LoopConfig(batch_size=3), Accelerator(cpu=True))(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_are_put_together_by_collate():
    batches = keyed_batches(Points(), LoopConfig(batch_size=3), Accelerator(cpu=True), collate=len)
    assert next(batches(0)) == 3


def test_drawn_batches_are_numbered_from_the_start():
    assert list(islice(drawn_batches(lambda number: number, Accelerator(cpu=True))(4), 3)) == [4, 5, 6]


def test_an_empty_data_set_is_an_error():
    with pytest.raises(TrainingError, match="empty"):
        keyed_batches(Points(0), LoopConfig(), Accelerator(cpu=True))
