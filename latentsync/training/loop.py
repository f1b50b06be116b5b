"""The loop: batches in, better weights out, and nothing lost when it ends early.

Accelerate owns devices, precision, gradients of several processes and accumulation. What a step learns from
is the caller's: a function from (model, batch, step) to named losses. Steps are counted from 0 while they
run and from 1 once they are done, in file names and in the log.
"""

import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from latentsync.checkpoint import first_line
from latentsync.errors import TrainingError
from latentsync.training.charts import draw_if_possible
from latentsync.training.config import LoopConfig
from latentsync.training.learner import Learner, averaged_weights, make_learner
from latentsync.training.log import LossWindow, OnLog, TrainingLog
from latentsync.training.settings import run_settings
from latentsync.training.state import load_checkpoint, save_checkpoint
from latentsync.training.stop import TrainingStopped, stop_requests

Losses = Mapping[str, Tensor]
StepFunction = Callable[[nn.Module, Any, int], Losses]
Batches = Callable[[int], Iterator[Any]]
Validate = Callable[[nn.Module, int], Mapping[str, float]]


def fit(
    model: nn.Module,
    batches: Batches,
    step_losses: StepFunction,
    config: LoopConfig,
    folder: Path,
    accelerator: Accelerator,
    *,
    validate: Validate | None = None,
    settings: Any = None,
    parameters: Sequence[Mapping[str, Any]] | None = None,
    on_log: OnLog | None = None,
) -> nn.Module:
    """Train `model`, going on from the newest checkpoint in `folder`; gives it back with its averaged
    weights, in eval mode.

    `batches(start)` yields this process's micro-batches in order, from number `start` of the whole run on.
    `step_losses(model, batch, step)` gives scalars; "loss" is minimised, all are logged. It must call the
    `model` it is given (not a part of it), or several processes would not share their gradients. Before it,
    Python's, numpy's and torch's generators are seeded by (seed, micro-batch, process).

    `validate(model, step)` has the network itself, with averaged weights, on the first process; the others
    wait (no longer than `make_accelerator`'s time limit). It is skipped where the network is sharded.
    `settings` (a dataclass or a mapping) is what must be the same when a run is resumed, beside `config`.
    `parameters` are AdamW's groups. `on_log(row)` hears each line of the log, in every process.

    Raises: TrainingError (a loss that is not finite, no more batches, a disk that is full), TrainingStopped
    (SIGTERM or SIGINT, after saving), and what `load_checkpoint` raises.
    """
    accelerator.gradient_accumulation_steps = config.gradient_accumulation_steps
    accelerator.step = 0  # an earlier run may have ended within a step
    learner = make_learner(model, config, accelerator, parameters)
    fixed = run_settings(config, settings, accelerator.num_processes)
    start = load_checkpoint(folder, learner, fixed)
    log = TrainingLog(folder, accelerator, on_log, start)
    learner.model.train()
    with ended(batches(start * config.gradient_accumulation_steps)) as stream, stop_requests() as request:
        window = LossWindow()
        for step in range(start, config.steps):
            take_step(learner, stream, step_losses, step, config, window)
            done = step + 1
            is_last = done == config.steps
            is_due = is_last or done % config.save_every == 0
            validates = is_last or done % config.validates_every == 0
            tells = is_due or validates or done % config.log_every == 0
            signal_number = request.agreed(accelerator, together=tells)
            if tells or signal_number:
                rate = float(learner.schedule.get_last_lr()[0])
                log.write({"step": done, **window.means(accelerator), "learning_rate": rate})
            if is_due or signal_number:
                saved = save_checkpoint(folder, learner, done, fixed, keep_last=config.keep_last)
                if signal_number:
                    raise TrainingStopped(signal_number, done, saved)
            if validates and (row := validation(learner, validate, done)):
                log.write({"step": done, **row})
            if is_due and accelerator.is_main_process:
                draw_if_possible(folder)
            if tells:
                window.begin()
    if learner.ema is not None:
        learner.ema.copy_to(learner.trainable)
    return learner.network.eval()


@contextmanager
def ended(stream: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """`stream`, closed at the end, and with it a loader's workers.

    To wait until it is collected is not enough: an exception that somebody keeps holds the frames it came
    through, and Python would wait for ever at its exit for workers that heed no signal.
    """
    try:
        yield stream
    finally:
        if isinstance(stream, Generator):
            stream.close()


def take_step(
    learner: Learner,
    stream: Iterator[Any],
    step_losses: StepFunction,
    step: int,
    config: LoopConfig,
    window: LossWindow,
) -> None:
    """One update of the weights from `gradient_accumulation_steps` micro-batches of `stream`."""
    accelerator, optimizer = learner.accelerator, learner.optimizer
    for micro in range(config.gradient_accumulation_steps):
        number = step * config.gradient_accumulation_steps + micro
        batch = _next(stream, number, window)
        seed_generators(config.seed, number, accelerator)
        with accelerator.accumulate(learner.model):
            losses = step_losses(learner.model, batch, step)
            accelerator.backward(losses["loss"])
            if accelerator.sync_gradients and config.max_gradient_norm:
                window.add_norm(accelerator.clip_grad_norm_(learner.trainable, config.max_gradient_norm))
            optimizer.step()
            optimizer.zero_grad()
        window.add(step + 1, losses)
    learner.schedule.step()
    if learner.ema is not None:
        learner.ema.step(learner.trainable)


def seed_generators(seed: int, number: int, accelerator: Accelerator) -> None:
    """Make what a micro-batch draws depend on (seed, number, process) alone, so that resuming is exact."""
    mixed = seed * 1_000_003 + number + (accelerator.process_index << 40)
    torch.default_generator.manual_seed(mixed)  # torch.manual_seed, which seeds every device, takes 0.4 ms
    if accelerator.device.type != "cpu":
        torch.get_device_module(accelerator.device).manual_seed(mixed)
    np.random.seed(mixed % 2**32)
    random.seed(mixed)


def validation(learner: Learner, validate: Validate | None, done: int) -> Mapping[str, float] | None:
    """The numbers of `validate`, the same in every process; None where there is nothing to call, or the
    network is sharded.
    """
    if validate is None or learner.is_sharded:
        return None
    told: list[Any] = [None]
    if learner.accelerator.is_main_process:
        with averaged_weights(learner):
            told = [dict(validate(learner.network.eval(), done))]
        learner.model.train()
    try:
        return broadcast_object_list(told)[0]
    except RuntimeError as error:  # of gloo; NCCL's watchdog ends the process itself
        raise TrainingError(
            f"the processes lost each other after validation ({first_line(error)}): if the first one needs "
            "longer than validation_hours of make_accelerator, validate less or raise that"
        ) from error


def _next(stream: Iterator[Any], number: int, window: LossWindow) -> Any:
    began = time.perf_counter()
    try:
        batch = next(stream)
    except StopIteration:
        raise TrainingError(f"the data ended before micro-batch {number}; `batches` must not end") from None
    window.waited(time.perf_counter() - began)
    return batch
