"""The writer: pictures, times, colours and sound come back as they were given, or no file at all."""

import os
import resource
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from synthetic import beep_starts, flash_images, square_images, tone_burst, write_sound, write_video

from latentsync.errors import MediaError
from latentsync.media import ColorTags, VideoReader, VideoWriter, audio_info, check_output, read_audio
from latentsync.media.picture import BT601, BT709

FAST = {"preset": "ultrafast"}
SYNC_SECONDS = 0.005
FLASHES = (0.4, 1.2, 2.0)
SECONDS = 2.4


def write(path: Path, images: list, *, fps: Fraction | int = 25, times=None, **options) -> Path:
    height, width = images[0].shape[:2]
    fps = Fraction(fps)
    with VideoWriter(path, fps=fps, width=width, height=height, **FAST, **options) as writer:
        for number, image in enumerate(images):
            writer.write(image, times[number] if times else number / fps)
    return path


def sync_errors(path: Path) -> np.ndarray:
    """How much later than its flash each beep sounds, in seconds."""
    reader = VideoReader(path)
    flashes = [float(frame.time) for frame in reader if frame.image.mean() > 128]
    beeps = beep_starts(read_audio(path, 48000), 48000, len(flashes))
    assert len(flashes) == len(FLASHES)
    return np.subtract(beeps, flashes)


SOUNDS = [
    ("a.wav", "pcm_s16le"),
    ("a.wav", "pcm_f32le"),
    ("a.mp3", "libmp3lame"),
    ("a.m4a", "aac"),
    ("a.flac", "flac"),
    ("a.ogg", "libopus"),
    ("a.ogg", "vorbis"),
    ("a.aac", "aac"),
    ("a.mkv", "libopus"),
    ("a.mov", "alac"),
]
COPIED = {
    ".mp4": {"libmp3lame": "mp3", "aac": "aac", "alac": "alac"},
    ".mov": {
        "libmp3lame": "mp3",
        "aac": "aac",
        "alac": "alac",
        "pcm_s16le": "pcm_s16le",
        "pcm_f32le": "pcm_f32le",
    },
    ".mkv": {"libmp3lame": "mp3", "libopus": "opus"} | {c: c for c in ("aac", "alac", "flac", "vorbis")},
}
COPIED[".mkv"] |= {c: c for c in ("pcm_s16le", "pcm_f32le")}


CASES = [(suffix, *sound) for suffix in (".mp4", ".mkv") for sound in SOUNDS]
CASES += [(".mov", "a.wav", "pcm_s16le"), (".mov", "a.m4a", "aac")]  # otherwise as MP4


@pytest.mark.parametrize(("suffix", "name", "codec"), CASES)
def test_flash_and_beep_stay_together(tmp_path: Path, suffix: str, name: str, codec: str):
    sound = write_sound(tmp_path / name, tone_burst(SECONDS, FLASHES, 48000, 2), 48000, codec)
    # A raw .aac says nothing of its priming: what `read_audio` hears is what must sound, 1024 samples late.
    priming = 1024 / 48000 if name == "a.aac" else 0
    path = write(tmp_path / f"out{suffix}", flash_images(25, SECONDS, FLASHES), soundtrack=sound)
    np.testing.assert_allclose(sync_errors(path), priming, atol=SYNC_SECONDS)
    with av.open(str(path)) as container:
        written = container.streams.audio[0].codec_context
        assert written.codec.canonical_name == COPIED[suffix].get(codec, "aac")
        assert (written.rate, written.channels) == (48000, 2)


@pytest.mark.parametrize(
    ("rate", "channels", "codec", "written_rate"),
    [
        (44100, 2, "flac", 44100),
        (22050, 1, "pcm_s16le", 22050),
        (192000, 2, "flac", 96000),
        (48000, 6, "flac", 48000),
    ],
)
def test_encoded_sound_keeps_rate_and_channels(tmp_path: Path, rate, channels, codec, written_rate):
    suffix = ".flac" if codec == "flac" else ".wav"
    burst = tone_burst(SECONDS, FLASHES, rate, channels)
    sound = write_sound(tmp_path / f"a{suffix}", burst, rate, codec)
    path = write(tmp_path / "out.mp4", flash_images(25, SECONDS, FLASHES), soundtrack=sound)
    info = audio_info(path)
    assert (info.codec, info.rate, info.channels) == ("aac", written_rate, channels)
    np.testing.assert_allclose(sync_errors(path), 0, atol=SYNC_SECONDS)


def test_low_rate_mp3_is_encoded_anew_for_mp4(tmp_path: Path):
    sound = write_sound(tmp_path / "a.mp3", tone_burst(SECONDS, FLASHES, 8000), 8000)
    path = write(tmp_path / "out.mp4", flash_images(25, SECONDS, FLASHES), soundtrack=sound)
    assert audio_info(path).codec == "aac"
    np.testing.assert_allclose(sync_errors(path), 0, atol=SYNC_SECONDS)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("late_seconds", [0.0, 0.3])
