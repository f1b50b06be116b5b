"""Two processes that gather their windows teach as one with all of them: the same loss, the same gradient."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sync.gathered_run import losses_of, network, windows

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.mark.slow
def test_gradients_flow_between_processes(tmp_path):
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/multi.yaml",
        "--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0",
        str(HERE / "gathered_run.py"), str(tmp_path),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    model = network()
    loss = losses_of(model, *windows())
    loss.backward()
    for rank in range(2):
        told = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        assert float(told["loss"].mean()) == pytest.approx(float(loss.detach()), abs=1e-6)
        for found, parameter in zip(told["gradients"], model.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.grad, atol=1e-6, rtol=1e-5)
