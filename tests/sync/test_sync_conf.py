"""eval/sync_conf.py: the command line over one video, a folder, bad ones among them; judges by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from lit_clips import write_lit

from latentsync.errors import CheckpointError
from latentsync.sync import StableSyncNet, SyncNet
from latentsync.sync import open_judge as judges
from latentsync.sync.open_judge import PLACES, default_judge, open_judge, open_vae
from latentsync.sync.stable_judge import StableSyncNetJudge
from latentsync.sync.syncnet_judge import SyncNetJudge

ROOT = Path(__file__).parents[2]
WIDTHS = {"block_out_channels": [32, 64]}
MODEL = {
    "audio_encoder": {"in_channels": 1, "downsample_factors": [[10, 4], [8, 7]], **WIDTHS},
    "visual_encoder": {"in_channels": 24, "downsample_factors": [[4, 8], [4, 4]], **WIDTHS},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The folder of a StableSyncNet of random weights."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        StableSyncNet.from_upstream(MODEL, num_frames=8, resolution=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos with spaces")
    write_lit(folder / "a clip.mp4", frames=60)
    write_lit(folder / "b.MKV", frames=60, seed=1)
    write_lit(folder / "short.mp4", frames=20)
    (folder / "notes.txt").write_text("no video")
    return folder


def call(*flags):
    """The command as a stranger calls it, from another folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "eval" / "sync_conf.py"), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT.parent)


@pytest.mark.slow
def test_json_lines_are_all_that_stdout_gets_and_a_bad_clip_stops_nothing(videos, weights):
    flags = ("--judge", "stable_syncnet", "--initial_model", weights, "--json")
    done = call("--videos_dir", videos, *flags)
    first, second, short = (json.loads(line) for line in done.stdout.splitlines())
    for line, name in ((first, "a clip.mp4"), (second, "b.MKV")):
        assert line.keys() == {"video", "judge", "offset_frames", "confidence"}
        assert line["video"] == str(videos / name) and line["judge"] == "stable_syncnet"
        assert abs(line["offset_frames"]) <= 15 and line["confidence"] >= 0
    assert short["offset_frames"] is None and "too short" in short["invalid"]
    assert done.returncode == 2
    assert "error: 1 of 3 videos could not be judged, short.mp4 among them" in done.stderr
    again = call("--video_path", videos / "a clip.mp4", *flags)
    assert again.returncode == 0 and json.loads(again.stdout) == first


@pytest.mark.slow
def test_rows_and_a_summary_are_shown_else(videos, weights):
    done = call(
        *("--video_path", videos / "a clip.mp4", "--judge", "embedded", "--initial_model", weights),
        *("--shifts=-2,4",),
    )
    assert done.returncode == 0, done.stderr
    row, summary = done.stdout.splitlines()
    assert row.startswith("a clip.mp4") and "-2 ->" in row and "+4 ->" in row
    assert "of 2 shifts found within 1 frame" in summary and "embedded" in summary
    done = call("--video_path", videos / "a clip.mp4", "--judge", "embedded", "--initial_model", weights)
    assert "1 of 1 videos judged by embedded: mean confidence" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "pass either --video_path or --videos_dir"),
        (["--video_path", "a.mp4", "--videos_dir", "b"], "pass either"),
        (["--video_path", "a.mp4", "--initial_model", "x"], "needs --judge"),
        (["--video_path", "a.mp4", "--shifts", "1,two"], "--shifts"),
        (["--video_path", "a.mp4", "--shifts", "16"], "--shifts"),
        (["--video_path", "a.mp4", "--judge", "nobody"], "invalid choice"),
        (["--videos_dir", str(ROOT / "configs")], "no video in"),
        (["--video_path", "a.mp4", "--judge", "syncnet", "--initial_model", "no.model"], "no.model"),
    ],
)
def test_a_wrong_call_is_one_line(flags, words):
    done = call(*flags)
    assert done.returncode == 2 and done.stdout == ""
    assert words in done.stderr.splitlines()[-1]


def test_judges_open_by_name(weights, tmp_path):
    assert isinstance(open_judge("stable_syncnet", weights), StableSyncNetJudge)
    assert open_judge("embedded", weights).name == "embedded"
    torch.save(SyncNet().state_dict(), tmp_path / "syncnet_v2.model")
    judge = open_judge("syncnet", tmp_path / "syncnet_v2.model")
    assert isinstance(judge, SyncNetJudge) and judge.name == "syncnet"
    with pytest.raises(ValueError, match="unknown judge 'wav2lip'; expected syncnet"):
        open_judge("wav2lip")
    with pytest.raises(FileNotFoundError, match="judge embedded has no weights at"):
        open_judge("embedded", tmp_path / "absent")
    with pytest.raises(CheckpointError, match="hold the original SyncNet; expected a StableSyncNet"):
        open_judge("stable_syncnet", tmp_path / "syncnet_v2.model")


def test_published_weights_come_before_the_embedded_ones(tmp_path, monkeypatch):
    places = {name: tmp_path / name for name in PLACES}
    monkeypatch.setattr(judges, "PLACES", places)
    assert default_judge() == "embedded"
    places["stable_syncnet"].touch()
    assert default_judge() == "stable_syncnet"
    places["syncnet"].touch()
    assert default_judge() == "syncnet"


def test_a_judge_of_latents_asks_for_its_autoencoder(tmp_path):
    torch.manual_seed(0)
    vision = {"in_channels": 32, "downsample_factors": [4, 4], **WIDTHS}
    config = {"num_frames": 8, "resolution": 32, "lower_half": False, "latent_space": True}
    latents = StableSyncNet.from_upstream({**MODEL, "visual_encoder": vision}, **config)
    latents.save_pretrained(tmp_path / "latents")
    with pytest.raises(CheckpointError, match=r"compares latents: name its autoencoder too \(--vae\)"):
        open_judge("stable_syncnet", tmp_path / "latents")
    AutoencoderKL(latent_channels=4, block_out_channels=(32,)).save_pretrained(tmp_path / "vae")
    judge = open_judge("stable_syncnet", tmp_path / "latents", vae=tmp_path / "vae")
    assert judge.vae is not None and not judge.vae.training
    with pytest.raises(CheckpointError, match=r"autoencoder .* cannot be loaded"):
        open_vae(tmp_path)
