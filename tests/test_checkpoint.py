"""The door for weights lets tensors in and nothing else."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from latentsync.checkpoint import read_weights
from latentsync.errors import CheckpointError


class Evil:
    """Runs a command when it is unpickled by a loader that trusts its file."""

    def __reduce__(self):
        return os.system, ("touch was_here",)


def write(path, content: bytes):
    path.write_bytes(content)
    return path


def saved(path, held):
    torch.save(held, path)
    return path


def old_format(path, held):
    torch.save(held, path, _use_new_zipfile_serialization=False)
    return path


def half(path):
    saved(path, {"conv_in.weight": torch.zeros(64, 64)})
    return write(path, path.read_bytes()[: path.stat().st_size // 2])


def half_safetensors(path):
    save_file({"conv_in.weight": torch.zeros(64, 64)}, path)
    return write(path, path.read_bytes()[: path.stat().st_size // 2])


def folder(path):
    path.mkdir()
    return path


WRONG = {
    "empty": (lambda p: write(p, b""), ["0 bytes", "download"]),
    "a few bytes": (lambda p: write(p, b"abc"), ["3 bytes"]),
    "HTML error page": (
        lambda p: write(p, b"<!DOCTYPE html><html>404" + b" " * 100),
        ["web page", "download"],
    ),
    "LFS pointer": (
        lambda p: write(p, b"version https://git-lfs.github.com/spec/v1\n" + b"x" * 99),
        ["git lfs pull"],
    ),
    "JSON error": (lambda p: write(p, b'{"error": "Access denied"}' + b" " * 100), ["JSON"]),
    "zeros": (lambda p: write(p, b"\0" * 4096), ["zeros", "interrupted"]),
    "a picture": (lambda p: write(p, b"\x89PNG\r\n\x1a\n" + b"x" * 200), ["89 50 4e 47"]),
    "half a .pt": (half, ["cut short", "download"]),
    "half a safetensors": (half_safetensors, ["safetensors", "cut short"]),
    "code in a .pt": (lambda p: saved(p, {"a": Evil()}), ["more than tensors", "run code"]),
    "code in an old .pt": (lambda p: old_format(p, {"a": Evil()}), ["more than tensors"]),
    "a bare pickle": (lambda p: write(p, pickle.dumps(Evil()) + b" " * 99), ["more than tensors"]),
    "a pickle of brackets": (lambda p: write(p, b"\x80\x02" + b"(" * 2000 + b"."), ["weights file.pt"]),
    "no state dict": (lambda p: saved(p, {"lr": 0.1, "note": "x" * 100}), ["no tensors", "lr"]),
    "a state dict in a state dict": (
        lambda p: saved(p, {"state_dict": {"state_dict": {"a": torch.zeros(99)}}}),
        ["a level too deep, in 'state_dict'", "expected a state dict"],
    ),
    "a state dict of each network": (
        lambda p: saved(p, {"unet": {"a": torch.zeros(99)}, "vae": {"b": torch.zeros(99)}}),
        ["a level too deep", "'unet', 'vae'", "a file of its own"],
    ),
    "a list": (lambda p: saved(p, [torch.zeros(9)]), ["list", "state dict"]),
    "a folder": (folder, ["folder"]),
    "something else in the state dict": (
        lambda p: saved(p, {"state_dict": {"a": torch.zeros(2), "b": 5}}),
        ["'b'", "no tensor"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_weights_is_refused_in_words(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    make, words = WRONG[case]
    path = make(tmp_path / "weights file.pt")
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert all(word in message for word in [*words, "weights file.pt"]), message
    assert not (tmp_path / "was_here").exists()


def test_a_missing_file_says_where_to_look(tmp_path):
    with pytest.raises(FileNotFoundError, match="README"):
        read_weights(tmp_path / "none.pt")


@pytest.mark.parametrize("save", [saved, old_format])
def test_tensors_and_what_lies_beside_them(tmp_path, save):
    path = save(tmp_path / "a.pt", {"global_step": 7, "state_dict": {"module.x": torch.arange(3.0)}})
    weights = read_weights(path)
    assert weights.tensors["x"].tolist() == [0, 1, 2]
    assert weights.extra == {"global_step": 7}
    assert weights.identity.family == "unknown"
    assert "x" in str(weights.identity)


def test_safetensors_read_alike(tmp_path):
    save_file({"x": torch.arange(3.0)}, tmp_path / "a.safetensors")
    assert read_weights(tmp_path / "a.safetensors").tensors["x"].tolist() == [0, 1, 2]
