"""Aligned faces and the sound of each frame in, the same faces with the mouth redrawn out.

`F` frames, `R` pixels of an aligned face, `C h w` latents, `N D` audio tokens of a frame. Faces are float RGB
in [-1, 1]. The steps are those of LipsyncPipeline in bytedance/LatentSync: hide the mouth, encode hidden and
whole face, denoise while listening, decode, put the mouth into the face. Windows overlap and are cross-faded;
upstream's do not.
"""

import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import BaseOutput
from torch import Tensor
from transformers import WhisperModel

from latentsync.audio.whisper import encode_blocks, inner_context
from latentsync.audio.windows import stream_windows
from latentsync.diffusion.feature_cache import FeatureCache
from latentsync.diffusion.noise import draw_noise, released_scheduler
from latentsync.diffusion.original import download, find_original, open_original
from latentsync.diffusion.reference import hide_mouth
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.face.mask import latent_mask, mouth_mask
from latentsync.profiling import stage

StepCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Sampling:
    """How to denoise: `guidance_scale` above 1 costs a second pass that hears nothing, and opens the mouth
    further.

    `guidance_window`: the share [start, stop) of the steps that are guided, the others hear plainly.
    `cache_interval`: only every n-th step runs the whole U-Net, the others keep its deep features
    (`FeatureCache`, cut at skip `cache_branch_id`); 1 is off.
    """

    steps: int
    guidance_scale: float = 1.0
    generator: torch.Generator | None = None
    callback_on_step_end: StepCallback | None = None
    guidance_window: tuple[float, float] = (0.0, 1.0)
    cache_interval: int = 1
    cache_branch_id: int = 0

    def is_guided(self, step: int) -> bool:
        """Whether step `step`, counted from 0, subtracts what is drawn without sound."""
        start, stop = self.guidance_window
        return self.guidance_scale != 1.0 and start <= step / self.steps < stop


@dataclass(frozen=True)
class Condition:
    """What a window's denoiser sees besides the noise: mask (1, F, h, w), masked and reference latents (C, F,
    h, w).
    """

    mask: Tensor
    masked: Tensor
    reference: Tensor

    def __len__(self) -> int:
        return self.mask.shape[1]


@dataclass
class LipsyncPipelineOutput(BaseOutput):
    """Faces (F, 3, R, R) in [-1, 1], the mouth redrawn."""

    faces: Tensor


