"""Weights go into a folder and come back as they were."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_released import save_released

from latentsync.diffusion.convert import to_folder, to_upstream
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.dubbing.model import DEFAULT_MODEL, load_model
from latentsync.errors import CheckpointError

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_checkpoint.py"


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    return save_released(tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="module")
def folder(released, tmp_path_factory) -> Path:
    return to_folder(
        released / "latentsync_unet.pt",
        tmp_path_factory.mktemp("out") / "model",
        config=released / "unet.yaml",
    )


def test_a_round_trip_is_bit_exact(released, folder, tmp_path):
    before = torch.load(released / "latentsync_unet.pt", weights_only=True)
    after = torch.load(to_upstream(folder, tmp_path / "back.pt"), weights_only=True)
    assert after["global_step"] == before["global_step"]
    assert after["state_dict"].keys() == before["state_dict"].keys()
    assert all(torch.equal(after["state_dict"][k], v) for k, v in before["state_dict"].items())


def test_the_folder_draws_what_the_files_draw(released, folder):
    faces, tokens = torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 20, 384)
    drawn = []
    for pipeline in (
        LipsyncPipeline.from_original(released / "latentsync_unet.pt", config=released / "unet.yaml"),
        load_model(folder, torch.device("cpu"), torch.float32)[0],
    ):
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        drawn.append(pipeline(faces, tokens, num_inference_steps=2, generator=generator).faces)
        assert (pipeline.resolution, pipeline.overlap, pipeline.window) == (64, 0, 16)
    assert torch.equal(*drawn)


def test_half_precision_halves_the_folder(released, tmp_path):
    half = to_folder(
        released / "latentsync_unet.pt", tmp_path / "half", config=released / "unet.yaml", dtype=torch.float16
    )
    network = LipsyncPipeline.from_pretrained(half, dtype=torch.float16).unet
    stored = torch.load(released / "latentsync_unet.pt", weights_only=True)["state_dict"]
    assert torch.equal(network.conv_in.weight, stored["conv_in.weight"].half())


def test_an_existing_target_stays_as_it_was(released, folder, tmp_path):
    there = tmp_path / "there.pt"
    there.write_text("mine")
    for convert in (
        lambda: to_upstream(folder, there),
        lambda: to_folder(released / "latentsync_unet.pt", there, config=released / "unet.yaml"),
    ):
        with pytest.raises(FileExistsError, match=r"there\.pt"):
            convert()
    assert there.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["there.pt"]


def test_a_failed_conversion_leaves_nothing(released, tmp_path):
    with pytest.raises(CheckpointError, match="resolution"):
        to_folder(released / "latentsync_unet.pt", tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_the_embedded_model_is_not_for_upstream(tmp_path):
    with pytest.raises(CheckpointError, match="upstream's code does not know"):
        to_upstream(DEFAULT_MODEL, tmp_path / "u.pt")


def test_the_script_converts_and_refuses(released, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("convert_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    flags = [
        released / "latentsync_unet.pt",
        tmp_path / "model",
        "--unet_config_path",
        released / "unet.yaml",
    ]
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", *map(str, flags)])
    assert script.main() == 0
    assert capsys.readouterr().out.strip().endswith("model")
    assert script.main() == 2
    refused = capsys.readouterr().err
    assert refused.startswith("error:") and "there already" in refused


def test_half_precision_comes_back_as_half_precision(released, tmp_path):
    half = to_folder(
        released / "latentsync_unet.pt", tmp_path / "half", config=released / "unet.yaml", dtype=torch.float16
    )
    back = torch.load(to_upstream(half, tmp_path / "back.pt"), weights_only=True)["state_dict"]
    stored = torch.load(released / "latentsync_unet.pt", weights_only=True)["state_dict"]
    assert all(
        back[key].dtype == torch.float16 and torch.equal(back[key], stored[key].half()) for key in stored
    )


def test_a_folder_that_lacks_a_tensor_is_not_exported(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    path = broken / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    del state["conv_norm_out.weight"]
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"lacks 1 tensor.*conv_norm_out\.weight"):
        to_upstream(broken, tmp_path / "u.pt")
    assert not (tmp_path / "u.pt").exists()


@pytest.mark.parametrize("step", [torch.tensor(3), [1], "abc", float("nan"), True])
def test_a_strange_count_of_steps_is_dropped(released, tmp_path, step):
    state = torch.load(released / "latentsync_unet.pt", weights_only=True)["state_dict"]
    shutil.copytree(released, tmp_path / "r")
    torch.save({"global_step": step, "state_dict": state}, tmp_path / "r" / "latentsync_unet.pt")
    made = to_folder(tmp_path / "r" / "latentsync_unet.pt", tmp_path / "m", config=released / "unet.yaml")
    assert torch.load(to_upstream(made, tmp_path / "b.pt"), weights_only=True)["global_step"] == 0


def test_a_dangling_link_as_target_is_refused_first(released, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="link"):
        to_folder(released / "latentsync_unet.pt", tmp_path / "link", config=released / "unet.yaml")
