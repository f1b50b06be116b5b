"""Profiled jobs: the same frames, stages that add up, and files that say what the table says."""

import csv
import importlib.util
import json
import statistics
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import latentsync
from latentsync.dubbing import Profile, profile_dub
from latentsync.dubbing.profile import Run
from latentsync.dubbing.report import DubReport
from latentsync.errors import MediaError
from latentsync.media import VideoReader
from latentsync.profiling import Profiler, Record, SampledMemory

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
INNER = {"draw/align", "draw/encode", "draw/denoise", "draw/denoise/step", "draw/decode"}
STAGES = {"load", "hear", "read", "track", "wait", "draw", "compose", "write", "write/finish"} | INNER
PNG = b"\x89PNG\r\n\x1a\n"


def frames_of(path: Path) -> np.ndarray:
    with VideoReader(path) as reader:
        return np.stack([frame.image for frame in reader])


@pytest.fixture(scope="module")
def profiled(model, clips, tmp_path_factory) -> tuple[Profile, list]:
    """A job of 10 frames, measured twice with everything on, and the progress that it told."""
    folder, told = tmp_path_factory.mktemp("profiled"), []
    profile = profile_dub(
        clips / "face.mp4",
        clips / "speech.wav",
        folder / "out.mp4",
        model=model,
        runs=2,
        memory=True,
        with_stack=True,
        progress=told.append,
    )
    return profile, told


def profile_of(*runs: dict[tuple[str, ...], Record], totals: list[float], has_memory: bool = True) -> Profile:
    """A profile of invented runs, the first of which warmed up."""
    names = {key: "" for key in ("video", "audio", "output", "model")}
    numbers = {"frames": 10, "total_seconds": 5.0, "settings": {}, "versions": {}}
    others = dict.fromkeys(set(DubReport.__dataclass_fields__) - set(names) - set(numbers), 0)
    warm_up, *measured = [Run(total, records) for total, records in zip(totals, runs, strict=True)]
    return Profile(DubReport(**names, **numbers, **others), warm_up, tuple(measured), has_memory, Path())


def test_profiling_changes_no_frame(model, clips, tmp_path, profiled):
    latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "plain.mp4", model=model)
    plain = frames_of(tmp_path / "plain.mp4")
    assert np.array_equal(plain, frames_of(Path(profiled[0].report.output)))
    for threads in (True, False):
        meter = SampledMemory(lambda: 1)
        latentsync.dub(
            clips / "face.mp4",
            clips / "speech.wav",
            tmp_path / "watched.mp4",
            model=model,
            threads=threads,
            profiler=Profiler(detailed=True, memory=meter),
        )
        meter.close()
        assert np.array_equal(plain, frames_of(tmp_path / "watched.mp4"))


@pytest.mark.parametrize("threads", [True, False])
def test_stages_are_called_the_same_with_threads_and_without_and_add_up(model, clips, tmp_path, threads):
    profiler = Profiler(detailed=True)
    report = latentsync.dub(
        clips / "face.mp4",
        clips / "speech.wav",
        tmp_path / "o.mp4",
        model=model,
        threads=threads,
        inference_steps=3,
        profiler=profiler,
    )
    records = {"/".join(path): record for path, record in profiler.records.items()}
    assert set(records) == STAGES
    assert {records[name].visits for name in ("read", "track", "draw", "compose")} == {10}
    assert records["draw/align"].visits == 10  # a face is cut out once, for drawing and for composing
    windows = records["draw/denoise"].visits
    assert records["draw/encode"].visits == windows == 2  # 8 frames, then the last 2 with those before
    assert records["draw/denoise/step"].visits == 3 * windows
    for name, record in records.items():
        parts = [r.seconds for n, r in records.items() if n.rpartition("/")[0] == name]
        assert record.seconds == pytest.approx(record.own_seconds + sum(parts))
        assert record.own_seconds >= 0
    assert report.seconds_by_stage == {n: r.seconds for n, r in records.items() if "/" not in n}
    if not threads:
        assert sum(report.seconds_by_stage.values()) <= report.total_seconds


def test_a_job_that_is_not_profiled_reports_the_same_stages(model, clips, tmp_path):
    report = latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "o.mp4", model=model)
    assert set(report.seconds_by_stage) == {name for name in STAGES if "/" not in name}


