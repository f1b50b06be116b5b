"""Where one shot ends and the next begins, from small grey thumbnails.

In: frames in order. Out: True for the first frame of a new shot. A thumbnail is compared after its mean and
contrast are taken out, so exposure changes are no cuts; a flash is none because the old picture comes back.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np

THUMBNAIL = (32, 18)  # width, height
HISTOGRAM_BINS = 4  # a channel
SAME_LAYOUT = 0.6  # correlation of thumbnails above which nothing was cut, whatever the colours do
OTHER_LAYOUT = 0.2  # correlation below which it is another picture, whatever the colours do
OTHER_COLOURS = 0.35  # share of pixels that changed colour; decides in between


class Signature:
    """What a picture looks like from afar: layout, unit length, and a histogram of colours."""

    def __init__(self, image: np.ndarray) -> None:
        stride = max(1, image.shape[0] // (8 * THUMBNAIL[1]))  # eight rows and columns a cell are plenty
        picked = np.ascontiguousarray(image[::stride, ::stride])
        thumbnail = cv2.resize(picked, THUMBNAIL, interpolation=cv2.INTER_AREA)
        grey = thumbnail.astype(np.float32).mean(axis=2)
        grey -= grey.mean()
        self.layout = grey / (np.linalg.norm(grey) + 1e-3)
        cells = (thumbnail // (256 // HISTOGRAM_BINS)).reshape(-1, 3) @ (HISTOGRAM_BINS**2, HISTOGRAM_BINS, 1)
        self.colours = np.bincount(cells, minlength=HISTOGRAM_BINS**3) / len(cells)


def differ(a: Signature, b: Signature) -> bool:
    """Whether two pictures belong to different shots."""
    likeness = float((a.layout * b.layout).sum())
    if likeness >= SAME_LAYOUT:
        return False
    changed = float(np.abs(a.colours - b.colours).sum()) / 2
    return likeness < OTHER_LAYOUT or changed > OTHER_COLOURS


class CutFinder:
    """Decides frame by frame, looking one frame ahead; remembers the last frame that was no flash."""

    def __init__(self) -> None:
        self._reference: Signature | None = None

    def is_cut(self, here: Signature, following: Signature | None) -> bool:
        """Whether `here` starts a new shot; `following` is the next frame's signature, None at the end."""
        if self._reference is None:
            self._reference = here
            return False
        if not differ(self._reference, here):
            self._reference = here
            return False
        if following is not None and not differ(self._reference, following):
            return False  # a flash: the old picture comes back at once
        self._reference = here
        return True


def find_cuts(frames: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Every frame (anything with `.image`) and whether a new shot starts with it; reads one ahead."""
    finder, here = CutFinder(), None
    for frame in frames:
        following = (frame, Signature(frame.image))
        if here is not None:
            yield here[0], finder.is_cut(here[1], following[1])
        here = following
    if here is not None:
        yield here[0], finder.is_cut(here[1], None)
