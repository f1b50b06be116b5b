"""What a run tells: lines that fit together after a restart, trackers, charts, the alarm of a stuck loss."""

import builtins
import json
import logging
import math

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image
from toy_run import Points, make_network, run

from latentsync.errors import TrainingError
from latentsync.training import (
    LoopConfig,
    alarm_when_stuck,
    draw_losses,
    fit,
    keyed_batches,
    make_accelerator,
    read_log,
)
from latentsync.training.log import TrainingLog

LN_2 = math.log(2)


def test_lines_of_the_future_go_when_a_run_goes_back(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in range(1, 6)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 6, "lo')
    TrainingLog(tmp_path, Accelerator(cpu=True), None, 3).write({"step": 4, "loss": 2.0})
    assert [(row["step"], row["loss"]) for row in read_log(tmp_path / "log.jsonl")] == [
        (1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0),
    ]  # fmt: skip


def test_numbers_have_six_digits_and_none_is_nan(tmp_path):
    log = TrainingLog(tmp_path, Accelerator(cpu=True), None, 0)
    log.write({"step": 1, "rate": 1.23456789e-7, "norm": math.inf})
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1, "rate": 1.23457e-07, "norm": null}\n'


def test_a_log_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "run").write_text("a file in the place of the folder")
    with pytest.raises(TrainingError, match=r"run'.*cannot be written"):
        TrainingLog(tmp_path / "run", Accelerator(cpu=True), None, 0)


def test_tensorboard_hears_every_line(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = LoopConfig(steps=4, batch_size=3, log_every=2)
    accelerator = make_accelerator(tmp_path, trackers=["tensorboard"])

    def step_losses(network, batch, step):
        return {"loss": network(batch).square().mean()}

    batches = keyed_batches(Points(), config, accelerator)
    fit(make_network(), batches, step_losses, config, tmp_path / "run", accelerator)
    accelerator.end_training()
    (file,) = tmp_path.rglob("events.out.tfevents*")
    heard = events.EventAccumulator(str(file)).Reload().Scalars("loss")
    assert [event.step for event in heard] == [2, 4]


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("latentsync.training.launch.get_available_trackers", list)
    with pytest.raises(ImportError, match="pip install wandb"):
        make_accelerator(tmp_path, trackers=["wandb"])


def test_a_run_draws_its_losses(tmp_path):
    run(tmp_path, 4, workers=0)
    with Image.open(tmp_path / "losses.png") as picture:
        assert picture.format == "PNG" and picture.width >= 1000
        assert np.asarray(picture.convert("L")).std() > 1


def test_validation_draws_dots_beside_the_curves(tmp_path):
    rows = [{"step": step, "loss": 1 / step} for step in range(1, 5)] + [{"step": 4, "confidence": None}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_losses(tmp_path / "log.jsonl", tmp_path / "one.png")
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 4, "confidence": 2.5}) + "\n")
    draw_losses(tmp_path / "log.jsonl", tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "two.png").read_bytes()


def test_a_run_without_matplotlib_draws_nothing_and_says_so(tmp_path, monkeypatch, caplog):
    original = builtins.__import__

    def without(name, *arguments):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with caplog.at_level(logging.WARNING):
        run(tmp_path, 1, workers=0)
    assert not (tmp_path / "losses.png").exists()
    assert "pip install 'latentsync[train]'" in caplog.text


def heard(values, **options):
    """Steps at which the alarm rang, over a loss told every ten steps."""
    rung = []
    settings = {"near": LN_2, "tolerance": 0.01, "steps": 50, "alarm": lambda step, value: rung.append(step)}
    on_log = alarm_when_stuck("loss", **{**settings, **options})
    for number, value in enumerate(values, 1):
        on_log({"step": 10 * number, "loss": value})
        on_log({"step": 10 * number, "accuracy": 0.5})  # a line of validation says nothing about the loss
    return rung


def test_the_alarm_rings_once_for_a_loss_that_stays():
    assert heard([LN_2 + 0.004 * (-1) ** i for i in range(30)]) == [60]


def test_the_alarm_is_silent_for_a_loss_that_only_passes():
    assert heard([1 - i / 100 for i in range(100)]) == []
    assert heard([LN_2, LN_2, LN_2, 0.5] * 10) == []


def test_the_alarm_rings_again_after_the_loss_was_elsewhere():
    assert heard([LN_2] * 8 + [0.5] + [LN_2] * 8) == [60, 150]
