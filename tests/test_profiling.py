"""Stages: exact times by a clock that the test moves, memory by a meter that it fills."""

import gc
import mmap
import sys
import threading
import time

import pytest
import torch

from latentsync.profiling import (
    Profiler,
    Record,
    SampledMemory,
    measure_memory,
    peak_memory_bytes,
    resident_reader,
    stage,
)


class Clock:
    """Stands still unless told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


class Meter:
    """Memory as a test fills it; `take` gives the peak since the last time."""

    def __init__(self) -> None:
        self.held = self.peak = 0

    def hold(self, held: int) -> None:
        self.held, self.peak = held, max(self.peak, held)

    def take(self) -> int:
        peak, self.peak = self.peak, self.held
        return peak


@pytest.fixture
def clock() -> Clock:
    return Clock()


def inner_sum(profiler: Profiler, path: tuple[str, ...]) -> float:
    """Seconds of the direct parts of a stage."""
    records = profiler.records.items()
    return sum(record.seconds for other, record in records if other[:-1] == path and other != path)


def test_times_of_nested_stages_are_exact(clock):
    profiler = Profiler(detailed=True, clock=clock)
    for _ in range(2):
        with profiler("draw"):
            clock.work(1)
            with stage("denoise"):
                clock.work(2)
                for _ in range(3):
                    with stage("step"):
                        clock.work(4)
            with stage("decode"):
                clock.work(8)
    assert profiler.records == {
        ("draw",): Record(visits=2, seconds=46, own_seconds=2),
        ("draw", "denoise"): Record(visits=2, seconds=28, own_seconds=4),
        ("draw", "denoise", "step"): Record(visits=6, seconds=24, own_seconds=24),
        ("draw", "decode"): Record(visits=2, seconds=16, own_seconds=16),
    }
    assert profiler.seconds_by_stage == {"draw": 46}


def chain(profiler: Profiler, clock: Clock):
    """read -> draw -> compose, pulled through each other, with parts in draw that wait for read."""

    def read():
        for index in range(4):
            clock.work(1)
            yield index

    def draw(items):
        for item in items:
            with stage("denoise"):
                clock.work(10)
                with stage("step"):
                    clock.work(20)
            clock.work(100)
            yield item

    def compose(items):
        for item in items:
            clock.work(1000)
            yield item

    drawn = profiler.each("draw", draw(profiler.each("read", read())))
    return profiler.each("compose", compose(drawn))


def test_stages_that_wait_for_each_other_stand_still(clock):
    profiler = Profiler(detailed=True, clock=clock)
    assert list(chain(profiler, clock)) == [0, 1, 2, 3]
    assert profiler.records == {
        ("read",): Record(4, 4, 4),
        ("draw",): Record(4, 520, 400),
        ("draw", "denoise"): Record(4, 120, 40),
        ("draw", "denoise", "step"): Record(4, 80, 80),
        ("compose",): Record(4, 4000, 4000),
    }


def test_a_part_that_waits_for_another_stage_stands_still_too(clock):
    profiler = Profiler(detailed=True, clock=clock)
    with profiler("draw"):
        clock.work(1)
        with stage("gather"):
            clock.work(2)
            with profiler("read"):
                clock.work(100)
                with stage("decode"):
                    clock.work(1000)
    assert profiler.records[("draw",)] == Record(1, 3, 1)
    assert profiler.records[("draw", "gather")] == Record(1, 2, 2)
    assert profiler.records[("read",)] == Record(1, 1100, 100)
    assert profiler.records[("read", "decode")] == Record(1, 1000, 1000)


def test_own_time_and_parts_add_up_on_a_real_clock():
    profiler = Profiler(detailed=True)
    for _ in range(50):
        with profiler("a"), stage("b"):
            with stage("c"):
                sum(range(1000))
            with stage("d"), profiler("elsewhere"):
                sum(range(1000))
    for path, record in profiler.records.items():
        assert record.seconds == pytest.approx(
            record.own_seconds + inner_sum(profiler, path), abs=1e-9
        )  # rounding
        assert 0 <= record.own_seconds <= record.seconds


def test_a_plain_profiler_knows_the_stages_of_the_job_only(clock):
    profiler = Profiler(clock=clock)
    list(chain(profiler, clock))
    assert profiler.seconds_by_stage == {"read": 4, "draw": 520, "compose": 4000}
    assert set(profiler.records) == {("read",), ("draw",), ("compose",)}


def test_a_part_is_nothing_where_nobody_profiles(clock):
    with stage("denoise") as nothing:
        assert nothing is None
    profiler = Profiler(detailed=True, clock=clock)
    with profiler("draw"):
        pass
    with stage("late"):
        clock.work(1)
    assert set(profiler.records) == {("draw",)}


def test_threads_keep_their_stages_apart():
    profiler, both = Profiler(detailed=True), threading.Barrier(2)

    def work(name):
        for _ in range(200):
            with profiler(name), stage("part"), stage("step"):
                pass
        both.wait(timeout=10)
        with profiler(name), stage("together"):
            both.wait(timeout=10)  # both are open at once

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("one", "two"):
        assert profiler.records[(name,)].visits == 201
        assert profiler.records[(name, "part")].visits == 200
        assert profiler.records[(name, "part", "step")].visits == 200
        assert profiler.records[(name, "together")].visits == 1
    assert len(profiler.records) == 8


def test_two_jobs_in_one_thread_do_not_mix(clock):
    outer, inner = Profiler(detailed=True, clock=clock), Profiler(detailed=True, clock=clock)
    with outer("all"):
        clock.work(1)
        with inner("draw"), stage("step"):
            clock.work(2)
        with stage("rest"):
            clock.work(4)
    assert outer.records == {("all",): Record(1, 7, 3), ("all", "rest"): Record(1, 4, 4)}
    assert inner.records == {("draw",): Record(1, 2, 0), ("draw", "step"): Record(1, 2, 2)}


def test_an_error_closes_its_stages(clock):
    profiler = Profiler(detailed=True, clock=clock)
    with pytest.raises(KeyError), profiler("draw"):
        clock.work(1)
        with stage("denoise"):
            clock.work(2)
            raise KeyError("lost")
    with profiler("next"), stage("part"):
        clock.work(4)
    assert profiler.records == {
        ("draw",): Record(1, 3, 1),
        ("draw", "denoise"): Record(1, 2, 2),
        ("next",): Record(1, 4, 0),
        ("next", "part"): Record(1, 4, 4),
    }


def test_a_reader_that_stops_early_ends_the_stages_below(clock):
    profiler, ended = Profiler(clock=clock), []

    def source():
        try:
            while True:
                clock.work(1)
                yield 0
        finally:
            ended.append(True)

    items = profiler.each("read", source())
    assert next(items) == 0
    items.close()
    assert ended == [True]
    assert profiler.records == {("read",): Record(1, 1, 1)}


def test_a_part_does_not_lose_its_stages_peak_of_memory():
    meter = Meter()
    profiler = Profiler(detailed=True, memory=meter)
    with profiler("draw"):
        meter.hold(50)
        meter.hold(10)
        with stage("small"):
            meter.hold(20)
        with stage("large"):
            meter.hold(90)
            meter.hold(0)
        with stage("last"):
            meter.hold(5)
    assert {path[-1]: record.peak_bytes for path, record in profiler.records.items()} == {
        "draw": 90,
        "small": 20,
        "large": 90,
        "last": 5,
    }


def test_memory_of_a_stage_that_another_waits_for_is_not_the_others():
    meter = Meter()
    profiler = Profiler(detailed=True, memory=meter)
    with profiler("compose"):
        meter.hold(10)
        with stage("find"):
            with profiler("draw"), stage("denoise"):
                meter.hold(70)
                meter.hold(30)
            meter.hold(40)
    peaks = {path: record.peak_bytes for path, record in profiler.records.items()}
    assert peaks == {("compose",): 40, ("compose", "find"): 40, ("draw",): 70, ("draw", "denoise"): 70}


def test_another_threads_stage_does_not_take_a_peak_away():
    meter = Meter()
    profiler = Profiler(memory=meter)
    with profiler("draw"):
        meter.hold(80)
        meter.hold(0)

        def read():
            with profiler("read"):
                meter.hold(10)

        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert profiler.records[("draw",)].peak_bytes == 80
    assert profiler.records[("read",)].peak_bytes == 10


def test_sampled_memory_sees_what_came_and_went():
    held = [0]
    meter = SampledMemory(lambda: held[0], every_seconds=0.001)
    try:
        meter.take()
        held[0] = 7
        time.sleep(0.05)
        held[0] = 2
        assert meter.take() == 7
        assert meter.take() == 2
    finally:
        meter.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "memory"]


def test_resident_memory_of_a_stage():
    gc.collect()  # what other tests left must not go while this one measures
    size = 256 * 2**20
    with measure_memory(torch.device("cpu")) as memory:
        profiler = Profiler(memory=memory)
        with profiler("before"):
            pass
        with profiler("holding"), mmap.mmap(-1, size) as held:
            for start in range(0, size, 4096):
                held[start] = 1
    grown = profiler.records[("holding",)].peak_bytes - profiler.records[("before",)].peak_bytes
    assert 0.6 * size < grown < 1.4 * size


def test_memory_without_psutil_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ImportError, match=r"latentsync\[profile\]"), measure_memory(torch.device("cpu")):
        pass


def test_both_readers_of_resident_memory_agree(monkeypatch):
    pytest.importorskip("psutil")
    here = resident_reader()()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert resident_reader()() == pytest.approx(here, rel=0.05)


def test_only_stages_of_the_device_wait_for_it_and_only_in_detail(clock, monkeypatch):
    """Work that the device has not done yet counts where it was given, not where it is noticed."""
    pending = [0.0]

    def finish():
        clock.work(pending[0])
        pending[0] = 0.0

    monkeypatch.setattr("latentsync.profiling._finisher", lambda device: finish)

    def job(profiler):
        with profiler("draw", on_device=True):
            pending[0] += 1
            with stage("step"):
                pending[0] += 10
        with profiler("read"):
            pending[0] += 100
        finish()
        return profiler.seconds_by_stage

    detailed = Profiler(detailed=True, device=torch.device("cuda"), clock=clock)
    assert job(detailed) == {"draw": 11, "read": 0}
    assert detailed.records[("draw",)].own_seconds == 1
    assert job(Profiler(device=torch.device("cuda"), clock=clock)) == {"draw": 0, "read": 0}


@pytest.mark.needs_gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_work_and_memory_belong_to_their_stage():
    device = torch.device("cuda")
    x = torch.randn(4096, 4096, device=device)
    with measure_memory(device) as memory:
        profiler = Profiler(detailed=True, device=device, memory=memory)
        with profiler("draw", on_device=True):
            with stage("large"):
                for _ in range(20):
                    y = x @ x
                del y
            with stage("small"):
                pass
    large, small = (profiler.records[("draw", name)] for name in ("large", "small"))
    assert large.seconds > 20 * small.seconds
    assert large.peak_bytes - small.peak_bytes >= x.nbytes
    assert profiler.records[("draw",)].peak_bytes == large.peak_bytes


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_bytes()
    held = bytearray(before + 50 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    assert peak_memory_bytes() - before > 40 * 2**20
