"""Contact sheets: faces of the clip that a result is compared with, and below them those of the result."""

import base64
import io
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from latentsync.errors import MediaError
from latentsync.evaluation.clip import ClipRow
from latentsync.media import VideoReader

FACE_PX = 128
FRAMES, FRAME_HEIGHT = 6, 160
QUALITY = 85


def contact_sheet(row: ClipRow) -> np.ndarray | None:
    """The sheet uint8 (H, W, 3): faces, or whole frames of the result where there is nothing beside them.

    None where the result cannot be read.
    """
    pictures = row.against_reference or row.against_source
    if pictures is not None and len(pictures.shown):
        pairs = pictures.shown.permute(1, 0, 3, 4, 2).numpy()  # (2, N, R, R, 3)
        return np.concatenate([np.concatenate([_sized(f, FACE_PX) for f in line], axis=1) for line in pairs])
    try:
        return _whole_frames(row.item.result)
    except (MediaError, OSError):
        return None


def _whole_frames(path: Path) -> np.ndarray:
    with VideoReader(path) as reader:
        total = reader.info.frame_count or sum(1 for _ in reader)
        wanted = {round(place) for place in np.linspace(0, total - 1, FRAMES)}
        images = [_sized(frame.image, FRAME_HEIGHT) for frame in reader if frame.index in wanted]
    return np.concatenate(images, axis=1)


def _sized(image: np.ndarray, height: int) -> np.ndarray:
    width = max(1, round(Fraction(image.shape[1] * height, image.shape[0])))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def inline_jpeg(image: np.ndarray) -> str:
    """A picture as the address of an <img>, with its bytes in it."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
