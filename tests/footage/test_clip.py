"""One clip opened, packed or a video: windows, sound beside them, and files that are no such clip."""

from fractions import Fraction

import numpy as np
import pytest
from footage_clips import (
    SAMPLES,
    face_images,
    frame_number,
    opening,
    voice,
    write_face_video,
    write_packed,
    write_packed_clip,
)
from synthetic import flash_images, square_images, tone_burst, write_video

from latentsync.errors import MediaError
from latentsync.footage.clip import open_clip
from latentsync.footage.listing import ClipFile, packed_clips
from latentsync.media import VideoReader, resample


def video(path) -> ClipFile:
    return ClipFile(path, "video")


@pytest.fixture(params=["packed", "video"])
def clip_file(request, tmp_path) -> ClipFile:
    if request.param == "packed":
        return packed_clips(write_packed(tmp_path, frames=(60,), side=64))[0]
    return video(write_face_video(tmp_path / "a.mp4", frames=60))


def test_windows_stream_and_picks_are_the_same_frames(clip_file):
    with open_clip(clip_file) as clip:
        assert (clip.frames, clip.side, clip.has_sound) == (60, 64, True)
        whole = np.concatenate(list(clip.stream()))
        assert frame_number(whole) == list(range(60))
        np.testing.assert_array_equal(clip.faces(41, 57), whole[41:57])
        np.testing.assert_array_equal(clip.faces(0, 16), whole[:16])
        np.testing.assert_array_equal(clip.pick([0, 7, 59]), whole[[0, 7, 59]])
        assert clip.faces(3, 3).shape == (0, 64, 64, 3)
        with pytest.raises(ValueError, match=r"\[50, 61\) .* \[0, 60\)"):
            clip.faces(50, 61)


def test_the_sound_is_that_of_the_frames(clip_file):
    with open_clip(clip_file) as clip:
        assert abs(len(clip.waveform) - 60 * SAMPLES) <= 1024  # AAC ends on a block of its own


def test_faces_are_made_smaller_but_larger_only_when_allowed(clip_file):
    with open_clip(clip_file, 32) as clip:
        assert clip.faces(5, 9).shape == (4, 32, 32, 3) and frame_number(clip.faces(5, 9)) == [5, 6, 7, 8]
    with pytest.raises(MediaError, match="are 64 px wide and 96 px are wanted"):
        open_clip(clip_file, 96)
    with open_clip(clip_file, 96, allow_upscale=True) as clip:
        assert clip.faces(0, 2).shape == (2, 96, 96, 3)


@pytest.mark.parametrize("fps", [24, 30, 50])
def test_other_rates_show_at_each_tick_what_resampling_shows(tmp_path, fps):
    path = write_face_video(tmp_path / "a.mp4", frames=60, fps=fps)
    with VideoReader(path) as reader:
        shown = np.stack([tick.frame.image for tick in resample(reader, Fraction(25))])
    with open_clip(video(path)) as clip:
        assert clip.frames == len(shown) == 60 * 25 // fps
        np.testing.assert_array_equal(clip.faces(0, clip.frames), shown)
        np.testing.assert_array_equal(clip.faces(9, 20), shown[9:20])
        np.testing.assert_array_equal(np.concatenate(list(clip.stream())), shown)


def test_the_sound_starts_with_the_first_picture(tmp_path):
    times = [Fraction(12 + k, 25) for k in range(50)]  # pictures from 0.48 s on
    path = write_video(
        tmp_path / "late.mp4",
        flash_images(25, 2.0, [1.0]),
        times=times,
        sound=tone_burst(2.5, [1.48], rate=16000),
        rate=16000,
    )
    with open_clip(video(path)) as clip:
        flash = int(clip.faces(0, 50).mean(axis=(1, 2, 3)).argmax())
        loud = np.abs(clip.waveform) > 0.1
    assert flash == 25 and abs(int(loud.argmax()) - flash * SAMPLES) < SAMPLES // 2


def test_what_is_no_aligned_face_or_has_no_rate_is_refused_with_the_remedy(tmp_path):
    wide = write_video(tmp_path / "wide.mp4", square_images(10, width=96))
    with pytest.raises(MediaError, match=r"is 96x64 px; .*scripts/pack_footage.py"):
        open_clip(video(wide))
    times = [Fraction(k + (k > 5) * k, 25) for k in range(20)]
    variable = write_video(tmp_path / "variable.mp4", square_images(20), times=times)
    with pytest.raises(MediaError, match=r"no constant frame rate .* convert it to an MP4 of 25 fps"):
        open_clip(video(variable))


def test_a_video_without_sound_says_so(tmp_path):
    path = write_video(tmp_path / "mute.mp4", square_images(30))
    with open_clip(video(path)) as clip:
        assert not clip.has_sound
        with pytest.raises(MediaError):
            _ = clip.waveform


def test_packed_arrays_of_another_kind_are_refused(tmp_path):
    mouth = opening(30, 0)
    folder = write_packed_clip(tmp_path / "c", face_images(mouth, 0)[:, :20], mouth, voice(mouth, 0))
    with pytest.raises(MediaError, match=r"uint8 \(30, 20, 32, 3\); uint8 \(F, R, R, 3\) was expected"):
        open_clip(ClipFile(folder, "packed"))
    (folder / "faces.npy").write_bytes(b"no array")
    with pytest.raises(MediaError, match="pack it again"):
        open_clip(ClipFile(folder, "packed"))
    np.save(folder / "faces.npy", face_images(mouth, 0))
    np.save(folder / "waveform.npy", np.full(100, np.nan, np.float32))
    np.save(folder / "mouth.npy", np.zeros((29, 6), np.float32))
    with open_clip(ClipFile(folder, "packed")) as clip:
        with pytest.raises(MediaError, match="finite float32"):
            _ = clip.waveform
        with pytest.raises(MediaError, match=r"\(30, K\) was expected"):
            _ = clip.aperture
