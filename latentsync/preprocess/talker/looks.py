"""The shape of a drawn face: whoever a seed makes, with lips as open and as wide as they are told.

Lengths are in distances between the eye centres, x to the image's right, y down, z towards the camera, from
the middle between the eyes. A head is drawn into its own square picture, turned by shifting features by
their depth.
"""

from dataclasses import dataclass

import numpy as np

from latentsync.preprocess.talker.key_points import KeyPoints

Colour = tuple[float, float, float]  # RGB, 0 to 255

EYE_Y, BROW_Y, NOSE_Y, MOUTH_Y, CHIN_Y, CROWN_Y = 0.0, -0.3, 0.62, 1.06, 1.72, -1.15
MAX_APERTURE = 0.5
UPPER_LID = 13  # points of an eye's outline
SKINS = ((246, 214, 190), (231, 188, 158), (205, 154, 120), (162, 112, 82), (112, 74, 54), (78, 52, 40))
HAIRS = ((30, 24, 22), (62, 42, 28), (110, 74, 42), (176, 138, 84), (120, 120, 122), (120, 52, 28))
EYES = ((60, 40, 26), (84, 60, 36), (70, 96, 60), (84, 116, 146), (96, 108, 118))


@dataclass(frozen=True)
class Looks:
    """Who it is: proportions and colours."""

    skin: Colour
    hair: Colour
    eyes: Colour
    lips: Colour
    shirt: Colour
    teeth: Colour
    half_width: float  # of the head at the cheeks
    jaw_width: float  # of the chin, as a share of that
    chin: float
    eye_size: float
    brow_thickness: float
    nose_width: float
    mouth_half_width: float
    lip_thickness: float
    hair_line: float
    hair_length: float
    beard: float  # how much of one shows, 0 to 1
    max_aperture: float
    blotches: np.ndarray  # unevenness of the skin, (16, 16)

    @staticmethod
    def drawn_by(rng: np.random.Generator) -> "Looks":
        """Somebody."""
        tone = rng.uniform(0, len(SKINS) - 1)
        low = int(tone)
        high = min(low + 1, len(SKINS) - 1)
        skin = np.array(SKINS[low]) * (1 - tone + low) + np.array(SKINS[high]) * (tone - low)
        skin *= rng.uniform(0.93, 1.07) * rng.uniform(0.98, 1.02, 3)
        return Looks(
            skin=colour(skin),
            hair=colour(np.array(HAIRS[rng.integers(len(HAIRS))]) * rng.uniform(0.8, 1.2)),
            eyes=colour(np.array(EYES[rng.integers(len(EYES))]) * rng.uniform(0.8, 1.2)),
            lips=colour(skin * rng.uniform((0.8, 0.52, 0.54), (1.0, 0.68, 0.7)) + (18, 0, 4)),
            shirt=colour(rng.uniform(20, 230, 3)),
            teeth=colour(np.array((1.0, 0.98, 0.93)) * rng.uniform(205, 250)),
            half_width=rng.uniform(1.0, 1.18),
            jaw_width=rng.uniform(0.52, 0.72),
            chin=CHIN_Y + rng.uniform(-0.08, 0.14),
            eye_size=rng.uniform(0.85, 1.15),
            brow_thickness=rng.uniform(0.035, 0.085),
            nose_width=rng.uniform(0.2, 0.29),
            mouth_half_width=rng.uniform(0.36, 0.48),
            lip_thickness=rng.uniform(0.07, 0.14),
            hair_line=rng.uniform(-0.85, -0.65),
            hair_length=rng.choice((0.2, 0.6, 1.6)) + rng.uniform(-0.1, 0.2),
            beard=max(0.0, rng.uniform(-1.2, 0.8)),
            max_aperture=MAX_APERTURE * rng.uniform(0.75, 1.0),
            blotches=rng.normal(0, 1, (16, 16)),
        )


@dataclass(frozen=True)
class Expression:
    """What a face does in one frame; angles in radians, positive turns it to the image's right and down."""

    openness: float  # of the lips, [0, 1]
    spread: float  # from rounded, -1, to wide, 1
    yaw: float = 0.0
    pitch: float = 0.0
    lids: float = 1.0  # 1 open, 0 shut
    gaze: tuple[float, float] = (0.0, 0.0)
    brows: float = 0.0  # raised by


@dataclass(frozen=True)
class Mouth:
    """Where the lips are, before the head turns."""

    half_width: float
    inner_half_width: float
    aperture: float
    upper: float  # y of the upper lip's inner edge in the middle
    lower: float
    thickness: float
    jaw: float  # by how much the chin is lowered


