"""What `test_gathered` starts as two processes: `gathered_run.py FOLDER`; each leaves FOLDER/rank-<n>.pt."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latentsync.command import leave
from latentsync.sync.losses import window_losses

OPTIONS = {"temperature": 0.1, "other_clip_share": 0.3}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Softplus())


def windows() -> tuple[Tensor, Tensor]:
    """Eight windows of four clips, (8, 2, 6): of lips and of sound."""
    rows = torch.randn(8, 2, 6, generator=torch.Generator().manual_seed(1))
    return rows, torch.tensor([0, 0, 1, 1, 2, 2, 0, 0])


def losses_of(model: nn.Module, rows: Tensor, clips: Tensor) -> Tensor:
    vision, audio = (nn.functional.normalize(part) for part in model(rows).unbind(1))
    losses = window_losses(vision, audio, clips, **OPTIONS)
    return losses["bce"] + losses["contrastive"]


def main(folder: Path) -> nn.Module:
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(network())
    rows, clips = windows()
    mine = slice(4 * accelerator.process_index, 4 * accelerator.process_index + 4)
    loss = losses_of(model, rows[mine], clips[mine])
    accelerator.backward(loss)
    gradients = [parameter.grad for parameter in accelerator.unwrap_model(model).parameters()]
    told = {"loss": accelerator.gather(loss.detach()[None]), "gradients": gradients}
    torch.save(told, folder / f"rank-{accelerator.process_index}.pt")
    accelerator.end_training()
    return model


if __name__ == "__main__":
    alive = main(Path(sys.argv[1]))  # a network that is freed may hang (see training/learner.py)
    leave(0)
