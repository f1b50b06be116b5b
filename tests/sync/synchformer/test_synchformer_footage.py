"""What a Synchformer is shown: pictures and sound by time, from any file, cut where they should be."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from footage_clips import write_packed
from synchformer_clips import VIEWING, talker, tiny_synchformer
from synthetic import beep_starts, flash_images, square_images, tone_burst, write_video

from latentsync.errors import FaceNotFound, MediaError
from latentsync.footage.listing import packed_clips
from latentsync.sync.synchformer.crops import CropOutside, offset_crop
from latentsync.sync.synchformer.footage import face_clip, pictures, read_clip, sound_of, windows
from latentsync.sync.synchformer.inputs import cut, square
from latentsync.sync.synchformer.measure import WindowOffset, measure_offset, summary
from latentsync.sync.synchformer.viewing import Viewing

TINY = Viewing.from_config(VIEWING)
EVENT = 1.2


def flash_and_beep(path, *, fps=25, seconds=2.4, width=None, **options):
    images = flash_images(fps, seconds, [EVENT])
    if width:
        images = [np.repeat(image, width // 64, axis=1) for image in images]
    sound = tone_burst(seconds, [EVENT], rate=16_000)
    return write_video(path, images, fps=fps, sound=sound, rate=16_000, **options)


def flash_frame(frames):
    return int(frames.float().mean(dim=(1, 2, 3)).argmax())


class NoFaces:
    def detect(self, image, hint=None):
        return []

    def reset(self):
        pass


@pytest.mark.parametrize("fps", [25, 30, 50, Fraction(24000, 1001)])
def test_pictures_and_sound_go_by_time_whatever_the_rate(tmp_path, fps):
    clip = read_clip(flash_and_beep(tmp_path / "a.mp4", fps=fps), TINY)
    assert abs(len(clip.frames) - 60) <= 1
    assert flash_frame(clip.frames) / 25 == pytest.approx(EVENT, abs=0.5 / float(fps) + 0.5 / 25)
    assert beep_starts(clip.waveform.numpy(), 16_000, 1)[0] == pytest.approx(EVENT, abs=0.005)


def test_the_shorter_side_and_the_square_are_those_of_the_viewing(tmp_path):
    clip = read_clip(flash_and_beep(tmp_path / "a.mp4", width=128), TINY)
    assert clip.frames.shape[1:] == (3, 40, 80)
    small = square(torch.arange(40 * 80).reshape(40, 80), 32, TINY.corner(40, 80))
    assert small.shape == (32, 32)
    assert (int(small[0, 0]) // 80, int(small[0, 0]) % 80) == (4, 24)  # as far from above as from below
    lower = Viewing(kind="face", side=128, crop=64, top=0.75)
    assert lower.corner(128, 128) == (48, 32)


def test_a_part_of_a_clip_is_that_part_of_the_whole(tmp_path):
    path = talker(tmp_path / "a.mp4", seconds=3)
    whole, part = read_clip(path, TINY), read_clip(path, TINY, start_seconds=1.2, seconds=1)
    assert torch.equal(part.frames, whole.frames[30:55])
    assert torch.equal(part.waveform, whole.waveform[19_200 : 19_200 + 16_000])


def test_priming_is_cut_unless_it_is_asked_for(tmp_path):
    """An AAC encoder of MP4 declares 1024 samples of start-up: 64 ms at 16 kHz."""
    path = flash_and_beep(tmp_path / "a.mp4")
    right, late = sound_of(path), sound_of(path, keep_priming=True)
    assert beep_starts(right.numpy(), 16_000, 1)[0] == pytest.approx(EVENT, abs=0.002)
    shift = beep_starts(late.numpy(), 16_000, 1)[0] - beep_starts(right.numpy(), 16_000, 1)[0]
    assert shift == pytest.approx(1024 / 16_000, abs=1e-4)


def test_pictures_that_begin_late_still_meet_their_sound(tmp_path):
    images = flash_images(25, 2.4, [EVENT])
    times = [Fraction(k, 25) + Fraction(1, 5) for k in range(len(images))]
    sound = tone_burst(2.8, [EVENT + 0.2], rate=16_000)
    path = write_video(tmp_path / "a.mp4", images, times=times, sound=sound, rate=16_000)
    clip = read_clip(path, TINY)
    heard = beep_starts(clip.waveform.numpy(), 16_000, 1)[0]
    assert heard == pytest.approx(flash_frame(clip.frames) / 25, abs=0.021)


@pytest.mark.parametrize("offset", [-0.2, 0.0, 0.24])
def test_an_offset_moves_the_sound_by_itself(tmp_path, offset):
    """Sound that is early plays what will be seen `offset` later."""
    clip = read_clip(flash_and_beep(tmp_path / "a.mp4"), TINY)
    wanted = {"crop_frames": 22, "start_seconds": 0.8, "offset_seconds": offset}
    crop = offset_crop(len(clip.frames), len(clip.waveform), **wanted)
    inputs = cut(clip.frames, clip.waveform, crop, TINY.cuts)
    starts = TINY.cuts.starts(22)  # of segments of 8 frames
    segment, frame = divmod(int(inputs.video.mean(dim=(2, 3, 4)).argmax()), 8)
    seen = starts[segment] + frame
    loudness = inputs.audio[:, 0].mean(dim=1)[:, :33]
    is_loud = loudness > (loudness.max() + loudness.min()) / 2
    segment, column = divmod(int(is_loud.flatten().nonzero()[0]), 33)
    heard = starts[segment] + column / 4  # columns of 10 ms, frames of 40 ms
    assert seen + 0.8 * 25 == pytest.approx(EVENT * 25, abs=0.6)
    assert (seen - heard) / 25 == pytest.approx(offset, abs=0.06)


def test_jitter_moves_the_sound_no_further_than_there_is_any(tmp_path):
    clip = read_clip(talker(tmp_path / "a.mp4", seconds=1), TINY)
    crop = offset_crop(25, len(clip.waveform), crop_frames=22, start_seconds=0, offset_seconds=0)
    still, before, far = (
        cut(clip.frames, clip.waveform, crop, TINY.cuts, jitter_samples=jitter).audio
        for jitter in (0, -(10**6), 10**6)
    )
    start = clip.waveform[: TINY.cuts.samples]
    alone = cut(clip.frames, start, crop, Viewing(**{**VIEWING, "segments": 1, "crop_frames": 8}).cuts)
    assert torch.equal(before[0], alone.audio[0])
    assert not torch.equal(still, far) and torch.isfinite(far).all()


def test_windows_step_through_a_clip_and_end_with_its_last_segment():
    shown = [torch.full((3, 40, 40), number, dtype=torch.uint8) for number in range(47)]
    found = list(windows(iter(shown), TINY, 8))
    assert [start for start, _ in found] == [0, 8, 16, 24, 28]  # 16 frames each; 28 is on the grid of 4
    assert [int(stretch[0, 0, 0, 0]) for _, stretch in found] == [0, 8, 16, 24, 28]
    assert all(stretch.shape == (16, 3, 32, 32) for _, stretch in found)
    shown[20] = None
    assert [start for start, _ in windows(iter(shown), TINY, 8)] == [0, 24, 28]


def test_a_clip_of_faces_is_shown_at_the_size_of_the_viewing(tmp_path):
    (file,) = packed_clips(write_packed(tmp_path / "packed", frames=[30], side=80))
    clip = face_clip(file, Viewing(kind="face", side=40, crop=32, **{"crop_frames": 125}))
    assert clip.frames.shape == (30, 3, 40, 40) and clip.frames.dtype == torch.uint8
    assert len(clip.waveform) == 30 * 640


def test_what_cannot_be_shown_is_said(tmp_path):
    path = talker(tmp_path / "a.mp4", seconds=1)
    with pytest.raises(FaceNotFound, match=r"no face in .*a\.mp4 at 0\.00 s"):
        read_clip(path, Viewing(kind="face"), detector=NoFaces())
    with pytest.raises(ValueError, match="pass a detector"):
        next(pictures(path, Viewing(kind="face")))
    with pytest.raises(MediaError, match="no pictures from 4 s"):
        read_clip(path, TINY, start_seconds=4)
    with pytest.raises(CropOutside, match=r"start at 0\.4 s or later"):
        offset_crop(60, 38_400, crop_frames=22, start_seconds=0, offset_seconds=-0.4)


def test_a_clip_is_measured_in_all_of_its_windows(tmp_path):
    network = tiny_synchformer()
    path = talker(tmp_path / "a.mp4", seconds=2)
    found = measure_offset(path, network, hop_seconds=0.32, batch_windows=3)
    assert [window.start_seconds for window in found.windows] == [0, 0.32, 0.64, 0.96, 1.28]
    alone = measure_offset(path, network, hop_seconds=0.32, batch_windows=1)
    for one, other in zip(found.windows, alone.windows, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    ends = found.windows[0], found.windows[-1]
    assert found.desync_seconds == pytest.approx(sum(abs(end.offset_seconds) for end in ends) / 2)


def test_the_answer_of_a_clip_is_that_of_all_windows_together():
    grid = [-0.4, -0.2, 0.0, 0.2, 0.4]
    windows_found = [
        WindowOffset(0.0, 0.4, (0.0, 0.0, 0.1, 0.4, 0.5)),
        WindowOffset(1.0, -0.4, (0.5, 0.0, 0.1, 0.4, 0.0)),
        WindowOffset(2.0, 0.2, (0.0, 0.0, 0.3, 0.7, 0.0)),
    ]
    found = summary(windows_found, grid)
    assert found.offset_seconds == 0.2
    assert found.confidence == pytest.approx((0.1 + 0.1 + 0.3 + 0.4 + 0.4 + 0.7 + 0.5) / 3)
    assert found.desync_seconds == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda p: talker(p, seconds=0.5),
            MediaError,
            r"0\.(48|52) s of pictures .* needs 0\.64 s",
        ),
        (lambda p: write_video(p, square_images(50)), MediaError, "no sound track"),
        (
            lambda p: write_video(p, square_images(50), sound=np.zeros((1, 32_000), np.float32), rate=16_000),
            MediaError,
            "is silent",
        ),
        (
            lambda p: write_video(p, square_images(1) * 50, sound=tone_burst(2, [1], rate=48_000)),
            MediaError,
            "still picture",
        ),
    ],
)
def test_a_clip_that_cannot_be_judged_says_why(tmp_path, make, error, words):
    with pytest.raises(error, match=words):
        measure_offset(make(tmp_path / "a.mp4"), tiny_synchformer())


def test_a_network_that_judges_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not which"):
        measure_offset(tmp_path / "a.mp4", tiny_synchformer(head="sync_head", classes=2))
