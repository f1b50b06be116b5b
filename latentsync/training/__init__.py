"""The training loop that every network of the project shares; it knows nothing of video."""

from latentsync.training.charts import draw_losses
from latentsync.training.config import LoopConfig
from latentsync.training.data import KeyedBatchSampler, drawn_batches, keyed_batches
from latentsync.training.launch import choose_precision, make_accelerator, record_config, run_job, save_once
from latentsync.training.log import alarm_when_stuck, log_pictures, read_log
from latentsync.training.loop import Batches, Losses, OnLog, StepFunction, Validate, fit
from latentsync.training.state import newest_checkpoint
from latentsync.training.stop import TrainingStopped

__all__ = [
    "Batches",
    "KeyedBatchSampler",
    "LoopConfig",
    "Losses",
    "OnLog",
    "StepFunction",
    "TrainingStopped",
    "Validate",
    "alarm_when_stuck",
    "choose_precision",
    "draw_losses",
    "drawn_batches",
    "fit",
    "keyed_batches",
    "log_pictures",
    "make_accelerator",
    "newest_checkpoint",
    "read_log",
    "record_config",
    "run_job",
    "save_once",
]
