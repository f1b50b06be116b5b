"""Whole videos judged: known offsets are found, and what cannot be judged is said in words."""

import json

import numpy as np
import pytest
import torch
from dubbing_clips import portrait
from lit_clips import RATE, level, lit, loud_as, nobody, two_faces, write_lit
from loudness_syncnet import loudness_syncnet
from synthetic import write_video

from latentsync.face import make_detector
from latentsync.sync.stable_judge import StableSyncNetJudge
from latentsync.sync.talking_clip import CutFaces, open_talking_clip
from latentsync.sync.verdict import judge_clip, shift_test
from latentsync.sync.verdict_text import (
    clip_json,
    clip_rows,
    clip_summary,
    shift_json,
    shift_row,
    shift_summary,
)


@pytest.fixture(scope="module")
def detector():
    with make_detector("mediapipe") as detector:
        yield detector


@pytest.fixture
def judge():
    judge = StableSyncNetJudge(loudness_syncnet())
    judge.name = "loudness"
    return judge


@pytest.mark.parametrize(
    ("offset", "fps", "rate", "said"),
    [
        (5, 25, RATE, ()),
        (-3, 50, RATE, ("50 fps shown at 25",)),
        (0, 30, 44100, ("30 fps shown at 25", "sound of 44100 Hz heard at 16000")),
    ],
)
def test_the_offset_of_a_video_is_found_and_what_is_resampled_is_said(
    tmp_path, judge, detector, offset, fps, rate, said
):
    path = write_lit(tmp_path / "a.mp4", offset=offset, fps=fps, rate=rate)
    verdict = judge_clip(path, judge, detector)
    assert verdict.best.score.offset_frames == offset and not verdict.is_invalid
    assert verdict.notes == said
    assert (verdict.best.start_seconds, verdict.best.stop_seconds) == (0, 70 / 25)
    (row,) = clip_rows(verdict)
    assert f"offset {offset:+3d} frames" in row and all(note in row for note in said)
    line = json.loads(clip_json(verdict))
    assert line == {
        "video": str(path),
        "judge": "loudness",
        "offset_frames": offset,
        "confidence": verdict.best.score.confidence,
    }


@pytest.mark.slow
def test_each_of_two_faces_is_judged_and_the_one_that_speaks_is_chosen(tmp_path, judge, detector):
    pictures, sound = two_faces(70, offset=4)
    path = write_video(tmp_path / "two.mp4", pictures, sound=sound[None], rate=RATE)
    verdict = judge_clip(path, judge, detector)
    assert len(verdict.tracks) == 2 and verdict.best.score.offset_frames == 4
    assert verdict.best.box[0] > 256 > verdict.tracks[1 - verdict.tracks.index(verdict.best)].box[0]
    rows = clip_rows(verdict)
    assert "2 faces" in rows[0] and len(rows) == 3 and sum(row.startswith("*") for row in rows) == 1
    line = json.loads(clip_json(verdict))
    assert line["offset_frames"] == 4 and len(line["tracks"]) == 2


