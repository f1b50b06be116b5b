"""Sound comes out whole, in place and at the right level, whatever the file."""

import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from synthetic import (
    BEEP_SECONDS,
    add_sound,
    beep_starts,
    encoded_sound,
    flash_images,
    tone_burst,
    write_sound,
    write_video,
)

from latentsync.errors import MediaError
from latentsync.media import VideoReader, audio_info, check_soundtrack, read_audio

SECONDS = 2.0
BEEPS = (0.5, 1.4)
TOLERANCE_SECONDS = 0.001  # lossy codecs smear the onset by less
CODECS = [
    ("a.wav", "pcm_s16le"),
    ("a.wav", "pcm_s24le"),
    ("a.wav", "pcm_f32le"),
    ("a.wav", "pcm_u8"),
    ("a.flac", None),
    ("a.mp3", None),
    ("a.m4a", None),
    ("a.ogg", None),
    ("a.ogg", "vorbis"),
    ("a.opus", None),
    ("a.mkv", "libopus"),
    ("a.mkv", "aac"),
    ("a.mov", "alac"),
]


@pytest.mark.parametrize(("name", "codec"), CODECS)
@pytest.mark.parametrize(("rate", "channels"), [(48000, 2), (16000, 1)])
def test_sound_of_every_codec_keeps_its_times_and_length(tmp_path: Path, name, codec, rate, channels):
    channels = 2 if codec == "vorbis" else channels  # libav's own encoder does no mono
    sound = tone_burst(SECONDS, BEEPS, rate, channels)
    path = write_sound(tmp_path / name, sound, rate, codec)
    heard = read_audio(path)
    assert heard.dtype == np.float32 and heard.ndim == 1
    np.testing.assert_allclose(beep_starts(heard, 16000, 2), BEEPS, atol=TOLERANCE_SECONDS)
    assert np.abs(heard).max() == pytest.approx(0.5, abs=0.08)
    padding = {".mp3": 1152 * 2, ".mkv": 1024, ".opus": 960}.get(path.suffix, 0) / rate
    assert -3 / 16000 <= len(heard) / 16000 - SECONDS <= padding + 3 / 16000


def test_channels_are_averaged(tmp_path: Path):
    left, right = np.full((2, 16000), 0.5, np.float32) * [[1], [-0.5]]
    path = write_sound(tmp_path / "a.wav", np.stack([left, right]).astype(np.float32), 16000)
    np.testing.assert_allclose(read_audio(path), 0.125, atol=1e-4)
    six = np.zeros((6, 16000), np.float32)
    six[2] = 0.6
    np.testing.assert_allclose(read_audio(write_sound(tmp_path / "b.wav", six, 16000)), 0.1, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 96000])
def test_resampling_neither_shifts_nor_scales(tmp_path: Path, rate: int):
    chirp = np.sin(2 * np.pi * 100 * (1 + 8 * np.arange(rate) / rate) * np.arange(rate) / rate) * 0.5
    path = write_sound(tmp_path / "a.wav", chirp[None].astype(np.float32), rate)
    heard = read_audio(path)
    time = np.arange(16000) / 16000
    wanted = np.sin(2 * np.pi * 100 * (1 + 8 * time) * time) * 0.5
    assert abs(len(heard) - 16000) <= 2
    np.testing.assert_allclose(heard[200:15800], wanted[200:15800], atol=0.005)


def test_late_sound_is_padded_with_silence(tmp_path: Path):
    sound = tone_burst(SECONDS, BEEPS)
    images = flash_images(25, SECONDS + 1, [])
    path = write_video(tmp_path / "late.mp4", images, sound=sound, sound_starts=0.7)
    heard = read_audio(path)
    np.testing.assert_allclose(beep_starts(heard, 16000, 2), np.add(BEEPS, 0.7), atol=TOLERANCE_SECONDS)
    assert np.abs(heard[: int(0.65 * 16000)]).max() < 1e-3


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "avi", "mpg"])
def test_sound_of_a_clip_is_on_the_timeline_of_its_pictures(tmp_path: Path, suffix: str):
    codec = {"mpg": "mpeg1video", "avi": "mpeg4"}.get(suffix, "libx264")
    sound_codec = {"mpg": "mp2", "avi": "pcm_s16le"}.get(suffix, "aac")
    path = write_video(
        tmp_path / f"clip.{suffix}",
        flash_images(25, SECONDS, [0.4, 1.2]),
        sound=tone_burst(SECONDS, [0.4, 1.2]),
        codec=codec,
        options={},
        audio_codec=sound_codec,
    )
    flashes = [frame.time for frame in VideoReader(path) if frame.image.mean() > 128]
    beeps = beep_starts(read_audio(path), 16000, 2)
    # The first frame need not be at zero: MPEG-PS and MKV let the sound start before it, for its priming.
    np.testing.assert_allclose(np.subtract(beeps, [float(t) for t in flashes]), 0, atol=TOLERANCE_SECONDS)


def hole_of(path: Path, start: int, stop: int, rate: int = 48000) -> Path:
    """A sound file whose packets in [start, stop) samples are missing, with honest timestamps."""
    sound = tone_burst(3, [0.5, 2.5], rate)
    with av.open(str(path), "w") as output:
        stream = add_sound(output, "pcm_s16le", rate, 1)
        for packet in encoded_sound(stream, sound, rate):
            if not start <= packet.pts < stop:
                output.mux(packet)
    return path


