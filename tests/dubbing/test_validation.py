"""Validation of a training run: the dub, its numbers, its pictures, and clips that cannot serve."""

import math

import numpy as np
import pytest
import torch
from dubbing_clips import empty, portrait, write_clip
from PIL import Image
from scipy.io import wavfile
from synthetic import write_video

from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.dubbing.validation import dub_validation, lip_numbers, sync_numbers
from latentsync.errors import FaceNotFound, MediaError
from latentsync.face import MediaPipeDetector
from latentsync.media import VideoReader
from latentsync.quality.aperture import LipTrack
from latentsync.sync.face_cut import AlignedCut
from latentsync.sync.judge import Judge, SyncScore


class FixedJudge(Judge):
    """Finds every sound three frames early, and keeps what it was asked about."""

    name, face_cut, min_frames = "fixed", AlignedCut(96), 8

    def __init__(self):
        self.heard = []

    def score_sounds(self, faces, waveforms):
        self.heard += [(torch.cat(list(faces)), len(waveform)) for waveform in waveforms]
        return [SyncScore(3, 0.5, 0.1) for _ in waveforms]


@pytest.fixture(scope="module")
def talking(tmp_path_factory, clips):
    """A video of the portrait with the sound of `clips`."""
    rate, sound = wavfile.read(clips / "speech.wav")
    images = np.stack([portrait(index / 4) for index in range(10)])
    path = tmp_path_factory.mktemp("talking") / "talking.mp4"
    return write_video(path, images, fps=25, sound=sound[None].astype(np.float32) / 32768, rate=rate)


def test_a_dub_leaves_its_clip_its_pictures_and_its_numbers(model, clips, talking, tmp_path):
    pipeline = LipsyncPipeline.from_pretrained(model, local_files_only=True)
    weights = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    shown, judge = [], FixedJudge()
    folder = tmp_path / "validation"
    show = lambda pictures, step: shown.append((pictures, step))  # noqa: E731
    validate = dub_validation(clips / "face.mp4", talking, folder, judge=judge, show=show)
    assert not folder.exists()
    numbers = validate(pipeline, 40)
    assert set(numbers) == {
        *("lip_r", "lip_r_own", "lip_r_loudness", "sync_confidence", "sync_offset_frames"),
    }
    assert (numbers["sync_offset_frames"], numbers["sync_confidence"]) == (3.0, 0.5)
    assert all(math.isnan(value) or -1 <= value <= 1 for name, value in numbers.items() if "lip" in name)
    assert sorted(path.name for path in folder.iterdir()) == ["step-40.mp4", "step-40.png"]
    with VideoReader(folder / "step-40.mp4") as reader:
        assert reader.info.frame_count == 10
    ((pictures, step),) = shown
    assert step == 40 and pictures.shape == (6, 256, 256, 3) and pictures.dtype == np.uint8
    assert np.array_equal(np.asarray(Image.open(folder / "step-40.png"))[:, :256], pictures[0])
    ((faces, samples),) = judge.heard
    assert faces.shape == (10, 3, 96, 96) and samples == 6400
    assert all(torch.equal(value, weights[name]) for name, value in pipeline.unet.state_dict().items())
    assert pipeline.unet.dtype == torch.float32


def test_a_sound_without_pictures_has_no_lips_to_compare_with(model, clips, tmp_path):
    pipeline = LipsyncPipeline.from_pretrained(model, local_files_only=True)
    numbers = dub_validation(clips / "face.mp4", clips / "speech.wav", tmp_path)(pipeline, 1)
    assert set(numbers) == {"lip_r_own", "lip_r_loudness"}


def test_clips_that_cannot_serve_are_refused_before_any_step(clips, tmp_path):
    with pytest.raises(FaceNotFound, match=r"nobody\.mp4: set data\.val_video_path"):
        dub_validation(clips / "nobody.mp4", clips / "speech.wav", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        dub_validation(tmp_path / "gone.mp4", clips / "speech.wav", tmp_path)
    with pytest.raises(MediaError, match=r"face\.mp4"):
        dub_validation(clips / "face.mp4", clips / "face.mp4", tmp_path)  # it has no sound


def track(aperture):
    aperture = np.asarray(aperture, float)
    return LipTrack(np.arange(len(aperture)) / 25, aperture, np.zeros(len(aperture)))


def test_numbers_tell_the_right_mouth_from_the_old_one():
    rng = np.random.default_rng(0)
    truth, own = rng.random(60), rng.random(20)
    waveform = np.repeat(rng.random(60), 640) * np.sin(2 * np.pi * 800 / 16000 * np.arange(60 * 640))
    good = lip_numbers(track(truth), track(own), track(truth), waveform)
    assert good["lip_r"] == pytest.approx(1) and abs(good["lip_r_own"]) < 0.5
    shown = np.concatenate([own, own[-2:0:-1]])
    old = lip_numbers(track(np.resize(shown, 60)), track(own), track(truth), waveform)
    assert old["lip_r_own"] == pytest.approx(1) and abs(old["lip_r"]) < 0.5
    lost = lip_numbers(track(np.full(60, np.nan)), track(own), track(truth), waveform)
    assert all(math.isnan(value) for value in lost.values())
    assert "lip_r" not in lip_numbers(track(truth), track(own), None, waveform)


def test_the_face_in_a_result_is_judged_with_the_sound_of_its_file(tmp_path):
    images = [portrait(index / 4) for index in range(60)]
    sound = np.random.default_rng(0).normal(0, 0.1, (1, 60 * 640)).astype(np.float32)
    video = write_video(tmp_path / "talking.mp4", np.stack(images), fps=25, sound=sound, rate=16000)
    nobody = write_clip(tmp_path / "nobody.mp4", [empty()] * 60)
    with MediaPipeDetector() as detector:
        numbers = sync_numbers(video, FixedJudge(), detector)
        assert numbers == {"sync_confidence": 0.5, "sync_offset_frames": 3}
        assert all(math.isnan(number) for number in sync_numbers(nobody, FixedJudge(), detector).values())
