"""What the denoiser is taught by: weighted latent errors and the mouth's shape read off the predicted
latents.

`B` batch, `C` latent channels, `h w` latent pixels, `K` mouth measures.
"""

import torch
from torch import Tensor, nn

MOUTH_ROWS, MOUTH_COLUMNS = (
    (0.47, 0.78),
    (0.22, 0.78),
)  # the lips and jaw in an aligned face, as shares of its size


def region_weights(mask: Tensor, *, mouth: float, hole: float, kept: float) -> Tensor:
    """Weights (1, 1, h, w) with mean 1: `mouth` around the lips, `hole` where `mask` (1, h, w) is 0, `kept`
    elsewhere.
    """
    h, w = mask.shape[-2:]
    weights = torch.where(mask[None] > 0.5, kept, hole)
    rows = slice(round(MOUTH_ROWS[0] * h), round(MOUTH_ROWS[1] * h))
    columns = slice(round(MOUTH_COLUMNS[0] * w), round(MOUTH_COLUMNS[1] * w))
    weights[..., rows, columns] = mouth
    return weights / weights.mean()


class MouthReader(nn.Module):
    """Reads the mouth's shape (B, K) off clean latents (B, C, h, w); trained first, then frozen."""

    def __init__(self, channels: int, measures: int, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Flatten(),
            nn.LazyLinear(96),
            nn.SiLU(),
            nn.Linear(96, measures),
        )

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)


def predicted_latents(noisy: Tensor, prediction: Tensor, alpha_bar: Tensor, prediction_type: str) -> Tensor:
    """x0 implied by a prediction at cumulative alpha `alpha_bar` (B, 1, ...).

    Source: eq. (4) of DDPM solved for x0 (Ho et al. 2020); v of Salimans & Ho 2022.
    """
    if prediction_type == "v_prediction":
        return alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * prediction
    return (noisy - (1 - alpha_bar).sqrt() * prediction) / alpha_bar.sqrt().clamp(min=1e-4)