def test_the_sound_of_another_clip_keeps_its_time(tmp_path: Path, suffix: str, late_seconds: float):
    beeps = [time - late_seconds for time in FLASHES]
    clip = write_video(
        tmp_path / "clip.mp4",
        flash_images(25, SECONDS, []),
        sound=tone_burst(SECONDS, beeps),
        sound_starts=late_seconds,
    )
    path = write(tmp_path / f"out{suffix}", flash_images(25, SECONDS, FLASHES), soundtrack=clip)
    np.testing.assert_allclose(sync_errors(path), 0, atol=SYNC_SECONDS)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le", "flac"])
@pytest.mark.parametrize("given", [None, 1.5])
def test_a_longer_sound_ends_with_the_picture(tmp_path: Path, codec: str, given: float | None):
    suffix = {"aac": ".m4a", "flac": ".flac"}.get(codec, ".wav")
    sound = write_sound(tmp_path / f"a{suffix}", tone_burst(9, [0.5]), 48000, codec)
    path = write(tmp_path / "out.mp4", square_images(50), soundtrack=sound, duration_seconds=given)
    assert len(read_audio(path)) == pytest.approx((given or 2) * 16000, abs=32)


def test_a_shorter_sound_leaves_the_picture_whole(tmp_path: Path):
    sound = write_sound(tmp_path / "a.wav", tone_burst(0.5, [0.1]), 48000)
    path = write(tmp_path / "out.mp4", square_images(50), soundtrack=sound)
    assert VideoReader(path).info.frame_count == 50
    assert len(read_audio(path)) == pytest.approx(8000, abs=32)


def test_sound_and_pictures_are_interleaved(tmp_path: Path):
    sound = write_sound(tmp_path / "a.wav", tone_burst(20, [0.5]), 48000)
    path = write(tmp_path / "out.mkv", square_images(500), soundtrack=sound)
    with av.open(str(path)) as container:
        latest = {"video": 0.0, "audio": 0.0}
        for packet in container.demux():
            if packet.pts is not None:
                latest[packet.stream.type] = float(packet.pts * packet.time_base)
                assert abs(latest["video"] - latest["audio"]) < 1


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(50), Fraction(25, 2)])
def test_a_constant_rate_stays_exact(tmp_path: Path, fps: Fraction):
    path = write(tmp_path / "out.mp4", square_images(40), fps=fps)
    reader = VideoReader(path)
    assert [frame.time for frame in reader] == [k / fps for k in range(40)]
    assert reader.info.fps == fps and reader.info.constant_frame_rate
    assert reader.info.duration_seconds == pytest.approx(float(40 / fps))


VARIABLE = [Fraction(k, 1000) for k in (0, 40, 80, 200, 233, 267, 300, 500, 520, 700)]


def test_a_variable_rate_stays_as_it_is(tmp_path: Path):
    source = write_video(tmp_path / "in.mp4", square_images(10), times=VARIABLE)
    frames = list(VideoReader(source))
    path = write(
        tmp_path / "out.mp4", [frame.image for frame in frames], times=[frame.time for frame in frames]
    )
    np.testing.assert_allclose(
        [float(frame.time) for frame in VideoReader(path)], [float(t) for t in VARIABLE], atol=2e-5
    )


