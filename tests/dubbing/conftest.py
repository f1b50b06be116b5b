"""A tiny random pipeline in a folder, and short clips of the public-domain portrait and of nobody."""

from pathlib import Path

import pytest
from dubbing_clips import empty, portrait, write_clip, write_sound
from tiny_pipeline import make_pipeline


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A pipeline folder of random weights."""
    folder = tmp_path_factory.mktemp("model")
    make_pipeline(temporal=True, resolution=64, inference_steps=1, guidance_scale=1.0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Folder with `face.mp4` (12 frames at 25 fps), `nobody.mp4` and `speech.wav` (0.4 s)."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "face.mp4", [portrait(index / 4) for index in range(12)])
    write_clip(folder / "nobody.mp4", [empty()] * 8)
    write_sound(folder / "speech.wav", 0.4)
    return folder
