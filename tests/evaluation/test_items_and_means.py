"""Which clips are found, with what; and means whose intervals hold what they promise."""

import json
import math

import numpy as np
import pytest

from latentsync.errors import FootageError
from latentsync.evaluation import Interval, Item, bootstrap, items_in, read_list, summary
from latentsync.evaluation.clip import ClipRow


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_folder_with_reports_and_references(tmp_path):
    face, speech = write(tmp_path / "in/face.mp4"), write(tmp_path / "in/speech.wav")
    a, b, c = (write(tmp_path / "out" / name) for name in ("a.mp4", "b.mov", "c.mp4"))
    write(tmp_path / "out/notes.txt")
    write(tmp_path / "out/a.mp4.report.json", json.dumps({"video": str(face), "audio": str(speech)}))
    write(tmp_path / "out/b.mov.report.json", json.dumps({"video": str(face), "audio": str(face)}))
    assert items_in(tmp_path / "out") == [Item(a, face, speech), Item(b, face, face, face), Item(c)]
    true = write(tmp_path / "true/c.mp4")
    assert items_in(tmp_path / "out", tmp_path / "true")[2] == Item(c, reference=true)
    assert Item(a, face, speech).genuine == face and Item(c, face, None, true).genuine == true
    assert Item(c).genuine is None


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no video in"):
        items_in(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        items_in(tmp_path / "nowhere")
    write(tmp_path / "a.mp4")
    write(tmp_path / "a.mp4.report.json", "{}")
    with pytest.raises(FootageError, match="no report of a job"):
        items_in(tmp_path)


def test_a_list(tmp_path):
    text = '{"result": "a.mp4", "source": "/x/s.mp4"}\n\n{"result": "b.mp4", "sound": "b.wav"}\n'
    first, second = read_list(write(tmp_path / "list.jsonl", text))
    assert (first.result, str(first.source)) == (tmp_path / "a.mp4", "/x/s.mp4")
    assert second == Item(tmp_path / "b.mp4", sound=tmp_path / "b.wav")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "names no clip"),
        ('{"result": "a"}\nnonsense', "line 2 is no JSON"),
        ('{"source": "a"}', 'line 1: expected "result"'),
        ('{"result": "a", "sounds": "b"}', "line 1"),
        ('{"result": 3}', "each a path"),
    ],
)
def test_lists_that_are_wrong(tmp_path, text, wanted):
    with pytest.raises(FootageError, match=wanted):
        read_list(write(tmp_path / "list.jsonl", text))


def test_an_interval_holds_the_true_mean_in_about_95_of_100_cases():
    rng = np.random.default_rng(0)
    held = 0
    for number in range(200):
        mean = bootstrap((3 + rng.standard_normal(25)).tolist(), draws=400, seed=number)
        held += mean.low <= 3 <= mean.high
    assert 0.88 <= held / 200 <= 0.99


def test_an_interval_narrows_with_clips_and_needs_three():
    values = np.random.default_rng(1).standard_normal(64).tolist()
    few, many = bootstrap(values[:8]), bootstrap(values)
    assert many.high - many.low < few.high - few.low and many.low < many.mean < many.high
    assert many == bootstrap(values) and few.clips == 8
    two = bootstrap([1.0, 2.0])
    assert two.mean == 1.5 and math.isnan(two.low) and two.clips == 2
    assert bootstrap([4.0] * 5) == Interval(4.0, 4.0, 4.0, 5)
    for nonsense in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="finite numbers"):
            bootstrap(nonsense)


def test_invalid_numbers_do_not_count(tmp_path, monkeypatch):
    found = [{"seam_ratio": 1.0, "a.confidence": 5.0}, {"seam_ratio": 3.0, "a.confidence": None}, {}]
    rows = [ClipRow(Item(tmp_path / str(number))) for number in range(3)]
    monkeypatch.setattr(ClipRow, "numbers", property(lambda row: found[rows.index(row)]))
    means = summary(rows)
    assert (means["seam_ratio"].mean, means["seam_ratio"].clips) == (2.0, 2)
    assert (means["a.confidence"].mean, means["a.confidence"].clips) == (5.0, 1)
