"""What a Synchformer was made to look at and listen to; it travels with the network's configuration."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from latentsync.sync.synchformer.crops import FPS, Segments
from latentsync.sync.synchformer.grid import OffsetGrid

SCENE, FACE = "scene", "face"


@dataclass(frozen=True)
class Viewing:
    """The released networks see the middle 224 px of a whole scene, 5 s of it in 14 segments of 16 frames.

    `kind` "scene": pictures whose shorter side becomes `side`; "face": aligned faces of `side` px. Of these
    the square of `crop` px is seen whose place is given by shares of the room around it: `top` 0 is above, 1
    below, 0.5 the middle. A clip is judged by `crop_frames`, of which `segments` segments of
    `segment_frames`, one every `step_frames`, are taken; classes are offsets up to `offset_limit_seconds`.

    Raises: ValueError for numbers that contradict each other.
    """

    kind: str = SCENE
    side: int = 256
    crop: int = 224
    top: float = 0.5
    left: float = 0.5
    crop_frames: int = 125
    segments: int = 14
    segment_frames: int = 16
    step_frames: int = 8
    offset_limit_seconds: float = 2.0
    offset_classes: int = 21

    def __post_init__(self) -> None:
        if self.kind not in (SCENE, FACE):
            raise ValueError(f"a Synchformer sees a {SCENE} or a {FACE}, got {self.kind!r}")
        if not 0 < self.crop <= self.side:
            raise ValueError(f"a square of {self.crop} px cannot be cut from pictures of {self.side} px")
        if not (0 <= self.top <= 1 and 0 <= self.left <= 1):
            raise ValueError(f"top and left are shares in [0, 1], got {self.top} and {self.left}")
        self.cuts.fitted(self.crop_frames)

    @property
    def cuts(self) -> Segments:
        return Segments(self.segments, self.segment_frames, self.step_frames)

    @property
    def grid(self) -> OffsetGrid:
        return OffsetGrid(self.offset_limit_seconds, self.offset_classes)

    @property
    def crop_seconds(self) -> float:
        return self.crop_frames / FPS

    @property
    def span_frames(self) -> int:
        """How many frames the segments of one judgement cover, which is all that is looked at."""
        return self.cuts.covered_frames

    def corner(self, height: int, width: int) -> tuple[int, int]:
        """(top, left) of the square in pictures of that size; the middle rounds half to even, as upstream."""
        return round((height - self.crop) * self.top), round((width - self.crop) * self.left)

    def as_config(self) -> dict[str, Any]:
        """What of it is not as in the released networks, for a configuration file."""
        usual = Viewing()
        return {name: value for name, value in asdict(self).items() if value != getattr(usual, name)}

    @classmethod
    def from_config(cls, held: Mapping[str, Any] | None) -> "Viewing":
        """The reverse. Raises: ValueError for an unknown name."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(held or {}) - known):
            raise ValueError(f"unknown settings of what a Synchformer sees: {', '.join(unknown)}")
        return cls(**(held or {}))
