"""Talkers: what is seen and heard is what the truth says, and a seed says everything."""

import importlib.util
import json
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import wavfile
from skimage import data

from latentsync.audio.loudness import log_energy
from latentsync.errors import FaceNotFound, FootageError, MediaError
from latentsync.face import align, make_detector, similarity, template
from latentsync.footage.check import check
from latentsync.footage.lip_offset import peak, sliding_correlation
from latentsync.footage.listing import find_clips, packed_clips
from latentsync.media import VideoReader, read_audio
from latentsync.preprocess.talker import (
    DrawnTalker,
    Portrait,
    PortraitTalker,
    babble,
    espeak,
    lips_of,
    pack_talkers,
    recording,
    write_talker,
)
from latentsync.quality.aperture import measure_lips

FRAMES = 75


@pytest.fixture(scope="module")
def detector():
    with make_detector("mediapipe") as detector:
        yield detector


@pytest.fixture(scope="module")
def portrait(detector):
    return Portrait.of_picture(np.ascontiguousarray(data.astronaut()[:256, 96:352]), detector)


def make(kind, portrait, seed=0, **options):
    options = {"frames": FRAMES, **options}
    return DrawnTalker(seed, **options) if kind == "drawn" else PortraitTalker(portrait, seed, **options)


def offset_of(mouth, waveform):
    curve = sliding_correlation(mouth, log_energy(waveform, 25.0, len(mouth)), measure="aperture")
    assert curve is not None
    return peak(curve)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["drawn", "portrait"])
