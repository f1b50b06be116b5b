"""One step after another: what moves, how far, what is told, and what ends a run."""

import itertools
import math
import multiprocessing

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from toy_run import Points, make_network

from latentsync.config import load_config
from latentsync.errors import ConfigError, TrainingError
from latentsync.training import LoopConfig, TrainingStopped, fit, keyed_batches, read_log
from latentsync.training.learner import make_learner, make_schedule


def linear():
    torch.manual_seed(0)
    return nn.Linear(4, 2)


def losses_of(network, batch, step):
    return {"loss": (network(batch) - batch[:, :2]).square().mean(), "size": batch.abs().mean()}


def train(folder, *, network=None, step_losses=losses_of, batches=None, **options):
    extra = {name: options.pop(name) for name in ("validate", "on_log", "parameters") if name in options}
    config = LoopConfig(**{"steps": 4, "batch_size": 3, "log_every": 1, **options})
    accelerator = Accelerator(cpu=True)
    batches = batches or keyed_batches(Points(), config, accelerator)
    return fit(network or linear(), batches, step_losses, config, folder, accelerator, **extra)


def rates(config):
    optimizer = torch.optim.SGD(linear().parameters(), lr=1.0)
    schedule = make_schedule(optimizer, config)
    found = []
    for _ in range(config.steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_learning_rate_warms_up_and_falls_to_nothing():
    found = rates(LoopConfig(steps=100, warmup_steps=10, learning_rate=1.0))
    assert found[0] == pytest.approx(0.1) and found[9] == found[10] == 1
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[55] == pytest.approx(0.5)
    assert found[100] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "middle"), [("constant", 1), ("constant_with_warmup", 1), ("linear", 0.5), ("cosine", 0.5)]
)
def test_schedules_by_name(name, middle):
    config = LoopConfig(steps=20, warmup_steps=0, learning_rate=1.0, lr_scheduler=name)
    assert rates(config)[10] == pytest.approx(middle)


def test_scaled_learning_rates_count_every_sample_of_a_step():
    config = LoopConfig(
        batch_size=5, gradient_accumulation_steps=2, learning_rate=0.1, scale_lr=True, warmup_steps=0
    )
    learner = make_learner(linear(), config, Accelerator(cpu=True))
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("ema_decay", 1.0),
        ("keep_last", -1),
        ("lr_scheduler", "cosin"),
    ],
)
def test_a_setting_out_of_range_is_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"loop\.{name} is '?{value}"):
        LoopConfig(**{name: value})
    (tmp_path / "run.yaml").write_text(f"{name}: {value}")
    with pytest.raises(ConfigError, match=rf"loop\.{name}"):
        load_config(LoopConfig, tmp_path / "run.yaml")


def test_accumulated_gradients_equal_those_of_the_larger_batch(tmp_path):
    options = {"ema_decay": 0.0, "max_gradient_norm": 0.5, "weight_decay": 0.1}
    one = train(tmp_path / "one", batch_size=6, **options)
    two = train(tmp_path / "two", batch_size=3, gradient_accumulation_steps=2, **options)
    assert torch.allclose(one.weight, two.weight, atol=1e-6)  # sums in another order
    assert not torch.allclose(one.weight, linear().weight, atol=1e-4)
    rows = [read_log(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]], rel=1e-5)


def test_clipping_limits_the_whole_gradient_and_zero_switches_it_off(tmp_path):
    def moments(limit):
        learner_folder = tmp_path / str(limit)
        steep = lambda network, batch, step: {"loss": 1e3 * network(batch).square().mean()}  # noqa: E731
        train(learner_folder, step_losses=steep, steps=1, max_gradient_norm=limit)
        states = torch.load(learner_folder / "checkpoint-1/optimizer.pt", weights_only=True)["optimizer"]
        return torch.cat([10 * entry["exp_avg"].flatten() for entry in states["state"].values()])

    assert moments(0.5).norm() == pytest.approx(0.5, rel=1e-4)
    assert moments(0.0).norm() > 100
    assert "gradient_norm" in read_log(tmp_path / "0.5/log.jsonl")[0]


def test_only_what_asks_for_gradients_moves(tmp_path):
    network, before = make_network(), make_network()
    train(tmp_path, network=network)
    assert torch.equal(network[0].bias, before[0].bias)
    assert not torch.equal(network[0].weight, before[0].weight)
    with pytest.raises(ValueError, match="nothing to train"):
        train(tmp_path / "none", network=linear().requires_grad_(False))


def test_groups_of_parameters_have_their_own_settings(tmp_path):
    network, before = linear(), linear()
    groups = [{"params": [network.weight], "lr": 0.0}, {"params": [network.bias]}]
    train(tmp_path, network=network, parameters=groups, lr_scheduler="constant", ema_decay=0.0)
    assert torch.equal(network.weight, before.weight)
    assert not torch.equal(network.bias, before.bias)


