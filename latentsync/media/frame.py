"""One picture of a clip with its place in time, as the reader hands it out."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True, eq=False)
class Frame:
    image: np.ndarray  # (H, W, 3) uint8 RGB, contiguous
    time: Fraction  # seconds since the container's zero
    index: int  # in display order, from 0
