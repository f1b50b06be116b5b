"""Two processes with gloo on the CPU train as one with a batch twice as large."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from ranks_run import regression
from safetensors.torch import load_file

from latentsync.training import read_log

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOLERANCE = 1e-6  # float32 sums in another order


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder in which two processes ran `ranks_run.py`, started as the README says."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/multi.yaml",
        "--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0",
        str(HERE / "ranks_run.py"), str(folder),
    ]  # fmt: skip
    paths = os.pathsep.join([str(ROOT), str(HERE)])
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def told(two):
    return [json.loads((two / f"rank-{rank}.json").read_text()) for rank in range(2)]


def trained(folder):
    """Weights, and the gradients of both steps as AdamW keeps them (their running mean)."""
    states = torch.load(folder / "checkpoint-2/optimizer.pt", weights_only=True)
    moments = states["optimizer"]["state"]
    return load_file(folder / "checkpoint-2/model.safetensors"), {k: v["exp_avg"] for k, v in moments.items()}


def assert_close(found, wanted):
    for left, right in zip(found, wanted, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            torch.testing.assert_close(left[name], right[name], atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_there_are_two(told):
    assert [one["processes"] for one in told] == [2, 2]
    assert "MULTI" in told[0]["distributed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch_size", "accumulation"), [("two", 6, 1), ("two", 3, 2), ("accumulated", 12, 1)]
)
def test_gradients_and_weights_equal_those_of_one_process(two, tmp_path, name, batch_size, accumulation):
    regression(tmp_path, Accelerator(cpu=True), batch_size, gradient_accumulation_steps=accumulation)
    assert_close(trained(two / name), trained(tmp_path))
    logs = [read_log(folder / "log.jsonl") for folder in (two / name, tmp_path)]
    for column in ("loss", "gradient_norm", "learning_rate"):
        assert [row[column] for row in logs[0]] == pytest.approx([row[column] for row in logs[1]], rel=1e-4)


@pytest.mark.slow
def test_the_autoencoder_shares_its_gradients(told):
    assert told[0]["autoencoder"] == told[1]["autoencoder"]


@pytest.mark.slow
def test_all_processes_end_alike(told, two):
    assert told[0]["broken"] == told[1]["broken"]
    assert "at step 2" in told[0]["broken"]
    assert told[0]["full_disk"] == told[1]["full_disk"]
    assert "No space left" in told[0]["full_disk"]
    assert [one["stopped"] for one in told] == [2, 2]
    assert [path.name for path in two.glob("stopped/checkpoint-*")] == ["checkpoint-2"]