def test_the_warm_up_is_kept_apart():
    draw = [{("draw",): Record(1, seconds, seconds, 0)} for seconds in (100.0, 2.0, 4.0)]
    profile = profile_of(*draw, totals=[101.0, 3.0, 5.0], has_memory=False)
    (stage,) = profile.stages
    assert (stage.seconds.mean, stage.seconds.std, stage.seconds.min, stage.seconds.max) == (3, 1, 2, 4)
    assert (profile.total_seconds.mean, profile.total_seconds.max) == (4, 5)
    told = json.loads(profile.to_json())
    assert told["warm_up"] == {
        "total_seconds": 101.0,
        "stages": {"draw": {"visits": 1, "seconds": 100.0, "own_seconds": 100.0, "peak_bytes": 0}},
    }
    assert stage.peak_memory_bytes is None and "peak" not in profile.table()


def test_the_table_shows_parts_below_their_stage_and_the_slowest_first():
    run = {
        ("read",): Record(10, 1.0, 1.0, 2**20),
        ("draw", "denoise", "step"): Record(20, 5.0, 5.0, 7 * 2**20),
        ("draw", "denoise"): Record(2, 6.0, 1.0, 8 * 2**20),
        ("draw", "decode"): Record(2, 2.0, 2.0, 3 * 2**20),
        ("draw",): Record(10, 8.5, 0.5, 9 * 2**20),
    }
    profile = profile_of(run, run, totals=[10.0, 10.0])
    lines = profile.table().splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["stage", "draw", "denoise", "step", "decode", "read"]
    assert lines[3].startswith("    step") and lines[3].split()[1:] == [
        *("20", "5.000", "+-", "0.000", "5.000", "50.0", "%", "7", "MiB")
    ]
    assert "10 frames, 1.00 frames/s" in lines[-1] and "without profiler 5.000 s" in lines[-1]


