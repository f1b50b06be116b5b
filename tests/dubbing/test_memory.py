"""The memory ladder: what fits is taken, what does not is said, and no way changes a face."""

import pytest
import torch
from accelerate import cpu_offload
from tiny_pipeline import make_pipeline, refining_parts

import latentsync
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.sampling import Batching
from latentsync.dubbing.memory import (
    GIB,
    OFFLOADS,
    MemoryPlan,
    is_offloaded,
    lay_out,
    parse_bytes,
    place,
    plan_memory,
)
from latentsync.errors import LatentSyncError
from latentsync.footprint import weight_bytes

CPU = torch.device("cpu")


def offloadable(pipeline, monkeypatch):
    """`pipeline`, whose sequential offloading goes to "cpu", where diffusers' own would say "cpu:0", which
    accelerate takes for another device than the weights' own.
    """

    def offload(device):
        assert pipeline._exclude_from_cpu_offload == ["audio_encoder"]
        for network in filter(None, (pipeline.unet, pipeline.vae, pipeline.refiner, pipeline.articulator)):
            cpu_offload(network, torch.device(device))

    monkeypatch.setattr(pipeline, "enable_sequential_cpu_offload", offload)
    return pipeline


@pytest.fixture
def pipeline(monkeypatch):
    return offloadable(make_pipeline(temporal=True), monkeypatch)


@pytest.fixture
def refining_pipeline(monkeypatch):
    drawing = make_pipeline(temporal=False)
    pipeline = LipsyncPipeline(**refining_parts(drawing), resolution=drawing.resolution)
    pipeline.set_progress_bar_config(disable=True)
    return offloadable(pipeline, monkeypatch)


def faces(pipeline):
    generator = torch.Generator().manual_seed(2)
    inputs = torch.rand(9, 3, 32, 32, generator=generator), torch.randn(9, 20, 16, generator=generator)
    windows = torch.stack(list(pipeline.audio_windows(torch.randn(8000, generator=generator), 9)))
    return pipeline(inputs[0], windows, generator=torch.Generator().manual_seed(0)).faces


@pytest.mark.parametrize("text", ["", "8", "1e9GB", "-8GB", "nan", "0GB", "8GB 8GB", "1" * 400 + "GB"])
def test_what_is_no_size_is_said_shortly(text):
    with pytest.raises(ValueError, match="expected a size such as 8GB") as caught:
        parse_bytes(text)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * GIB),
        ("8 GiB", 8 * GIB),
        ("9999999GB", 9_999_999 * GIB),
        ("7.5g", int(7.5 * GIB)),
        ("512MB", GIB // 2),
        (" 1T ", 1024 * GIB),
    ],
)
def test_sizes_are_read_as_those_of_cards(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "8", "eight", "-8GB", "8 PB", "100MB", "8GBs", "nan", "1e3GB"])
def test_what_is_no_size_is_refused_with_the_remedy(text):
    with pytest.raises(ValueError, match="such as 8GB"):
        parse_bytes(text)


@pytest.mark.slow
def test_less_memory_means_a_leaner_way_until_none_is_left(pipeline):
    """Every budget is kept, and more memory never means a leaner way."""
    costs, budget = [], 10 * GIB
    order = {name: number for number, name in enumerate(OFFLOADS)}
    while True:
        try:
            plan = plan_memory(pipeline, budget_bytes=budget, has_device=True)
        except ValueError as error:
            assert "the leanest way" in str(error)
            break
        assert plan.need_bytes <= budget
        costs.append((order[plan.offload], not plan.batching.joint_guidance, -plan.batching.frames))
        budget = plan.need_bytes - 1
    assert len(costs) >= 4 and costs == sorted(costs)
    assert costs[0] == (0, False, -8)


@pytest.mark.slow
def test_without_a_device_nothing_is_put_away(pipeline):
    plan = plan_memory(pipeline, budget_bytes=10 * GIB, has_device=False)
    assert plan.offload == "none"
    assert plan.need_bytes > weight_bytes(pipeline.unet, pipeline.vae, pipeline.audio_encoder)
    with pytest.raises(ValueError, match="the leanest way"):
        plan_memory(pipeline, budget_bytes=1000, has_device=False)


@pytest.mark.slow
def test_windows_at_a_time_get_fewer_until_they_fit(pipeline):
    wanted = Batching(8, windows=8)
    most = plan_memory(pipeline, budget_bytes=10 * GIB, batching=wanted, has_device=False)
    assert most.batching.windows == 8
    fewer = plan_memory(pipeline, budget_bytes=most.need_bytes - 1, batching=wanted, has_device=False)
    assert fewer.batching.windows in (1, 2, 4)
    assert "window(s) at a time" in str(fewer)


@pytest.mark.parametrize("kind", ["pipeline", "refining_pipeline"])
@pytest.mark.parametrize("offload", OFFLOADS)
def test_every_way_of_offloading_gives_the_same_faces(offload, kind, request):
    """The CPU stands in for the device that weights come to."""
    pipeline = request.getfixturevalue(kind)
    wanted = faces(pipeline)
    place(pipeline, CPU, MemoryPlan(offload, Batching(2), 0))
    assert is_offloaded(pipeline) == (offload != "none")
    assert torch.allclose(faces(pipeline), wanted, atol=1e-5)


def test_sequential_offloading_really_takes_the_weights_away(pipeline):
    place(pipeline, CPU, MemoryPlan("sequential", Batching(2), 0))
    assert {parameter.device.type for parameter in pipeline.unet.parameters()} == {"meta"}
    faces(pipeline)
    assert {parameter.device.type for parameter in pipeline.unet.parameters()} == {"meta"}


def test_an_offloaded_pipeline_is_left_as_its_owner_made_it(pipeline):
    place(pipeline, CPU, MemoryPlan("sequential", Batching(2), 0))
    assert lay_out(pipeline, CPU) is None
    with pytest.raises(ValueError, match="already offloaded"):
        lay_out(pipeline, CPU, vram="8GB")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vram": "lots"}, "such as 8GB"),
        ({"vram": "256MB", "resolution": 1024}, "the leanest way"),
        ({"offload": "model", "device": "cpu"}, "runs on the CPU"),
        ({"offload": "all"}, "expected one of none, model"),
    ],
)
def test_a_job_refuses_what_cannot_be_kept(options, words, clips, tmp_path, pipeline):
    if options.pop("resolution", None):
        pipeline = make_pipeline(temporal=True, resolution=1024, window=16)
    with pytest.raises((ValueError, LatentSyncError), match=words):
        latentsync.dub(
            clips / "face.mp4",
            clips / "speech.wav",
            tmp_path / "out.mp4",
            model=pipeline,
            dtype="float32",
            **options,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_job_says_its_plan_and_keeps_its_frames(clips, tmp_path, pipeline, caplog):
    report = None
    results = []
    for name, options in {"plain": {}, "lean": {"vram": "1GB"}, "many": {"batch_size": 24}}.items():
        output = tmp_path / f"{name}.mp4"
        inputs = (clips / "face.mp4", clips / "speech.wav", output)
        with caplog.at_level("INFO", logger="latentsync"):
            report = latentsync.dub(*inputs, model=pipeline, dtype="float32", **options)
        results.append(output.read_bytes())
        told = "memory plan: all weights on the device" in caplog.text
        assert told == (name != "plain") == bool(report.settings["memory_plan"])
        caplog.clear()
    assert results[0] == results[1] == results[2]
