"""Every command line: whatever is wrong is one line and an exit code, and a kill cleans up once."""

import argparse
import os
import runpy
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from latentsync.command import Parser, run_command
from latentsync.errors import ConfigError

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("scripts/*.py"), *ROOT.glob("eval/*.py")])
NAMES = [str(path.relative_to(ROOT)) for path in SCRIPTS]


def run(script: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """The script as a stranger calls it, from another folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), *flags]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT.parent)


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
@pytest.mark.parametrize("flags", [["--no_such_flag", "two\nlines"], ["--no_such_flag=\udc80"], ["--out"]])
def test_a_wrong_flag_is_one_line(script, flags):
    done = run(script, *flags)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_help_shows_the_command_to_paste(script):
    done = run(script, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert script.name in done.stdout.split("options:")[0].split("\n\n", 1)[1]


WRONG_INPUT = {
    "scripts/convert_checkpoint.py": ["no.pt", "made"],
    "scripts/inference.py": ["--video", "no.mp4", "--audio", "no.wav", "--output", "out.mp4"],
    "scripts/inference_profiler_optimized.py": [
        *("--video_path", "no.mp4", "--audio_path", "no.wav", "--video_out_path", "out.mp4")
    ],
    "scripts/make_talkers.py": ["--output", "made", "--videos", "--portrait", "no.png"],
    "scripts/pack_footage.py": ["--list", "no.csv", "--output", "packed"],
    "scripts/train_audio.py": ["--config", "no.yaml"],
    "scripts/train_refiner.py": ["--config", "no.yaml"],
    "scripts/train_default.py": ["--list", "no.csv", "--work", "made"],
    "scripts/train_unet.py": ["--unet_config_path", "no.yaml"],
    "scripts/train_vae.py": ["--config", "no.yaml"],
    "eval/cross_dub.py": ["--pairs_dir", "no_clips"],
    "eval/sync_conf.py": ["--videos_dir", "no_clips"],
    "eval/evaluate.py": ["--list", "no.jsonl"],
    "eval/offset.py": ["--ckpt", "no.pt", "--video_path", "no.mp4"],
    "eval/synchformer.py": ["--ckpt", "no.pt", "--vids_path", "no_clips"],
    "eval/unet_losses.py": ["--unet_config_path", "no.yaml", "--after", "no_run"],
    "eval/syncnet_acc.py": ["--syncnet", "no.pt", "--data", "no_clips"],
    "scripts/synchformer_example.py": ["--ckpt", "no.pt", "--vid_path", "no.mp4", "--offset_sec", "0.2"],
    "scripts/train_synchformer.py": ["--config", "no.yaml"],
    "scripts/train_syncnet.py": ["--config_path", "no.yaml"],
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_a_missing_file_is_named_without_a_traceback(script):
    done = run(script, *WRONG_INPUT[str(script.relative_to(ROOT))])
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "no" in errors[0] and len(errors) == 1 + (
        script.name == "train_default.py"
    )  # its stage, and itself


@pytest.mark.parametrize(
    ("told", "is_quick", "wanted"), [("auto", True, "bf16"), ("auto", False, "no"), ("bf16", False, "bf16")]
)
def test_the_default_is_trained_in_numbers_that_are_quick_here(monkeypatch, told, is_quick, wanted):
    monkeypatch.setattr("latentsync.device.pick_device", lambda: torch.device("cpu"))
    monkeypatch.setattr("latentsync.device.cpu_multiplies_bfloat16", lambda: is_quick)
    script = runpy.run_path(str(ROOT / "scripts/train_default.py"), run_name="train_default")
    assert script["precision_here"](told) == wanted


def test_a_list_without_a_column_is_named(tmp_path):
    (tmp_path / "clips.csv").write_text("path,speaker\na.mp4,anna\n")
    done = run(ROOT / "scripts/pack_footage.py", "--list", str(tmp_path / "clips.csv"), "--output", "made")
    assert done.returncode == 2 and "clip 1: no split" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (None, 0, ""),
        (ConfigError("a.yaml:\n  no key"), 2, "error: a.yaml: no key\n"),
        (FileNotFoundError("a.mp4 is missing"), 2, "error: a.mp4 is missing\n"),
        (OSError(36, "File name too long", "n.mp4"), 2, "error: n.mp4: File name too long\n"),
        (ValueError(), 2, "error: ValueError\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_become_a_line_and_an_exit_code(capsys, error, code, printed):
    def work(_flags: argparse.Namespace) -> None:
        if error is not None:
            raise error

    assert run_command(work, argparse.Namespace()) == code
    assert capsys.readouterr() == ("", printed)


def test_what_nobody_can_mend_keeps_its_traceback():
    def work(_flags: argparse.Namespace) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(work, argparse.Namespace())


def test_flags_are_wanted_in_full(capsys):
    parser = Parser("Does nothing.")
    parser.add_argument("--output")
    with pytest.raises(SystemExit) as leaving:
        parser.parse_args(["--out", "x"])
    assert leaving.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_kill_cleans_up_once(number):
    source = """
        import argparse, time
        from latentsync.command import leave, run_command

        def work(flags):
            try:
                print("ready", flush=True)
                time.sleep(60)
            finally:
                time.sleep(0.5)
                print("cleaned up", flush=True)

        leave(run_command(work, argparse.Namespace(), interrupted="interrupted: nothing was written"))
    """
    command = [sys.executable, "-c", textwrap.dedent(source)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)  # impatience must not disturb the cleaning up
        printed = process.communicate(timeout=30)
    assert process.returncode == 130
    assert printed == ("cleaned up\n", "interrupted: nothing was written\n")
