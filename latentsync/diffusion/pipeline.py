"""Aligned faces and the sound of each frame in, the same faces with the mouth redrawn out.

`F` frames, `R` pixels of an aligned face, `C h w` latents, `N D` audio tokens of a frame. Faces are float RGB
in [-1, 1]. The steps are those of LipsyncPipeline in bytedance/LatentSync: hide the mouth, encode hidden and
whole face, denoise while listening, decode, put the mouth into the face. Windows overlap and are cross-faded;
upstream's do not.
"""

import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DModel
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import BaseOutput
from torch import Tensor
from transformers import WhisperModel

from latentsync.audio.whisper import encode_blocks, inner_context
from latentsync.audio.windows import stream_windows
from latentsync.diffusion.articulator import Articulator, check_articulator
from latentsync.diffusion.condition import Condition, EncodedFace, FaceMemory
from latentsync.diffusion.finish import Finish
from latentsync.diffusion.guided import GuidedUNet
from latentsync.diffusion.losses import predicted_latents
from latentsync.diffusion.noise import draw_noise, released_scheduler
from latentsync.diffusion.original import download, find_original, open_original
from latentsync.diffusion.reference import hide_mouth
from latentsync.diffusion.refine import check_refiner
from latentsync.diffusion.runs import Run, Steadied, blend, cut_runs
from latentsync.diffusion.sampling import Batching, Sampling, StepCallback
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.face.mask import PASTE_REGIONS, latent_mask, lips_region, mouth_mask
from latentsync.profiling import stage


@dataclass
class LipsyncPipelineOutput(BaseOutput):
    """Faces (F, 3, R, R) in [-1, 1], the mouth redrawn."""

    faces: Tensor


GUIDANCE_REGIONS = ("all", "lips")