@pytest.mark.slow
def test_a_cut_parts_the_tracks_and_each_has_its_own_sound(tmp_path, judge, detector):
    levels = level(160)
    first = lit(portrait(), levels[:75])
    other = np.ascontiguousarray(portrait()[::1, ::-1] // 3 + np.array([120, 30, 60], np.uint8))
    second = lit(other, levels[77:152])  # the sound of the second shot is 2 frames late
    sound = np.concatenate([loud_as(levels[:75]), loud_as(levels[75:150])])
    path = write_video(tmp_path / "cut.mp4", first + second, sound=sound[None], rate=RATE)
    verdict = judge_clip(path, judge, detector)
    assert [track.start_seconds for track in verdict.tracks] == [0, 3]
    assert [track.score.offset_frames for track in verdict.tracks] == [0, -2]


def silent(frames):
    return np.zeros((1, frames * 640), np.float32)


BAD = {
    "nobody": (lambda: (nobody(60), loud_as(level(60))[None]), "no face found in 60 frames"),
    "short": (lambda: (lit(portrait(), level(20)), loud_as(level(20))[None]), "too short: 20 frames"),
    "silence": (lambda: (lit(portrait(), level(60)), silent(60)), "silent: -inf dB"),
    "mute": (lambda: (lit(portrait(), level(60)), None), "no sound"),
    "still": (lambda: ([portrait()] * 60, loud_as(level(60))[None]), "still: moves by"),
    "sound too short": (lambda: (lit(portrait(), level(60)), loud_as(level(20))[None]), "too short: 20 fr"),
    "small": (
        lambda: ([shrunk(image) for image in lit(portrait(), level(60))], loud_as(level(60))[None]),
        "the face is too small",
    ),
}


def shrunk(image):
    """The portrait at a third of its size in a grey picture."""
    picture = np.full((256, 256, 3), 90, np.uint8)
    picture[80:165, 80:165] = image[::3, ::3][:85, :85]
    return picture


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_judged_is_said(tmp_path, judge, detector, kind):
    make, words = BAD[kind]
    pictures, sound = make()
    path = write_video(tmp_path / "bad.mp4", pictures, sound=sound, rate=RATE)
    verdict = judge_clip(path, judge, detector)
    assert verdict.is_invalid and words in verdict.invalid
    assert f"invalid: {verdict.invalid}" in clip_rows(verdict)[0]
    line = json.loads(clip_json(verdict))
    assert line["offset_frames"] is None and line["confidence"] is None and words in line["invalid"]
    assert shift_test(path, judge, detector, (3,)).is_invalid


def test_a_file_that_is_no_video_is_a_row_too(tmp_path, judge, detector):
    (tmp_path / "text.mp4").write_text("no video")
    for name, words in (("text.mp4", "not a video file"), ("absent.mp4", "does not exist")):
        verdict = judge_clip(tmp_path / name, judge, detector)
        assert words in verdict.invalid and verdict.is_invalid
        assert words in shift_test(tmp_path / name, judge, detector, (3,)).invalid


@pytest.mark.slow
def test_known_shifts_are_found_relative_to_the_clips_own_offset(tmp_path, judge, detector):
    path = write_lit(tmp_path / "a.mp4", frames=90, offset=2)
    verdict = shift_test(path, judge, detector, (-8, -3, 0, 5, 12))
    assert verdict.own.offset_frames == 2 and verdict.errors == (0, 0, 0, 0, 0)
    assert "-8 -> -8, -3 -> -3, +0 -> +0, +5 -> +5, +12 -> +12" in shift_row(verdict)
    assert json.loads(shift_json(verdict))["shifts"] == {"-8": -6, "-3": -1, "0": 2, "5": 7, "12": 14}
    beyond = shift_test(path, judge, detector, (-8, 14))
    assert beyond.errors == (0, None) and "+14 out of reach" in shift_row(beyond)
    short = shift_test(write_lit(tmp_path / "b.mp4", frames=40), judge, detector, (12,))
    assert short.invalid.startswith("too short: 16 frames")
    summary = shift_summary([verdict, short])
    assert summary.startswith("4 of 4 shifts found within 1 frame (100 %, by chance 10 %) in 1 videos")


def test_a_judge_that_finds_nothing_is_told_so(tmp_path, detector):
    """The sound of another clip: what is found does not follow the shift."""
    path = write_video(
        tmp_path / "a.mp4", lit(portrait(), level(90)), sound=loud_as(level(90, seed=7))[None], rate=RATE
    )
    deaf = loudness_syncnet()
    deaf.audio_encoder.scale.data.zero_()
    verdict = shift_test(path, StableSyncNetJudge(deaf), detector, (-8, 5, 12))
    assert verdict.own.offset_frames == 15 and verdict.own.confidence == 0  # all offsets alike
    assert verdict.errors == (8, None, None) and "-8 -> +0 !" in shift_row(verdict)


@pytest.mark.slow
def test_a_summary_counts_what_was_judged(tmp_path, judge, detector):
    good = [judge_clip(write_lit(tmp_path / f"{k}.mp4", offset=k), judge, detector) for k in (1, 3, 6)]
    bad = judge_clip(tmp_path / "absent.mp4", judge, detector)
    mean = np.mean([verdict.best.score.confidence for verdict in good])
    assert clip_summary([*good, bad]) == (
        f"3 of 4 videos judged by loudness: mean confidence {mean:.3f}, median offset +3 frames "
        "(from +1 to +6)"
    )
    assert clip_summary([bad]) == "none of 1 videos could be judged"
    assert shift_summary([shift_test(tmp_path / "absent.mp4", judge, detector, (3,))]).startswith("none of 1")


def test_faces_are_cut_from_the_frames_of_their_track(tmp_path, judge, detector):
    """Batch by batch, the same as all at once; a part of a track has the same faces."""
    clip = open_talking_clip(write_lit(tmp_path / "a.mp4", frames=70), detector)
    (track,) = clip.tracks
    cut = CutFaces(clip, track, judge.face_cut)
    faces = torch.cat(list(cut))
    assert faces.shape == (70, 3, 16, 16) and cut.motion > 1 and cut.brightness > 40
    part = torch.cat(list(CutFaces(clip, track, judge.face_cut, range(20, 61))))
    assert torch.equal(part, faces[20:61])
    bright = faces.float().mean(dim=(1, 2, 3)).numpy()
    assert np.corrcoef(bright, level(100)[15:85])[0, 1] > 0.98
    assert len(clip.sound(10, 12)) == 1280 and clip.frames == 70


def test_sound_that_starts_before_the_picture_keeps_its_time(tmp_path, judge, detector):
    """A picture track that begins late, as phones and streams record it."""
    from fractions import Fraction

    levels = level(100)
    pictures = lit(portrait(), levels[5:75])
    times = [Fraction(5 + number, 25) for number in range(70)]
    path = write_video(tmp_path / "late.mkv", pictures, times=times, sound=loud_as(levels)[None], rate=RATE)
    assert judge_clip(path, judge, detector).best.score.offset_frames == 0
