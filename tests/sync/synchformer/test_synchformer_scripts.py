"""The command lines that ask a Synchformer: what they print, and how they end."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from synchformer_clips import talker, tiny_synchformer

from latentsync.sync.synchformer.grid import OffsetGrid
from latentsync.sync.synchformer.places import EMBEDDED, locate
from latentsync.sync.synchformer.predict import Prediction, lines

ROOT = Path(__file__).resolve().parents[3]


def script(name):
    spec = importlib.util.spec_from_file_location(Path(name).stem + "_script", ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def call(monkeypatch, capsys):
    """`call(script, *flags) -> (exit code, stdout, stderr)`"""

    def run(name, *flags):
        monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
        code = script(name).main()
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def network(tmp_path):
    folder = tmp_path / "tiny judge"
    tiny_synchformer().save_pretrained(folder)
    return folder


def test_the_example_prints_the_five_likeliest_answers(call, network, tmp_path):
    clip = talker(tmp_path / "a clip.mov", seconds=3, fps=30)
    flags = ("--vid_path", clip, "--ckpt", network, "--offset_sec", 0.2, "--v_start_i_sec", 0.4)
    code, out, err = call("scripts/synchformer_example.py", *flags)
    assert code == 0, err
    told = out.splitlines()
    assert told[:3] == ["Ground Truth offset (sec): 0.20 (3)", "", "Prediction Results:"]
    assert len(told) == 8
    shares = [float(line[2:8]) for line in told[3:]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1, abs=3e-4)
    assert {line.split('"')[1] for line in told[3:]} == {"-0.40", "-0.20", "0.00", "0.20", "0.40"}


def test_the_example_asks_a_synchronizability_model_too(call, tmp_path):
    tiny_synchformer(head="sync_head", classes=2).save_pretrained(tmp_path / "sync")
    clip = talker(tmp_path / "a.mp4", seconds=3)
    code, out, err = call("scripts/synchformer_example.py", "--vid_path", clip, "--ckpt", tmp_path / "sync")
    assert code == 0, err
    assert "Applied offset (sec): 0.00" in out
    assert {line.split('"')[1] for line in out.splitlines() if line.startswith("p=")} == {
        "an offset can be told",
        "an offset cannot be told",
    }


def test_lines_are_those_of_the_original():
    logits = np.full(21, -4.0)
    logits[[18, 19]] = 11.5469, 9.2
    told = list(lines(Prediction(logits, OffsetGrid(), 1.6)))
    assert told[0] == "Ground Truth offset (sec): 1.60 (18)"
    assert told[3] == 'p=0.9127 (11.5469), "1.60" (18)'
    assert "WARNING" in next(lines(Prediction(logits, OffsetGrid(), -2.5)))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--offset_sec", "-0.4"), "start at 0.4 s or later"),
        (("--v_start_i_sec", "2.5"), "past the end"),
        (("--ckpt", "/nowhere/x.pt"), "/nowhere/x.pt"),
        (("--exp_name", "24-01-04T16-39-21", "--device", "cpu"), "a3s.fi"),
        (("--exp_name", "mine"), "no file of a run 'mine'"),
    ],
)
def test_the_example_says_in_one_line_what_is_wrong(call, network, tmp_path, flags, words):
    clip = talker(tmp_path / "a.mp4", seconds=3)
    chosen = () if {"--ckpt", "--exp_name"} & set(flags) else ("--ckpt", network)
    code, out, err = call("scripts/synchformer_example.py", "--vid_path", clip, *chosen, *flags)
    assert (code, out) == (2, "")
    assert words in err and err.startswith("error: ") and err.count("\n") == 1


def test_offsets_of_a_folder_as_json_lines(call, network, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    talker(folder / "a.mp4", seconds=2)
    (folder / "b.mp4").write_bytes(b"no video at all" * 10)
    talker(folder / "c.mov", seconds=2, seed=1)
    flags = ("--videos_dir", folder, "--ckpt", network, "--json")
    code, out, err = call("eval/offset.py", *flags)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [Path(row["video"]).name for row in rows] == ["a.mp4", "b.mp4", "c.mov"]
    assert set(rows[0]) == {"video", "judge", "offset_seconds", "confidence"}
    assert rows[0]["judge"] == "tiny judge"
    assert rows[0]["offset_seconds"] in (-0.4, -0.2, 0.0, 0.2, 0.4) and 0 < rows[0]["confidence"] <= 1
    assert rows[1]["offset_seconds"] is None and "b.mp4" in rows[1]["reason"]
    assert code == 2 and "1 of 3 clips could not be judged" in err


def test_offset_of_one_clip_as_a_table(call, network, tmp_path):
    clip = talker(tmp_path / "a.mp4", seconds=2)
    code, out, _ = call("eval/offset.py", "--video_path", clip, "--ckpt", network, "--hop_seconds", 0.32)
    head, row = out.splitlines()
    assert code == 0 and head.split()[0] == "offset" and row.split()[-2:] == ["5", "a.mp4"]


def test_a_published_run_is_found_where_upstream_puts_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "logs/sync_models/24-01-02T10-00-53/24-01-02T10-00-53.pt"
    place.parent.mkdir(parents=True)
    place.touch()
    assert locate("24-01-02T10-00-53").resolve() == place
    assert locate(ckpt="x.pt") == Path("x.pt")
    if not EMBEDDED.is_dir():
        with pytest.raises(FileNotFoundError, match="embedded"):
            locate()
