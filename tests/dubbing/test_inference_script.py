"""scripts/inference.py as a stranger uses it: one line and an exit code for whatever is wrong."""

import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dubbing_clips import write_sound

from latentsync.media import VideoReader

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "inference.py"


@pytest.fixture
def inference(monkeypatch, capsys, model):
    """`inference(*flags) -> (exit code, stderr)`, in this process, with the random model."""
    spec = importlib.util.spec_from_file_location("inference_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["inference.py", *map(str, flags), "--model", str(model)])
        capsys.readouterr()
        code = module.main()
        return code, capsys.readouterr()

    return run


def test_wrong_flags_are_one_line(inference, capsys):
    for flags in (["--video"], ["--nonsense"], ["--duration", "never"]):
        with pytest.raises(SystemExit) as leaving:
            inference(*flags)
        assert leaving.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def make_bad_inputs(folder, clips):
    """name -> (video, audio) that cannot be dubbed, and a word that the message must hold."""
    good_video, good_audio = clips / "face.mp4", clips / "speech.wav"
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "half.mp4").write_bytes(good_video.read_bytes()[:3000])
    (folder / "text.mp4").write_text("this is not a video\n" * 50)
    shutil.copy(good_audio, folder / "sound.mp4")
    (folder / "empty.wav").write_bytes(b"")
    write_sound(folder / "blip.wav", 0.02)
    return {
        "missing video": (folder / "no such.mp4", good_audio, "no such.mp4"),
        "missing audio": (good_video, folder / "no such.wav", "no such.wav"),
        "a folder": (folder, good_audio, str(folder)),
        "empty video": (folder / "empty.mp4", good_audio, "empty.mp4"),
        "truncated video": (folder / "half.mp4", good_audio, "half.mp4"),
        "text as video": (folder / "text.mp4", good_audio, "text.mp4"),
        "no video stream": (folder / "sound.mp4", good_audio, "sound.mp4"),
        "video without sound as audio": (good_video, clips / "nobody.mp4", "nobody.mp4"),
        "empty audio": (good_video, folder / "empty.wav", "empty.wav"),
        "0.02 s of audio": (good_video, folder / "blip.wav", "blip.wav"),
        "nobody": (clips / "nobody.mp4", good_audio, "face"),
    }


CASES = [
    "missing video",
    "missing audio",
    "a folder",
    "empty video",
    "truncated video",
    "text as video",
    "no video stream",
    "video without sound as audio",
    "empty audio",
    "0.02 s of audio",
    "nobody",
]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_exit_code_2(inference, clips, tmp_path, case):
    bad, results = tmp_path / "bad", tmp_path / "results"
    bad.mkdir()
    results.mkdir()
    video, audio, word = make_bad_inputs(bad, clips)[case]
    code, printed = inference("--video", video, "--audio", audio, "--output", results / "out.mp4")
    assert code == 2
    lines = [line for line in printed.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and word in lines[0] and "Traceback" not in printed.err
    assert list(results.iterdir()) == []


@pytest.mark.parametrize("output", ["missing folder/out.mp4", "out.avi", "out"])
def test_a_bad_output_is_refused_before_any_work(inference, clips, tmp_path, output):
    code, printed = inference(
        "--video", clips / "face.mp4", "--audio", clips / "speech.wav", "--output", tmp_path / output
    )
    assert code == 2 and "error:" in printed.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["with space.mp4", 'it\'s "so".mp4', "ünïcode 口.mp4", "a:b.mp4", "-dash.mp4", "$(x);&.mp4"]
)
def test_odd_names_are_just_names(inference, clips, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    shutil.copy(clips / "face.mp4", tmp_path / f"in{name}")
    shutil.copy(clips / "face.mp4", tmp_path / name)
    shutil.copy(clips / "speech.wav", tmp_path / f"{name}.wav")
    code, printed = inference(f"--video={name}", f"--audio={name}.wav", f"--output=out{name}", "--profile")
    assert code == 0, printed.err
    with VideoReader(tmp_path / f"out{name}") as reader:
        assert len(list(reader)) == 10
    assert (tmp_path / f"out{name}.report.json").is_file()
    assert "draw" in printed.out


@pytest.mark.slow
def test_profiled_runs_come_with_a_table_of_parts_and_files(inference, clips, tmp_path):
    paths = ("--video", clips / "face.mp4", "--audio", clips / "speech.wav", "--output", tmp_path / "out.mp4")
    code, printed = inference(*paths, "--profile", "--num_profile_runs", 1)
    assert code == 0 and "denoise" in printed.out and "1 run(s)" in printed.out
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "out.mp4.report.json", "out.mp4.profile"}
    code, printed = inference(*paths, "--profile", "--num_profile_runs", -1)
    assert code == 2 and printed.err.count("error:") == 1


@pytest.mark.parametrize("flag", [("--num_profile_runs", 1), ("--profile_memory",), ("--with_stack",)])
def test_details_of_a_profile_nobody_asked_for_are_refused(inference, clips, tmp_path, flag):
    paths = ("--video", clips / "face.mp4", "--audio", clips / "speech.wav", "--output", tmp_path / "out.mp4")
    code, printed = inference(*paths, *flag)
    assert code == 2 and "belong to --profile" in printed.err and list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_is_refused_before_any_work(inference, clips, tmp_path):
    (tmp_path / "out.mp4.report.json").mkdir()
    paths = ("--video", clips / "face.mp4", "--audio", clips / "speech.wav", "--output", tmp_path / "out.mp4")
    code, printed = inference(*paths, "--profile")
    assert code == 2 and "out.mp4.report.json is a folder" in printed.err
    assert not (tmp_path / "out.mp4").exists()


def test_wrong_settings_are_one_line(inference, clips, tmp_path):
    common = (
        "--video",
        clips / "face.mp4",
        "--audio",
        clips / "speech.wav",
        "--output",
        tmp_path / "out.mp4",
    )
    for flags in (
        ("--inference_steps", 0),
        ("--guidance_scale", -1),
        ("--device", "tpu"),
        ("--dtype", "int4"),
        ("--crf", 77),
    ):
        code, printed = inference(*common, *flags)
        assert code == 2 and printed.err.count("error:") == 1, flags


def test_upstreams_flag_names_work(inference, clips, tmp_path):
    code, _ = inference(
        "--video_path",
        clips / "face.mp4",
        "--audio_path",
        clips / "speech.wav",
        "--video_out_path",
        tmp_path / "out.mp4",
    )
    assert code == 0 and (tmp_path / "out.mp4").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "number"),
    [
        ("inference.py", signal.SIGINT),
        ("inference_profiler_optimized.py", signal.SIGINT),
        ("inference_profiler_optimized.py", signal.SIGTERM),
    ],
)
def test_ctrl_c_and_kill_leave_with_130_and_no_file(model, clips, tmp_path, script, number):
    sound = write_sound(tmp_path / "long.wav", 60)
    results = tmp_path / "results"
    results.mkdir()
    paths = (
        "--video_path",
        clips / "face.mp4",
        "--audio_path",
        sound,
        "--video_out_path",
        results / "out.mp4",
    )
    command = [sys.executable, SCRIPT.with_name(script), *paths, "--inference_ckpt_path", model]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not any(results.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(number)
    time.sleep(0.3)
    process.send_signal(number)  # impatience must not disturb the cleaning up
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed.splitlines()[-1] == "interrupted: nothing was written" and "Traceback" not in printed
    assert list(results.iterdir()) == []