class LipsyncPipeline(DiffusionPipeline):
    """The diffusers pipeline of LatentSync: parts `vae`, `audio_encoder`, `unet`, `scheduler`; tensors in,
    tensors out.

    For small models: `paste_region` says what of a drawn face belongs into a frame (`face.mask.paste_mask`),
    `hide_reference_mouth` hides the reference's lips, and `reference_shift` takes as reference not the frame
    itself but one so many frames away in the window, whose jaw tells nothing of the frame's own.
    """

    model_cpu_offload_seq = "audio_encoder->vae->unet->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        audio_encoder: WhisperModel,
        unet: UNet3DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        resolution: int = 256,
        fps: int = 25,
        window: int = 16,
        overlap: int = 4,
        inference_steps: int = 20,
        guidance_scale: float = 1.5,
        paste_region: str = "hole",
        hide_reference_mouth: bool = False,
        reference_shift: int = 0,
    ) -> None:
        super().__init__()
        if resolution < 8 or fps < 1 or window < 1 or not 0 <= overlap < window:
            raise ValueError(
                f"resolution {resolution}, fps {fps}, window {window}, overlap {overlap}: "
                "expected a resolution >= 8, fps and window >= 1, and an overlap in [0, window)"
            )
        self.register_modules(vae=vae, audio_encoder=audio_encoder, unet=unet, scheduler=scheduler)
        self.register_to_config(
            resolution=resolution,
            fps=fps,
            window=window,
            overlap=overlap,
            inference_steps=inference_steps,
            guidance_scale=guidance_scale,
            paste_region=paste_region,
            hide_reference_mouth=hide_reference_mouth,
            reference_shift=reference_shift,
        )
        self.resolution, self.fps, self.window = resolution, fps, window
        self.paste_region, self.hide_reference_mouth = paste_region, hide_reference_mouth
        self.reference_shift = reference_shift
        self.frames_at_once = window  # through the autoencoder: fewer take less memory
        self.set_overlap(overlap)
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)

    def set_overlap(self, overlap: int) -> None:
        """Frames that neighbouring windows share; none where frames do not depend on each other. Raises:
        ValueError outside [0, window).
        """
        if not 0 <= overlap < self.window:
            raise ValueError(f"overlap {overlap} is outside [0, {self.window}), the frames of a window")
        self.overlap = overlap if self.unet.is_temporal else 0

    @classmethod
    def from_original(
        cls,
        unet_path: str | Path,
        *,
        config: str | Path | None = None,
        whisper: str | Path | None = None,
        vae: str | Path | None = None,
        resolution: int | None = None,
        overlap: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> "LipsyncPipeline":
        """A pipeline of released files (`latentsync_unet.pt` and what belongs to it), on the CPU in `dtype`.

        The arguments are those of `diffusion.original.open_original`; `overlap` 0 keeps the windows apart, as
        upstream does. Raises: FileNotFoundError, ConfigError, CheckpointError.
        """
        parts = open_original(
            unet_path, config=config, whisper=whisper, vae=vae, resolution=resolution, dtype=dtype
        )
        return cls(
            parts.vae,
            parts.audio_encoder,
            parts.unet,
            released_scheduler(),
            resolution=parts.resolution,
            fps=parts.fps,
            window=parts.window,
            overlap=overlap,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> "LipsyncPipeline":
        """A pipeline of one of our folders, of a folder laid out like a released Hub repository, or of a Hub
        id of either kind.

        `options` are those of `DiffusionPipeline.from_pretrained`, or of `from_original`.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir() and not folder.is_absolute() and len(folder.parts) == 2:
            folder = download(folder.as_posix(), options.pop("revision", None))
        unet = find_original(folder)
        if unet is not None:
            return cls.from_original(unet, **options)
        return super().from_pretrained(str(folder), **options)

    def sampling(
        self, steps: int | None = None, guidance_scale: float | None = None, **options: Any
    ) -> Sampling:
        """`Sampling` with this model's own steps and guidance where they are None; `options` are its other
        fields. Raises: ValueError for less than one step or a negative guidance.
        """
        steps = int(self.config.inference_steps) if steps is None else steps
        guidance_scale = float(self.config.guidance_scale) if guidance_scale is None else guidance_scale
        if steps < 1:
            raise ValueError(f"inference steps must be at least 1, got {steps}")
        if not 0 <= guidance_scale <= 20:
            raise ValueError(f"guidance scale must be in [0, 20], got {guidance_scale}; 1 to 3 is usual")
        return Sampling(steps, guidance_scale, **options)

    @torch.no_grad()
    def __call__(
        self,
        faces: Tensor,
        audio_windows: Tensor,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> LipsyncPipelineOutput:
        """Redraw `faces` (F, 3, R, R) so that they say `audio_windows` (F, N, D); see `audio_windows()` for
        the latter.
        """
        if len(faces) != len(audio_windows):
            raise ValueError(
                f"{len(faces)} faces with {len(audio_windows)} audio windows; one window a face is needed"
            )
        settings = self.sampling(
            num_inference_steps,
            guidance_scale,
            generator=generator,
            callback_on_step_end=callback_on_step_end,
        )
        noise = self.draw_noise(generator)
        drawn = torch.stack(list(self.stream(faces, audio_windows, noise, settings)))
        return LipsyncPipelineOutput(faces=self.compose(drawn, faces.to(self._execution_device), self.mask()))

    def generate(self, faces: Tensor, audio_windows: Tensor, noise: Tensor) -> Tensor:
        """The generator protocol of `dubbing`: faces, sound and noise in, faces out, with the model's own
        settings.
        """
        return torch.stack(list(self.stream(faces, audio_windows, noise, self.sampling())))

    @torch.no_grad()
    def stream(
        self, faces: Iterable[Tensor], audio_windows: Iterable[Tensor], noise: Tensor, settings: Sampling
    ) -> Iterator[Tensor]:
        """Drawn faces (3, R, R), one by one, of a run of neighbouring frames; holds two windows at most.

        They are the network's pictures, kept region included: `compose`, or a Composer, puts the mouth into
        the original.

        Neighbouring windows share `overlap` frames whose latents are cross-faded; a tail that is shorter than
        a window is denoised together with the frames before it.
        """
        history: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.window)
        held: list[Tensor] = []  # latents of the last frames seen, waiting for the next window's opinion
        fresh = 0
        for face, tokens in zip(faces, audio_windows, strict=True):
            history.append((face, tokens))
            fresh += 1
            if fresh + len(held) == self.window:
                latents = self._blend(held, self._denoise_run(history, noise, settings))
                ready = len(latents) - self.overlap
                yield from self._finish(latents[:ready])
                held, fresh = latents[ready:], 0
        if fresh:
            latents = self._denoise_run(history, noise, settings)
            latents = self._blend(held, latents[-(fresh + len(held)) :])
            yield from self._finish(latents)
        elif held:
            yield from self._finish(held)

    def mask(self) -> Tensor:
        """The mouth mask (1, R, R): 1 = keep, 0 = regenerate."""
        return mouth_mask(self.resolution).to(self._execution_device, torch.float32)

    def audio_windows(self, waveform: Tensor, frames: int) -> Iterator[Tensor]:
        """Audio tokens (N, D), one by one, of `frames` video frames of `waveform` (T,) at 16 kHz."""
        blocks = encode_blocks(waveform.cpu(), self.audio_encoder, context=inner_context(self.audio_encoder))
        return stream_windows(blocks, self.fps, frames=frames)

    def draw_noise(self, generator: torch.Generator | None = None) -> Tensor:
        """Noise (C, 1, h, w) that every frame of a clip starts from."""
        side = self.resolution // self.vae_scale_factor
        shape = (int(self.vae.config.latent_channels), side, side)
        return draw_noise(shape, generator, dtype=self.unet.dtype).to(self._execution_device)

    def encode_condition(
        self, faces: Tensor, mask: Tensor, generator: torch.Generator | None = None
    ) -> Condition:
        """Latents of `faces` (F, 3, R, R), whole and with the hole of `mask` (1, R, R) in mid-grey.

        The means of the VAE's posteriors, so that nothing is drawn; with a `generator` samples of them, as
        upstream takes.
        """
        faces = faces.to(self._execution_device, torch.float32)
        masked = self._encode(faces * mask, generator)
        reference = self._encode(faces, generator)
        reference = reference.roll(min(self.reference_shift, len(faces) // 2), dims=1)
        if self.hide_reference_mouth:
            reference = hide_mouth(reference, masked)
        hole = latent_mask(mask, self.vae_scale_factor).to(masked)
        return Condition(hole[:, None].expand(-1, len(faces), -1, -1), masked, reference)

    def denoise(
        self, noise: Tensor, condition: Condition, audio_windows: Tensor, settings: Sampling
    ) -> Tensor:
        """Latents (C, F, h, w) from `noise` (C, 1, h, w) under `condition`, hearing `audio_windows` (F, N,
        D).
        """
        self.scheduler.set_timesteps(settings.steps, device=self._execution_device)
        audio = audio_windows.to(self._execution_device, self.unet.dtype)
        audio = torch.stack([torch.zeros_like(audio), audio])
        seen = torch.cat([condition.mask, condition.masked, condition.reference])[None]
        latents = (
            noise.to(self._execution_device)[None].repeat(1, 1, len(condition), 1, 1)
            * self.scheduler.init_noise_sigma
        ).float()  # steps add up in float32, whatever the network computes in
        cache = None
        if settings.cache_interval > 1:
            cache = FeatureCache(settings.cache_interval, settings.cache_branch_id)
        extra = self._step_arguments(settings.generator)
        with self.progress_bar(total=settings.steps) as progress:
            for index, t in enumerate(self.scheduler.timesteps):
                with stage("step"):
                    x = torch.cat([self.scheduler.scale_model_input(latents, t).to(seen), seen], dim=1)
                    is_guided = settings.is_guided(index)
                    prediction = self._predict(x, t, audio if is_guided else audio[1:], index, cache).float()
                    if is_guided:
                        deaf, hearing = prediction.chunk(2)
                        prediction = deaf + settings.guidance_scale * (hearing - deaf)
                    latents = self.scheduler.step(prediction, t, latents, **extra).prev_sample
                if settings.callback_on_step_end is not None:
                    latents = settings.callback_on_step_end(self, index, t, {"latents": latents}).get(
                        "latents", latents
                    )
                progress.update()
        return latents[0]

    def _predict(self, x: Tensor, t: Tensor, audio: Tensor, step: int, cache: FeatureCache | None) -> Tensor:
        """Predictions (B, C, F, h, w) for `x` (1, C, F, h, w) that hear each of `audio` (B, F, N, D)."""
        x = x.expand(len(audio), -1, -1, -1, -1)
        if cache is None:
            return self.unet(x, t, audio).sample
        cache.begin(step, len(audio) * x.shape[2])
        return self.unet(x, t, audio, cache=cache).sample

    def decode(self, latents: Tensor) -> Tensor:
        """Faces (F, 3, R, R) of latents (C, F, h, w); not clamped."""
        latents = latents.transpose(0, 1) / self.vae.config.scaling_factor + self._shift
        return torch.cat(
            [
                self.vae.decode(part).sample.float()
                for part in latents.to(self.vae.dtype).split(self.frames_at_once)
            ]
        )

    def compose(self, drawn: Tensor, faces: Tensor, mask: Tensor) -> Tensor:
        """`drawn` inside the hole of `mask`, `faces` outside it."""
        return drawn * (1 - mask) + faces.to(drawn) * mask

    @property
    def _shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)

    def _encode(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        latents = torch.cat(
            [
                posterior.mode() if generator is None else posterior.sample(generator)
                for part in pixels.to(self.vae.dtype).split(self.frames_at_once)
                for posterior in [self.vae.encode(part).latent_dist]
            ]
        )
        return ((latents - self._shift) * self.vae.config.scaling_factor).transpose(0, 1).to(self.unet.dtype)

    def _step_arguments(self, generator: torch.Generator | None) -> dict[str, Any]:
        accepts = inspect.signature(self.scheduler.step).parameters
        return {"generator": generator} if "generator" in accepts else {}

    def _denoise_run(
        self, run: Iterable[tuple[Tensor, Tensor]], noise: Tensor, settings: Sampling
    ) -> list[Tensor]:
        """Latents (C, h, w) of each frame of one window."""
        faces, tokens = zip(*run, strict=True)
        with stage("encode"):
            condition = self.encode_condition(torch.stack(faces), self.mask())
        with stage("denoise"):
            latents = self.denoise(noise, condition, torch.stack(tokens), settings)
        return list(latents.unbind(1))

    def _blend(self, held: list[Tensor], latents: list[Tensor]) -> list[Tensor]:
        """The older opinion fades out over the frames that two windows share."""
        count = len(held)
        shares = [(index + 1) / (count + 1) for index in range(count)]
        mixed = [torch.lerp(old, new, share) for old, new, share in zip(held, latents, shares, strict=False)]
        return mixed + latents[count:]

    def _finish(self, latents: list[Tensor]) -> Iterator[Tensor]:
        """Decode latents that are final."""
        if latents:
            with stage("decode"):
                faces = self.decode(torch.stack(latents, dim=1))
            yield from faces.unbind(0)
