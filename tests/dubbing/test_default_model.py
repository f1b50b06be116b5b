"""The embedded default: small enough for git, and its lips listen."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from scipy.io import wavfile

import latentsync
from latentsync.dubbing import DEFAULT_MODEL
from latentsync.dubbing.model import load_model
from latentsync.face import align, make_detector, normalize, similarity, template, track
from latentsync.face.detect import MediaPipeDetector
from latentsync.media import VideoReader, read_audio
from latentsync.quality.aperture import measure_lips

ASSETS = Path(__file__).parents[2] / "assets"


@pytest.fixture(scope="module")
def dubbed(tmp_path_factory):
    """The demo's inputs, two seconds of them, dubbed by the default with its own settings."""
    folder = tmp_path_factory.mktemp("default")
    rate, samples = wavfile.read(ASSETS / "speech.wav")
    wavfile.write(folder / "speech.wav", rate, samples[: 2 * rate])
    report = latentsync.dub(ASSETS / "portrait.mp4", folder / "speech.wav", folder / "out.mp4")
    return folder / "out.mp4", report


def test_the_default_fits_into_git():
    sizes = [path.stat().st_size for path in DEFAULT_MODEL.rglob("*") if path.is_file()]
    assert sum(sizes) < 40 * 10**6 and max(sizes) < 25 * 10**6
    assert not [path for path in DEFAULT_MODEL.rglob("*") if path.suffix in (".pt", ".bin", ".pkl", ".ckpt")]


@pytest.mark.slow
def test_the_demo_is_playable_h264_and_aac_of_equal_length(dubbed):
    path, report = dubbed
    assert report.frames == report.frames_redrawn == 50
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        lengths = [float(stream.duration * stream.time_base) for stream in (video, audio)]
    assert abs(lengths[0] - lengths[1]) <= 1 / 25


@pytest.mark.slow
def test_the_portraits_lips_move_and_nothing_else_does(dubbed):
    with VideoReader(dubbed[0]) as reader:
        result = list(reader)
    with VideoReader(ASSETS / "portrait.mp4") as reader:
        source = reader.read(0, len(result))
    with make_detector("auto") as detector:
        moved = np.nanstd(measure_lips(result, detector).aperture)
        still = np.nanstd(measure_lips(source, detector).aperture)
    assert moved > 2 * still
    change = np.mean(
        [np.abs(a.image.astype(int) - b.image).mean(axis=2) for a, b in zip(result, source, strict=True)],
        axis=0,
    )
    assert change[:90].mean() < 2.5  # above the mouth: one encoding's loss
    assert change.max() > 15


def still_face(resolution: int) -> torch.Tensor:
    """The first frame of the portrait, aligned, (1, 3, R, R)."""
    with VideoReader(ASSETS / "portrait.mp4") as reader, MediaPipeDetector() as detector:
        seen = next(iter(track(reader, detector)))
    matrix = similarity(seen.face.anchors[None], template(resolution))
    return normalize(align([seen.frame.image], matrix, resolution))


@pytest.mark.slow
def test_silence_and_speech_give_other_mouths():
    pipeline, name = load_model(None, torch.device("cpu"), torch.float32)
    assert "embedded" in name
    waveform = torch.from_numpy(read_audio(ASSETS / "speech.wav"))
    faces = still_face(pipeline.resolution).expand(16, -1, -1, -1)
    hole = pipeline.mask() == 0

    def drawn(sound):
        windows = torch.stack(list(pipeline.audio_windows(sound, 16)))
        return pipeline(faces, windows, generator=torch.Generator().manual_seed(0)).faces[
            :, hole.expand(3, -1, -1)
        ]

    speech, silence = drawn(waveform[8000:24000]), drawn(torch.full((16000,), 1e-4))
    assert (speech - silence).abs().mean() > 0.02
    assert speech.diff(dim=0).abs().mean() > 1.5 * silence.diff(dim=0).abs().mean()
