"""Makes the demo inputs `portrait.mp4` and `speech.wav` beside this file, and `result.jpg` out of what the
embedded model makes of them; needs scikit-image and espeak-ng.

python assets/make_assets.py
"""

import subprocess
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from skimage.data import astronaut

from latentsync.dubbing import dub
from latentsync.media import VideoReader, VideoWriter

FOLDER = Path(__file__).resolve().parent
FPS = 25
FRAMES = 100  # 4 s; every motion below has whole periods in it, so the clip loops without a jump
SHOWN = (12, 31, 70)  # frames of the result
SHOWN_PART = (slice(10, 266), slice(96, 352))  # rows and columns
SENTENCES = "Hello, and welcome! My voice comes from a computer. Watch the lips follow every word."


def camera(frame: int, size: int) -> np.ndarray:
    """A hand-held camera: the (2, 3) matrix from the still picture to `frame`; it sways, nears and tilts."""
    phase = 2 * np.pi * frame / FRAMES
    tilt_degrees, zoom = 1.2 * np.sin(phase), 1.03 + 0.02 * np.sin(2 * phase + 1)
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), tilt_degrees, zoom)
    matrix[:, 2] += 5 * np.sin(phase + 2), 3 * np.sin(2 * phase)  # pixels
    return matrix


def make_portrait(path: Path) -> None:
    """The still picture under the moving camera, without sound."""
    still = astronaut()
    height, width = still.shape[:2]
    with VideoWriter(path, fps=Fraction(FPS), width=width, height=height, crf=18, preset="slow") as writer:
        for frame in range(FRAMES):
            matrix, how = camera(frame, height), cv2.INTER_CUBIC
            image = cv2.warpAffine(still, matrix, (width, height), flags=how, borderMode=cv2.BORDER_REFLECT)
            writer.write(image, Fraction(frame, FPS))


def make_speech(path: Path) -> None:
    """`SENTENCES`, spoken: 22.05 kHz, mono, 16 bit."""
    command = ["espeak-ng", "-v", "en-us+f3", "-s", "175", "-w", str(path), SENTENCES]
    subprocess.run(command, check=True)


def make_picture(path: Path) -> None:
    """Some frames of the dubbed portrait, side by side."""
    with TemporaryDirectory() as folder:
        result = Path(folder) / "demo.mp4"
        dub(FOLDER / "portrait.mp4", FOLDER / "speech.wav", result)
        with VideoReader(result) as reader:
            shown = [frame.image[SHOWN_PART] for frame in reader if frame.index in SHOWN]
    cv2.imwrite(str(path), np.hstack(shown)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])


def main() -> None:
    make_portrait(FOLDER / "portrait.mp4")
    make_speech(FOLDER / "speech.wav")
    make_picture(FOLDER / "result.jpg")
    for name in ("portrait.mp4", "speech.wav", "result.jpg"):
        print(f"{FOLDER / name}: {(FOLDER / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