def test_a_detector_finds_the_face_and_its_lips_move_as_the_truth_says(kind, portrait, detector):
    talker = make(kind, portrait, seed=3)
    images = [talker.image(frame) for frame in range(FRAMES)]
    measured, truth = measure_lips(images, detector), talker.mouth()
    assert np.isfinite(measured.aperture).all()
    assert np.corrcoef(measured.aperture, truth[:, 0])[0, 1] > 0.85
    assert np.corrcoef(measured.width, truth[:, 2])[0, 1] > 0.5
    assert 0.6 < measured.aperture.std() / truth[:, 0].std() < 1.6  # and as far
    eye_distance = np.linalg.norm(np.subtract(*talker.key_points(0).points[:2]))
    for frame in (0, FRAMES // 2):
        found = max(detector.detect(images[frame]), key=lambda face: face.score)
        assert np.abs(found.anchors - talker.key_points(frame).anchors).max() < 0.2 * eye_distance


@pytest.mark.parametrize("kind", ["drawn", "portrait"])
@pytest.mark.parametrize("offset", [-7, 0, 4])
def test_the_sound_is_early_by_the_offset(kind, portrait, offset):
    talker = make(kind, portrait, frames=100, offset_frames=offset)
    found = offset_of(talker.mouth()[:, 0], talker.waveform)
    assert found.offset_frames == offset and found.is_clear
    assert len(talker.waveform) == 100 * 640 and talker.waveform.dtype == np.float32


@pytest.mark.parametrize("kind", ["drawn", "portrait"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_clip(kind, portrait):
    first, again, other = (make(kind, portrait, seed=seed, frames=30) for seed in (5, 5, 6))
    assert np.array_equal(first.waveform, again.waveform)
    assert not np.array_equal(first.waveform, other.waveform)
    for frame in (29, 0):  # in any order
        assert np.array_equal(first.image(frame), again.image(frame))
        assert not np.array_equal(first.image(frame), other.image(frame))
    assert np.array_equal(first.mouth(), again.mouth())


def test_two_clips_of_one_face_differ_in_all_but_the_face():
    first, second = DrawnTalker(1, frames=30), DrawnTalker(1, clip=1, frames=30)
    assert first.speaker == second.speaker and first._looks.skin == second._looks.skin
    assert not np.array_equal(first.waveform, second.waveform)
    assert not np.array_equal(first.image(0), second.image(0))


def test_the_offset_moves_the_sound_and_not_the_picture():
    early = DrawnTalker(2, frames=60, offset_frames=5)
    late = DrawnTalker(2, frames=60, offset_frames=-5)
    assert np.array_equal(early.image(7), late.image(7))
    assert np.allclose(early.waveform[: -10 * 640], late.waveform[10 * 640 :])


def test_a_mouth_is_shut_in_silence_and_wide_in_a_loud_vowel():
    speech = babble(500, np.random.default_rng(0))
    loudness = log_energy(speech.waveform, 25.0, 500)
    assert speech.openness.min() >= 0 and speech.openness.max() <= 1
    quiet, loud = loudness <= np.quantile(loudness, 0.1), loudness >= np.quantile(loudness, 0.9)
    assert speech.openness[quiet].mean() < 0.15 and speech.openness[loud].mean() > 0.45
    assert np.abs(speech.spread).max() <= 1 and speech.spread.std() > 0.1


def test_lips_for_any_sound_follow_its_loudness():
    time = np.arange(3 * 16000) / 16000
    gain = np.interp(time, [0, 1, 1.5, 2, 3], [0, 0, 1, 0, 0])
    speech = lips_of((gain * 0.5 * np.sin(2 * np.pi * 800 * time)).astype(np.float32), 75)
    assert speech.openness[:20].max() < 0.01 and speech.openness[55:].max() < 0.01
    assert abs(int(speech.openness.argmax()) - 37) <= 1 and speech.openness.max() == pytest.approx(1)


@pytest.mark.slow
def test_packed_talkers_serve_as_training_footage(tmp_path):
    """The doctor finds nothing against them, and the offset that they have."""
    talkers = [
        (f"t{n}", "val" if n == 3 else "train", DrawnTalker(n, frames=60, side=128, offset_frames=3))
        for n in range(4)
    ]
    clips = pack_talkers(talkers, tmp_path / "packed", resolution=64)
    assert [(clip.name, clip.speaker, clip.split) for clip in clips[2:]] == [
        ("t2", "drawn2", "train"),
        ("t3", "drawn3", "val"),
    ]
    report = check(packed_clips(tmp_path / "packed"), tmp_path / "cache")
    assert len(report.selection.kept) == 4 and report.common.offset_frames == 3
    faces = np.load(tmp_path / "packed" / "t0" / "faces.npy")
    assert faces.shape == (60, 64, 64, 3)
    assert np.array_equal(np.load(tmp_path / "packed" / "t0" / "mouth.npy"), talkers[0][2].mouth())
    assert len(find_clips(data_dir=tmp_path / "packed", split="val")) == 1
    with pytest.raises(FootageError, match="holds a collection already"):
        pack_talkers(talkers, tmp_path / "packed", resolution=64)


def test_packed_faces_lie_where_a_detector_would_have_put_them(tmp_path, detector):
    """As the doctor shows them: the mouth below the middle, the eyes above it."""
    talker = DrawnTalker(4, frames=41)
    pack_talkers([("t", "train", talker)], tmp_path, resolution=128)
    image = talker.image(20)
    found = max(detector.detect(image), key=lambda face: face.score)
    wanted = align([image], similarity(found.anchors[None], template(128)), 128)[0].permute(1, 2, 0).numpy()
    packed = np.load(tmp_path / "t" / "faces.npy")[20]
    assert np.abs(shift_between(packed, wanted)).max() < 6  # of 128 pixels


def shift_between(first, second):
    """By how many pixels one picture must be moved to lie on the other."""
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (first, second)]
    return np.array(cv2.phaseCorrelate(*grey, cv2.createHanningWindow((128, 128), cv2.CV_32F))[0])


def test_a_video_of_a_talker_has_its_pictures_and_its_sound(tmp_path):
    talker = DrawnTalker(0, frames=50, side=128, offset_frames=-4)
    write_talker(talker, tmp_path / "t.mp4")
    with VideoReader(tmp_path / "t.mp4") as reader:
        frames = list(reader)
        assert reader.info.fps == 25 and len(frames) == 50
    assert np.abs(frames[10].image.astype(float) - talker.image(10)).mean() < 8
    sound = read_audio(tmp_path / "t.mp4")
    assert offset_of(talker.mouth()[:, 0], sound).offset_frames == -4


def test_a_recording_is_spoken_and_one_too_short_is_refused(tmp_path):
    speech = babble(120, np.random.default_rng(1))
    wavfile.write(tmp_path / "said.wav", 16000, (speech.waveform * 32767).astype(np.int16))
    talker = DrawnTalker(0, frames=60, speech=recording(tmp_path / "said.wav"), offset_frames=2)
    assert offset_of(talker.mouth()[:, 0], talker.waveform).offset_frames == 2
    with pytest.raises(MediaError, match=r"lasts 4\.8 s, 6\.0 s are to be spoken"):
        DrawnTalker(0, frames=150, speech=recording(tmp_path / "said.wav"))


def test_words_are_spoken_by_espeak(monkeypatch):
    talker = DrawnTalker(0, frames=80, speech=espeak, offset_frames=3)
    again = DrawnTalker(0, frames=80, speech=espeak, offset_frames=3)
    assert np.array_equal(talker.waveform, again.waveform)
    assert offset_of(talker.mouth()[:, 0], talker.waveform).offset_frames == 3
    monkeypatch.setattr("latentsync.preprocess.talker.voices.ESPEAK", "no-such-voice")
    with pytest.raises(MediaError, match="no-such-voice is not installed"):
        DrawnTalker(0, frames=80, speech=espeak)


def test_a_picture_without_a_face_is_no_portrait(detector):
    with pytest.raises(FaceNotFound, match="64x48 px"):
        Portrait.of_picture(np.zeros((48, 64, 3), np.uint8), detector)


@pytest.mark.slow
def test_the_script_packs_and_writes_videos_with_their_truth(tmp_path):
    script = _script()
    flags = {"count": 3, "seconds": 2, "side": 96, "resolution": 48, "offset_frames": 2, "seed": 1}
    script.run(_flags(tmp_path / "packed", videos=False, **flags))
    assert len(packed_clips(tmp_path / "packed")) == 3
    script.run(_flags(tmp_path / "videos", videos=True, **flags))
    truth = json.loads((tmp_path / "videos" / "talkers.json").read_text())
    assert [clip["speaker"] for clip in truth] == ["drawn1000000", "drawn1000000", "drawn1000001"]
    sound = read_audio(tmp_path / "videos" / truth[0]["video"])
    assert len(truth[0]["aperture"]) == 50
    assert offset_of(np.array(truth[0]["aperture"]), sound).offset_frames == 2


def _script():
    path = Path(__file__).parents[2] / "scripts" / "make_talkers.py"
    spec = importlib.util.spec_from_file_location("make_talkers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _flags(output, **values):
    return Namespace(output=output, portrait=[], voice="babble", **values)