def mouth_of(looks: Looks, expression: Expression) -> Mouth:
    """The law of the lips: the aperture is proportional to openness, the width follows spread."""
    aperture = looks.max_aperture * expression.openness
    half = looks.mouth_half_width * (1 + 0.24 * expression.spread - 0.12 * expression.openness)
    thickness = looks.lip_thickness * (1 - 0.2 * expression.spread)
    return Mouth(
        half_width=half,
        inner_half_width=half - 0.06,
        aperture=aperture,
        upper=MOUTH_Y - 0.15 * aperture,
        lower=MOUTH_Y + 0.85 * aperture,
        thickness=thickness,
        jaw=0.65 * aperture,
    )


def key_points(looks: Looks, expression: Expression) -> KeyPoints:
    """Those of the turned head."""
    mouth = mouth_of(looks, expression)
    brow = BROW_Y - expression.brows
    return KeyPoints(
        turned(
            np.array(
                [
                    (-0.5, EYE_Y, 0.0),
                    (0.5, EYE_Y, 0.0),
                    (-0.52, brow, 0.12),
                    (0.52, brow, 0.12),
                    (0.0, NOSE_Y - 0.06, 0.3),
                    (0.0, NOSE_Y - 0.04, 0.42),
                    (0.0, mouth.upper - mouth.thickness, 0.24),
                    (0.0, mouth.upper, 0.22),
                    (0.0, mouth.lower, 0.2),
                    (0.0, mouth.lower + 1.2 * mouth.thickness, 0.2),
                    (-mouth.half_width, MOUTH_Y, 0.08),
                    (mouth.half_width, MOUTH_Y, 0.08),
                    (-mouth.inner_half_width, MOUTH_Y, 0.08),
                    (mouth.inner_half_width, MOUTH_Y, 0.08),
                    (0.0, looks.chin + mouth.jaw, 0.05),
                ]
            ),
            expression,
        )
    )


def turned(points: np.ndarray, expression: Expression) -> np.ndarray:
    """Where points (N, 3) of the head appear, (N, 2), once it has turned."""
    x, y, z = np.asarray(points, np.float64).T
    across = x * np.cos(expression.yaw) + z * np.sin(expression.yaw)
    return np.stack([across, y * np.cos(expression.pitch) + z * np.sin(expression.pitch)], axis=1)


def colour(values: np.ndarray) -> Colour:
    """The nearest colour that a camera could see."""
    red, green, blue = np.clip(values, 4, 252).tolist()
    return red, green, blue


def lip_lines(lips: Mouth) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Upper lip's upper edge, lower lip's lower edge, and the inner edges of both, (33, 2) each."""
    x = np.linspace(-1, 1, 33)
    bow = 1 - 0.18 * np.exp(-((x / 0.16) ** 2))  # the dip in the middle of the upper lip
    inner = np.clip(1 - np.abs(x) ** 2.2, 0, None)
    outer = np.clip(1 - np.abs(x) ** 2.6, 0, None)
    wide, narrow = x * lips.half_width, x * lips.inner_half_width

    def line(across: np.ndarray, reach: np.ndarray | float, arch: np.ndarray) -> np.ndarray:
        return np.stack([across, MOUTH_Y + reach * arch], axis=1)

    up, down = lips.upper - MOUTH_Y, lips.lower - MOUTH_Y
    return (
        line(wide, up - lips.thickness * bow, outer),
        line(wide, down + 1.2 * lips.thickness, outer),
        line(narrow, up, inner),
        line(narrow, down, inner),
    )


def deep(points: np.ndarray, z: float) -> np.ndarray:
    """Points (N, 2) at the depth z."""
    return np.concatenate([points, np.full((len(points), 1), z)], axis=1)


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], start: float = -np.pi, stop: float = np.pi
) -> np.ndarray:
    """Points on an ellipse; angles from the right, upwards."""
    angle = np.linspace(start, stop, 41)
    return np.stack([centre[0] + radii[0] * np.cos(angle), centre[1] - radii[1] * np.sin(angle)], axis=1)


def almond(centre: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    """The outline of an eye: first UPPER_LID points along its upper lid."""
    x = np.linspace(-1, 1, UPPER_LID)
    arch = np.sqrt(np.clip(1 - np.abs(x) ** 2, 0, 1))
    upper = np.stack([x * half_width, -half_height * arch], axis=1)
    lower = np.stack([x[::-1] * half_width, 0.8 * half_height * arch], axis=1)
    return centre + np.concatenate([upper, lower])


def face_outline(looks: Looks, jaw: float) -> np.ndarray:
    """Forehead, cheeks and a chin that goes down with the jaw."""
    angle = np.linspace(-np.pi, np.pi, 81)
    sine, cosine = np.sin(angle), np.cos(angle)
    below = np.clip(-sine, 0, 1)
    width = looks.half_width * (1 - (1 - looks.jaw_width) * below**2.5)
    height = np.where(sine > 0, -CROWN_Y + 0.2, looks.chin + jaw - 0.2)
    across = np.sign(cosine) * np.abs(cosine) ** np.where(sine < 0, 0.8, 1.0)  # a chin, not a point
    return np.stack([width * across, 0.2 - height * sine], axis=1)
