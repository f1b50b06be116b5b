"""A talker out of one picture of a face: the jaw is pulled down and the lips apart, and a camera moves.

`u` runs along the line between the corners of the mouth, `v` down from it, both in pixels of the picture. A
pixel of the result is looked up at u / (1 + widening) and v - shift(u, v): no shift above the upper lip's
inner edge, that of the lower lip below it, fading into that of the jaw and, below the chin, to none. In
between is the inside of the mouth: the picture's own teeth as far as they go, the rest is painted.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from latentsync.errors import FaceNotFound
from latentsync.face.detect import Detector, Face
from latentsync.preprocess.talker.drawn import SIDE
from latentsync.preprocess.talker.key_points import KeyPoints
from latentsync.preprocess.talker.speech import babble
from latentsync.preprocess.talker.talker import Speaks, Talker, similarity_matrix, wander

MESH_POINTS = 468
MAX_APERTURE = 0.42  # distances of the eyes
JAW_SHARE = 0.65  # of the lower lip's shift
WIDENING = 0.14  # at full spread
EYE_SHARE = 0.2  # distance of the eyes as a share of the side
EYES = ((33, 133), (263, 362))


@dataclass(frozen=True, eq=False)
class Portrait:
    """A picture, uint8 (H, W, 3) RGB, with the face in it (MediaPipe's 468 points)."""

    image: np.ndarray
    face: Face

    @staticmethod
    def of_picture(image: np.ndarray, detector: Detector) -> "Portrait":
        """The largest face of a picture. Raises: FaceNotFound."""
        faces = detector.detect(image)
        if not faces:
            height, width = image.shape[:2]
            raise FaceNotFound(f"no face in a portrait of {width}x{height} px; pass a picture of one face")
        face = max(faces, key=lambda face: face.box[2] - face.box[0])
        if len(face.landmarks) < MESH_POINTS:
            raise FaceNotFound(
                f"a portrait's lips are found on MediaPipe's mesh, not on {len(face.landmarks)} points of "
                f"{face.kind}; use the detector mediapipe"
            )
        return Portrait(image, face)


class PortraitTalker(Talker):
    """The person of a portrait, saying what `speech` says in `frames` pictures; `seed` decides the rest."""

    def __init__(
        self,
        portrait: Portrait,
        seed: int,
        *,
        frames: int,
        speaker: str = "portrait",
        side: int = SIDE,
        offset_frames: int = 0,
        speech: Speaks = babble,
    ) -> None:
        rng = np.random.default_rng([seed, 4])
        voice = np.random.default_rng([seed, 5])
        super().__init__(speaker, speech, voice, frames=frames, offset_frames=offset_frames)
        self._mouth = _PortraitMouth(portrait)
        self._side, self._seed = side, (seed, 6)
        self._matrices = self._camera(portrait, rng)
        self._gain = rng.uniform(0.85, 1.1) * (1 + wander(frames, rng, seconds=1, deviation=0.01))
        self._grain = rng.uniform(0.5, 3.0)

    @property
    def side(self) -> int:
        return self._side

    def image(self, frame: int) -> np.ndarray:
        picture = self._mouth.picture(float(self.openness[frame]), float(self.spread[frame]))
        size, matrix = (self._side, self._side), self._matrices[frame]
        how = cv2.INTER_AREA if abs(np.linalg.det(matrix[:, :2])) < 1 else cv2.INTER_LINEAR
        picture = cv2.warpAffine(picture, matrix, size, flags=how, borderMode=cv2.BORDER_REFLECT)
        noise = np.random.default_rng([*self._seed, frame]).normal(0, self._grain, (*size, 1))
        return np.clip(picture * self._gain[frame] + noise, 0, 255).round().astype(np.uint8)

    def key_points(self, frame: int) -> KeyPoints:
        points = self._mouth.key_points(float(self.openness[frame]), float(self.spread[frame]))
        return points.moved(self._matrices[frame])

    def _camera(self, portrait: Portrait, rng: np.random.Generator) -> list[np.ndarray]:
        frames, side = self.frames, self._side
        left, right = (portrait.face.landmarks[list(eye)].mean(axis=0) for eye in EYES)
        middle = (left + right) / 2
        scale = EYE_SHARE * rng.uniform(0.9, 1.2) * side / np.linalg.norm(right - left)
        scales = scale * (1 + wander(frames, rng, seconds=1, deviation=0.02, limit=0.06))
        roll = rng.uniform(-0.06, 0.06) + wander(frames, rng, seconds=0.8, deviation=0.03, limit=0.12)
        across = 0.5 + wander(frames, rng, seconds=0.8, deviation=0.012, limit=0.05)
        down = 0.41 + wander(frames, rng, seconds=0.8, deviation=0.01, limit=0.04)
        return [
            similarity_matrix(scales[k], roll[k], middle, side * np.array([across[k], down[k]]))
            for k in range(frames)
        ]


class _PortraitMouth:
    """The mouth of a portrait, opened at will; everything in the frame (u, v) about its middle."""

    def __init__(self, portrait: Portrait) -> None:
        self.image = portrait.image.astype(np.float32)
        mesh = portrait.face.landmarks.astype(np.float64)
        left_eye, right_eye = (mesh[list(eye)].mean(axis=0) for eye in EYES)
        self.eyes = np.stack([left_eye, right_eye])
        self.eye_distance = float(np.linalg.norm(right_eye - left_eye))
        self.centre = (mesh[78] + mesh[308]) / 2
        along = (mesh[308] - mesh[78]) / np.linalg.norm(mesh[308] - mesh[78])
        self.axes = np.stack([along, [-along[1], along[0]]])  # of u and v, in pixels
        self.mesh = (mesh - self.centre) @ self.axes.T
        self.anchors = portrait.face.anchors.astype(np.float64)
        self.half_width = float(self.mesh[308, 0])
        self.upper, self.lower = float(self.mesh[13, 1]), float(self.mesh[14, 1])
        self.chin = float(self.mesh[152, 1])
        self.region = self._region()

    def picture(self, openness: float, spread: float) -> np.ndarray:
        """The whole portrait with its lips `openness` open and spread so far, float32 (H, W, 3)."""
        rows, columns = self.region
        y, x = np.mgrid[rows, columns].astype(np.float64)
        u = (x - self.centre[0]) * self.axes[0, 0] + (y - self.centre[1]) * self.axes[0, 1]
        v = (x - self.centre[0]) * self.axes[1, 0] + (y - self.centre[1]) * self.axes[1, 1]
        u = u / self._widening(u, v, spread)
        edge = self._upper_edge(u)
        seam = edge + self._aperture(u, openness)  # where the lower lip begins now
        is_below = v >= seam
        source = np.where(is_below, v - self._shift(u, v, openness), v)
        shown = self._looked_up(u, source)
        inside = np.clip(np.minimum(v - edge, seam - v) / (0.012 * self.eye_distance), 0, 1)
        beyond = np.clip((v - self._lower_edge(u)) / (0.02 * self.eye_distance), 0, 1)
        shown += (inside * beyond)[:, :, None] * (self._depth(u, v, edge, seam) - shown)
        picture = self.image.copy()
        picture[rows, columns] = shown
        return picture

    def key_points(self, openness: float, spread: float) -> KeyPoints:
        """Where everything is in `picture`."""
        aperture = float(self._aperture(np.zeros(1), openness)[0])
        seam = self.upper + aperture
        lower_outer = self._lowered(float(self.mesh[17, 1]), openness)
        corners = [self._widened(float(self.mesh[i, 0]), spread) for i in (61, 291, 78, 308)]
        mouth = [
            (self.mesh[4, 0], self.mesh[4, 1]),
            (0, self.mesh[0, 1]),
            (0, self.upper),
            (0, seam),
            (0, lower_outer),
            (corners[0], self.mesh[61, 1]),
            (corners[1], self.mesh[291, 1]),
            (corners[2], self.mesh[78, 1]),
            (corners[3], self.mesh[308, 1]),
            (self.mesh[152, 0], self._lowered(self.chin, openness)),
        ]
        return KeyPoints(np.concatenate([self.eyes, self.anchors, np.array(mouth) @ self.axes + self.centre]))

    def _aperture(self, u: np.ndarray, openness: float) -> np.ndarray:
        """How far the lips are apart at `u`: an arch between the corners."""
        arch = np.clip(1 - np.abs(u / self.half_width) ** 2.2, 0, None)
        return MAX_APERTURE * self.eye_distance * openness * arch

    def _upper_edge(self, u: np.ndarray) -> np.ndarray:
        return self.upper * np.clip(1 - (u / self.half_width) ** 2, 0, None)

    def _lower_edge(self, u: np.ndarray) -> np.ndarray:
        return self.lower * np.clip(1 - (u / self.half_width) ** 2, 0, None)

    def _shift(self, u: np.ndarray, v: np.ndarray, openness: float) -> np.ndarray:
        """By how much what is below the seam goes down; less than none where lips close over teeth."""
        lip = self._upper_edge(u) + self._aperture(u, openness) - self._lower_edge(u)
        middle = self.upper + MAX_APERTURE * self.eye_distance * openness - self.lower
        beside = np.exp(-((u / (0.75 * self.eye_distance)) ** 2))
        jaw = JAW_SHARE * middle * beside
        near = np.exp(-(((v - self.lower) / (0.28 * self.eye_distance)) ** 2))
        below = np.clip((self.chin + 0.75 * self.eye_distance - v) / (0.75 * self.eye_distance), 0, 1)
        return (near * lip + (1 - near) * jaw) * below**2 * (3 - 2 * below)

    def _lowered(self, v: float, openness: float) -> float:
        """Where a point (0, v) below the lips goes: the place whose source it is."""
        place = v
        for _ in range(20):
            place = v + float(self._shift(np.zeros(1), np.array([place]), openness)[0])
        return place

    def _widening(self, u: np.ndarray, v: np.ndarray, spread: float) -> np.ndarray:
        around = (u / (1.6 * self.half_width)) ** 2 + (v / (0.45 * self.eye_distance)) ** 2
        return 1 + WIDENING * spread * np.exp(-(around**2))

    def _widened(self, u: float, spread: float) -> float:
        place = u
        for _ in range(20):
            place = u * float(self._widening(np.array([place]), np.zeros(1), spread)[0])
        return place

    def _depth(self, u: np.ndarray, v: np.ndarray, edge: np.ndarray, seam: np.ndarray) -> np.ndarray:
        """The colour of what is inside: teeth below the upper lip, dark, a tongue above the lower one."""
        height = 0.1 * self.eye_distance
        teeth = np.clip(1 - (v - edge) / height, 0, 1) ** 0.5 * (np.abs(u) < 0.75 * self.half_width)
        tongue = np.clip(1 - (seam - v) / (1.2 * height), 0, 1)
        colour = np.array([42.0, 16, 16]) + tongue[:, :, None] * np.array([85.0, 38, 36])
        return colour + 0.8 * teeth[:, :, None] * (np.array([222.0, 214, 200]) - colour)

    def _looked_up(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The portrait at (u, v), (h, w, 3)."""
        x = self.centre[0] + u * self.axes[0, 0] + v * self.axes[1, 0]
        y = self.centre[1] + u * self.axes[0, 1] + v * self.axes[1, 1]
        maps = x.astype(np.float32), y.astype(np.float32)
        return cv2.remap(self.image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)

    def _region(self) -> tuple[slice, slice]:
        """The part of the picture that moves: from the nose to below the chin."""
        reach = 1.8 * self.eye_distance
        corners = np.array([[-reach, -0.7 * self.eye_distance], [reach, -0.7 * self.eye_distance]])
        corners = np.concatenate([corners, corners * (1, 0) + (0, self.chin + 1.0 * self.eye_distance)])
        places = corners @ self.axes + self.centre
        low = np.clip(np.floor(places.min(axis=0)), 0, None).astype(int)
        high = np.clip(np.ceil(places.max(axis=0)), 1, self.image.shape[1::-1]).astype(int)
        return slice(low[1], high[1]), slice(low[0], high[0])
