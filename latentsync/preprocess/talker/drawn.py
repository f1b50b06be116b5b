"""A drawn talker: a head before a background, turning, nodding and blinking, lit from one side."""

import cv2
import numpy as np

from latentsync.preprocess.talker.key_points import KeyPoints
from latentsync.preprocess.talker.looks import Expression, Looks, key_points
from latentsync.preprocess.talker.painter import CENTRE_PX, EYE_DISTANCE_PX, draw_head, to_canvas
from latentsync.preprocess.talker.speech import babble
from latentsync.preprocess.talker.talker import Speaks, Talker, blinks, similarity_matrix, wander

SIDE = 256
EYE_SHARE = (0.17, 0.25)  # distance of the eyes as a share of the side


class DrawnTalker(Talker):
    """Whoever `seed` makes, saying what `speech` says (nonsense by default) in `frames` pictures.

    `clip` makes another clip of the same person.
    """

    def __init__(
        self,
        seed: int,
        *,
        frames: int,
        clip: int = 0,
        side: int = SIDE,
        offset_frames: int = 0,
        speech: Speaks = babble,
    ) -> None:
        self._looks = Looks.drawn_by(np.random.default_rng([seed, 0]))
        rng = np.random.default_rng([seed, 1, clip])
        super().__init__(
            f"drawn{seed}",
            speech,
            np.random.default_rng([seed, 2, clip]),
            frames=frames,
            offset_frames=offset_frames,
        )
        self._side, self._seed = side, (seed, 3, clip)
        self._expressions = self._moves(rng)
        self._matrices = self._places(rng)
        self._light = _direction(rng)
        self._background = _background(2 * side, rng)
        self._pan = side / 2 + np.stack(
            [wander(frames, rng, seconds=3, deviation=side / 16, limit=side / 2.5)] * 2, axis=1
        )
        self._gain = rng.uniform(0.75, 1.1) * (1 + wander(frames, rng, seconds=1, deviation=0.015))
        self._tint = rng.uniform(0.93, 1.07, 3)
        self._blur = rng.uniform(0.0, 1.0)
        self._grain = rng.uniform(0.5, 4.0)

    @property
    def side(self) -> int:
        return self._side

    def key_points(self, frame: int) -> KeyPoints:
        points = key_points(self._looks, self._expressions[frame])
        return KeyPoints(to_canvas(points.points)).moved(self._matrices[frame])

    def image(self, frame: int) -> np.ndarray:
        head, cover = draw_head(self._looks, self._expressions[frame], self._light)
        size, matrix = (self._side, self._side), self._matrices[frame]
        head = cv2.warpAffine(head, matrix, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
        cover = cv2.warpAffine(cover, matrix, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
        x, y = self._pan[frame].round().astype(int)
        picture = self._background[y : y + self._side, x : x + self._side]
        picture = picture + cover[:, :, None] * (head - picture)
        picture = picture * (self._gain[frame] * self._tint)
        if self._blur > 0.3:
            picture = cv2.GaussianBlur(picture, (0, 0), self._blur)
        noise = np.random.default_rng([*self._seed, frame]).normal(0, self._grain, (*size, 1))
        return np.clip(picture + noise, 0, 255).round().astype(np.uint8)

    def _moves(self, rng: np.random.Generator) -> list[Expression]:
        frames = self.frames
        yaw = wander(frames, rng, seconds=0.8, deviation=0.14, limit=0.4) + rng.uniform(-0.2, 0.2)
        pitch = wander(frames, rng, seconds=0.6, deviation=0.07, limit=0.2) + rng.uniform(-0.08, 0.08)
        brows = wander(frames, rng, seconds=0.4, deviation=0.025, limit=0.07)
        gaze = [wander(frames, rng, seconds=0.5, deviation=0.5, limit=1.0) for _ in range(2)]
        lids = blinks(frames, rng)
        return [
            Expression(
                openness=float(self.openness[k]),
                spread=float(self.spread[k]),
                yaw=float(yaw[k]),
                pitch=float(pitch[k]),
                lids=float(lids[k]),
                gaze=(float(gaze[0][k]), float(gaze[1][k])),
                brows=float(brows[k]),
            )
            for k in range(frames)
        ]

    def _places(self, rng: np.random.Generator) -> list[np.ndarray]:
        """From the picture of the head to the clip's own, frame by frame."""
        frames, side = self.frames, self._side
        scale = rng.uniform(*EYE_SHARE) * side / EYE_DISTANCE_PX
        scales = scale * (1 + wander(frames, rng, seconds=1, deviation=0.02, limit=0.06))
        roll = wander(frames, rng, seconds=0.8, deviation=0.04, limit=0.15) + rng.uniform(-0.08, 0.08)
        across = side * (
            rng.uniform(0.45, 0.55) + wander(frames, rng, seconds=0.8, deviation=0.012, limit=0.04)
        )
        down = side * (rng.uniform(0.38, 0.44) + wander(frames, rng, seconds=0.8, deviation=0.01, limit=0.03))
        eyes = np.array(CENTRE_PX)
        return [
            similarity_matrix(scales[k], roll[k], eyes, np.array([across[k], down[k]])) for k in range(frames)
        ]


def _direction(rng: np.random.Generator) -> np.ndarray:
    """Where the light comes from: from the front, more or less from one side, mostly from above."""
    light = np.array([rng.uniform(-0.9, 0.9), rng.uniform(-0.6, 0.1), 1.0])
    return light / np.linalg.norm(light)


def _background(side: int, rng: np.random.Generator) -> np.ndarray:
    """A wall out of focus, float32 (side, side, 3)."""
    hue = rng.uniform(40, 210) * rng.uniform(0.75, 1.25, 3)
    coarse = rng.uniform(0.6, 1.4, (4, 4, 1)) * hue
    fine = rng.uniform(-1, 1, (12, 12, 1)) * hue * rng.uniform(0, 0.4)
    size = (side, side)
    wall = cv2.resize(coarse.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    wall += cv2.resize(fine.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    return wall.clip(0, 255)
