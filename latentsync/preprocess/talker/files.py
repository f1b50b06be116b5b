"""Talkers on disk: a packed collection to train on, as footage is packed, or videos of whole pictures."""

import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from latentsync.errors import FootageError
from latentsync.face import align, similarity, template
from latentsync.footage.listing import FACES, INDEX, MOUTH, WAVEFORM
from latentsync.media import VideoWriter
from latentsync.preprocess.pack import PackedClip
from latentsync.preprocess.talker.speech import FPS, SAMPLE_RATE_HZ
from latentsync.preprocess.talker.talker import Talker

BATCH_FRAMES = 32


def pack_talker(talker: Talker, folder: Path, *, resolution: int) -> None:
    """One folder of arrays as `latentsync.preprocess.pack` leaves it; aligned by the true points, and with
    the true mouth. It appears when it is complete.
    """
    partial = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    anchors = np.stack([talker.key_points(frame).anchors for frame in range(talker.frames)])
    matrices = similarity(anchors, template(resolution))
    faces = np.empty((talker.frames, resolution, resolution, 3), np.uint8)
    for start in range(0, talker.frames, BATCH_FRAMES):
        part = range(start, min(start + BATCH_FRAMES, talker.frames))
        images = [talker.image(frame) for frame in part]
        cut = align(images, matrices[part.start : part.stop], resolution)
        faces[part.start : part.stop] = cut.permute(0, 2, 3, 1).numpy()
    np.save(partial / FACES, faces)
    np.save(partial / MOUTH, talker.mouth())
    np.save(partial / WAVEFORM, talker.waveform)
    partial.rename(folder)


def pack_talkers(
    talkers: Iterable[tuple[str, str, Talker]], folder: Path, *, resolution: int
) -> list[PackedClip]:
    """Pack (name, split, talker) into a collection, its index last.

    Raises: FootageError for a folder that holds a collection already, or for a name that comes twice.
    """
    if (folder / INDEX).exists():
        raise FootageError(f"{folder} holds a collection already; name another folder for these talkers")
    clips: list[PackedClip] = []
    for name, split, talker in talkers:
        if (folder / name).exists():
            raise FootageError(f"{folder / name} is there already; name another folder for these talkers")
        pack_talker(talker, folder / name, resolution=resolution)
        clips.append(PackedClip(name, talker.speaker, split, talker.frames))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).write_text(json.dumps([asdict(clip) for clip in clips], indent=1))
    return clips


def write_talker(talker: Talker, path: Path, *, crf: int = 18) -> None:
    """An MP4 of the whole pictures at 25 fps, with the sound. Raises: MediaError."""
    with tempfile.TemporaryDirectory(prefix="talker_") as folder:
        sound = Path(folder) / "sound.wav"
        wavfile.write(sound, SAMPLE_RATE_HZ, np.round(talker.waveform * 32767).astype(np.int16))
        side = talker.side
        with VideoWriter(
            path, fps=Fraction(FPS), width=side, height=side, soundtrack=sound, crf=crf
        ) as writer:
            for frame in range(talker.frames):
                writer.write(talker.image(frame), Fraction(frame, FPS))
