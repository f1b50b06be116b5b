"""What the loop costs: steps of the tiny U-Net through it, and through a minimal loop written by hand.

    python benchmarks/training.py --rounds 7 --steps 30

Both do the same work from the same random batches: forward, backward, clipping, AdamW, learning rate, running
average (diffusers' EMAModel). They take turns in one process; the ratio is the median over the rounds, each
beside its neighbour in time. The hand-written loop reads no loss; ours tells its losses at the end.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from latentsync.config import load_config
from latentsync.diffusion.train import TrainUNetConfig
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.training import LoopConfig, drawn_batches, fit
from latentsync.training.learner import EMA_WARMUP_POWER, make_schedule

ROOT = Path(__file__).resolve().parents[1]
WARM_UP_STEPS = 3
Batch = tuple[Tensor, Tensor, Tensor, Tensor]
Clocks = tuple[float, float]


class Job:
    """The tiny U-Net of configs/unet/tiny.yaml and random batches of its shape."""

    def __init__(self, batch_size: int, device: torch.device) -> None:
        places = ("packed", "vae", "audio_encoder", "output")
        overrides = [f"data.{name}=none" for name in places]
        self.config = load_config(TrainUNetConfig, ROOT / "configs/unet/tiny.yaml", overrides)
        model = self.config.model
        side, width = model["sample_size"], model["cross_attention_dim"]
        self.device = device
        generator = torch.Generator().manual_seed(0)
        self.batch = (
            torch.randn(batch_size, model["in_channels"], 1, side, side, generator=generator).to(device),
            torch.randint(0, 1000, (batch_size,), generator=generator).to(device),
            torch.randn(batch_size, 1, model["audio_tokens"], width, generator=generator).to(device),
            torch.randn(batch_size, model["out_channels"], 1, side, side, generator=generator).to(device),
        )

    def network(self) -> nn.Module:
        torch.manual_seed(1)
        return UNet3DConditionModel.from_upstream(self.config.model)


def loss_of(network: nn.Module, batch: Batch) -> Tensor:
    sample, timesteps, tokens, target = batch
    return (network(sample, timesteps, tokens).sample - target).square().mean()


def by_hand(job: Job, loop: LoopConfig, device: torch.device) -> tuple[Clocks, Tensor]:
    """What `loop.steps` steps of the smallest loop take, and a weight at the end."""
    network = job.network().to(device).train()
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=loop.learning_rate, weight_decay=loop.weight_decay)
    schedule = make_schedule(optimizer, loop)
    ema = EMAModel(
        parameters, decay=loop.ema_decay, use_ema_warmup=True, power=EMA_WARMUP_POWER, foreach=True
    )
    began = clocks(device)
    for step in range(loop.steps):
        if step == WARM_UP_STEPS:
            began = clocks(device)
        loss_of(network, job.batch).backward()
        nn.utils.clip_grad_norm_(parameters, loop.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()  # here, as in ours: the average then reuses the memory
        schedule.step()
        ema.step(parameters)
    spent = since(began, device)
    ema.copy_to(parameters)
    return spent, parameters[0].detach()


def by_ours(job: Job, loop: LoopConfig, accelerator: Accelerator) -> tuple[Clocks, Tensor]:
    """The same through `fit`; building and saving, before the first step and after the last, do not count."""
    device, marks = accelerator.device, []

    def step_losses(network: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        if step == WARM_UP_STEPS:
            marks.append(clocks(device))
        return {"loss": loss_of(network, batch)}

    def on_log(row: Mapping[str, float]) -> None:
        marks.append(since(marks[0], device))

    network = job.network()
    with tempfile.TemporaryDirectory(prefix="training_") as folder:
        batches = drawn_batches(lambda number: job.batch, accelerator)
        fit(network, batches, step_losses, loop, Path(folder), accelerator, on_log=on_log)
    return marks[1], next(network.parameters()).detach()


def clocks(device: torch.device) -> Clocks:
    """Seconds of processor and clock, when all that was started is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time(), time.perf_counter()


def since(began: Clocks, device: torch.device) -> Clocks:
    cpu, wall = clocks(device)
    return cpu - began[0], wall - began[1]


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each loop (default: 7)")
    parser.add_argument("--steps", type=int, default=30, help="steps of a turn (default: 30)")
    parser.add_argument("--batch_size", type=int, default=4, help="frames of a step (default: 4)")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    args = parser.parse_args()
    accelerator = Accelerator(cpu=args.cpu)
    job = Job(args.batch_size, accelerator.device)
    loop = LoopConfig(steps=args.steps, log_every=args.steps, save_every=args.steps, warmup_steps=2)
    measured = args.steps - WARM_UP_STEPS
    ratios: list[Clocks] = []
    for turn in range(args.rounds):
        if turn % 2:  # neither is always the first
            (ours, weight), (hand, same) = by_ours(job, loop, accelerator), by_hand(job, loop, job.device)
        else:
            (hand, same), (ours, weight) = by_hand(job, loop, job.device), by_ours(job, loop, accelerator)
        torch.testing.assert_close(weight, same, rtol=1e-3, atol=1e-5)
        ratios.append((ours[0] / hand[0], ours[1] / hand[1]))
        print(
            f"turn {turn + 1}: by hand {1e3 * hand[1] / measured:.2f} ms a step, "
            f"through the loop {1e3 * ours[1] / measured:.2f} ms",
            flush=True,
        )
    cpu, wall = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(
        f"through the loop / by hand: processor {cpu:.4f}, clock {wall:.4f} (median of {args.rounds} turns)"
    )


if __name__ == "__main__":
    main()
