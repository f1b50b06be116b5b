"""Checkpoints of a run: `checkpoint-<step>/`, complete or not there.

    model.safetensors  the network's weights as they are trained     ema.safetensors  their running average
    optimizer.pt       optimizer, schedule, GradScaler               state.json       step, configuration

A folder grows under the name `checkpoint-<step>.part` and is renamed. No random state is kept, of any
process: the loop seeds Python's, numpy's and torch's generators for every micro-batch from (seed,
micro-batch, process), and the order of the data follows from (seed, position): the step number says it all.

Sharded training (FSDP, DeepSpeed) leaves weights and optimizer to Accelerate's `save_state`, in `sharded/`,
and each process keeps its piece of the average in `ema-<process>.pt`. That branch could not be tried on the
machines this was written on.
"""

import json
import os
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model

from latentsync.checkpoint import UNREADABLE, first_line
from latentsync.errors import CheckpointError, TrainingError
from latentsync.training.files import writing
from latentsync.training.learner import Learner
from latentsync.training.settings import check_settings

FORMAT = 1
FINISHED = re.compile(r"checkpoint-(\d+)")


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, the oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _finished(path))]
    return [path for _, path in sorted(found)]


def newest_checkpoint(folder: Path) -> Path | None:
    """Where a run would go on, None for a new one."""
    return next(reversed(checkpoints(folder)), None)


def save_checkpoint(
    folder: Path, learner: Learner, step: int, settings: Mapping[str, Any], *, keep_last: int
) -> Path:
    """Save the state after `step`, then drop all but the last `keep_last`; every process must call it.

    Raises: TrainingError, in every process, when it cannot be written; what was there before is then whole.
    """
    main = learner.accelerator.is_main_process
    final, problem = folder / f"checkpoint-{step}", ""
    part = final.with_name(final.name + ".part")
    try:
        with writing(final):
            if main:
                _remove(part)
                part.mkdir(parents=True)
            if learner.is_sharded:
                _write_sharded(part, learner)
            elif main:
                _write_whole(part, learner)
            if main:
                _write_state(part, learner, step, settings)
                _remove(final)
                os.replace(part, final)
                for old in checkpoints(folder)[: -keep_last or None] if keep_last else ():
                    _remove(old)
    except TrainingError as error:
        problem = str(error)
        shutil.rmtree(part, ignore_errors=True)
    if problems := [told for told in gather_object([problem]) if told]:
        raise TrainingError(problems[0])
    return final


def load_checkpoint(folder: Path, learner: Learner, settings: Mapping[str, Any]) -> int:
    """Put the newest checkpoint of the run in `folder` into `learner`; gives the steps done, 0 without one.

    Raises: CheckpointError for a damaged one; ConfigError when it was made with other settings.
    """
    path = newest_checkpoint(folder)
    if path is None:
        return 0
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        check_settings(path, state["settings"], settings)
        if learner.is_sharded:
            _read_sharded(path, learner)
        else:
            _read_whole(path, learner)
        if learner.ema is not None:
            learner.ema.optimization_step = int(state["ema_step"])
        return int(state["step"])
    except (SafetensorError, pickle.UnpicklingError, *UNREADABLE) as error:
        raise CheckpointError(
            f"checkpoint {str(path)!r} cannot be read ({first_line(error)}): remove it to go on from the one "
            "before, or from the start if there is none"
        ) from error


def _finished(path: Path) -> re.Match[str] | None:
    return FINISHED.fullmatch(path.name)


def _write_whole(part: Path, learner: Learner) -> None:
    save_model(learner.network, str(part / "model.safetensors"))
    if learner.ema is not None:
        average = zip(learner.trainable_names(), learner.ema.shadow_params, strict=True)
        save_file({name: value.contiguous() for name, value in average}, part / "ema.safetensors")
    scaler = learner.accelerator.scaler
    states = {
        "optimizer": learner.optimizer.state_dict(),
        "schedule": learner.schedule.state_dict(),
        "scaler": {} if scaler is None else scaler.state_dict(),
    }
    torch.save(states, part / "optimizer.pt")


def _read_whole(path: Path, learner: Learner) -> None:
    load_model(learner.network, path / "model.safetensors")
    if learner.ema is not None:
        average = load_file(path / "ema.safetensors")
        for name, shadow in zip(learner.trainable_names(), learner.ema.shadow_params, strict=True):
            shadow.copy_(average[name])
    states = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
    learner.optimizer.load_state_dict(states["optimizer"])
    learner.schedule.load_state_dict(states["schedule"])
    if learner.accelerator.scaler is not None and states["scaler"]:
        learner.accelerator.scaler.load_state_dict(states["scaler"])


def _write_sharded(part: Path, learner: Learner) -> None:
    learner.accelerator.wait_for_everyone()  # for the folder
    learner.accelerator.save_state(str(part / "sharded"))
    if learner.ema is not None:
        torch.save(learner.ema.shadow_params, part / f"ema-{learner.accelerator.process_index}.pt")
    if learner.accelerator.is_main_process:
        torch.save(learner.schedule.state_dict(), part / "schedule.pt")
    learner.accelerator.wait_for_everyone()  # before it is renamed


def _read_sharded(path: Path, learner: Learner) -> None:
    learner.accelerator.load_state(str(path / "sharded"))
    if learner.ema is not None:
        stored = path / f"ema-{learner.accelerator.process_index}.pt"
        learner.ema.shadow_params = torch.load(
            stored, map_location=learner.accelerator.device, weights_only=True
        )
    learner.schedule.load_state_dict(torch.load(path / "schedule.pt", weights_only=True))


def _write_state(part: Path, learner: Learner, step: int, settings: Mapping[str, Any]) -> None:
    state = {
        "format": FORMAT,
        "step": step,
        "ema_step": 0 if learner.ema is None else learner.ema.optimization_step,
        "settings": dict(settings),
    }
    (part / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")


def _remove(path: Path) -> None:
    """Rename, then delete, so that a kill in between leaves nothing that looks like a checkpoint."""
    if not path.exists():
        return
    if _finished(path):
        part = path.with_name(path.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        path = path.rename(part)
    shutil.rmtree(path)
