"""A synthetic talker evaluated: as it is, with faults, or unfit; and the command as it is typed."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from loudness_judge import LoudnessJudge
from synthetic import square_images, write_video

from latentsync.evaluation import Evaluator, Item, json_line, summary, summary_line, table, write_page
from latentsync.face import MediaPipeDetector
from latentsync.media import VideoReader, read_audio
from latentsync.preprocess.talker import DrawnTalker, write_talker

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FRAMES = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two talkers, and results made of the first: whole, trembling in a lighter mouth, and nobody."""
    folder = tmp_path_factory.mktemp("talkers")
    for seed in (4, 5):
        write_talker(DrawnTalker(seed, frames=FRAMES), folder / f"talker{seed}.mp4")
    with VideoReader(folder / "talker4.mp4") as reader:
        images = [frame.image for frame in reader]
    sound = read_audio(folder / "talker4.mp4", 16_000)[None]
    write = {"sound": sound, "rate": 16_000}
    write_video(folder / "same.mp4", images, **write)
    y, x = np.mgrid[: images[0].shape[0], : images[0].shape[1]]
    mouth = ((x - 128) ** 2 + (y - 150) ** 2 < 36**2)[:, :, None]
    faulty = [(image + (k % 2 * 50 * mouth)).clip(0, 255).astype(np.uint8) for k, image in enumerate(images)]
    write_video(folder / "faulty.mp4", faulty, **write)
    write_video(folder / "nobody.mp4", square_images(12, width=256, height=256), **write)
    write_video(folder / "silent.mp4", images)
    return folder


@pytest.fixture(scope="module")
def rows(folder):
    """A row a clip: same, faulty, nobody, silent, missing."""
    true = folder / "talker4.mp4"
    names = ("same", "faulty", "nobody", "silent", "missing")
    items = [Item(folder / f"{name}.mp4", true, true, true) for name in names]
    with MediaPipeDetector() as detector:
        evaluator = Evaluator([LoudnessJudge()], detector, others=[folder / "talker5.mp4"])
        return {name: evaluator.evaluate(item) for name, item in zip(names, items, strict=True)}


def test_a_clip_as_it_was_has_the_best_of_all_numbers(rows):
    numbers = rows["same"].numbers
    assert set(rows["same"].invalid) <= {"loudness"}
    assert numbers["lip_aperture_r"] > 0.97 and numbers["lip_opening_ratio"] == pytest.approx(1, abs=0.1)
    assert numbers["seam_ratio"] == pytest.approx(1, abs=0.05)
    assert numbers["flicker_ratio"] == pytest.approx(1, abs=0.1)
    assert numbers["psnr_inside"] > 35 and numbers["psnr_outside"] > 35
    assert numbers["landmark_distance"] < 0.01 and rows["same"].contract.is_kept
    judged = rows["same"].judged[0]
    own = judged.calibration.own
    assert judged.score is not None and own is not None
    assert abs(judged.score.offset_frames - own.offset_frames) <= 1
    assert numbers["loudness.confidence"] == (None if judged.invalid else judged.score.confidence)


def test_faults_are_seen_where_they_are(rows):
    good, bad = rows["same"].numbers, rows["faulty"].numbers
    assert bad["flicker_ratio"] > 2 * good["flicker_ratio"]
    assert bad["psnr_inside"] < good["psnr_inside"] - 5 and bad["ssim_inside"] < good["ssim_inside"]
    assert bad["psnr_inside"] < bad["psnr_outside"]


def test_what_cannot_be_judged_is_a_row_with_its_reasons(rows):
    assert "no face" in rows["nobody"].invalid["loudness"]
    assert "only 0 frames with a face" in rows["nobody"].invalid["lips"]
    assert "no sound" in rows["silent"].invalid["form"] and "no sound" in rows["silent"].invalid["loudness"]
    assert "missing.mp4" in rows["missing"].invalid["clip"]
    assert rows["missing"].numbers == {} and rows["nobody"].numbers["loudness.confidence"] is None


def test_an_unbelievable_judge_is_no_number_but_a_reason(folder):
    item = Item(folder / "same.mp4", folder / "talker4.mp4")
    with MediaPipeDetector() as detector:
        row = Evaluator([LoudnessJudge(deaf=True)], detector).evaluate(item)
    assert row.numbers["loudness.confidence"] is None and row.numbers["loudness.offset_frames"] is None
    assert "cannot be believed on talker4.mp4: known shifts are not found" in row.invalid["loudness"]
    assert row.judged[0].score is not None and "lips" not in row.invalid


def test_table_lines_and_page_tell_the_same(rows, tmp_path):
    every = list(rows.values())
    means = summary(every)
    text = table(every, means)
    assert "invalid: clip:" in text and "silent.mp4" in text and "1 = no seam" in text
    told = [json.loads(json_line(row)) for row in every]
    assert [line["numbers"] for line in told] == [row.numbers for row in every]
    assert told[4]["invalid"] == rows["missing"].invalid and told[0]["contract"]["frames"] == FRAMES
    assert (
        json.loads(summary_line(every, means))["summary"]["seam_ratio"]["clips"] == means["seam_ratio"].clips
    )
    write_page(tmp_path / "page.html", every, means, ["<note> & more"])
    page = (tmp_path / "page.html").read_text()
    assert "&lt;note&gt; &amp; more" in page and "<script" not in page
    assert (
        set(re.findall(r'(?:src|href)="(\w+:)', page)) == {"data:"}
        and "http" not in page.split("</style>")[1]
    )
    assert page.count("<polyline") >= 4 and page.count("<img") >= 3
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]


def call(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["eval/evaluate.py", *map(str, arguments)])
    monkeypatch.setattr("latentsync.command.leave", sys.exit)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "eval/evaluate.py"), run_name="__main__")
    return left.value.code


@pytest.mark.parametrize("bad", [False, True])
def test_the_command(monkeypatch, capsys, folder, tmp_path, bad):
    true = str(folder / "talker4.mp4")
    names = ["same.mp4", "missing.mp4"] if bad else ["same.mp4"]
    lines = [json.dumps({"result": str(folder / name), "source": true, "sound": true}) for name in names]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr("latentsync.evaluation.judges_at_hand", lambda *_, **__: [])
    out = tmp_path / "page.html", tmp_path / "rows.jsonl"
    code = call(monkeypatch, "--list", tmp_path / "list.jsonl", "--html", out[0], "--jsonl", out[1])
    told = capsys.readouterr()
    assert code == (2 if bad else 0), told.err
    assert "no judge of sync is at hand" in told.err and "LPIPS is left out" in told.err
    assert ("1 of 2 clips have invalid numbers, missing.mp4 among them" in told.err) == bad
    rows = [json.loads(line) for line in out[1].read_text().splitlines()]
    assert len(rows) == len(names) + 1 and "summary" in rows[-1] and out[0].stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((), "pass either --results_dir or --list"),
        (("--results_dir", "/nowhere"), "/nowhere does not exist"),
        (("--results_dir", ROOT / "assets", "--judge", "nobody"), "unknown judge 'nobody'"),
        (("--results_dir", ROOT / "assets", "--judge", "syncnet=/no.model"), "/no.model"),
    ],
)
def test_what_cannot_be_done_is_one_line(monkeypatch, capsys, arguments, wanted):
    assert call(monkeypatch, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and wanted in lines[0]
