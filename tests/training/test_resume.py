"""A run that is killed or stopped, and started again, ends where an uninterrupted one does, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_run import run

from latentsync.training import TrainingStopped, loop, newest_checkpoint, read_log
from latentsync.training.state import checkpoints

HERE = Path(__file__).parent
TIMES = ("seconds_per_step", "waiting_share")


def start(folder, steps, hang_at, **environment):
    """A run in its own process that has come to step `hang_at`."""
    command = [sys.executable, str(HERE / "toy_run.py"), str(folder), str(steps), str(hang_at)]
    root = str(HERE.parents[1])
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root, **environment}
    )
    assert child.stdout is not None
    assert child.stdout.readline() == f"in step {hang_at}\n"
    return child


def content(folder):
    """Every tensor and number of the newest checkpoint, and the log without its times."""
    newest = newest_checkpoint(folder)
    files = {path.name: path.read_bytes() for path in newest.iterdir() if path.suffix == ".safetensors"}
    states = torch.load(newest / "optimizer.pt", weights_only=True)
    log = [{k: v for k, v in row.items() if k not in TIMES} for row in read_log(folder / "log.jsonl")]
    return files, states, json.loads((newest / "state.json").read_text()), log


def assert_same(one, other):
    assert one[0] == other[0] and one[2:] == other[2:]
    moments, others = (kept[1]["optimizer"]["state"] for kept in (one, other))
    assert moments.keys() == others.keys() and moments
    assert all(torch.equal(moments[p][name], others[p][name]) for p in moments for name in moments[p])
    assert one[1]["optimizer"]["param_groups"] == other[1]["optimizer"]["param_groups"]
    assert one[1]["schedule"] == other[1]["schedule"]


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_six_steps_equal_three_a_kill_and_three_more(tmp_path, one_thread):
    whole = run(tmp_path / "whole", 6)
    child = start(tmp_path / "parts", 6, hang_at=4)  # steps 0 to 3 are done, the checkpoint is after step 2
    child.send_signal(signal.SIGKILL)
    assert child.wait(60) == -signal.SIGKILL
    assert [path.name for path in checkpoints(tmp_path / "parts")] == ["checkpoint-3"]
    assert read_log(tmp_path / "parts/log.jsonl")[-1]["step"] == 4  # told before the kill, and again after
    resumed = run(tmp_path / "parts", 6)
    assert_same(content(tmp_path / "whole"), content(tmp_path / "parts"))
    for left, right in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_step_end_and_be_saved(tmp_path, one_thread, number, code):
    child = start(tmp_path / "parts", 6, hang_at=4, HANG_SECONDS="1")
    child.send_signal(number)
    assert child.wait(60) == code
    assert newest_checkpoint(tmp_path / "parts").name == "checkpoint-5"
    run(tmp_path / "parts", 6)
    run(tmp_path / "whole", 6)
    assert_same(content(tmp_path / "whole"), content(tmp_path / "parts"))


def test_a_stop_within_the_process_names_signal_step_and_checkpoint(tmp_path, monkeypatch):
    handler, take_step = signal.getsignal(signal.SIGTERM), loop.take_step

    def take_step_and_ask(learner, stream, step_losses, step, config, window):
        take_step(learner, stream, step_losses, step, config, window)
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "take_step", take_step_and_ask)
    with pytest.raises(TrainingStopped, match="SIGTERM after step 2") as stopped:
        run(tmp_path, 6, workers=0)
    assert stopped.value.exit_code == 143
    assert stopped.value.checkpoint == newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_finished_run_does_nothing_more(tmp_path):
    network = run(tmp_path, 4, workers=0)
    again = run(tmp_path, 4, workers=0)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [1, 2, 3, 4]