class LipsyncPipeline(DiffusionPipeline):
    """The diffusers pipeline of LatentSync: parts `vae`, `audio_encoder`, `unet`, `scheduler`; tensors in,
    tensors out.

    For small models: `paste_region` says what of a drawn face belongs into a frame (`face.mask.paste_mask`),
    `hide_reference_mouth` hides the reference's lips, and `reference_shift` takes as reference not the frame
    itself but one so many frames away in the window, whose jaw tells nothing of the frame's own.
    `guidance_region` "lips" (else "all") guides the lips alone; what guidance adds elsewhere is flicker.
    `steady_frames` is how many frames before and after one its skin, not its lips, is averaged with.
    `refiner` (see `refine`) makes drawn faces anew of the footage's pixels, told by its `articulator` what
    the mouth does.
    """

    model_cpu_offload_seq = "unet->vae->articulator->refiner"
    _optional_components: ClassVar = ["refiner", "articulator"]
    _exclude_from_cpu_offload: ClassVar = ["audio_encoder"]  # called by its encoder, where no hook sits

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
        guidance_region: str = "all",
        steady_frames: int = 0,
        refiner: UNet2DModel | None = None,
        articulator: Articulator | None = None,
    ) -> None:
        super().__init__()
        if resolution < 8 or fps < 1 or window < 1 or not 0 <= overlap < window:
            raise ValueError(
                f"resolution {resolution}, fps {fps}, window {window}, overlap {overlap}: "
                "expected a resolution >= 8, fps and window >= 1, and an overlap in [0, window)"
            )
        for name, frames in (("reference_shift", reference_shift), ("steady_frames", steady_frames)):
            if not (isinstance(frames, int) and 0 <= frames <= window):
                raise ValueError(f"{name} {frames!r}: expected a whole number from 0 to window ({window})")
        for name, region, known in (
            ("guidance_region", guidance_region, GUIDANCE_REGIONS),
            ("paste_region", paste_region, PASTE_REGIONS),
        ):
            if region not in known:
                raise ValueError(f"{name} {region!r} is unknown; expected {' or '.join(known)}")
        if (refiner is None) != (articulator is None):
            missing = "refiner" if refiner is None else "articulator"
            raise ValueError(
                f"refiner and articulator go together, and there is no {missing}: train both with "
                "scripts/train_refiner.py"
            )
        if refiner is not None and articulator is not None:
            check_refiner(refiner, resolution)
            check_articulator(articulator, audio_encoder, fps)
        self.register_modules(
            vae=vae,
            audio_encoder=audio_encoder,
            unet=unet,
            scheduler=scheduler,
            refiner=refiner,
            articulator=articulator,
        )
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
            guidance_region=guidance_region,
            steady_frames=steady_frames,
        )
        self.resolution, self.fps, self.window = resolution, fps, window
        self.paste_region, self.hide_reference_mouth = paste_region, hide_reference_mouth
        self.reference_shift, self.guidance_region = reference_shift, guidance_region
        self.steady_frames = steady_frames
        self.batching = Batching(frames=window)
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
        fields. Raises: ValueError for steps below one or above those of the training, and for guidance
        outside [0, 20].
        """
        steps = int(self.config.inference_steps) if steps is None else steps
        guidance_scale = float(self.config.guidance_scale) if guidance_scale is None else guidance_scale
        most = int(self.scheduler.config.num_train_timesteps)
        if not 1 <= steps <= most:
            raise ValueError(
                f"inference steps must be in [1, {most}], got {steps}; the model's own number is "
                f"{self.config.inference_steps}"
            )
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
        self,
        faces: Iterable[Tensor],
        audio_windows: Iterable[Tensor],
        noise: Tensor,
        settings: Sampling,
        *,
        first_frame: int = 0,
        memory: FaceMemory | None = None,
    ) -> Iterator[Tensor]:
        """Drawn faces (3, R, R), one by one, of a run of neighbouring frames; holds `batching.windows` + 1
        windows at most, and for a refiner up to three blocks of 48 faces.

        They are the network's pictures, kept region included: `compose`, or a Composer, puts the mouth into
        the original. `first_frame` is the run's place in the soundtrack, for `settings.steering`; `memory`
        keeps latents of faces that may come again.

        Neighbouring windows share `overlap` frames whose latents are cross-faded; a tail that is shorter than
        a window is denoised together with the frames before it.
        """
        held: list[Tensor] = []  # latents of the last frames seen, waiting for the next window's opinion
        finish = self._finish(noise.shape[-1])
        runs = self._runs(finish.noting(faces, audio_windows), first_frame, memory)
        while batch := list(itertools.islice(runs, self.batching.windows)):
            for run, latents in zip(batch, self._denoise_runs(batch, noise, settings), strict=True):
                latents = blend(held, list(latents.unbind(1))[-(run.fresh + len(held)) :])
                ready = len(latents) if run.is_last else len(latents) - self.overlap
                yield from finish.faces(latents[:ready])
                held = latents[ready:]
        yield from finish.faces(held, is_last=True)

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
        return self.condition(self.encode(faces, mask, generator), mask)

    def encode(
        self, faces: Tensor, mask: Tensor, generator: torch.Generator | None = None
    ) -> list[EncodedFace]:
        """Latents of each of `faces` (F, 3, R, R); see `encode_condition`."""
        faces = faces.to(self._execution_device, torch.float32)
        masked = self._encode(faces * mask, generator)
        whole = self._encode(faces, generator)
        return [EncodedFace(*pair) for pair in zip(masked, whole, strict=True)]

    def condition(self, faces: Sequence[EncodedFace], mask: Tensor) -> Condition:
        """What the denoiser of a window of `faces` sees."""
        masked = torch.stack([face.masked for face in faces], dim=1)
        reference = torch.stack([face.whole for face in faces], dim=1)
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
        return self.denoise_windows(noise, [condition], [audio_windows], settings)[0]

    def denoise_windows(
        self,
        noise: Tensor,
        conditions: Sequence[Condition],
        audio_windows: Sequence[Tensor],
        settings: Sampling,
        first_frames: Sequence[int] = (0,),
        *,
        shown: Tensor | None = None,
    ) -> Tensor:
        """`denoise` for B windows of equal length at once, (B, C, F, h, w); `first_frames` are their places
        in the soundtrack. `shown`, of the same shape, is what a `settings.strength` below 1 starts from, and
        needs.
        """
        self.scheduler.set_timesteps(settings.steps, device=self._execution_device)
        audio = torch.stack(list(audio_windows)).to(self._execution_device, self.unet.dtype)
        seen = torch.stack([torch.cat([c.mask, c.masked, c.reference]) for c in conditions])
        timesteps = self.scheduler.timesteps[settings.first_step :]
        latents = noise.to(self._execution_device)[None].repeat(len(seen), 1, seen.shape[2], 1, 1)
        latents = latents.float()  # steps add up in float32, whatever the network computes in
        if settings.strength == 1:
            latents = latents * self.scheduler.init_noise_sigma
        elif shown is None or len(self.scheduler.timesteps) != settings.steps:
            raise ValueError(
                f"strength {settings.strength} starts from latents that are `shown`, with a sampler of one "
                f"pass a step; here is {'none' if shown is None else type(self.scheduler).__name__}"
            )
        else:
            latents = self.scheduler.add_noise(shown.to(latents), latents, timesteps[:1])
        region = lips_region(latents.shape[-1]).to(latents) if self.guidance_region == "lips" else None
        predictor = GuidedUNet(self.unet, audio, settings, joint=self.batching.joint_guidance, region=region)
        scale: float | Tensor = settings.guidance_scale
        extra = self._step_arguments(settings.generator)
        with self.progress_bar(total=len(timesteps)) as progress:
            for index, t in enumerate(timesteps, settings.first_step):
                with stage("step"):
                    x = torch.cat([self.scheduler.scale_model_input(latents, t).to(seen), seen], dim=1)
                    prediction = predictor(x, t, index, scale)
                    if settings.steering is not None and settings.steering.looks_at(index, settings.steps):
                        with stage("judge"):
                            draft = self._draft(latents, prediction, t)
                            scale = settings.steering.scale(draft, first_frames, self.decode)
                    latents = self.scheduler.step(prediction, t, latents, **extra).prev_sample
                if settings.callback_on_step_end is not None:
                    latents = settings.callback_on_step_end(self, index, t, {"latents": latents}).get(
                        "latents", latents
                    )
                progress.update()
        return latents

    def _draft(self, latents: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The clean latents that `prediction` at step `t` implies.

        Raises: ValueError for a sampler whose latents are not those of DDPM.
        """
        if float(self.scheduler.init_noise_sigma) != 1.0:
            name = type(self.scheduler).__name__
            raise ValueError(f"{name} keeps its latents at another scale: no draft can be judged; use DDIM")
        alpha_bar = self.scheduler.alphas_cumprod[t.long().cpu()].to(latents)
        return predicted_latents(latents, prediction, alpha_bar, self.scheduler.config.prediction_type)

    def decode(self, latents: Tensor) -> Tensor:
        """Faces (F, 3, R, R) of latents (C, F, h, w); not clamped."""
        latents = latents.transpose(0, 1) / self.vae.config.scaling_factor + self._shift
        return torch.cat(
            [
                self.vae.decode(part).sample.float()
                for part in latents.to(self.vae.dtype).split(self.batching.frames)
            ]
        )

    def compose(self, drawn: Tensor, faces: Tensor, mask: Tensor) -> Tensor:
        """`drawn` inside the hole of `mask`, `faces` outside it."""
        return drawn * (1 - mask) + faces.to(drawn) * mask

    @property
    def _shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)

    def _encode(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Latents (F, C, h, w) of `pixels` (F, 3, R, R)."""
        latents = torch.cat(
            [
                posterior.mode() if generator is None else posterior.sample(generator)
                for part in pixels.to(self.vae.dtype).split(self.batching.frames)
                for posterior in [self.vae.encode(part).latent_dist]
            ]
        )
        return ((latents - self._shift) * self.vae.config.scaling_factor).to(self.unet.dtype)

    def _step_arguments(self, generator: torch.Generator | None) -> dict[str, Any]:
        accepts = inspect.signature(self.scheduler.step).parameters
        return {"generator": generator} if "generator" in accepts else {}

    def _runs(
        self, heard: Iterable[tuple[Tensor, Tensor]], first_frame: int, memory: FaceMemory | None
    ) -> Iterator[Run]:
        """The windows of a run of frames, each with its faces encoded."""

        def encode(faces: Tensor) -> list[EncodedFace]:
            return self.encode(faces, self.mask())

        def encoded(faces: list[Tensor]) -> list[EncodedFace]:
            with stage("encode"):
                return encode(torch.stack(faces)) if memory is None else memory.encoded(faces, encode)

        return cut_runs(heard, encoded, window=self.window, overlap=self.overlap, first_frame=first_frame)

    def _denoise_runs(self, runs: list[Run], noise: Tensor, settings: Sampling) -> list[Tensor]:
        """Latents (C, F, h, w) of each window; a last one that is shorter goes by itself."""
        drawn: list[Tensor] = []
        for _, group in itertools.groupby(runs, key=lambda run: len(run.faces)):
            alike = list(group)
            conditions = [self.condition(run.faces, self.mask()) for run in alike]
            tokens = [torch.stack(run.tokens) for run in alike]
            with stage("denoise"):
                first_frames = [run.first_frame for run in alike]
                shown = None
                if settings.strength < 1:
                    shown = torch.stack([torch.stack([f.whole for f in run.faces], dim=1) for run in alike])
                drawn += self.denoise_windows(noise, conditions, tokens, settings, first_frames, shown=shown)
        return drawn

    def _finish(self, latent_side: int) -> Finish:
        """The last steps of a new stream."""
        return Finish(
            self.decode,
            self.mask(),
            Steadied(lips_region(latent_side), self.steady_frames),
            None if self.refiner is None else (self.refiner, self.articulator),
            self.batching.frames,
        )
