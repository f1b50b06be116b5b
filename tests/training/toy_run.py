"""A small run that tests start, kill and start again: `python toy_run.py FOLDER STEPS [HANG_AT]`.

It has whatever could make a resumed run differ: dropout, noise in the step, workers, accumulation, an
average, warm-up. At step HANG_AT it says so and waits to be killed.
"""

import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from latentsync.training import LoopConfig, TrainingStopped, fit, keyed_batches

SAVE_EVERY = 3
HANG_SECONDS = float(os.environ.get("HANG_SECONDS", "600"))


class Points(Dataset):
    """Points (4,) that epoch and index decide."""

    def __init__(self, length=10):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        epoch, index = key
        return torch.randn(4, generator=torch.Generator().manual_seed(1000 * epoch + index))


def make_network():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 2))
    network[0].bias.requires_grad_(False)
    return network


def run(folder, steps, hang_at=None, workers=2, **changes):
    config = LoopConfig(
        steps=steps, batch_size=3, gradient_accumulation_steps=2, learning_rate=1e-2, warmup_steps=2,
        lr_scheduler="constant_with_warmup", save_every=SAVE_EVERY, log_every=1, num_workers=workers,
    )  # fmt: skip
    config = LoopConfig(**{**vars(config), **changes})
    accelerator = Accelerator(cpu=True)

    def step_losses(network, batch, step):
        if step == hang_at:
            print(f"in step {step}", flush=True)
            time.sleep(HANG_SECONDS)
        noise = torch.randn_like(batch) + random.random() + float(np.random.rand())
        return {"loss": (network(batch + noise) - batch[:, :2]).square().mean(), "mean": batch.mean()}

    batches = keyed_batches(Points(), config, accelerator)
    return fit(make_network(), batches, step_losses, config, Path(folder), accelerator)


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
    except TrainingStopped as stopped:
        print(stopped, flush=True)
        sys.exit(stopped.exit_code)