def test_json_and_csv_say_the_same(profiled):
    profile, _ = profiled
    told = json.loads((profile.folder / "profile.json").read_text())
    assert told["runs"] == 2 and told["frames"] == 10
    assert [stage["stage"] for stage in told["stages"]] == [stage.name for stage in profile.stages]
    assert {stage["stage"] for stage in told["stages"]} == STAGES
    runs = told["measured_runs"]
    for stage in told["stages"]:
        seconds = [run["stages"][stage["stage"]]["seconds"] for run in runs]
        assert stage["seconds"]["mean"] == pytest.approx(statistics.fmean(seconds))
        assert (stage["seconds"]["min"], stage["seconds"]["max"]) == (min(seconds), max(seconds))
        assert stage["peak_memory_bytes"]["min"] > 2**20
    assert set(told["warm_up"]["stages"]) == STAGES - {"write/finish"}  # it ends at its first frame
    with (profile.folder / "profile.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == [stage["stage"] for stage in told["stages"]]
    for row, stage in zip(rows, told["stages"], strict=True):
        for number in ("seconds", "own_seconds", "peak_memory_bytes"):
            for part in ("mean", "std", "min", "max"):
                assert float(row[f"{number}_{part}"]) == pytest.approx(stage[number][part])


def test_both_plots_are_pictures(profiled):
    from skimage.io import imread

    for name in ("time_by_stage.png", "memory_by_stage.png"):
        path = profiled[0].folder / name
        assert path.read_bytes()[:8] == PNG
        assert imread(path)[..., :3].std() > 5  # something is drawn


def test_the_trace_names_the_stages_and_holds_stacks(profiled):
    events = json.loads((profiled[0].folder / "trace.json").read_text())["traceEvents"]
    names = {event.get("name") for event in events}
    assert names >= STAGES | {"aten::conv2d"}
    assert any("pipeline.py" in str(name) and "denoise" in str(name) for name in names)


@pytest.mark.slow
def test_the_trace_of_a_long_job_ends_early(model, clips, tmp_path, monkeypatch):
    """With stacks a trace of some minutes would be too large for any viewer."""
    monkeypatch.setattr("latentsync.dubbing.measure.TRACED_FRAMES", 3)
    paths = (clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4")
    profile = profile_dub(*paths, model=model, runs=1, with_stack=True)
    events = json.loads((profile.folder / "trace.json").read_text())["traceEvents"]
    written = [event for event in events if event.get("name") == "write" and event.get("ph") == "X"]
    assert len(written) == 3
    assert len(frames_of(tmp_path / "out.mp4")) == 10


def test_a_random_seed_is_drawn_once_for_all_runs(model, clips, tmp_path, monkeypatch):
    seeds = []

    def dub(*paths, **options):
        seeds.append(options["seed"])
        return latentsync.dub(*paths, **options)

    monkeypatch.setattr("latentsync.dubbing.measure.dub", dub)
    profile_dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "o.mp4", model=model, runs=1, seed=-1)
    assert len(seeds) == 3 and len(set(seeds)) == 1 and seeds[0] >= 0


def test_progress_runs_once_over_all_runs(profiled):
    _, told = profiled
    shares = [progress.frames / progress.frames_total for progress in told]
    assert shares == sorted(shares) and shares[-1] == 1
    assert len(told) == 3 * 10  # two runs, the job; warm-up and trace tell nothing


def test_nothing_is_left_but_the_result_and_the_profile(model, clips, tmp_path):
    (tmp_path / "scratch").mkdir()
    profile = profile_dub(
        clips / "face.mp4",
        clips / "speech.wav",
        tmp_path / "out.mp4",
        model=model,
        runs=1,
        temp_dir=tmp_path / "scratch",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "out.mp4.profile", "scratch"]
    assert list((tmp_path / "scratch").iterdir()) == []
    found = sorted(path.name for path in profile.folder.iterdir())
    assert found == ["profile.csv", "profile.json", "time_by_stage.png"]
    assert not [thread for thread in threading.enumerate() if thread.name in ("memory", "run-ahead")]


def test_without_matplotlib_one_line_says_what_to_install_before_any_work(
    model, clips, tmp_path, monkeypatch
):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("latentsync.dubbing.measure.dub", None)
    with pytest.raises(ImportError, match=r"pip install 'latentsync\[profile\]'"):
        profile_dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4", model=model)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_before_any_work(clips, tmp_path, monkeypatch):
    monkeypatch.setattr("latentsync.dubbing.measure.dub", None)
    paths = (clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4")
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(MediaError, match="taken"):
        profile_dub(*paths, folder=tmp_path / "taken")
    with pytest.raises(MediaError, match="where"):
        profile_dub(*paths, folder=tmp_path / "no" / "where" / "profile")
    with pytest.raises(MediaError, match="where"):
        profile_dub(*paths, temp_dir=tmp_path / "no" / "where")
    with pytest.raises(ValueError, match="0 profiled runs"):
        profile_dub(*paths, runs=0)
    with pytest.raises(TypeError, match="inferense_steps"):
        profile_dub(*paths, inferense_steps=2)


@pytest.fixture
def front(monkeypatch, capsys):
    """`front(*flags) -> (exit code, stdout, stderr)` of scripts/inference_profiler_optimized.py."""
    path = ROOT / "scripts" / "inference_profiler_optimized.py"
    spec = importlib.util.spec_from_file_location("profiler_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["inference_profiler_optimized.py", *map(str, flags)])
        code = module.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    run.parse = module.parse
    return run


def test_the_profilers_script(front, model, clips, tmp_path):
    paths = ("--video_path", clips / "face.mp4", "--audio_path", clips / "speech.wav")
    paths += ("--video_out_path", tmp_path / "out.mp4", "--inference_ckpt_path", model)
    code, out, err = front(*paths, "--profile", "--num_profile_runs", 1, "--profile_memory", "--seed", "-1")
    assert code == 0, err
    assert "denoise" in out and "MiB" in out and f"{tmp_path}/out.mp4.profile" in out
    names = {path.name for path in (tmp_path / "out.mp4.profile").iterdir()}
    assert names == {"profile.json", "profile.csv", "time_by_stage.png", "memory_by_stage.png"}
    assert len(frames_of(tmp_path / "out.mp4")) == 10
    code, _, err = front(*paths, "--inference_steps", 0)
    assert code == 2 and err.startswith("error:") and len(err.splitlines()) == 1


def test_the_profilers_script_dubs_without_a_profile_too(front, model, clips, tmp_path):
    paths = ("--video_path", clips / "face.mp4", "--audio_path", clips / "speech.wav")
    code, out, _ = front(
        *paths,
        "--video_out_path",
        tmp_path / "out.mp4",
        "--inference_ckpt_path",
        model,
        "--num_profile_runs",
        3,
    )
    assert code == 0 and "10 frames" in out
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_the_profilers_flags(front, monkeypatch):
    """Those of VidLab7's scripts and README."""
    flags = "--unet_config_path u --inference_ckpt_path c --video_path v --audio_path a --video_out_path o"
    flags += (
        " --inference_steps 20 --guidance_scale 1.0 --seed -1 --temp_dir temp --enable_deepcache --profile"
    )
    flags += " --num_profile_runs 5 --profile_memory --with_stack --batch_size 64"
    monkeypatch.setattr(sys, "argv", ["profiler", *flags.split()])
    assert vars(front.parse()) == {
        "unet_config_path": "u",
        "inference_ckpt_path": "c",
        "video_path": "v",
        "audio_path": "a",
        "video_out_path": "o",
        "inference_steps": 20,
        "guidance_scale": 1.0,
        "seed": -1,
        "temp_dir": "temp",
        "enable_deepcache": True,
        "profile": True,
        "num_profile_runs": 5,
        "profile_memory": True,
        "with_stack": True,
        "batch_size": 64,
    }
