"""Training clips made on the spot: a mouth that opens as the voice gets louder, packed or as a video."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d
from synthetic import write_video

SIDE = 32
RATE = 16_000
SAMPLES = RATE // 25  # of a frame


def opening(frames: int, seed: int) -> np.ndarray:
    """How far a mouth is open, (F,) in [0, 1], at about the pace of syllables."""
    series = gaussian_filter1d(np.random.default_rng(seed).standard_normal(frames + 40), 1.5)[20:-20]
    return (series - series.min()) / np.ptp(series)


def voice(mouth: np.ndarray, seed: int) -> np.ndarray:
    """A tone in the band of speech, (640 F,) float32, as loud as the mouth is open at each frame's time."""
    rng = np.random.default_rng([seed, 1])
    time = np.arange(len(mouth) * SAMPLES) / SAMPLES
    gain = 0.02 + 0.5 * np.interp(time, np.arange(len(mouth)), mouth) ** 2
    carrier = np.sin(
        2 * np.pi * 700 / RATE * np.arange(len(time)) + gaussian_filter1d(rng.standard_normal(len(time)), 8)
    )
    return (gain * carrier).astype(np.float32)


def face_images(mouth: np.ndarray, seed: int, side: int = SIDE) -> np.ndarray:
    """Faces, uint8 (F, R, R, 3): a grey of the speaker's own, and a dark mouth that opens in the lower half.

    The top left corner counts the frames, so that each face tells its number (`frame_number`).
    """
    faces = np.full((len(mouth), side, side, 3), 120 + seed % 7 * 15, np.uint8)
    centre, left, right = side * 3 // 4, side * 5 // 16, side * 11 // 16
    rows = np.arange(side)[None, :, None]
    is_open = np.abs(rows - centre) <= (1 + mouth * side * 3 / 16)[:, None, None]
    faces[:, :, left:right][np.broadcast_to(is_open, (len(mouth), side, right - left))] = 30
    for number in range(len(mouth)):
        faces[number, : side // 4, : side // 2] = (number % 16) * 15
        faces[number, : side // 4, side // 2 :] = number // 16 * 15
    return faces


def frame_number(faces: np.ndarray) -> list[int]:
    """The numbers of `face_images`, (F, R, R, 3) uint8."""
    side = faces.shape[1]
    low, high = faces[:, : side // 8, : side // 4], faces[:, : side // 8, side * 5 // 8 :]
    low, high = ((part.mean(axis=(1, 2, 3)) / 15).round().astype(int) for part in (low, high))
    return (low + 16 * high).tolist()


def write_packed(
    folder: Path,
    *,
    frames: Sequence[int] = (80, 80, 80),
    speakers: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    sound_late_frames: int = 0,
    side: int = SIDE,
) -> Path:
    """A packed collection of clips c0, c1, ... whose sound comes `sound_late_frames` after the lips."""
    entries = []
    for number, count in enumerate(frames):
        name = f"c{number}"
        mouth = opening(count + 40, number)
        shown = mouth[20 : 20 + count]
        heard = mouth[20 - sound_late_frames : 20 - sound_late_frames + count]
        write_packed_clip(folder / name, face_images(shown, number, side), shown, voice(heard, number))
        entries.append(
            {
                "name": name,
                "speaker": speakers[number] if speakers else f"s{number}",
                "split": splits[number] if splits else "train",
                "frames": count,
            }
        )
    (folder / "clips.json").write_text(json.dumps(entries))
    return folder


def write_packed_clip(folder: Path, faces: np.ndarray, mouth: np.ndarray, waveform: np.ndarray) -> Path:
    """One folder of arrays, as `latentsync.preprocess.pack` leaves it."""
    folder.mkdir(parents=True)
    np.save(folder / "faces.npy", faces)
    np.save(folder / "mouth.npy", np.repeat(mouth[:, None], 6, axis=1).astype(np.float32))
    np.save(folder / "waveform.npy", waveform)
    return folder


def write_face_video(
    path: Path,
    *,
    frames: int = 60,
    seed: int = 0,
    fps: int = 25,
    side: int = 64,
    mouth: np.ndarray | None = None,
    heard: np.ndarray | None = None,
) -> Path:
    """A video of `frames` aligned faces; `mouth` and what is `heard` are at 25 fps, by default the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ticks = -(-frames * 25 // fps)
    mouth = opening(ticks, seed) if mouth is None else mouth
    at_pictures = np.interp(np.arange(frames) * 25 / fps, np.arange(ticks), mouth)
    sound = voice(mouth if heard is None else heard, seed)[None]
    return write_video(path, face_images(at_pictures, seed, side), fps=fps, sound=sound, rate=RATE)
