"""What every training script does around the loop: an Accelerator, and an exit code that says how it
ended."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs

from latentsync.checkpoint import first_line
from latentsync.command import told_in_one_line
from latentsync.config import save_config
from latentsync.errors import LatentSyncError, TrainingError
from latentsync.training.state import newest_checkpoint
from latentsync.training.stop import TrainingStopped

PROJECT = "latentsync"
VALIDATION_HOURS = 1.0
MENDABLE = (LatentSyncError, FileNotFoundError, ImportError)
LAUNCHED_PRECISION = "ACCELERATE_MIXED_PRECISION"  # set by accelerate launch


def make_accelerator(
    folder: str | Path,
    *,
    mixed_precision: str | None = None,
    trackers: Sequence[str] = (),
    validation_hours: float = VALIDATION_HOURS,
) -> Accelerator:
    """An Accelerator whose `trackers` ("tensorboard", "wandb") write below `folder`.

    `mixed_precision` None leaves the choice to `accelerate launch`. Processes that wait for the first one's
    validation give up after `validation_hours`. Weights & Biases stays offline with WANDB_MODE=offline.
    Raises: ImportError for a tracker that is not installed; TrainingError for what this device cannot do.
    """
    known = {tracker.value for tracker in get_available_trackers()}
    if missing := sorted(set(trackers) - known):
        raise ImportError(f"{', '.join(missing)} is not installed: pip install {' '.join(missing)}")
    try:
        accelerator = Accelerator(
            mixed_precision=mixed_precision,
            log_with=list(trackers) or None,
            project_dir=str(folder),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=validation_hours))],
        )
    except ValueError as error:
        raise TrainingError(f"{first_line(error)}; pass --mixed_precision no, or bf16") from error
    if trackers:
        accelerator.init_trackers(PROJECT)
    return accelerator


def choose_precision(flag: str | None, *, wanted: bool) -> str | None:
    """The number type of a run: the `flag`, else what `accelerate launch` says (None), else, where a YAML has
    `wanted` mixed precision, bf16 or fp16 on CUDA; on other devices none.
    """
    if flag is not None or LAUNCHED_PRECISION in os.environ:
        return flag
    if not wanted or not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def record_config(config: object, folder: Path, accelerator: Accelerator) -> None:
    """Write `config.yaml` where a run begins; one that goes on, or may not, keeps it as it was."""
    if accelerator.is_main_process and newest_checkpoint(folder) is None:
        folder.mkdir(parents=True, exist_ok=True)
        save_config(config, folder / "config.yaml")


def run_job(job: Callable[[], None]) -> int:
    """Run a script's `job` with the loop's log on the screen; gives the exit code.

    0; 2 for what the user can mend, told in one line (a ValueError is none: within the loop it is a bug and
    keeps its traceback); 143 or 130 after a stop by SIGTERM or SIGINT.
    """
    logger = logging.getLogger("latentsync")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stdout))
        logger.setLevel(logging.INFO)
    try:
        return told_in_one_line(job, MENDABLE)
    except TrainingStopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@contextmanager
def save_once(accelerator: Accelerator) -> Iterator[bool]:
    """True in the one process that writes results; the others wait at the end until they are there."""
    yield accelerator.is_main_process
    accelerator.wait_for_everyone()
