"""Released files through the command lines that people already have."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_pipeline import make_pipeline
from tiny_released import save_released

import latentsync
from latentsync.diffusion.presets import PRESETS
from latentsync.dubbing import DubSettings
from latentsync.errors import CheckpointError, LatentSyncError
from latentsync.media import VideoReader

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    return save_released(tmp_path_factory.mktemp("released"))


def upstream_flags(released: Path, clips: Path, output: Path) -> list[str]:
    """What upstream's inference.sh passes."""
    return [
        *("--unet_config_path", str(released / "unet.yaml")),
        *("--inference_ckpt_path", str(released / "latentsync_unet.pt")),
        *("--inference_steps", "2", "--guidance_scale", "1.5", "--enable_deepcache"),
        *("--video_path", str(clips / "face.mp4"), "--audio_path", str(clips / "speech.wav")),
        *("--video_out_path", str(output), "--temp_dir", str(output.parent / "temp"), "--seed", "1247"),
    ]


@pytest.mark.parametrize(
    "script", ["inference.py", pytest.param("inference_profiler_optimized.py", marks=pytest.mark.slow)]
)
def test_upstreams_command_line_runs_unchanged(released, clips, tmp_path, script):
    output = tmp_path / "out.mp4"
    command = [sys.executable, SCRIPTS / script, *upstream_flags(released, clips, output)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with VideoReader(output) as reader, VideoReader(clips / "face.mp4") as source:
        assert (reader.info.width, reader.info.height) == (source.info.width, source.info.height)
    assert not list((tmp_path / "temp").iterdir())


def test_the_report_says_which_weights_at_which_size(released, clips, tmp_path):
    report = latentsync.dub(
        clips / "face.mp4",
        clips / "speech.wav",
        tmp_path / "out.mp4",
        model=released / "latentsync_unet.pt",
        unet_config=released / "unet.yaml",
        inference_steps=2,
        enable_deepcache=True,
        cache_interval=2,
        batch_size=4,
        seed=-1,
    )
    assert report.model == "latentsync_unet.pt at 64 px"
    assert report.settings["enable_deepcache"] is True
    assert report.settings["cache_interval"] == 2 and report.settings["cache_branch_id"] == 0
    assert report.seed >= 0
    json.dumps(report.settings)


@pytest.mark.slow
def test_batch_size_changes_no_frame(released, clips, tmp_path):
    images = []
    for size in (None, 3):
        output = tmp_path / f"{size}.mp4"
        options = {"model": released, "unet_config": released / "unet.yaml", "dtype": "float32"}
        options |= {"batch_size": size, "inference_steps": 1}
        latentsync.dub(clips / "face.mp4", clips / "speech.wav", output, **options)
        with VideoReader(output) as reader:
            images.append([frame.image for frame in reader])
    assert all((a == b).all() for a, b in zip(*images, strict=True))


@pytest.mark.parametrize("preset", ["balanced", "fast"])
def test_presets_run_on_a_job(released, clips, tmp_path, preset):
    options = {"model": released, "unet_config": released / "unet.yaml", "preset": preset}
    report = latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4", **options)
    assert report.settings["inference_steps"] < 20


def test_what_belongs_to_released_files_is_refused_elsewhere(clips, tmp_path):
    with pytest.raises(CheckpointError, match="config: only for released files"):
        latentsync.dub(
            clips / "face.mp4",
            clips / "speech.wav",
            tmp_path / "out.mp4",
            unet_config="configs/unet/stage2.yaml",
        )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"preset": "best"}, "preset 'best'"),
        ({"batch_size": 0}, "batch size 0"),
        ({"cache_interval": 0}, "cache interval 0"),
        ({"cache_branch_id": -1, "enable_deepcache": True}, "cache branch id -1"),
        ({"cache_interval": 3}, "--cache_interval 3 does nothing without a cache: pass --enable_deepcache"),
        ({"cache_branch_id": 0, "preset": "reference"}, "--cache_branch_id 0 .* --preset balanced or fast"),
        ({"guidance_window": (0.8, 0.2)}, "guidance window"),
        ({"overlap": 16}, "overlap 16"),
        ({"inference_steps": 1001}, r"inference steps must be in \[1, 1000\], got 1001"),
        ({"attention": "magic"}, "attention 'magic'"),
    ],
)
def test_wrong_switches_are_named(clips, tmp_path, wrong, words):
    with pytest.raises(ValueError, match=words):
        latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4", **wrong)


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({}, (1, 0)),
        ({"preset": "reference"}, (1, 0)),
        ({"preset": "balanced"}, (PRESETS["balanced"].cache_interval, 0)),
        ({"preset": "balanced", "cache_interval": 4, "cache_branch_id": 1}, (4, 1)),
        ({"preset": "balanced", "enable_deepcache": True}, (PRESETS["balanced"].cache_interval, 0)),
        ({"preset": "reference", "enable_deepcache": True}, (3, 0)),
        ({"enable_deepcache": True, "cache_branch_id": 2, "inference_steps": 20}, (3, 2)),
        ({"enable_deepcache": True, "cache_interval": 2}, (2, 0)),
        ({"enable_deepcache": True, "inference_steps": 3}, (2, 0)),  # else only the first step were whole
        ({"enable_deepcache": True, "inference_steps": 5}, (3, 0)),
        ({"preset": "fast", "inference_steps": 2}, (1, 0)),
    ],
)
def test_the_cache_is_what_was_said_else_the_presets_else_upstreams(told, wanted):
    pipeline = make_pipeline(temporal=False, resolution=32)
    sampling = DubSettings(**told).sampling(pipeline)
    assert (sampling.cache_interval, sampling.cache_branch_id) == wanted


