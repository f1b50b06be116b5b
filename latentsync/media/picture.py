"""From a decoded libav frame to RGB pixels the right way up, and the colour rule shared with the writer.

Colour tags are code points of ISO/IEC 23091-2, as in libav: 1 BT.709, 2 unspecified, 6 BT.601, 9 BT.2020.
A clip without a matrix is BT.709 from 720 lines on and BT.601 below, limited range. HDR is not tone-mapped.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import atan2, cos, degrees, radians, sin
from typing import cast

import cv2
import numpy as np
from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

UNSPECIFIED = 2
BT709, BT601, BT2020 = 1, 6, 9
KNOWN_MATRICES = {BT709: BT709, 4: 4, 5: BT601, BT601: BT601, 7: 7, BT2020: BT2020}
HD_LINES = 720
LIMITED_RANGE, FULL_RANGE = 1, 2
# SWS_BICUBIC, SWS_ACCURATE_RND, SWS_FULL_CHR_H_INT, which PyAV names only from 18 on. Without the last two
# libswscale is off by one to three levels, each time in the same direction.
EXACT = 0x4 | 0x40000 | 0x2000
PLANES = "gbrp"


@dataclass(frozen=True)
class ColorTags:
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    range: int = 0  # 0 unspecified, 1 limited (16-235), 2 full (0-255)


@dataclass(frozen=True)
class Orientation:
    """How stored pixels become displayed ones: first transpose, then flip."""

    transpose: bool = False
    flip_horizontally: bool = False
    flip_vertically: bool = False
    rotation_degrees: int = 0  # clockwise, 0 90 180 270; of a mirrored clip the turn of its x axis


def color_tags(frame: VideoFrame) -> ColorTags:
    return ColorTags(frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range)


def matrix_for(color: ColorTags | None, height: int) -> int:
    """The matrix to convert with: the tagged one, or the rule of this module's docstring."""
    tagged = KNOWN_MATRICES.get(color.matrix) if color else None
    return tagged or (BT709 if height >= HD_LINES else BT601)


def orientation(frame: VideoFrame) -> Orientation:
    """The display matrix that travels with a frame, rounded to multiples of 90 degrees and mirrors."""
    a, b, c, d = _display_matrix(frame)
    rotation = round(degrees(atan2(b, a)) / 90) * 90 % 360
    # A stored pixel (x, y) is shown at (a x + c y, b x + d y), up to a shift.
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0, rotation)
    return Orientation(False, a < 0, d < 0, rotation)


def _display_matrix(frame: VideoFrame) -> tuple[float, float, float, float]:
    try:
        side_data = cast("Iterable[SideData]", frame.side_data)
        held = [bytes(data) for data in side_data if data.type == Type.DISPLAYMATRIX]
    except ValueError:  # PyAV 18 stumbles over kinds of side data that it does not know, such as EXIF
        angle = radians(-frame.rotation)
        return cos(angle), sin(angle), -sin(angle), cos(angle)
    if not held:
        return 1, 0, 0, 1
    a, b, _, c, d = (int(value) for value in np.frombuffer(held[0], np.int32)[:5])
    return a, b, c, d


class RgbConverter:
    """Turns frames of one clip into (H, W, 3) uint8 RGB, all of the size of its first frame.

    From YUV by way of planes: libswscale's exact kernels for those are 2.4 times as fast as for packed RGB,
    with the same values.
    """

    def __init__(self, first: VideoFrame):
        self.width, self.height = first.width, first.height
        self.orientation = orientation(first)
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        frame.colorspace = matrix_for(color_tags(frame), frame.height)
        rgb = self._reformatter.reformat(
            frame,
            width=self.width,
            height=self.height,
            format="rgb24" if frame.format.is_rgb else PLANES,
            dst_color_range=FULL_RANGE,
            interpolation=EXACT,
        )
        return turned(_packed(rgb), self.orientation)


def _packed(frame: VideoFrame) -> np.ndarray:
    """Pixels (H, W, 3) of an RGB frame, packed or in planes."""
    if frame.format.name != PLANES:
        return frame.to_ndarray()
    green, blue, red = (
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]  # type: ignore[arg-type]
        for plane in frame.planes
    )
    return cv2.merge([red, green, blue])


def turned(image: np.ndarray, orientation: Orientation) -> np.ndarray:
    """The image as it is meant to be seen, contiguous."""
    if orientation.transpose:
        image = image.swapaxes(0, 1)
    if orientation.flip_horizontally:
        image = image[:, ::-1]
    if orientation.flip_vertically:
        image = image[::-1]
    return np.ascontiguousarray(image)
