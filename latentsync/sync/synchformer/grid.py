"""Offsets in seconds <-> classes. Positive: the sound is early, and plays what is seen `offset` later.

To correct a clip whose offset is o, delay its sound by o. Source: v-iashin/Synchformer (make_class_grid,
quantize_offset).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OffsetGrid:
    """`size` offsets from -`limit_seconds` to +`limit_seconds`, in even steps; class i is the i-th."""

    limit_seconds: float = 2.0
    size: int = 21

    def __post_init__(self) -> None:
        if self.size < 2 or self.limit_seconds <= 0:
            raise ValueError(
                f"an offset grid has at least 2 classes and a limit above 0 s, got {self.size} and "
                f"{self.limit_seconds} s"
            )

    @property
    def seconds(self) -> np.ndarray:
        """The offset of each class, (size,) float32."""
        return np.linspace(-self.limit_seconds, self.limit_seconds, self.size).astype(np.float32)

    @property
    def step_seconds(self) -> float:
        return 2 * self.limit_seconds / (self.size - 1)

    def nearest(self, offset_seconds: float) -> int:
        """The class of an offset; of two equally near the lower, by float32 arithmetic as upstream."""
        return int(np.abs(self.seconds - np.float32(offset_seconds)).argmin())
