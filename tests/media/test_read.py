"""The reader: every frame, upright, in true colours and at its time, in order, by number and backwards."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from synthetic import flash_images, square_images, tone_burst, write_video

from latentsync.media import Frame, VideoReader, read_audio
from latentsync.media.picture import BT601, BT709, EXACT, FULL_RANGE, RgbConverter

LOSSLESS = {"crf": "0", "preset": "ultrafast"}
GROUPS = {"crf": "10", "preset": "veryfast", "g": "12", "bf": "3"}  # several GOPs with B-frames
CODING_ERROR = 4.0  # mean levels that crf 10 and yuv420p cost on these clips


def mean_error(image: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(image.astype(int) - other).mean())


def test_frames_come_in_order_with_exact_times(tmp_path: Path):
    images = square_images(30)
    path = write_video(tmp_path / "a.mp4", images, fps=Fraction(30000, 1001), options=GROUPS)
    frames = list(VideoReader(path))
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.time for frame in frames] == [Fraction(1001 * k, 30000) for k in range(30)]
    for image, frame in zip(images, frames, strict=True):
        assert frame.image.dtype == np.uint8 and frame.image.flags.c_contiguous
        assert mean_error(image, frame.image) < CODING_ERROR


def test_each_iteration_starts_from_the_beginning(tmp_path: Path):
    reader = VideoReader(write_video(tmp_path / "a.mp4", square_images(8)))
    first = iter(reader)
    assert [next(first).index, next(first).index] == [0, 1]
    assert [frame.index for frame in reader] == list(range(8))
    assert next(first).index == 2


def test_info(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", square_images(50, width=96, height=64), sound=tone_burst(2, [0.5]))
    info = VideoReader(path).info
    assert (info.width, info.height, info.fps, info.frame_count) == (96, 64, 25, 50)
    assert info.constant_frame_rate and info.has_audio and info.rotation_degrees == 0
    assert info.duration_seconds == pytest.approx(2)
    assert (info.codec, info.pixel_format, info.path) == ("h264", "yuv420p", path)


VARIABLE = [Fraction(k, 1000) for k in (0, 40, 80, 200, 233, 267, 300, 500, 520, 700)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_rate_keeps_its_times(tmp_path: Path, suffix: str):
    path = write_video(tmp_path / f"a.{suffix}", square_images(10), times=VARIABLE, options=GROUPS)
    reader = VideoReader(path)
    times = np.array([float(frame.time) for frame in reader])
    np.testing.assert_allclose(times - times[0], [float(t) for t in VARIABLE], atol=0.00051)
    assert not reader.info.constant_frame_rate
    assert float(reader.info.fps) == pytest.approx(9 / 0.7, rel=0.01)


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(30000, 1001), 25, 60])
def test_millisecond_rounding_of_mkv_is_no_variable_rate(tmp_path: Path, fps: Fraction):
    info = VideoReader(write_video(tmp_path / "a.mkv", square_images(40), fps=fps)).info
    assert info.constant_frame_rate and info.fps == fps


UPRIGHT = np.zeros((32, 64, 3), np.uint8)
UPRIGHT[:16, :32] = (250, 20, 20)  # red top left, green top right, blue bottom left
UPRIGHT[:16, 32:] = (20, 250, 20)
UPRIGHT[16:, :32] = (20, 20, 250)


@pytest.mark.parametrize(
    ("counterclockwise", "hflip", "vflip", "stored"),
    [
        (0, False, False, UPRIGHT),
        (-90, False, False, np.rot90(UPRIGHT)),
        (180, False, False, np.rot90(UPRIGHT, 2)),
        (90, False, False, np.rot90(UPRIGHT, -1)),
        (0, True, False, UPRIGHT[:, ::-1]),
        (0, False, True, UPRIGHT[::-1]),
    ],
)
def test_display_matrix_is_applied(tmp_path: Path, counterclockwise, hflip, vflip, stored):
    path = write_video(
        tmp_path / "a.mp4",
        [np.ascontiguousarray(stored)] * 3,
        options=LOSSLESS,
        rotation=(counterclockwise, hflip, vflip),
    )
    with VideoReader(path) as reader:
        info = reader.info
        assert (info.width, info.height) == (64, 32)
        if not (hflip or vflip):
            assert info.rotation_degrees == -counterclockwise % 360
        for frame in [*reader, *reader.read(1, 2)]:
            assert frame.image.shape == UPRIGHT.shape
            assert mean_error(frame.image, UPRIGHT) < 8  # colours bleed at the edges of the quarters


OPEN_GROUPS = GROUPS | {"x264-params": "open-gop=1:scenecut=0:b-adapt=0"}


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("mp4", "libx264", GROUPS),
        ("mkv", "libx264", GROUPS),
        ("ts", "libx264", GROUPS),
        ("mp4", "libx264", OPEN_GROUPS),
        ("mkv", "libx264", OPEN_GROUPS),
        ("avi", "mpeg4", {"g": "12"}),
        ("mpg", "mpeg1video", {"g": "12", "bf": "2"}),
    ],
)
def test_random_access_equals_iteration(tmp_path: Path, suffix: str, codec: str, options: dict[str, str]):
    path = write_video(tmp_path / f"a.{suffix}", square_images(60), codec=codec, options=options)
    with VideoReader(path) as fresh, VideoReader(path) as reader:
        frames = list(reader)
        assert len(frames) == 60
        for start, stop in [(41, 44), (0, 3), (59, 60), (11, 14), (24, 25), (12, 12), (57, 99), (70, 80)]:
            for source in (reader, fresh):
                assert_same(source.read(start, stop), frames[start:stop])


def assert_same(frames: list[Frame], expected: list[Frame]) -> None:
    assert [(frame.index, frame.time) for frame in frames] == [
        (frame.index, frame.time) for frame in expected
    ]
    for frame, other in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(frame.image, other.image)


def test_random_access_decodes_only_from_the_key_frame_on(tmp_path: Path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", square_images(60), options=GROUPS)
    decoded = []
    with VideoReader(path) as reader:
        import latentsync.media.read as module

        honest = module.decoded

        def counting(*arguments):
            for frame in honest(*arguments):
                decoded.append(frame)
                yield frame

        monkeypatch.setattr(module, "decoded", counting)
        reader.read(50, 52)
    assert 2 <= len(decoded) <= 12 + 3  # one group, and the B-frames that libav may show before its key frame


def test_seeking_past_the_key_frame_is_noticed(tmp_path: Path, monkeypatch):
    with VideoReader(write_video(tmp_path / "a.mkv", square_images(60), options=GROUPS)) as reader:
        frames, honest = list(reader), reader._at

        def inaccurate(timestamp: int, *, from_start: bool):
            container = honest(timestamp, from_start=from_start)
            if container is not None and not from_start:
                container.seek(timestamp + 120, stream=container.streams.video[0], any_frame=True)
            return container

        monkeypatch.setattr(reader, "_at", inaccurate)
        assert_same(reader.read(53, 56), frames[53:56])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2)])
def test_a_range_that_is_none_is_refused(tmp_path: Path, start: int, stop: int):
    with pytest.raises(ValueError, match="no range"):
        VideoReader(write_video(tmp_path / "a.mp4", square_images(4))).read(start, stop)


@pytest.mark.parametrize("chunk_frames", [1, 7, 1000])
def test_reversed_frames_are_the_same_in_bounded_memory(tmp_path: Path, chunk_frames: int, monkeypatch):
    with VideoReader(write_video(tmp_path / "a.mp4", square_images(30), options=GROUPS)) as reader:
        frames, asked = list(reader), []
        read = reader.read
        monkeypatch.setattr(reader, "read", lambda *span: asked.append(span) or read(*span))
        got = list(reader.reversed_from(25, max_bytes=chunk_frames * frames[0].image.nbytes))
    assert_same(got, frames[25::-1])
    assert max(stop - start for start, stop in asked) <= chunk_frames


def test_frames_without_timestamps_are_read_all_the_same(tmp_path: Path):
    path = write_video(tmp_path / "a.h264", square_images(20), options=GROUPS)
    with VideoReader(path) as reader:
        frames = list(reader)
        assert [frame.time for frame in frames] == [Fraction(k, 25) for k in range(20)]
        assert_same(reader.read(9, 12), frames[9:12])
        assert_same(list(reader.reversed_from(19)), frames[::-1])


def test_repeated_and_backward_timestamps_become_rising_times(tmp_path: Path, monkeypatch):
    import latentsync.media.read as module

    honest, stamps = module.decoded, iter([0, 1, 1, 2, None, 3, 4])

    def disturbed(*arguments):
        for frame in honest(*arguments):
            stamp = next(stamps)
            frame.pts = None if stamp is None else stamp * 40
            yield frame

    path = write_video(tmp_path / "a.mkv", square_images(7), times=[Fraction(k, 25) for k in range(7)])
    reader = VideoReader(path)
    monkeypatch.setattr(module, "decoded", disturbed)
    assert [frame.time * 25 for frame in reader] == [0, 1, Fraction(3, 2), 2, 3, Fraction(7, 2), 4]


@pytest.mark.parametrize("matrix", [BT601, BT709])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_follow_matrix_and_range(matrix: int, full_range: bool):
    luma, blue, red = 120, 100, 160
    frame = av.VideoFrame(64, 64, "yuv420p")
    for plane, value in zip(frame.planes, (luma, blue, red), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.colorspace, frame.color_range = matrix, 2 if full_range else 1
    red_weight, blue_weight = (0.2126, 0.0722) if matrix == BT709 else (0.299, 0.114)
    y = luma / 255 if full_range else (luma - 16) / 219
    u, v = ((value - 128) / (255 if full_range else 224) for value in (blue, red))
    r, b = y + 2 * (1 - red_weight) * v, y + 2 * (1 - blue_weight) * u
    g = (y - red_weight * r - blue_weight * b) / (1 - red_weight - blue_weight)
    image = RgbConverter(frame)(frame)
    np.testing.assert_allclose(image[32, 32], np.multiply((r, g, b), 255), atol=0.6)  # rounding


@pytest.mark.parametrize(
    "pixel_format", ["yuv420p", "yuvj422p", "yuv444p10le", "nv12", "gray", "rgba", "gbrp"]
)
def test_pixels_are_those_of_libswscales_exact_conversion_to_packed_rgb(pixel_format: str):
    noise = np.random.default_rng(3).integers(0, 256, (35, 53, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format=pixel_format)
    frame.colorspace = BT601
    packed = frame.reformat(format="rgb24", dst_color_range=FULL_RANGE, interpolation=EXACT).to_ndarray()
    image = RgbConverter(frame)(frame)
    np.testing.assert_array_equal(image, packed)
    assert image.flags.c_contiguous and image.flags.writeable


def test_untagged_colours_are_bt709_from_720_lines_on():
    def converted(height: int, tag: int) -> np.ndarray:
        frame = av.VideoFrame(64, height, "yuv420p")
        for plane, value in zip(frame.planes, (120, 100, 160), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.colorspace = tag
        return RgbConverter(frame)(frame)[8, 8]

    unspecified = 2
    np.testing.assert_array_equal(converted(720, unspecified), converted(720, BT709))
    np.testing.assert_array_equal(converted(576, unspecified), converted(576, BT601))
    assert (converted(720, BT601) != converted(720, BT709)).any()


def test_damaged_packets_are_survived(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", square_images(60, width=160, height=160), options=GROUPS)
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2
    data[middle : middle + 1500] = b"\xff" * 1500
    path.write_bytes(data)
    with VideoReader(path) as reader:
        frames = list(reader)
        times = [frame.time for frame in frames]
        assert 30 <= len(frames) <= 60
        assert times == sorted(set(times)) and [frame.index for frame in frames] == list(range(len(frames)))
        assert_same(reader.read(len(frames) - 4, len(frames)), frames[-4:])


def test_a_clip_cut_short_gives_what_is_there(tmp_path: Path):
    path = write_video(tmp_path / "a.mkv", square_images(60, width=160, height=160), options=GROUPS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with VideoReader(path) as reader:
        frames = list(reader)
        assert 20 <= len(frames) < 60
        assert_same(reader.read(18, 20), frames[18:20])


STOPPING_EARLY = """
import sys, av
from latentsync.media import VideoReader
av.logging.set_level(av.logging.DEBUG)
for _ in range(20):
    next(iter(VideoReader(sys.argv[1])))
"""


def test_a_decoder_that_logs_does_not_hang_a_reader_that_stops_early(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", square_images(40, width=160, height=160), options=GROUPS)
    command = [sys.executable, "-c", STOPPING_EARLY, str(path)]
    root = Path(__file__).parents[2]
    subprocess.run(command, check=True, timeout=60, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})


def test_a_change_of_size_keeps_the_first(tmp_path: Path):
    small, large = av.VideoFrame(64, 32, "yuv420p"), av.VideoFrame(128, 96, "yuv420p")
    assert RgbConverter(small)(large).shape == (32, 64, 3)


def test_zero_is_shared_with_the_sound(tmp_path: Path):
    path = write_video(
        tmp_path / "a.mp4",
        flash_images(25, 1, [0]),
        times=[Fraction(k + 10, 25) for k in range(25)],
        sound=tone_burst(1, [0]),
    )
    assert next(iter(VideoReader(path))).time == Fraction(10, 25)
    assert np.abs(read_audio(path)[:1600]).max() > 0.3