@pytest.mark.parametrize(("interval", "steps", "warnings"), [(1000, 20, 1), (3, 3, 1), (2, 3, 0), (1, 1, 0)])
def test_a_cache_that_only_the_first_step_fills_is_warned_of(caplog, interval, steps, warnings):
    settings = DubSettings(enable_deepcache=True, cache_interval=interval, inference_steps=steps)
    assert settings.sampling(make_pipeline(temporal=False, resolution=32)).cache_interval == interval
    told = [record.getMessage() for record in caplog.records if "cache interval" in record.getMessage()]
    assert len(told) == warnings and all(f"choose at most {(steps + 1) // 2}" in line for line in told)


@pytest.mark.parametrize(("batch_size", "wanted"), [(1, (1, 1)), (17, (8, 2)), (10**20, (8, 5))])
def test_no_more_windows_are_drawn_at_a_time_than_a_job_has(batch_size, wanted):
    batching = DubSettings(batch_size=batch_size).batching(window=8, windows=5)
    assert (batching.frames, batching.windows) == wanted


def test_xformers_that_is_missing_says_how_to_install_it(clips, tmp_path, monkeypatch):
    monkeypatch.setattr("latentsync.dubbing.settings.is_xformers_available", lambda: False)
    with pytest.raises(ImportError, match="pip install xformers"):
        latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4", attention="xformers")


def test_tiles_and_compilation_are_asked_of_the_networks(released, clips, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("diffusers.AutoencoderKL.enable_tiling", lambda self: asked.append("tiles"))
    monkeypatch.setattr(
        "latentsync.diffusion.unet.UNet3DConditionModel.compile", lambda self: asked.append("compiled")
    )
    options = {"model": released, "unet_config": released / "unet.yaml", "inference_steps": 1}
    options |= {"vae_tiling": True, "compile": True}
    latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4", **options)
    assert asked == ["tiles", "compiled"]


def test_weights_that_are_no_numbers_end_the_job_in_words(released, clips, tmp_path):
    folder = shutil.copytree(released, tmp_path / "broken")
    path = folder / "latentsync_unet.pt"
    held = torch.load(path, weights_only=True)
    held["state_dict"]["conv_in.weight"][0] = float("nan")
    torch.save(held, path)
    options = {"model": folder, "unet_config": released / "unet.yaml", "inference_steps": 1}
    with pytest.raises(LatentSyncError, match="drew no picture"):
        latentsync.dub(clips / "face.mp4", clips / "speech.wav", tmp_path / "out.mp4", **options)
    assert not (tmp_path / "out.mp4").exists()
