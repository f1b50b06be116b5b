"""The U-Net as the denoising loop asks it: guided by what it draws without sound, cached over the steps.

`B` windows of `F` frames, `C h w` latents, `N D` audio tokens of a frame.
"""

import torch
from torch import Tensor

from latentsync.diffusion.feature_cache import FeatureCache
from latentsync.diffusion.sampling import Sampling
from latentsync.diffusion.unet import UNet3DConditionModel


class GuidedUNet:
    """Predictions for some windows over all steps, hearing `audio` (B, F, N, D).

    `joint`: with and without sound in one pass, which takes the memory of both. `region` (h, w), in [0, 1]:
    where guidance works in full; where it is 0 the sound is heard plainly. None: everywhere.
    """

    def __init__(
        self,
        unet: UNet3DConditionModel,
        audio: Tensor,
        settings: Sampling,
        *,
        joint: bool,
        region: Tensor | None = None,
    ) -> None:
        self.unet, self.audio, self.settings, self.joint = unet, audio, settings, joint
        self.region = region
        caching = settings.cache_interval > 1
        cache = [FeatureCache(settings.cache_interval, settings.cache_branch_id) for _ in range(2)]
        self.hearing, self.deaf = cache if caching else (None, None)

    def __call__(self, x: Tensor, t: Tensor, step: int, scale: float | Tensor) -> Tensor:
        """The prediction (B, C, F, h, w) float32 for `x`; `scale` is a number, or one a window (B, 1, 1, 1,
        1).
        """
        if not self.settings.is_guided(step):
            return self._pass(x, t, self.audio, step, self.hearing).float()
        silence = torch.zeros_like(self.audio)
        if self.joint:
            twice, audio = x.repeat(2, 1, 1, 1, 1), torch.cat([silence, self.audio])
            deaf, hearing = self._pass(twice, t, audio, step, self.hearing).float().chunk(2)
        else:
            deaf = self._pass(x, t, silence, step, self.deaf).float()
            hearing = self._pass(x, t, self.audio, step, self.hearing).float()
        if self.region is not None:
            scale = 1 + (scale - 1) * self.region
        return deaf + scale * (hearing - deaf)

    def _pass(self, x: Tensor, t: Tensor, audio: Tensor, step: int, cache: FeatureCache | None) -> Tensor:
        if cache is None:
            return self.unet(x, t, audio).sample
        cache.begin(step, len(audio) * x.shape[2])
        return self.unet(x, t, audio, cache=cache).sample
