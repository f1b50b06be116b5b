"""A head of `looks.py` painted: its own square picture, and how much of the background it covers.

Nothing is outlined: every part is a soft patch of colour, blended over what is there, with light from one
side, so that detectors of faces take it for one. About 15 ms a head on one core.
"""

from typing import NamedTuple

import cv2
import numpy as np

from latentsync.preprocess.talker.looks import (
    BROW_Y,
    EYE_Y,
    MOUTH_Y,
    NOSE_Y,
    UPPER_LID,
    Colour,
    Expression,
    Looks,
    almond,
    colour,
    deep,
    ellipse,
    face_outline,
    lip_lines,
    mouth_of,
    turned,
)

CANVAS = 400  # pixels of the picture of a head
EYE_DISTANCE_PX = 88.0
CENTRE_PX = (CANVAS / 2, CANVAS * 0.34)  # of the middle between the eyes
SHIFT_BITS = 4  # cv2 draws at 1/16 pixel
BLUR_REACH = 3  # deviations of a blur that are drawn
MIN_APERTURE = 0.01  # that shows what is inside
NECK = np.array([[-0.55, 1.0], [0.55, 1.0], [0.62, 2.6], [-0.62, 2.6]])
SHIRT = np.array(
    [[-2.4, 2.75], [-0.75, 2.25], [0.0, 2.4], [0.75, 2.25], [2.4, 2.75], [2.4, 4.0], [-2.4, 4.0]]
)


