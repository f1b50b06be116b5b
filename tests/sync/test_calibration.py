"""A judge that hears is believed, one that is deaf, stubborn or far off is not, and bad clips say why."""

import numpy as np
import pytest
import torch
from footage_clips import opening, voice, write_face_video
from loudness_judge import LoudnessJudge

from latentsync.face import template
from latentsync.face.tracks import FaceTrack
from latentsync.sync.calibration import SHIFTS_FRAMES, Calibration, calibrate
from latentsync.sync.talking_clip import TalkingClip

SIDE, FRAMES = 64, 90


def clip(folder, *, early=0, silent=False, still=False, frames=FRAMES, heard=None):
    """A face that fills the picture, found where it is; its sound comes `early` frames early."""
    mouth = opening(frames + 40, 3)
    shown = np.full(frames, 0.5) if still else mouth[20 : 20 + frames]
    path = write_face_video(folder / "clip.mp4", frames=frames, side=SIDE, mouth=shown)
    sound = voice(mouth[20 + early : 20 + early + frames], 3) if heard is None else heard
    sound = 0 * sound if silent else sound
    boxes = np.tile(np.float32([0, 0, SIDE, SIDE]), (frames, 1))
    anchors = np.tile(template(SIDE) * np.float32([64 / 52, 64 / 70]), (frames, 1, 1))
    track = FaceTrack(0, boxes, anchors, frames)
    return TalkingClip(path, frames, (track,), torch.from_numpy(sound), ())


def others(count=2):
    return [torch.from_numpy(voice(opening(60 + 50 * seed, 40 + seed), 9)) for seed in range(count)]


@pytest.mark.parametrize("early", [0, 4, -3])
def test_a_judge_that_hears_finds_every_shift_and_is_believed(tmp_path, early):
    found = calibrate(clip(tmp_path, early=early), LoudnessJudge(), others=others())
    assert found.invalid == "" and found.own is not None and found.own.offset_frames == early
    assert found.shifts == found.found_shifts == SHIFTS_FRAMES
    assert len(found.wrong) == 3 and found.own.confidence > 1.2 * found.wrong_confidence
    assert found.silence is not None and found.silence.confidence == 0


@pytest.mark.parametrize(
    ("judge", "reason"),
    [
        (LoudnessJudge(deaf=True), "known shifts are not found: -6 as +0, -3 as +0, +3 as +0, +6 as +0"),
        (LoudnessJudge(answer=2), "known shifts are not found"),
    ],
)
def test_a_judge_that_does_not_listen_is_not_believed(tmp_path, judge, reason):
    assert reason in calibrate(clip(tmp_path), judge, others=others()).invalid


def test_a_coarse_judge_may_miss_by_its_own_steps(tmp_path):
    coarse = LoudnessJudge(answer=2)
    coarse.tolerance_frames = 6
    found = calibrate(clip(tmp_path), coarse)
    assert "known shifts" not in found.invalid and "a wrong sound has the confidence" in found.invalid


def test_a_wrong_sound_slides_as_well_but_betrays_itself(tmp_path):
    """The sound of another mouth: its shifts are found, for chance slides too, yet it is not believed."""
    count = 0
    for seed in range(6):
        wrong = voice(opening(FRAMES, 70 + seed), 5)
        found = calibrate(clip(tmp_path / str(seed), heard=wrong), LoudnessJudge(), others=others(3))
        count += found.invalid != ""
    assert count >= 5


def test_a_genuine_clip_far_off_is_no_truth(tmp_path):
    found = calibrate(clip(tmp_path, early=8), LoudnessJudge())
    assert "the clip's own sound is found +8 frames off" in found.invalid


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"silent": True}, "silent"),
        ({"still": True}, "still"),
        ({"frames": 45}, "too short: 33 frames with sound, 40 needed"),
    ],
)
def test_what_cannot_be_judged_says_why(tmp_path, fault, reason):
    found = calibrate(clip(tmp_path, **fault), LoudnessJudge())
    assert reason in found.invalid and found.own is None and found.wrong_confidence is None


def test_no_face(tmp_path):
    nobody = TalkingClip(tmp_path / "x.mp4", 70, (), torch.zeros(70 * 640), ())
    found = calibrate(nobody, LoudnessJudge())
    assert found == Calibration(tmp_path / "x.mp4", "loudness", invalid="no face found in 70 frames")
