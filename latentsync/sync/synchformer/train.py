"""What the three trainings of Synchformer share: data in order, parameters in groups, the best kept.

Source: v-iashin/Synchformer. Epochs are counted in steps here; a run that goes on equals one that was never
interrupted; the best network and the newest checkpoint are kept apart.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from latentsync.errors import ConfigError
from latentsync.sync.synchformer.best import BEST, Best, PatienceEnded
from latentsync.sync.synchformer.network import SegmentContrast, Synchformer
from latentsync.sync.synchformer.samples import AvSamples
from latentsync.sync.synchformer.training_config import SynchformerTrainConfig
from latentsync.training import (
    LoopConfig,
    StepFunction,
    Validate,
    fit,
    keyed_batches,
    record_config,
    save_once,
)

LAST = "last"
RESULTS = "results.json"
PATHS = ("vids_path", "lists", "fixed_offsets")  # a run may move to another disk
BEGINNINGS = ("motionformer", "ast", "segments", "start")


def train(
    network: Synchformer | SegmentContrast,
    data: AvSamples,
    step: StepFunction,
    validate: Validate,
    config: SynchformerTrainConfig,
    accelerator: Accelerator,
) -> Path:
    """Run the loop; gives the folder of the best network. `last/` is the network at the end.

    Raises: what `fit` raises, and ConfigError where `validate` does not tell `run.metric_name`.
    """
    folder, loop = Path(config.output), loop_of(config, len(data), accelerator.num_processes)
    record_config(config, folder, accelerator)
    best = Best(folder, config.run.metric_name, config.run.patience)

    def keep_best(model: nn.Module, done: int) -> Mapping[str, float]:
        row = validate(model, done)
        if best.metric not in row:
            raise ConfigError(f"run.metric_name is {best.metric!r}; this training tells {', '.join(row)}")
        best.keep(accelerator.unwrap_model(model), done, row)
        return row

    trained: nn.Module = network
    try:
        trained = fit(
            network,
            keyed_batches(data, loop, accelerator),
            step,
            loop,
            folder,
            accelerator,
            validate=keep_best,
            settings=settings_of(config),
            parameters=parameter_groups(network, config, accelerator.num_processes),
            on_log=best.hear,
        )
    except PatienceEnded as ended:
        accelerator.print(ended)
    with save_once(accelerator) as is_writer:
        if is_writer:
            accelerator.unwrap_model(trained).save_pretrained(folder / LAST)
    return folder / BEST


def loop_of(config: SynchformerTrainConfig, clips: int, processes: int) -> LoopConfig:
    """The loop's settings, with `run.num_epochs` passes over `clips` clips as its steps."""
    loop = config.loop
    if config.run.num_epochs:
        samples = loop.batch_size * loop.gradient_accumulation_steps * processes
        loop = replace(loop, steps=max(1, config.run.num_epochs * clips // samples))
    return loop


def parameter_groups(
    network: nn.Module, config: SynchformerTrainConfig, processes: int
) -> list[dict[str, Any]]:
    """What learns: matrices with weight decay, vectors and scalars without."""
    rate = config.loop.learning_rate * (processes if config.run.lr_of_each_process else 1)
    common = {"lr": rate, "eps": config.run.adam_eps}
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim >= 2], "weight_decay": config.loop.weight_decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [{**group, **common} for group in groups if group["params"]]


def settings_of(config: SynchformerTrainConfig) -> dict[str, Any]:
    """What must not change when a run goes on."""
    data = {name: value for name, value in asdict(config.data).items() if name not in PATHS}
    model = {name: value for name, value in asdict(config.model).items() if name not in BEGINNINGS}
    run = {name: getattr(config.run, name) for name in ("adam_eps", "lr_of_each_process", "gather_for_loss")}
    return {"kind": config.kind, "data": data, "model": model, "run": run}


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """`results.json` of a finished run."""
    (folder / RESULTS).write_text(json.dumps(results, indent=2), encoding="utf-8")
