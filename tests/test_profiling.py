"""Stage times: own time only, and from several threads."""

import time

from latentsync.profiling import StageTimer, peak_memory_bytes


def test_a_stage_does_not_count_the_stage_it_waits_for():
    timer = StageTimer()

    def source():
        for index in range(5):
            time.sleep(0.02)
            yield index

    def middle(items):
        for item in items:
            time.sleep(0.01)
            yield item

    assert list(timer.each("middle", middle(timer.each("source", source())))) == list(range(5))
    assert 0.1 <= timer.seconds["source"] < 0.2
    assert 0.05 <= timer.seconds["middle"] < 0.1


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_bytes()
    held = bytearray(before + 50 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    assert peak_memory_bytes() - before > 40 * 2**20
