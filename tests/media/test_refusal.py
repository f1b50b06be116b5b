"""Files that are no video are refused in words that name them; odd names are not a reason to refuse."""

import logging
import os
from pathlib import Path

import av
import pytest
from synthetic import square_images, tone_burst, write_sound, write_video

from latentsync.errors import MediaError
from latentsync.media import VideoReader, read_audio


def refusal(path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        VideoReader(path)
    assert path.name in str(caught.value)
    return str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"none\.mp4 does not exist"):
        VideoReader(tmp_path / "none.mp4")


def test_folders_empty_files_and_pipes(tmp_path: Path):
    (tmp_path / "folder.mp4").mkdir()
    assert "is a folder" in refusal(tmp_path / "folder.mp4")
    (tmp_path / "empty.mp4").touch()
    assert "0 bytes" in refusal(tmp_path / "empty.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "a pipe" in refusal(tmp_path / "pipe.mp4")


def test_text_and_noise(tmp_path: Path):
    (tmp_path / "text.mp4").write_text("<html>404 not found</html>\n")
    assert "holds text" in refusal(tmp_path / "text.mp4")
    (tmp_path / "noise.mp4").write_bytes(bytes(i * i % 251 for i in range(5000)))
    assert "no known format" in refusal(tmp_path / "noise.mp4")


def test_an_mp4_without_its_index(tmp_path: Path):
    path = write_video(tmp_path / "cut.mp4", square_images(20))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "moov" in refusal(path)


@pytest.mark.parametrize(("suffix", "codec"), [("png", "png"), ("jpg", "mjpeg"), ("bmp", "bmp")])
def test_pictures_under_a_videos_name(tmp_path: Path, suffix: str, codec: str):
    picture = tmp_path / f"picture.{suffix}"
    write_picture(picture, codec)
    renamed = picture.rename(tmp_path / "picture.mp4")
    assert "is a picture" in refusal(renamed)


def write_picture(path: Path, codec: str) -> None:
    formats = {"png": "rgb24", "mjpeg": "yuvj420p", "bmp": "bgr24"}
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, formats[codec]
        frame = av.VideoFrame.from_ndarray(square_images(1)[0], format="rgb24")
        for packet in [*stream.encode(frame.reformat(format=formats[codec])), *stream.encode(None)]:
            output.mux(packet)


def test_a_video_of_one_png_is_a_picture_but_a_film_of_them_is_none(tmp_path: Path):
    one = write_video(tmp_path / "one.mov", square_images(1), codec="png", options={})
    assert "is a picture" in refusal(one)
    film = write_video(tmp_path / "film.mov", square_images(3), codec="png", options={})
    assert len(list(VideoReader(film))) == 3


def test_sound_alone_even_with_cover_art(tmp_path: Path):
    sound = write_sound(tmp_path / "sound.mp4", tone_burst(1, [0.5]), 48000)
    assert "no video stream (it holds: audio)" in refusal(sound)
    write_picture(tmp_path / "cover.png", "png")
    covered = tmp_path / "covered.mp4"
    with (
        av.open(str(covered), "w") as output,
        av.open(str(sound)) as source,
        av.open(str(tmp_path / "cover.png")) as cover,
    ):
        audio = output.add_stream_from_template(source.streams.audio[0])
        art = output.add_stream_from_template(cover.streams.video[0], opaque=True)
        art.disposition = av.stream.Disposition.attached_pic
        for container, stream in ((cover, art), (source, audio)):
            for packet in container.demux():
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)
    assert "no video stream" in refusal(covered)


def test_a_video_of_which_nothing_can_be_decoded(tmp_path: Path):
    path = write_video(tmp_path / "broken.mp4", square_images(20), options={"crf": "10", "g": "100"})
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    stop = data.index(b"moov") - 4
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    assert "can be decoded" in refusal(path)


NAMES = [
    "a:b.mp4",
    "-i.mp4",
    "two words.mp4",
    'it\'s "q".mp4',
    "日本é.mp4",
    "http:x.mp4",
    "100%03d.mp4",
    "#1?.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_are_read(tmp_path: Path, name: str, monkeypatch):
    plain = write_video(tmp_path / "plain.mp4", square_images(3), sound=tone_burst(0.5, [0.1]))
    plain.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)  # a bare name, with no folder before it to protect it
    with VideoReader(name) as reader:
        assert len(list(reader)) == len(reader.read(0, 3)) == 3
    assert len(read_audio(Path(name))) == 8000


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{target}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
    "<BaseURL>{target}</BaseURL></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ffconcat", ".mpd", ".sdp"])
def test_playlists_are_refused_and_open_nothing(tmp_path: Path, kind: str, suffix: str, opened):
    target = write_video(tmp_path / "secret.ts", square_images(30))
    path = tmp_path / f"list{suffix}"
    path.write_text(PLAYLISTS[kind].format(target=target))
    assert "holds text" in refusal(path)
    with pytest.raises(MediaError):
        read_audio(path)
    assert opened(path) and not opened(target)


@pytest.fixture
def opened():
    """Whether libav said in its log that it opened a file."""
    av.logging.set_level(av.logging.DEBUG)
    with av.logging.Capture(local=False) as lines:
        yield lambda path: any(path.name in line for _, _, line in lines if "Opening" in line)
    av.logging.set_level(None)
    logging.getLogger("libav").setLevel(logging.NOTSET)
