"""A network with everything that moves its weights: optimizer, learning rate, running average.

Only parameters that ask for gradients are trained, averaged and clipped.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from latentsync.training.config import LoopConfig

EMA_WARMUP_POWER = 0.75  # reaches a decay of 0.999 after 10 000 steps, says diffusers' EMAModel

# Networks of several processes, until the process leaves (command.leave): freed soon after a last collective
# they may hang in PyTorch 2.13, where gloo's thread waits for Python's lock and Python for that thread.
ALIVE: list[nn.Module] = []


@dataclass(frozen=True)
class Learner:
    """`model`, `optimizer` are as `accelerator.prepare` gave them; `trainable` are of the model."""

    model: nn.Module
    optimizer: AcceleratedOptimizer
    schedule: LambdaLR
    ema: EMAModel | None
    trainable: list[nn.Parameter]
    accelerator: Accelerator

    @property
    def network(self) -> nn.Module:
        """The model as the caller built it."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def is_sharded(self) -> bool:
        """Whether no process holds the whole network (FSDP, DeepSpeed)."""
        return self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)

    def trainable_names(self) -> list[str]:
        """The names, in the network, of `trainable`."""
        names = {id(parameter): name for name, parameter in self.network.named_parameters()}
        return [names[id(parameter)] for parameter in self.trainable]


def make_learner(
    model: nn.Module,
    config: LoopConfig,
    accelerator: Accelerator,
    groups: Sequence[Mapping[str, Any]] | None = None,
) -> Learner:
    """AdamW over the parameters that ask for gradients; `groups` share them out, each with its own settings.

    Raises: ValueError when nothing is to be trained.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError("no parameter of the model has requires_grad: there is nothing to train")
    rate = config.learning_rate
    if config.scale_lr:
        rate *= accelerator.num_processes * config.gradient_accumulation_steps * config.batch_size
    optimizer = torch.optim.AdamW(
        [dict(group) for group in groups or ({"params": trainable},)],
        lr=rate,
        weight_decay=config.weight_decay,
    )
    schedule = make_schedule(optimizer, config)
    if (plugin := accelerator.state.deepspeed_plugin) is not None:  # it clips by itself; not tried here
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = config.batch_size
        plugin.deepspeed_config["gradient_clipping"] = config.max_gradient_norm
    model, prepared = accelerator.prepare(model, optimizer)
    if accelerator.num_processes > 1:
        ALIVE.append(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]  # FSDP has others
    ema = None
    if config.ema_decay:
        ema = EMAModel(
            trainable, decay=config.ema_decay, use_ema_warmup=True, power=EMA_WARMUP_POWER, foreach=True
        )
    return Learner(model, prepared, schedule, ema, trainable, accelerator)


def make_schedule(optimizer: torch.optim.Optimizer, config: LoopConfig) -> LambdaLR:
    """The schedule of that name, by diffusers; but the first step of a warm-up already moves.

    It is never handed to Accelerate, which would step it once for every process.
    """
    stand_in = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.learning_rate)
    (factor,) = get_scheduler(
        config.lr_scheduler,
        stand_in,
        num_warmup_steps=config.warmup_steps,
        num_training_steps=config.steps,
    ).lr_lambdas

    def rise(step: int) -> float:
        if config.warmup_from:
            return config.warmup_from + (1 - config.warmup_from) * step / config.warmup_steps
        return factor(step + 1)

    return LambdaLR(optimizer, lambda step: rise(step) if step < config.warmup_steps else factor(step))


@contextmanager
def averaged_weights(learner: Learner) -> Iterator[None]:
    """Inside, the network has its averaged weights; afterwards, bit for bit those it had."""
    if learner.ema is None:
        yield
        return
    learner.ema.store(learner.trainable)
    learner.ema.copy_to(learner.trainable)
    try:
        yield
    finally:
        learner.ema.restore(learner.trainable)
