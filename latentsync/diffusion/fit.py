"""The training loop that every network shares: Accelerate, AdamW, warm-up and cosine, EMA, resumable
checkpoints, a log.

A step is a function of (step number, generator) to named losses; the step number alone decides its data, so a
resumed run sees what an uninterrupted one would have seen.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Losses = Mapping[str, Tensor]
StepFunction = Callable[[nn.Module, int], Losses]


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to learn. `learning_rate` falls as a cosine to zero at `steps`."""

    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 1e-2
    ema_decay: float = 0.998
    max_gradient_norm: float = 1.0
    seed: int = 1247
    save_every: int = 200
    log_every: int = 20


def learning_rate_factor(step: int, config: LoopConfig) -> float:
    """Share of the full learning rate at `step`: linear warm-up, then a cosine to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def fit(
    model: nn.Module,
    step_losses: StepFunction,
    config: LoopConfig,
    folder: Path,
    accelerator: Accelerator,
    *,
    validate: Callable[[nn.Module, int], Mapping[str, float]] | None = None,
) -> nn.Module:
    """Train `model`, continuing from the checkpoint in `folder` when there is one; gives it back with its EMA
    weights.

    The loss to minimise is `losses["loss"]`. `validate(ema_model, step)` is called at every checkpoint; its
    numbers go to `folder/log.jsonl`. Raises: FloatingPointError when the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))
    ema = EMAModel(model.parameters(), decay=config.ema_decay, use_ema_warmup=True, power=0.75)
    start = _resume(folder, model, ema, optimizer, schedule)
    model, optimizer = accelerator.prepare(model, optimizer)
    ema.to(accelerator.device)
    parameters = list(model.parameters())
    sums: dict[str, float] = {}
    since, began = 0, time.perf_counter()
    model.train()
    for step in range(start, config.steps):
        torch.manual_seed(config.seed * 1_000_003 + step)
        losses = step_losses(model, step)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(losses["loss"])
        accelerator.clip_grad_norm_(parameters, config.max_gradient_norm)
        optimizer.step()
        schedule.step()
        ema.step(parameters)
        since += 1
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            means = {name: value / since for name, value in sums.items()}
            if not math.isfinite(means["loss"]):
                raise FloatingPointError(f"loss is {means['loss']} at step {done}; lower loop.learning_rate")
            seconds = (time.perf_counter() - began) / since
            _log(folder, accelerator, {"step": done, **means, "seconds_per_step": seconds})
            sums, since, began = {}, 0, time.perf_counter()
        if done % config.save_every == 0 or done == config.steps:
            if accelerator.is_main_process:
                _save(folder, accelerator.unwrap_model(model), ema, optimizer, schedule, done)
            if validate is not None and accelerator.is_main_process:
                ema.store(parameters)
                ema.copy_to(parameters)
                _log(
                    folder,
                    accelerator,
                    {"step": done, **validate(accelerator.unwrap_model(model).eval(), done)},
                )
                model.train()
                ema.restore(parameters)
            began = time.perf_counter()
    ema.copy_to(parameters)
    return accelerator.unwrap_model(model).eval()


def _log(folder: Path, accelerator: Accelerator, row: Mapping[str, float]) -> None:
    if not accelerator.is_main_process:
        return
    line = json.dumps(
        {name: round(value, 5) if isinstance(value, float) else value for name, value in row.items()}
    )
    accelerator.print(line, flush=True)
    with (folder / "log.jsonl").open("a") as log:
        log.write(line + "\n")


def _save(
    folder: Path,
    model: nn.Module,
    ema: EMAModel,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    step: int,
) -> None:
    """Write the checkpoint aside and rename it, so that a kill leaves the older one whole."""
    new, final, old = folder / "checkpoint.new", folder / "checkpoint", folder / "checkpoint.old"
    for stale in (new, old):
        shutil.rmtree(stale, ignore_errors=True)
    new.mkdir()
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, new / "model.safetensors"
    )
    shadow = {str(index): value.contiguous() for index, value in enumerate(ema.shadow_params)}
    save_file(shadow, new / "ema.safetensors")
    torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, new / "optimizer.pt")
    (new / "state.json").write_text(json.dumps({"step": step, "ema_step": ema.optimization_step}))
    if final.exists():
        os.replace(final, old)
    os.replace(new, final)
    shutil.rmtree(old, ignore_errors=True)


def _resume(
    folder: Path,
    model: nn.Module,
    ema: EMAModel,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> int:
    """Load the checkpoint in `folder`, if any; gives the step to go on with."""
    final, old = folder / "checkpoint", folder / "checkpoint.old"
    if not final.exists() and old.exists():
        os.replace(old, final)
    if not final.exists():
        return 0
    model.load_state_dict(load_file(final / "model.safetensors"))
    shadow = load_file(final / "ema.safetensors")
    ema.shadow_params = [shadow[str(index)] for index in range(len(shadow))]
    states = torch.load(final / "optimizer.pt", weights_only=True)
    optimizer.load_state_dict(states["optimizer"])
    schedule.load_state_dict(states["schedule"])
    state = json.loads((final / "state.json").read_text())
    ema.optimization_step = state["ema_step"]
    return int(state["step"])
