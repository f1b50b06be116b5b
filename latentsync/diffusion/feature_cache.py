"""Deep features of the U-Net kept over neighbouring denoising steps, since they change slowly (DeepCache).

Every `interval`-th step runs the whole network and keeps the state (B*F, C, h, w) that enters the up layer of
skip connection `branch`; the steps between take it from here and run only what lies above it. Source: Ma,
Fang, Wang 2024 (arXiv 2312.00858), uniform schedule.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class FeatureCache:
    """The kept state of one window; a new window gets a new cache.

    `branch` 0 keeps all but the very last up layer's state; each further one recomputes one more layer on
    either side.
    """

    interval: int = 3
    branch: int = 0
    state: Tensor | None = None
    reuses: bool = False

    def __post_init__(self) -> None:
        if self.interval < 1 or self.branch < 0:
            raise ValueError(
                f"cache interval {self.interval}, branch {self.branch}: "
                "expected an interval of at least 1 step and a branch of at least 0"
            )

    def begin(self, step: int, batch: int) -> None:
        """Decide for denoising step `step` (from 0) of `batch` folded frames whether the kept state serves.

        A batch that lost its leading half, the pass that hears nothing, keeps the other half's state.
        """
        self.reuses = step % self.interval != 0 and self.state is not None and len(self.state) >= batch
        if self.reuses and self.state is not None and len(self.state) > batch:
            self.state = self.state[-batch:]

    def keep(self, state: Tensor) -> Tensor:
        """Remember the state of a full step; gives it back."""
        self.state = state
        return state