def test_holes_become_silence(tmp_path: Path):
    heard = read_audio(hole_of(tmp_path / "hole.mkv", 48000, 96000))
    np.testing.assert_allclose(beep_starts(heard, 16000, 2), [0.5, 2.5], atol=TOLERANCE_SECONDS)
    assert len(heard) == pytest.approx(3 * 16000, abs=48)  # MKV counts milliseconds


def test_overlaps_are_trimmed(tmp_path: Path):
    path, rate = tmp_path / "overlap.mkv", 48000
    raw = (tone_burst(2, [0.5, 1.5], rate)[0] * 32767).astype("<i2")
    with av.open(str(path), "w") as output:
        stream = add_sound(output, "pcm_s16le", rate, 1)
        for start in range(0, len(raw), 4800):
            # The packet at 0.9 s says again, too early, what the next three are going to say.
            packet = av.Packet(raw[start : start + 4800 * (4 if start == 43200 else 1)].tobytes())
            packet.pts, packet.dts, packet.time_base = start, start, Fraction(1, rate)
            packet.stream = stream
            output.mux(packet)
    heard = read_audio(path)
    np.testing.assert_allclose(beep_starts(heard, 16000, 2), [0.5, 1.5], atol=TOLERANCE_SECONDS)
    assert len(heard) == pytest.approx(2 * 16000, abs=16)


def test_numbers_that_are_not_finite_become_silence(tmp_path: Path, caplog):
    sound = np.full((1, 16000), 0.25, np.float32)
    sound[0, 4000:4100] = np.nan
    sound[0, 9000] = np.inf
    path = write_sound(tmp_path / "nan.wav", sound, 16000, "pcm_f32le")
    with caplog.at_level(logging.WARNING):
        heard = read_audio(path)
    assert "not finite" in caplog.text
    assert (heard[4000:4100] == 0).all() and heard[9000] == 0
    assert heard[3999] == heard[4100] == 0.25


def test_loud_floats_are_clipped(tmp_path: Path):
    path = write_sound(tmp_path / "loud.wav", np.full((1, 16000), 3, np.float32), 16000, "pcm_f32le")
    assert read_audio(path).max() == 1


def test_cover_art_does_not_move_the_sound(tmp_path: Path):
    plain = write_sound(tmp_path / "plain.mp3", tone_burst(SECONDS, BEEPS), 48000)
    png = write_video(tmp_path / "cover.png", [np.zeros((64, 64, 3), np.uint8)], codec="png", options={})
    covered = tmp_path / "covered.mp3"
    with av.open(str(covered), "w") as output, av.open(str(plain)) as sound, av.open(str(png)) as cover:
        audio = output.add_stream_from_template(sound.streams.audio[0])
        art = output.add_stream_from_template(cover.streams.video[0], opaque=True)
        art.disposition = av.stream.Disposition.attached_pic
        for source, stream in ((cover, art), (sound, audio)):
            for packet in source.demux():
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)
    np.testing.assert_allclose(read_audio(covered), read_audio(plain))


def test_info(tmp_path: Path):
    info = audio_info(write_sound(tmp_path / "a.flac", tone_burst(SECONDS, BEEPS, 44100, 2), 44100))
    assert (info.codec, info.rate, info.channels) == ("flac", 44100, 2)
    assert info.duration_seconds == pytest.approx(SECONDS)


def test_too_short_a_sound_is_refused(tmp_path: Path):
    path = write_sound(tmp_path / "short.wav", tone_burst(BEEP_SECONDS, [0])[:, : int(0.039 * 48000)], 48000)
    for read in (read_audio, check_soundtrack):
        with pytest.raises(MediaError, match=r"short\.wav lasts 39 ms, at least 40 ms"):
            read(path)
    enough = write_sound(tmp_path / "enough.wav", tone_burst(0.04, [0]), 48000)
    assert len(read_audio(enough)) == 640 and check_soundtrack(enough).rate == 48000


@pytest.mark.parametrize("read", [read_audio, check_soundtrack, audio_info])
def test_files_without_sound_are_refused(tmp_path: Path, read):
    with pytest.raises(FileNotFoundError, match=r"none\.wav does not exist"):
        read(tmp_path / "none.wav")
    with pytest.raises(MediaError, match="no sound track"):
        read(write_video(tmp_path / "mute.mp4", flash_images(25, 0.4, [])))
    (tmp_path / "empty.wav").touch()
    with pytest.raises(MediaError, match="empty"):
        read(tmp_path / "empty.wav")
    (tmp_path / "text.wav").write_text("not a sound at all\n" * 50)
    with pytest.raises(MediaError, match="holds text"):
        read(tmp_path / "text.wav")


def test_a_sound_header_without_samples_is_refused(tmp_path: Path):
    path = write_sound(tmp_path / "header.wav", tone_burst(SECONDS, BEEPS), 48000)
    path.write_bytes(path.read_bytes()[:78])
    for read in (read_audio, check_soundtrack):
        with pytest.raises(MediaError, match=r"header\.wav"):
            read(path)
