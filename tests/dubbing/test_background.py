"""Stages that run ahead: order, errors and endings."""

import threading
import time

import pytest

from latentsync.dubbing.background import run_ahead


def test_items_come_in_order_and_not_too_far_ahead():
    made = []

    def items():
        for index in range(20):
            made.append(index)
            yield index

    stream = run_ahead(items(), depth=2)
    assert next(stream) == 0
    time.sleep(0.3)
    assert len(made) <= 1 + 2 + 1  # taken, waiting, and in the making
    assert list(stream) == list(range(1, 20))


def test_an_error_arrives_after_the_items_before_it():
    def items():
        yield 1
        raise ValueError("broken stage")

    stream = run_ahead(items(), depth=4)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="broken stage"):
        next(stream)


def test_closing_early_ends_the_thread_and_closes_the_source():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = threading.active_count()
    stream = run_ahead(items(), depth=1)
    next(stream)
    stream.close()
    assert closed.is_set()
    assert threading.active_count() == before
