"""Around the loop: exit codes, and the files that `accelerate launch` is given."""

import logging
import signal
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file

from latentsync.errors import TrainingError
from latentsync.training import LoopConfig, TrainingStopped, record_config, run_job

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "accelerate"


@pytest.fixture(autouse=True)
def restored_logger():
    """The log on the screen is the script's, and its screen the test's."""
    logger = logging.getLogger("latentsync")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cpu", "NO"),
        ("single", "NO"),
        ("multi", "MULTI_GPU"),
        ("fsdp", "FSDP"),
        ("deepspeed2", "DEEPSPEED"),
    ],
)
def test_each_file_is_a_configuration_of_accelerate(name, kind):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type.value == kind
    assert config.use_cpu == (name == "cpu")
    assert config.mixed_precision == ("no" if name == "cpu" else "bf16")


def test_no_file_is_forgotten():
    assert {path.stem for path in CONFIGS.iterdir()} == {"cpu", "single", "multi", "fsdp", "deepspeed2"}


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (None, 0, ""),
        (TrainingError("a loss\nis lost"), 2, "error: a loss is lost"),
        (FileNotFoundError("no such file"), 2, "error: no such file"),
        (TrainingStopped(signal.SIGTERM, 3, Path("c")), 143, "stopped by SIGTERM after step 3"),
        (TrainingStopped(signal.SIGINT, 3, Path("c")), 130, "stopped by SIGINT after step 3"),
    ],
)
def test_a_job_ends_with_a_code_and_a_sentence(capsys, raised, code, said):
    def job():
        if raised is not None:
            raise raised

    assert run_job(job) == code
    assert said in capsys.readouterr().err


def test_a_run_that_goes_on_keeps_the_record_of_its_start(tmp_path):
    accelerator, record = Accelerator(cpu=True), tmp_path / "run" / "config.yaml"
    record_config(LoopConfig(steps=1), tmp_path / "run", accelerator)
    record_config(LoopConfig(steps=2), tmp_path / "run", accelerator)
    assert "steps: 2" in record.read_text()
    (tmp_path / "run" / "checkpoint-2").mkdir()
    record_config(LoopConfig(steps=3), tmp_path / "run", accelerator)
    assert "steps: 2" in record.read_text()


def test_a_bug_keeps_its_traceback():
    def job():
        raise KeyError("ours")

    with pytest.raises(KeyError):
        run_job(job)
