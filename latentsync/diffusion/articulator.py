"""Audio tokens of a frame -> what the mouth does in it, for a refiner that is to be told.

`F` frames, `N D` audio tokens of a frame, `K` mouth measures. Motion is a mouth's shape less what is usual
for who speaks, each measure in units of its spread over the training footage: it says nothing of who that is.
"""

import math
from collections.abc import Sequence

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import WhisperModel

from latentsync.audio.windows import window_rows

MEASURES = 6  # those of preprocess.pack.MOUTH_SHAPE


class Articulator(ModelMixin, ConfigMixin):
    """Hears `tokens` of width `token_width` a frame and tells `measures` of its mouth, by one layer of
    `hidden` units between two dropouts, nothing below `least` or above `most` (K), where these are given:
    a strange voice is told of no mouth that nobody made. To be used in eval mode.
    """

    @register_to_config
    def __init__(
        self,
        tokens: int = 40,
        token_width: int = 96,
        hidden: int = 96,
        measures: int = 6,
        dropout: float = 0.5,
        least: Sequence[float] | None = None,
        most: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.normal = nn.BatchNorm1d(tokens * token_width, affine=False)
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(tokens * token_width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, measures),
        )

    def forward(self, audio_windows: Tensor) -> Tensor:
        """Motion (F, K), float32, of `audio_windows` (F, N, D)."""
        heard = audio_windows.flatten(1).to(self.dtype)
        motion = self.head(self.normal(heard)).float()
        if self.config.least is None:
            return motion
        return motion.clamp(motion.new_tensor(self.config.least), motion.new_tensor(self.config.most))


def check_articulator(articulator: Articulator, audio_encoder: WhisperModel, fps: int) -> None:
    """Raises: ValueError for one that hears other tokens than `audio_encoder` gives, or tells other
    measures.
    """
    told = articulator.config
    held = (told.tokens, told.token_width, told.measures)
    layers = int(audio_encoder.config.encoder_layers)
    wanted = (len(window_rows(0, fps)) * (layers + 1), int(audio_encoder.config.d_model), MEASURES)
    if held != wanted:
        raise ValueError(
            f"this articulator hears {held[0]} tokens of width {held[1]} and tells {held[2]} measures; "
            f"expected {wanted[0]} of {wanted[1]} and {wanted[2]}: train it with scripts/train_refiner.py"
        )
    if (told.least, told.most) != (None, None) and not _are_bounds(told.least, told.most):
        raise ValueError(
            f"this articulator tells from {told.least} to {told.most}; expected two lists of {MEASURES} "
            "numbers, none of the first above its like: train it with scripts/train_refiner.py"
        )


def _are_bounds(least: object, most: object) -> bool:
    """Whether these are MEASURES finite numbers each, and in order."""
    for bound in (least, most):
        if not isinstance(bound, list | tuple) or len(bound) != MEASURES:
            return False
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in bound):
            return False
    return all(low <= high for low, high in zip(least, most, strict=True))  # pyright: ignore[reportArgumentType]
