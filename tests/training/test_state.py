"""Checkpoints: whole or not there, refused when they do not fit, and the last few of them."""

import json
import resource
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from toy_run import make_network, run

from latentsync.errors import CheckpointError, ConfigError, TrainingError
from latentsync.training import LoopConfig, fit, newest_checkpoint, state
from latentsync.training.state import checkpoints


def toy(folder, steps=2, **changes):
    return run(folder, steps, workers=0, save_every=1, **changes)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


@pytest.mark.parametrize(("keep_last", "kept"), [(1, [12]), (3, [10, 11, 12]), (0, list(range(1, 13)))])
def test_the_last_checkpoints_stay(tmp_path, keep_last, kept):
    toy(tmp_path, 12, keep_last=keep_last)
    assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in kept]
    assert names(tmp_path) == sorted(f"checkpoint-{step}" for step in kept)


def test_a_checkpoint_has_raw_and_averaged_weights_under_their_names(tmp_path):
    network = toy(tmp_path, 3)
    folder = newest_checkpoint(tmp_path)
    raw, average = load_file(folder / "model.safetensors"), load_file(folder / "ema.safetensors")
    assert raw.keys() == network.state_dict().keys()
    assert average.keys() == {name for name, p in network.named_parameters() if p.requires_grad}
    assert all(torch.equal(average[name], network.get_parameter(name)) for name in average)
    assert not torch.equal(average["0.weight"], raw["0.weight"])
    assert torch.equal(raw["0.bias"], make_network()[0].bias)


def test_without_an_average_the_trained_weights_come_back(tmp_path):
    network = toy(tmp_path, 2, ema_decay=0.0)
    assert not (newest_checkpoint(tmp_path) / "ema.safetensors").exists()
    raw = load_file(newest_checkpoint(tmp_path) / "model.safetensors")
    assert all(torch.equal(raw[name], value) for name, value in network.state_dict().items())


class FullDisk:
    """Writes of a checkpoint's `nth` file fail, as they do on a disk that is full."""

    def __init__(self, monkeypatch, function, error):
        original = getattr(state, function)

        def write(*arguments, **options):
            path = str(arguments[1])
            if "checkpoint-2" in path:
                Path(path).write_bytes(b"half a fi")
                raise error
            return original(*arguments, **options)

        monkeypatch.setattr(state, function, write)


@pytest.mark.slow
@pytest.mark.parametrize("function", ["save_model", "save_file"])
def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tmp_path, monkeypatch, function):
    FullDisk(monkeypatch, function, OSError(28, "No space left on device"))
    with pytest.raises(TrainingError, match=r"checkpoint-2.*No space left on device.*make room"):
        toy(tmp_path, 3)
    assert names(tmp_path) == ["checkpoint-1"]
    monkeypatch.undo()
    whole = toy(tmp_path.with_name("whole"), 3)
    resumed = toy(tmp_path, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_torchs_own_error_of_a_file_that_may_not_grow_is_told_alike(tmp_path):
    """Not faked: the system refuses files of more than 2 kB, optimizer.pt first."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def step_losses(network, batch, step):
        if step == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        return {"loss": network(batch).square().mean()}

    config = LoopConfig(steps=2, batch_size=3, save_every=1, log_every=5)
    try:
        with pytest.raises(TrainingError, match=r"checkpoint-2.*cannot be written"):
            batches = lambda start: iter([torch.ones(3, 4)] * 2)  # noqa: E731
            fit(make_network(), batches, step_losses, config, tmp_path, Accelerator(cpu=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["checkpoint-1"]


def test_what_a_kill_left_half_written_is_no_checkpoint_and_goes(tmp_path):
    (tmp_path / "checkpoint-3.part").mkdir()
    (tmp_path / "checkpoint-3.part" / "model.safetensors").write_bytes(b"half")
    toy(tmp_path, 3)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.pt", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "zeros"])
def test_a_damaged_newest_checkpoint_is_named(tmp_path, name, damage):
    toy(tmp_path, 2)
    file = tmp_path / "checkpoint-2" / name
    size = file.stat().st_size
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: size // 2] if damage == "cut" else bytes(size))
    with pytest.raises(CheckpointError, match=r"checkpoint-2'.*remove it"):
        toy(tmp_path, 3)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]


def test_a_checkpoint_never_runs_code(tmp_path):
    toy(tmp_path, 2)

    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"optimizer": Attack()}, tmp_path / "checkpoint-2" / "optimizer.pt")
    with pytest.raises(CheckpointError, match="checkpoint-2"):
        toy(tmp_path, 3)
    assert not (tmp_path / "ran").exists()


def test_another_configuration_is_refused_by_name(tmp_path):
    toy(tmp_path, 2)
    with pytest.raises(ConfigError, match=r"loop\.learning_rate \(0\.01 there, 0\.5 now\).*loop\.seed"):
        toy(tmp_path, 3, learning_rate=0.5, seed=1)
    with pytest.raises(ConfigError, match=r"batch_size x .* x processes \(6 there, 10 now\)"):
        toy(tmp_path, 3, batch_size=5)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]


def test_how_often_and_how_long_may_change(tmp_path):
    toy(tmp_path, 2)
    run(
        tmp_path, 3, workers=1, save_every=3, keep_last=5, log_every=2, validate_every=7,
        batch_size=6, gradient_accumulation_steps=1,
    )  # fmt: skip
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


def test_the_callers_settings_count_too(tmp_path):
    def train(steps, settings):
        batches = lambda start: iter([torch.ones(3, 4)] * 4)  # noqa: E731
        losses = lambda network, batch, step: {"loss": network(batch).square().mean()}  # noqa: E731
        config = LoopConfig(steps=steps, save_every=1)
        fit(make_network(), batches, losses, config, tmp_path, Accelerator(cpu=True), settings=settings)

    train(1, {"model": {"widths": (8, 16), "attention": True}, "inner": LoopConfig()})
    train(2, {"model": {"widths": [8, 16], "attention": True}, "inner": LoopConfig()})
    stored = json.loads((tmp_path / "checkpoint-2/state.json").read_text())["settings"]
    assert stored["model.widths"] == [8, 16] and stored["inner.seed"] == LoopConfig().seed
    with pytest.raises(ConfigError, match=r"model\.attention \(True there, absent now\).*model\.widths"):
        train(3, {"model": {"widths": [8, 8]}, "inner": LoopConfig()})