@pytest.mark.parametrize("matrix", [BT601, BT709])
@pytest.mark.parametrize("height", [64, 720])
def test_colours_do_not_shift(tmp_path: Path, matrix: int, height: int):
    patches = np.array([[200, 60, 60], [60, 180, 80], [70, 80, 210], [128, 128, 128]], np.uint8)
    image = np.repeat(np.repeat(patches[None], 16, axis=1), height, axis=0)
    tags = ColorTags(matrix, matrix, matrix, 1)
    path = write(tmp_path / "out.mp4", [image] * 2, color=tags, crf=1)
    reader = VideoReader(path)
    assert reader.info.color == tags
    frame = next(iter(reader))
    for patch, x in zip(patches, range(8, 64, 16), strict=True):
        np.testing.assert_allclose(frame.image[height // 2, x], patch, atol=2)  # 8 bits, twice


@pytest.mark.parametrize("height", [64, 720])
def test_colours_of_an_untagged_source_do_not_shift(tmp_path: Path, height: int):
    image = np.full((height, 64, 3), (200, 60, 90), np.uint8)
    source = write_video(tmp_path / "in.mp4", [image] * 2, options={"crf": "1"})
    first = next(iter(VideoReader(source))).image
    path = write(tmp_path / "out.mp4", [first] * 2, color=VideoReader(source).info.color, crf=1)
    again = next(iter(VideoReader(path))).image
    np.testing.assert_allclose(again[height // 2, 32].astype(int), first[height // 2, 32], atol=2)


@pytest.mark.parametrize(("width", "height"), [(63, 64), (64, 47), (33, 33)])
def test_odd_sizes_get_their_edge_doubled(tmp_path: Path, width: int, height: int):
    image = square_images(1, width=width, height=height)[0]
    frame = next(iter(VideoReader(write(tmp_path / "out.mp4", [image] * 2, crf=1))))
    assert frame.image.shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(frame.image[:height, :width].astype(int) - image).mean() < 3
    if width % 2:
        assert np.abs(frame.image[:height, width].astype(int) - image[:, -1]).mean() < 6


def test_pixel_shape_and_metadata_are_kept(tmp_path: Path):
    shape = Fraction(16, 15)
    path = write(
        tmp_path / "out.mp4",
        square_images(2),
        sample_aspect_ratio=shape,
        metadata={"comment": "synthetic mouth"},
    )
    assert VideoReader(path).info.sample_aspect_ratio == shape
    with av.open(str(path)) as container:
        assert container.metadata["comment"] == "synthetic mouth"


def test_mp4_can_start_to_play_before_it_is_whole(tmp_path: Path):
    data = write(tmp_path / "out.mp4", square_images(4)).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_failure_leaves_the_old_result_and_nothing_else(tmp_path: Path, error: type[BaseException]):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older result")
    with pytest.raises(error), VideoWriter(path, fps=Fraction(25), width=64, height=64) as writer:
        for number, image in enumerate(square_images(60)):
            writer.write(image, Fraction(number, 25))
            assert path.read_bytes() == b"older result"
        raise error
    assert path.read_bytes() == b"older result"
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_success_replaces_the_old_result_and_leaves_nothing_else(tmp_path: Path):
    (tmp_path / "out.mp4").write_bytes(b"older result")
    write(tmp_path / "out.mp4", square_images(4))
    assert len(list(VideoReader(tmp_path / "out.mp4"))) == 4
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_the_result_has_the_rights_of_a_usual_file(tmp_path: Path):
    (tmp_path / "usual").touch()
    path = write(tmp_path / "out.mp4", square_images(2))
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_no_frame_is_no_video(tmp_path: Path):
    with (
        pytest.raises(MediaError, match="no frame"),
        VideoWriter(tmp_path / "o.mp4", fps=Fraction(25), width=8, height=8),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_a_bad_soundtrack_is_found_at_once_and_leaves_nothing(tmp_path: Path):
    mute = write_video(tmp_path / "mute.mp4", square_images(2))
    for soundtrack, error in [(tmp_path / "none.wav", FileNotFoundError), (mute, MediaError)]:
        with pytest.raises(error, match=soundtrack.name):
            VideoWriter(tmp_path / "o.mp4", fps=Fraction(25), width=64, height=64, soundtrack=soundtrack)
    assert os.listdir(tmp_path) == ["mute.mp4"]


def test_a_full_disk_is_a_media_error(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 128, 128, 3), np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(MediaError, match=r"out\.mp4 cannot be written"):
            write(tmp_path / "out.mp4", list(noise))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_wrong_images_and_times_are_refused(tmp_path: Path):
    with VideoWriter(tmp_path / "o.mp4", fps=Fraction(25), width=64, height=48) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8), Fraction(0))
        with pytest.raises(ValueError, match=r"\(48, 64, 3\) uint8 expected"):
            writer.write(np.zeros((64, 48, 3), np.uint8), Fraction(1, 25))
        with pytest.raises(ValueError, match="uint8 expected"):
            writer.write(np.zeros((48, 64, 3), np.float32), Fraction(1, 25))
        with pytest.raises(ValueError, match="not later"):
            writer.write(np.zeros((48, 64, 3), np.uint8), Fraction(0))
    with pytest.raises(ValueError, match="closed"):
        writer.write(np.zeros((48, 64, 3), np.uint8), Fraction(2, 25))


def test_bad_outputs_are_refused(tmp_path: Path):
    (tmp_path / "folder.mp4").mkdir()
    clip = write_video(tmp_path / "clip.mp4", square_images(2))
    (tmp_path / "link.mp4").symlink_to(clip)
    for output, words in [
        (tmp_path / "out.webm", r"\.mp4, \.mov, \.mkv"),
        (tmp_path / "folder.mp4", "is a folder"),
        (tmp_path / "none" / "out.mp4", r"none for out\.mp4 does not exist"),
        (clip, "same file"),
        (tmp_path / "link.mp4", "same file"),
    ]:
        with pytest.raises(MediaError, match=words):
            check_output(output, [clip, None])
    check_output(tmp_path / "out.MP4", [clip])
    with pytest.raises(MediaError, match="same file"):
        VideoWriter(clip, fps=Fraction(25), width=64, height=64, soundtrack=clip)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_access_is_refused(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(MediaError, match="nothing can be written to the folder"):
        VideoWriter(tmp_path / "o.mp4", fps=Fraction(25), width=64, height=64)


@pytest.mark.parametrize(
    "name", ["a:b.mp4", "-o.mp4", 'it\'s "q" 日本.mkv', "100%03d.mov", "x" * 240 + ".mp4"]
)
def test_odd_names_are_written(tmp_path: Path, name: str, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sound = write_sound(tmp_path / "s.wav", tone_burst(0.2, [0.1]), 48000)
    write(Path(name), square_images(3), soundtrack=sound)
    assert len(list(VideoReader(name))) == 3 and sorted(os.listdir()) == sorted([name, "s.wav"])
