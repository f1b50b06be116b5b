"""The doctor: a known shift is found, a wrong sound is told from a right one, and faults are listed."""

import json
import shutil

import numpy as np
import pytest
from footage_clips import opening, voice, write_face_video, write_packed
from PIL import Image

from latentsync.audio.loudness import log_energy
from latentsync.footage.check import check
from latentsync.footage.lip_offset import OFFSETS, mouth_motion, peak, sliding_correlation
from latentsync.footage.listing import ClipFile, packed_clips

COUNT = 24  # clips: as many witnesses as findings of sync take


@pytest.mark.parametrize("late", [-9, -3, 0, 1, 6])
def test_a_known_shift_of_one_clip_is_found(late):
    mouth = opening(140, 5)
    heard = log_energy(voice(mouth[20 - late : 120 - late], 5), 25.0, 100)
    curve = sliding_correlation(mouth[20:120], heard, measure="aperture")
    assert curve is not None
    found = peak(curve)
    assert found.offset_frames == -late and found.r > 0.8 and found.is_clear


def test_a_clip_that_is_short_still_or_silent_has_no_offset():
    mouth, energy = opening(60, 1), log_energy(voice(opening(60, 1), 1), 25.0, 60)
    assert sliding_correlation(mouth[:39], energy[:39], measure="aperture") is None
    assert sliding_correlation(np.full(60, 0.2), energy, measure="aperture") is None
    assert sliding_correlation(mouth, np.zeros(60), measure="aperture") is None


def test_motion_counts_what_changes_in_the_mouth_from_batch_to_batch():
    faces = np.zeros((4, 32, 32, 3), np.uint8)
    faces[2:, 20:28, 12:20] = 100
    faces[3, :16] = 200  # the upper half does not count
    whole = mouth_motion(faces, None)
    assert whole[0] == whole[1] == whole[3] == 0 and whole[2] > 30
    np.testing.assert_array_equal(
        np.append(mouth_motion(faces[:2], None), mouth_motion(faces[2:], faces[1])), whole
    )


@pytest.mark.parametrize("late", [0, 4, -5])
def test_a_shift_of_a_whole_collection_is_found_and_named(tmp_path, late):
    clips = packed_clips(write_packed(tmp_path / "clips", frames=(80,) * COUNT, sound_late_frames=late))
    report = check(clips, tmp_path / "cache")
    assert report.common is not None and report.common.offset_frames == -late
    assert report.histogram[-late] >= 0.9 * COUNT and sum(report.histogram.values()) == COUNT
    assert report.near_share > 0.9 and report.chance_share < 0.5 and report.clear_share > 0.9
    assert report.far_share == (1.0 if late else 0.0)
    said = {0: [], 4: ["4 frames late in the whole collection"], -5: ["5 frames early"]}[late]
    assert len(report.findings()) == len(said)
    assert all(words in report.table() for words in said)


def test_voices_that_are_not_the_faces_own_are_told_from_chance(tmp_path):
    folder = write_packed(tmp_path / "clips", frames=(80,) * COUNT)
    for number in range(COUNT):
        np.save(folder / f"c{number}" / "waveform.npy", voice(opening(80, 500 + number), number))
    report = check(packed_clips(folder), tmp_path / "cache")
    assert report.near_share - report.chance_share < 0.35
    assert any("is the voice the face's" in found or "may be mixed" in found for found in report.findings())


@pytest.mark.slow
def test_videos_show_their_shift_by_what_moves(tmp_path):
    clips, late = [], 3
    for seed in range(COUNT):
        words = (opening(120, seed) > 0.5).astype(float)  # the mouth flutters in words and rests between them
        path = write_face_video(
            tmp_path / f"{seed}.mp4",
            frames=80,
            seed=seed,
            side=32,
            mouth=(words * (np.arange(120) % 2))[20:100],
            heard=words[20 - late : 100 - late],
        )
        clips.append(ClipFile(path, "video"))
    report = check(clips, tmp_path / "cache")
    assert report.common is not None and abs(report.common.offset_frames + late) <= 1
    assert report.near_share - report.chance_share > 0.35
    assert check(clips, tmp_path / "cache") == report  # what was measured is taken from the cache


def test_faults_copies_and_leaks_are_listed_and_saved(tmp_path):
    folder = write_packed(
        tmp_path / "clips", frames=(80, 80, 80, 80, 30, 80), splits=("train",) * 5 + ("val",)
    )
    np.save(folder / "c1" / "waveform.npy", np.zeros(80 * 640, np.float32))
    (folder / "c2" / "faces.npy").write_bytes(b"nothing")
    for target in ("c3", "c5"):
        shutil.rmtree(folder / target)
        shutil.copytree(folder / "c0", folder / target)
    report = check(packed_clips(folder), tmp_path / "cache", sheet_clips=4)
    assert [clip.against for clip in report.clips] == ["", "silent", "unreadable", "", "too short", ""]
    assert [clip.offset is not None for clip in report.clips] == [True, False, False, True, False, True]
    assert report.copies == () and report.leaks == (tuple(str(folder / name) for name in ("c0", "c3", "c5")),)
    text = report.table()
    for words in ("3 of 6 clips serve", "1 silent", "1 unreadable", "1 too short", "serves two splits"):
        assert words in text
    assert "it takes 20 to tell" in text

    report.save(tmp_path / "report")
    stored = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (
        stored["histogram"]["0"] == 3 and len(stored["clips"]) == 6 and len(stored["curve"]) == len(OFFSETS)
    )
    assert (tmp_path / "report" / "report.txt").read_text() == text + "\n"
    with Image.open(tmp_path / "report" / "faces.png") as sheet:
        assert sheet.width == 3 * 128  # of the four clips 0, 2, 3, 5 one cannot be read


def test_nothing_to_examine_is_a_report_that_says_so(tmp_path):
    report = check([], tmp_path / "cache")
    report.save(tmp_path / "report")
    assert "0 of 0 clips serve" in report.table() and report.common is None
    assert not (tmp_path / "report" / "faces.png").exists()
