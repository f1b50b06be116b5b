"""A training run says before its first step which weights it lacks."""

from dataclasses import astuple
from pathlib import Path

import pytest
import torch
from tiny_auxiliary import SYNCNET, save_auxiliary

from latentsync.checkpoint import read_weights
from latentsync.diffusion.auxiliary import AuxiliaryFiles, find_auxiliary, require_weights
from latentsync.errors import CheckpointError
from latentsync.quality.lpips import Lpips
from latentsync.quality.videomae import open_videomae
from latentsync.sync import StableSyncNet

STAGE_2 = {"perceptual_loss_weight": 0.1, "trepa_loss_weight": 10.0, "sync_loss_weight": 0.05}


def test_losses_of_weight_0_need_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_auxiliary() == AuxiliaryFiles(None, None, None, None)


def test_all_that_is_missing_is_named_at_once_with_its_source_and_the_way_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        find_auxiliary(**STAGE_2)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    for line, words in zip(
        lines,
        [
            ("run.perceptual_loss_weight is 0.1", "vgg16-397923af.pth", "download.pytorch.org"),
            ("run.trepa_loss_weight is 10,", "vit_g_hybrid_pt_1200e_ssv2_ft.pth", "OpenGVLab/VideoMAE2"),
            ("run.sync_loss_weight is 0.05", "stable_syncnet.pt", "ByteDance/LatentSync"),
        ],
        strict=True,
    ):
        assert all(word in line for word in words), line
        assert line.endswith(f"or set {line.split()[0]}=0")


def test_files_at_their_default_places_are_found_and_open(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_auxiliary(Path("checkpoints"))
    found = find_auxiliary(**STAGE_2)
    assert found == AuxiliaryFiles()
    ours = Lpips.from_files(found.vgg16, "checkpoints/auxiliary/vgg.pth")
    assert not ours.training
    assert open_videomae(found.videomae).image_size == 32
    syncnet = StableSyncNet.from_upstream(
        SYNCNET, read_weights(found.syncnet, expect="stable_syncnet").tensors
    )
    vision, audio = syncnet(torch.zeros(1, 48, 32, 64), torch.zeros(1, 1, 80, 52))
    assert vision.shape == audio.shape == (1, 128)


def test_the_1x1_layers_are_looked_for_only_when_a_place_is_given(tmp_path):
    save_auxiliary(tmp_path)
    vgg16, lpips = tmp_path / "auxiliary" / "vgg16-397923af.pth", tmp_path / "auxiliary" / "vgg.pth"
    assert find_auxiliary(perceptual_loss_weight=1, places=AuxiliaryFiles(vgg16)).lpips is None
    assert find_auxiliary(perceptual_loss_weight=1, places=AuxiliaryFiles(vgg16, lpips)).lpips == lpips
    with pytest.raises(CheckpointError, match=r"none\.pth; get it from .*PerceptualSimilarity"):
        find_auxiliary(perceptual_loss_weight=1, places=AuxiliaryFiles(vgg16, tmp_path / "none.pth"))


def test_only_the_losses_in_use_are_looked_for(tmp_path):
    save_auxiliary(tmp_path)
    places = AuxiliaryFiles(vgg16=None, videomae=None, syncnet=tmp_path / "stable_syncnet.pt")
    found = find_auxiliary(sync_loss_weight=0.05, places=places)
    assert astuple(found) == (None, None, None, tmp_path / "stable_syncnet.pt")


def test_a_path_that_is_not_set_is_said():
    with pytest.raises(CheckpointError, match=r"^run\.x is 2, which needs weights for TREPA, but no path"):
        require_weights(None, loss="TREPA", weight_key="run.x", weight=2.0, source="there")
