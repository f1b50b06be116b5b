"""The page of the doctor: what is there, what is wrong, and an exit code that says so."""

import subprocess
import sys

import pytest
import torch
from tiny_released import save_released, save_unet, unet_state

from latentsync import doctor


def lines(folder, **options):
    text, is_good = doctor.page(folder, **options)
    return {line[2:].split()[0]: line for line in text.splitlines() if line[:2] in ("  ", "! ")}, is_good


def test_the_page_names_packages_devices_and_weights(tmp_path):
    save_released(tmp_path)
    (tmp_path / "unet.yaml").unlink()
    found, is_good = lines(tmp_path)
    assert is_good
    assert torch.__version__ in found["torch"]
    assert "stage 2" in found["latentsync_unet.pt"] and "no published file" in found["latentsync_unet.pt"]
    assert "width 384" in found["whisper/tiny.pt"]
    assert "not there" in found["stable_syncnet.pt"]
    assert "threads" in found["CPU"]


def test_a_wrong_file_is_marked_and_named(tmp_path):
    save_unet(tmp_path / "stable_syncnet.pt", unet_state())
    (tmp_path / "latentsync_unet.pt").write_bytes(b"<html>" + b" " * 200)
    found, is_good = lines(tmp_path)
    assert not is_good
    assert found["latentsync_unet.pt"].startswith("!") and "web page" in found["latentsync_unet.pt"]
    assert found["stable_syncnet.pt"].startswith("!") and "LatentSync U-Net" in found["stable_syncnet.pt"]


def test_a_file_of_strange_shapes_is_a_line_of_the_page(tmp_path):
    save_unet(tmp_path / "latentsync_unet.pt", {**unet_state(), "conv_in.weight": torch.zeros(3)})
    found, is_good = lines(tmp_path)
    assert not is_good and "shapes" in found["latentsync_unet.pt"]


def test_a_changed_published_file_is_found_by_its_hash(tmp_path):
    folder = tmp_path / "LatentSync-1.6"
    save_unet(folder / "latentsync_unet.pt", unet_state())
    found, is_good = lines(tmp_path)
    assert is_good and "LatentSync 1.6" in found["LatentSync-1.6/latentsync_unet.pt"]
    found, is_good = lines(tmp_path, verify=True)
    assert not is_good and "HASH DIFFERS" in found["LatentSync-1.6/latentsync_unet.pt"]


@pytest.mark.slow
def test_the_command_line(tmp_path):
    command = [sys.executable, "-m", "latentsync.doctor", "--checkpoints"]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0 and "Devices" in done.stdout, done.stderr
    refused = subprocess.run([*command, tmp_path / "none"], capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stderr.startswith("error:")