def test_validation_sees_averaged_weights_in_eval_mode_and_changes_nothing(tmp_path):
    seen = []

    def validate(network, step):
        torch.manual_seed(99)
        seen.append((step, network.training, network.weight.clone()))
        return {"score": float(step)}

    options = {"validate_every": 2, "save_every": 3, "ema_decay": 0.9, "learning_rate": 0.1}
    quiet = train(tmp_path / "quiet", **options)
    watched = train(tmp_path / "watched", validate=validate, **options)
    assert torch.equal(quiet.weight, watched.weight)
    assert [(step, mode) for step, mode, _ in seen] == [(2, False), (4, False)]
    assert torch.equal(seen[1][2], watched.weight)  # the average, which fit gives back
    scores = [row for row in read_log(tmp_path / "watched/log.jsonl") if "score" in row]
    assert scores == [{"step": 2, "score": 2.0}, {"step": 4, "score": 4.0}]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_itself_and_its_step(tmp_path, bad):
    def step_losses(network, batch, step):
        losses = losses_of(network, batch, step)
        return {**losses, "lips": losses["size"] * (bad if step == 2 else 1)}

    with pytest.raises(TrainingError, match=rf"'lips' is {bad} at step 3: lower the learning rate"):
        train(tmp_path, step_losses=step_losses, log_every=100, save_every=100)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    with pytest.raises(TrainingError, match="step 1"):
        batches = lambda start: itertools.repeat(torch.full((3, 4), torch.inf))  # noqa: E731
        train(tmp_path, batches=batches, log_every=100, save_every=1)
    assert not list(tmp_path.glob("checkpoint*"))


def test_data_that_end_are_an_error(tmp_path):
    with pytest.raises(TrainingError, match="ended before micro-batch 2"):
        train(tmp_path, batches=lambda start: iter([torch.ones(3, 4)] * 2))


def test_losses_of_a_line_are_means_over_its_steps(tmp_path):
    told = []

    def step_losses(network, batch, step):
        rare = {"rare": torch.tensor(7.0)} if step == 1 else {}
        return {"loss": network(batch).mean() * 0 + step, **rare}

    train(tmp_path, step_losses=step_losses, log_every=2, on_log=told.append)
    assert [(row["step"], row["loss"]) for row in told] == [(2, 0.5), (4, 2.5)]
    assert told[0]["rare"] == 7 and "rare" not in told[1]
    assert all(0 <= row["waiting_share"] <= 1 for row in told)


def test_the_share_of_waiting_is_that_of_slow_data(tmp_path, monkeypatch):
    from latentsync.training import log, loop

    clock = itertools.count()
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(clock)))
    told = []
    train(tmp_path, on_log=told.append, log_every=4)
    assert log.time is loop.time
    assert told[0]["waiting_share"] == pytest.approx(4 / 9)  # four waits of one tick; nine in all


def test_a_run_that_ended_within_a_step_does_not_shift_the_next_one(tmp_path):
    accelerator = Accelerator(cpu=True)
    config = LoopConfig(steps=2, batch_size=3, gradient_accumulation_steps=2, log_every=1)
    batches = keyed_batches(Points(), config, accelerator)
    calls = itertools.count()

    def fails(network, batch, step):
        if next(calls) == 1:
            raise RuntimeError("in the middle of a step")
        return losses_of(network, batch, step)

    with pytest.raises(RuntimeError, match="middle"):
        fit(linear(), batches, fails, config, tmp_path / "broken", accelerator)
    again = fit(linear(), batches, losses_of, config, tmp_path / "again", accelerator)
    fresh = fit(linear(), batches, losses_of, config, tmp_path / "fresh", Accelerator(cpu=True))
    assert torch.equal(again.weight, fresh.weight)


@pytest.fixture
def other_precision():
    """Accelerate keeps one precision for a process: forget it before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_bfloat16_trains_weights_of_float32(tmp_path, other_precision):
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    seen = []

    def step_losses(network, batch, step):
        with accelerator.autocast():
            seen.append((batch @ batch.T).dtype)
            return losses_of(network, batch, step)

    config = LoopConfig(steps=2, batch_size=3)
    network = fit(
        linear(), keyed_batches(Points(), config, accelerator), step_losses, config, tmp_path, accelerator
    )
    assert seen == [torch.bfloat16] * 2 and network.weight.dtype == torch.float32
    assert not torch.equal(network.weight, linear().weight)


def test_stopped_is_not_an_error_of_the_user():
    assert TrainingStopped(15, 3, None).exit_code == 143 and TrainingStopped(2, 3, None).exit_code == 130


@pytest.mark.parametrize("fails", [False, True])
def test_workers_end_with_the_run_though_somebody_keeps_its_frames(tmp_path, fails):
    """Somebody keeps an exception: its traceback holds the frames of the run, and with them the loader."""
    kept = []

    def step_losses(network, batch, step):
        try:
            raise KeyError("kept")
        except KeyError as error:
            kept.append(error)
            if fails:
                raise
        return {"loss": network(batch).square().mean()}

    config = LoopConfig(steps=2, batch_size=2, num_workers=2, save_every=2)
    accelerator = Accelerator(cpu=True)
    batches = keyed_batches(Points(), config, accelerator)
    if fails:
        with pytest.raises(KeyError):
            fit(nn.Linear(4, 2), batches, step_losses, config, tmp_path, accelerator)
    else:
        fit(nn.Linear(4, 2), batches, step_losses, config, tmp_path, accelerator)
    assert kept and multiprocessing.active_children() == []
