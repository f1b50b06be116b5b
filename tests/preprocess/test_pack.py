"""Packing: a clip becomes aligned faces, mouth shapes and its sound; a bad one is dropped and counted."""

import numpy as np
import pytest
from dubbing_clips import empty, portrait, write_clip, write_sound
from skimage import data

from latentsync.diffusion.dataset import load_clips
from latentsync.errors import MediaError
from latentsync.face import make_detector
from latentsync.media import VideoReader, VideoWriter
from latentsync.preprocess.pack import MOUTH_SHAPE, Source, mouth_shape, pack


def with_sound(clip, sound, path):
    """The frames of `clip` with a soundtrack."""
    with VideoReader(clip) as reader:
        info = reader.info
        with VideoWriter(
            path, fps=info.fps, width=info.width, height=info.height, soundtrack=sound
        ) as writer:
            for frame in reader:
                writer.write(frame.image, frame.time)
    return path


@pytest.fixture(scope="module")
def talking(tmp_path_factory):
    folder = tmp_path_factory.mktemp("footage")
    silent = write_clip(folder / "silent.mp4", [portrait(i / 10) for i in range(50)], 25)
    return with_sound(silent, write_sound(folder / "sound.wav", 2.0), folder / "talk one.mp4")


def test_a_clip_is_packed_aligned_and_only_once(talking, tmp_path):
    with make_detector("auto") as detector:
        source = Source(talking, "eileen")
        clips = pack([source], tmp_path, detector, resolution=64)
        assert [(clip.name, clip.speaker, clip.frames) for clip in clips] == [("talk one", "eileen", 50)]
        clip = load_clips(tmp_path, "train")[0]
        assert clip.faces.shape == (50, 64, 64, 3) and clip.mouth.shape == (50, len(MOUTH_SHAPE))
        assert abs(len(clip.waveform) - 32000) < 700
        assert (
            np.abs(clip.faces[0].astype(int) - clip.faces[40]).mean() < 12
        )  # the face stands still in its crop
        stamp = (tmp_path / "talk one").stat().st_mtime_ns
        pack([source], tmp_path, detector, resolution=64)
        assert (tmp_path / "talk one").stat().st_mtime_ns == stamp


def test_too_many_dropped_clips_stop_the_run(talking, tmp_path, caplog):
    nobody = write_clip(tmp_path / "nobody.mp4", [empty()] * 50)
    with make_detector("auto") as detector, pytest.raises(MediaError, match="1 of 2 clips"):
        pack([Source(talking, "eileen"), Source(nobody, "none")], tmp_path / "out", detector, resolution=64)
    assert "nobody.mp4" in caplog.text


def test_mouth_measures_do_not_depend_on_size_and_place():
    with make_detector("auto") as detector:
        landmarks = detector.detect(data.astronaut())[0].landmarks
    assert np.allclose(mouth_shape(landmarks), mouth_shape(3 * landmarks + 40), atol=1e-4)
    opened = landmarks.copy()
    opened[14, 1] += 10
    change = mouth_shape(opened) - mouth_shape(landmarks)
    assert change[0] > 0.05 and np.abs(change[1:]).max() < 1e-6