def draw_head(looks: Looks, expression: Expression, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A head, float32 (CANVAS, CANVAS, 3) in 0..255, and how much of each pixel it covers, (CANVAS, CANVAS).

    `light` (3,) is the direction that light comes from, unit length, z towards the camera.
    """
    painter = _Painter(looks, expression)
    painter.hair_behind()
    painter.neck_and_head()
    shade = _shading(looks, expression, light)
    painter.image *= shade[:, :, None]
    painter.eyes()
    painter.nose(light)
    painter.mouth()
    painter.hair_before()
    return painter.image, painter.cover


def to_canvas(points: np.ndarray) -> np.ndarray:
    """Pixels of the head's picture for points (N, 2)."""
    return np.asarray(points) * EYE_DISTANCE_PX + CENTRE_PX


class _Patch(NamedTuple):
    """How much of each pixel of a part of the picture is meant, 0 to 1, and which part."""

    mask: np.ndarray
    region: tuple[slice, slice]


class _Painter:
    """The picture of one head while it is painted; `image` and `cover` as `draw_head` gives them."""

    def __init__(self, looks: Looks, expression: Expression) -> None:
        self.looks, self.expression = looks, expression
        self.lips = mouth_of(looks, expression)
        self.image = np.zeros((CANVAS, CANVAS, 3), np.float32)
        self.cover = np.zeros((CANVAS, CANVAS), np.float32)

    def hair_behind(self) -> None:
        looks = self.looks
        width, bottom = looks.half_width + 0.14, looks.hair_length
        outline = ellipse((0, -0.25), (width, 1.12), 0, np.pi)  # the upper half
        sides = ellipse((0, bottom - 0.2), (width, 0.2), -np.pi, 0)
        self._solid(deep(np.concatenate([outline, sides]), -0.3), looks.hair)

    def neck_and_head(self) -> None:
        looks, jaw = self.looks, self.lips.jaw
        self._solid(deep(NECK, -0.35), _times(looks.skin, 0.72))
        self._solid(deep(SHIRT, -0.4), looks.shirt)
        for side in (-1, 1):
            ear = ellipse((side * looks.half_width, 0.2), (0.12, 0.3))
            self._solid(deep(ear, -0.35), _times(looks.skin, 0.85))
        face = deep(face_outline(looks, jaw), -0.1)
        self._solid(face, looks.skin)
        if looks.beard > 0.05:
            self._beard(self._patch(face), jaw)
        self._blotch()

    def _beard(self, face: _Patch, jaw: float) -> None:
        chin = ellipse((0, 1.25 + jaw / 2), (self.looks.half_width * 0.74, 0.66 + jaw / 2))
        patch = self._patch(deep(chin, 0.0), blur_px=9, within=face)
        self._blend(patch, _times(self.looks.hair, 0.6), 0.7 * self.looks.beard)

    def _blotch(self) -> None:
        size = (CANVAS, CANVAS)
        spots = cv2.resize(self.looks.blotches.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
        move = turned(np.array([[0.0, 0.0, 0.2]]), self.expression)[0] * EYE_DISTANCE_PX
        matrix = np.array([[1, 0, move[0]], [0, 1, move[1]]], np.float32)
        self.image += 2.5 * cv2.warpAffine(spots, matrix, size, borderMode=cv2.BORDER_REFLECT)[:, :, None]

    def eyes(self) -> None:
        for side in (-1, 1):
            self._eye(side)
            self._brow(side)

    def _eye(self, side: int) -> None:
        looks, face = self.looks, self.expression
        size, opening = looks.eye_size, 0.115 * looks.eye_size * max(face.lids, 0.02)
        centre = np.array([side * 0.5, EYE_Y])
        socket = self._patch(deep(ellipse((side * 0.5, EYE_Y), (0.34, 0.2)), 0.05), blur_px=6)
        self._blend(socket, _times(looks.skin, 0.7), 0.5)
        white = self._patch(deep(almond(centre, 0.235 * size, opening), 0.02))
        self._blend(white, (236, 232, 228))
        iris = centre + np.array(face.gaze) * 0.06
        for radius, hue in ((0.105, looks.eyes), (0.05, (12, 10, 10))):
            ring = ellipse((iris[0], iris[1]), (radius * size, radius * size))
            self._blend(self._patch(deep(ring, 0.04), within=white), hue)
        glint = ellipse((iris[0] + 0.03, iris[1] - 0.035), (0.018, 0.018))
        self._blend(self._patch(deep(glint, 0.04), within=white), (250, 250, 250))
        lid = almond(centre, 0.24 * size, opening)[:UPPER_LID]
        self._line(deep(lid, 0.05), _times(looks.skin, 0.3), 0.026)
        crease = almond(centre - (0, 0.05), 0.25 * size, 0.13 * size)[:UPPER_LID]
        self._line(deep(crease, 0.05), _times(looks.skin, 0.66), 0.014)

    def _brow(self, side: int) -> None:
        y = BROW_Y - self.expression.brows
        line = np.array([[0.22, y + 0.05], [0.4, y - 0.03], [0.62, y - 0.04], [0.82, y + 0.04]])
        line[:, 0] *= side
        self._line(deep(line, 0.12), _times(self.looks.hair, 0.8), self.looks.brow_thickness)

    def nose(self, light: np.ndarray) -> None:
        looks = self.looks
        dark, bright = _times(looks.skin, 0.62), _times(looks.skin, 1.13)
        side = np.array([[0.07, -0.05], [0.1, 0.3], [looks.nose_width, 0.58], [0.05, 0.6], [0.05, 0.2]])
        side[:, 0] *= -1.0 if light[0] > 0 else 1.0
        below = ellipse((0, NOSE_Y + 0.06), (looks.nose_width * 0.9, 0.06))
        for outline, z, hue, strength, blur_px in (
            (side, 0.2, dark, 0.4, 4),
            (ellipse((0, 0.3), (0.045, 0.32)), 0.32, bright, 0.55, 3),
            (ellipse((0, NOSE_Y - 0.08), (0.11, 0.09)), 0.4, bright, 0.5, 4),
            (below, 0.22, dark, 0.5, 3),
        ):
            self._blend(self._patch(deep(outline, z), blur_px=blur_px), hue, strength)
        for hole in (-1, 1):
            wing = ellipse((hole * looks.nose_width * 0.82, NOSE_Y - 0.03), (0.075, 0.1))
            self._blend(self._patch(deep(wing, 0.24), blur_px=2), _times(looks.skin, 0.85), 0.5)
            nostril = ellipse((hole * looks.nose_width * 0.45, NOSE_Y + 0.02), (0.06, 0.026))
            self._blend(self._patch(deep(nostril, 0.26), blur_px=1), _times(looks.skin, 0.25), 0.85)

    def mouth(self) -> None:
        looks, lips = self.looks, self.lips
        top, base, upper, lower = lip_lines(lips)
        whole = np.concatenate([top, base[::-1]])
        self._blend(self._patch(deep(whole - (0, -0.03), 0.2), blur_px=3), _times(looks.skin, 0.6), 0.35)
        self._blend(self._patch(deep(whole, 0.2), blur_px=1), looks.lips)
        upper_lip = np.concatenate([top, upper[::-1]])
        self._blend(self._patch(deep(upper_lip, 0.22), blur_px=1), _times(looks.lips, 0.82), 0.7)
        shine = ellipse(
            (0, lips.lower + 0.6 * lips.thickness), (0.4 * lips.half_width, 0.25 * lips.thickness)
        )
        self._blend(self._patch(deep(shine, 0.22), blur_px=2), _times(looks.lips, 1.35), 0.5)
        if lips.aperture > MIN_APERTURE:
            self._inside(np.concatenate([upper, lower[::-1]]))
        self._line(deep(upper, 0.21), _times(looks.lips, 0.35), 0.012)

    def _inside(self, opening: np.ndarray) -> None:
        """Dark, a tongue, teeth that stay with the skull above and go with the jaw below."""
        looks, lips = self.looks, self.lips
        hole = self._patch(deep(opening, 0.2))
        self._blend(hole, (46, 14, 14))
        tongue = ellipse((0, lips.lower + 0.02), (0.7 * lips.inner_half_width, 0.35 * lips.aperture))
        self._blend(self._patch(deep(tongue, 0.1), blur_px=2, within=hole), (150, 70, 68))
        for y, height, brightness in (
            (MOUTH_Y - 0.13, 0.19, 1.0),
            (MOUTH_Y + 0.02 + lips.jaw * 1.05, 0.16, 0.8),
        ):
            row = np.array([[-1, y], [1, y], [1, y + height], [-1, y + height]])
            row[:, 0] *= 0.8 * lips.inner_half_width
            teeth = self._patch(deep(row, 0.14), blur_px=1, within=hole)
            self._blend(teeth, _times(looks.teeth, brightness))
        rim = _Patch(hole.mask * (1 - cv2.GaussianBlur(hole.mask, (0, 0), 2)), hole.region)
        self._blend(rim, (30, 8, 8), 1.3)

    def hair_before(self) -> None:
        looks = self.looks
        width, low = looks.half_width + 0.1, looks.hair_line + 0.2
        over = ellipse((0, -0.2), (width, 1.12), 0, np.pi)
        line = np.array([[-width, -0.25], [-0.78, low], [0, looks.hair_line], [0.78, low], [width, -0.25]])
        patch = self._patch(deep(np.concatenate([over, line]), 0.0), blur_px=2)
        self._blend(patch, looks.hair)
        self._cover(patch)
        sheen = ellipse((-0.3, -0.95), (0.4, 0.12))
        self._blend(self._patch(deep(sheen, 0.1), blur_px=6), _times(looks.hair, 1.6), 0.35)

    def _patch(self, points: np.ndarray, *, blur_px: float = 0, within: _Patch | None = None) -> _Patch:
        """The inside of an outline of deep points (N, 3), blurred; of another patch only, where one is
        given.
        """
        outline = to_canvas(turned(points, self.expression))
        if within is None:
            margin = 2 + BLUR_REACH * blur_px
            low = np.clip(np.floor(outline.min(axis=0) - margin), 0, CANVAS - 1).astype(int)
            high = np.clip(np.ceil(outline.max(axis=0) + margin) + 1, low + 1, CANVAS).astype(int)
            region = slice(low[1], high[1]), slice(low[0], high[0])
        else:
            region = within.region
        origin = np.array([region[1].start, region[0].start])
        mask = np.zeros((region[0].stop - origin[1], region[1].stop - origin[0]), np.uint8)
        cv2.fillPoly(mask, [_fixed(outline - origin)], (255,), cv2.LINE_AA, SHIFT_BITS)
        soft = mask.astype(np.float32) / 255
        if blur_px:
            soft = cv2.GaussianBlur(soft, (0, 0), blur_px)
        return _Patch(soft if within is None else soft * within.mask, region)

    def _blend(self, patch: _Patch, hue: Colour, strength: float = 1.0) -> None:
        weight = np.clip(patch.mask * strength, 0, 1)[:, :, None]
        part = self.image[patch.region]
        part += weight * (np.array(hue, np.float32) - part)

    def _cover(self, patch: _Patch) -> None:
        self.cover[patch.region] = np.maximum(self.cover[patch.region], patch.mask)

    def _solid(self, points: np.ndarray, hue: Colour) -> None:
        """Paint what hides the background."""
        patch = self._patch(points)
        self._blend(patch, hue)
        self._cover(patch)

    def _line(self, points: np.ndarray, hue: Colour, thickness: float) -> None:
        outline = to_canvas(turned(points, self.expression))
        width = max(1, round(thickness * EYE_DISTANCE_PX))
        low = np.clip(np.floor(outline.min(axis=0)) - width - 4, 0, CANVAS - 1).astype(int)
        high = np.clip(np.ceil(outline.max(axis=0)) + width + 5, low + 1, CANVAS).astype(int)
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        cv2.polylines(mask, [_fixed(outline - low)], False, (255,), width, cv2.LINE_AA, SHIFT_BITS)
        soft = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), 0.8)
        self._blend(_Patch(soft, (slice(low[1], high[1]), slice(low[0], high[0]))), hue, 0.9)


def _times(hue: Colour, factor: float) -> Colour:
    return colour(np.array(hue) * factor)


def _fixed(points: np.ndarray) -> np.ndarray:
    """Pixels as the fixed-point numbers that cv2 draws at."""
    return np.round(points * 2**SHIFT_BITS).astype(np.int32)


def _shading(looks: Looks, expression: Expression, light: np.ndarray) -> np.ndarray:
    """How light falls on a head as round as an egg, (CANVAS, CANVAS) around 1."""
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32)
    x = (x - CENTRE_PX[0]) / EYE_DISTANCE_PX - 0.35 * np.sin(expression.yaw)
    y = (y - CENTRE_PX[1]) / EYE_DISTANCE_PX - 0.35 * np.sin(expression.pitch) - 0.3
    normal_x, normal_y = x / (1.25 * looks.half_width), y / 1.8
    normal_z = np.sqrt(np.clip(1 - normal_x**2 - normal_y**2, 0.05, 1))
    facing = normal_x * light[0] + normal_y * light[1] + normal_z * light[2]
    return (0.45 + 0.65 * np.clip(facing, 0, None)).astype(np.float32)
