"""scripts/train_syncnet.py and eval/syncnet_acc.py as somebody types them: results, refusals, exit codes."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from footage_clips import write_packed
from sync.tiny_syncnet import tiny_config

from latentsync.sync.open_syncnet import open_syncnet

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    splits = ["train"] * 5 + ["val"]
    return write_packed(tmp_path_factory.mktemp("packed") / "clips", frames=[80] * 6, splits=splits)


def call(monkeypatch, script: str, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    monkeypatch.setattr("latentsync.command.leave", sys.exit)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return left.value.code


TRAIN, ACCURACY = "scripts/train_syncnet.py", "eval/syncnet_acc.py"


@pytest.mark.slow
def test_train_then_ask(monkeypatch, capsys, packed, tmp_path):
    config = tiny_config(tmp_path, packed)
    assert call(monkeypatch, TRAIN, "--config_path", config, "run.max_train_steps=2") == 0
    folder = tmp_path / "run/syncnet"
    assert open_syncnet(folder).config["resolution"] == 32
    capsys.readouterr()
    asked = ("--syncnet", folder, "--data", packed, "--samples", 30, "--cache", tmp_path / "cache")
    assert call(monkeypatch, ACCURACY, *asked, "--min_shift", 5, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["windows"] == 30 and 0 <= told["accuracy"] <= 1 and "1 to 4" not in told["by_shift"]
    assert set(told["by_clip"]) == {"c5"}
    assert call(monkeypatch, ACCURACY, *asked) == 0
    assert "of 30 windows" in capsys.readouterr().out
    assert call(monkeypatch, ACCURACY, *asked, "--min_shift", 5, "--windows", 3, "--json") == 0
    longer = json.loads(capsys.readouterr().out)
    assert longer["windows_an_answer"] == 3 and longer["loss"] != told["loss"]
    assert call(monkeypatch, ACCURACY, *asked, "--windows", 9) == 2  # 56 frames, and others as far away
    assert "too short" in capsys.readouterr().err


def test_the_doctor_looks_at_all_splits(monkeypatch, capsys, packed, tmp_path):
    config = tiny_config(tmp_path, packed)
    assert call(monkeypatch, TRAIN, "--config_path", config, "--check", packed) in (0, 1)
    text = capsys.readouterr().out
    assert "6 of 6 clips serve" in text and "common offset" in text
    assert {path.name for path in (tmp_path / "run/check").iterdir()} >= {
        "report.txt",
        "report.json",
        "faces.png",
    }


def test_the_doctor_tells_of_late_sound_by_its_exit_code(monkeypatch, capsys, tmp_path):
    late = write_packed(tmp_path / "late", frames=[120] * 24, sound_late_frames=6)
    config = tiny_config(tmp_path, late)
    assert call(monkeypatch, TRAIN, "--config_path", config, "--check", late) == 1
    assert "the sound is 6 frames late in the whole collection" in capsys.readouterr().out


def test_one_batch(monkeypatch, capsys, packed, tmp_path):
    config = tiny_config(tmp_path, packed)
    assert call(monkeypatch, TRAIN, "--config_path", config, "--overfit") == 0
    assert "one batch: accuracy 1.00" in capsys.readouterr().out
    assert not (tmp_path / "run/config.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((), "--config_path is missing"),
        (("run.max_train_stepz=3",), "max_train_stepz"),
        (("data.train_data_dir=/nowhere",), "/nowhere does not exist"),
        (("data.resolution=64",), "64 px"),
        (("run.max_train_steps=0",), "loop.steps is 0"),
        (("ckpt.resume_ckpt_path=/nothing.pt",), "/nothing.pt"),
        (("data.latent_space=true", "data.vae_path=/no/vae"), "/no/vae"),
    ],
)
def test_what_cannot_be_done_is_one_line(monkeypatch, capsys, packed, tmp_path, arguments, wanted):
    config = () if not arguments else ("--config_path", tiny_config(tmp_path, packed))
    assert call(monkeypatch, TRAIN, *config, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and wanted in lines[0]
    assert not (tmp_path / "run/syncnet").exists()


def test_no_footage_and_no_network(monkeypatch, capsys, packed, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, wanted in (
        (("--syncnet", tmp_path / "empty", "--data", packed), "config.json"),
        (("--syncnet", tmp_path / "no", "--data", packed), "no"),
    ):
        assert call(monkeypatch, ACCURACY, *arguments, "--cache", tmp_path / "cache") == 2
        assert wanted in capsys.readouterr().err
