"""What `test_ranks` starts as two processes: `ranks_run.py FOLDER`; each leaves FOLDER/rank-<n>.json."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn
from toy_run import Points

from latentsync.command import leave
from latentsync.diffusion.train_vae import Restorer, TrainVaeConfig, VaeConfig, build_vae
from latentsync.diffusion.train_vae import reconstruction_losses as vae_losses
from latentsync.errors import TrainingError
from latentsync.training import (
    LoopConfig,
    TrainingStopped,
    drawn_batches,
    fit,
    keyed_batches,
    make_accelerator,
    state,
)


def regression(folder, accelerator, batch_size, step_losses=None, **changes):
    """Two steps of AdamW without an average; equal, up to the order of sums, however shared out."""
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    settings = {"steps": 2, "batch_size": batch_size, "warmup_steps": 0, "ema_decay": 0.0, "log_every": 1}
    config = LoopConfig(**{**settings, **changes})

    def losses_of(model, batch, step):
        return {"loss": (model(batch) - batch[:, :2]).square().mean()}

    batches = keyed_batches(Points(), config, accelerator)
    return fit(network, batches, step_losses or losses_of, config, folder, accelerator)


def autoencoder(folder, accelerator):
    """Sum of the weights, which processes that do not share gradients would not have in common."""
    torch.manual_seed(3)
    vae = build_vae(VaeConfig([8, 8], 4, norm_num_groups=4), 16)
    rank = torch.Generator().manual_seed(accelerator.process_index)
    batches = drawn_batches(lambda number: torch.randn(2, 3, 16, 16, generator=rank), accelerator)
    config = LoopConfig(steps=2, batch_size=2, log_every=1)

    def step_losses(model, pixels, step):
        return vae_losses(model, pixels, TrainVaeConfig())

    fit(Restorer(vae), batches, step_losses, config, folder, accelerator)
    return [float(value.double().sum()) for value in vae.state_dict().values()]


def broken(folder, accelerator):
    """What each process says when the loss of one of them is no number."""

    def step_losses(model, batch, step):
        return {"loss": model(batch).mean() / (1 - (accelerator.process_index == 1 and step == 1))}

    try:
        regression(folder, accelerator, 3, step_losses)
    except TrainingError as error:
        return str(error)


def full_disk(folder, accelerator):
    """What each process says when the one that saves cannot."""

    def save_model(*arguments):
        raise OSError(28, "No space left on device")

    original, state.save_model = state.save_model, save_model
    try:
        regression(folder, accelerator, 3)
    except TrainingError as error:
        return str(error)
    finally:
        state.save_model = original


def stopped(folder, accelerator):
    """The step after which each process stops when one of them is told to."""

    def step_losses(model, batch, step):
        if accelerator.process_index == 1 and step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": model(batch).square().mean()}

    try:
        regression(folder, accelerator, 3, step_losses, steps=9, log_every=2)
    except TrainingStopped as error:
        return error.step


def main(folder):
    accelerator = make_accelerator(folder, mixed_precision="no")
    regression(folder / "two", accelerator, 3)
    regression(folder / "accumulated", accelerator, 3, gradient_accumulation_steps=2)
    told = {
        "processes": accelerator.num_processes,
        "distributed": str(accelerator.distributed_type),
        "autoencoder": autoencoder(folder / "vae", accelerator),
        "broken": broken(folder / "broken", accelerator),
        "full_disk": full_disk(folder / "full", accelerator),
        "stopped": stopped(folder / "stopped", accelerator),
    }
    (folder / f"rank-{accelerator.process_index}.json").write_text(json.dumps(told))
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave(0)
