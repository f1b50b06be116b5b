"""Being asked to stop: SIGTERM (a scheduler) and SIGINT (Ctrl-C) let the running step end and be saved."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import cast

import torch
from accelerate import Accelerator

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ECHO_SECONDS = 2.0  # a launcher repeats to its children the signal that the terminal has already sent them

logger = logging.getLogger(__name__)


class TrainingStopped(Exception):
    """The run was asked to stop, and did so after `step` with everything saved in `checkpoint`.

    A script leaves with `exit_code`: 143 for SIGTERM, 130 for SIGINT, as a shell would say.
    """

    def __init__(self, signal_number: int, step: int, checkpoint: Path) -> None:
        name = signal.Signals(signal_number).name
        super().__init__(f"stopped by {name} after step {step}; start the same command again to go on")
        self.signal_number, self.step, self.checkpoint = signal_number, step, checkpoint

    @property
    def exit_code(self) -> int:
        return 128 + self.signal_number


class StopRequest:
    """The signal that asked this process to stop, 0 while none has."""

    def __init__(self) -> None:
        self.signal_number = 0
        self._asked_at = 0.0

    def ask(self, number: int, frame: FrameType | None = None) -> None:
        """The handler. A second request, later than a mere echo, ends the process at once."""
        now = time.monotonic()
        if self.signal_number and now - self._asked_at > ECHO_SECONDS:
            raise KeyboardInterrupt
        if not self.signal_number:
            self.signal_number, self._asked_at = number, now
            logger.warning("%s: stopping after this step", signal.Signals(number).name)

    def agreed(self, accelerator: Accelerator, *, together: bool) -> int:
        """The signal to obey now. Several processes must all come here `together` to agree on one."""
        if accelerator.num_processes == 1:
            return self.signal_number
        if not together:
            return 0
        mine = torch.tensor([self.signal_number], device=accelerator.device)
        return int(cast(torch.Tensor, accelerator.gather(mine)).max())


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Inside, SIGTERM and SIGINT only ask. Outside the main thread Python hears none: nothing changes."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.ask) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
