"""Trains the denoiser of a small model on cached latents: build, loop, save.

A sample is one frame: its noisy latents, its masked latents, a reference frame of the same clip that is not
near it, and the audio tokens of its time. `B` batch, `C h w` latents, `N D` tokens, `K` mouth measures.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn
from transformers import WhisperModel

from latentsync.audio.whisper import encode, inner_context
from latentsync.audio.windows import frame_windows
from latentsync.diffusion.dataset import Clip, ClipSampler, load_clips, motion_spread, step_rng
from latentsync.diffusion.latents import ClipLatents, cached_latents, weights_key
from latentsync.diffusion.losses import MouthReader, predicted_latents, region_weights
from latentsync.diffusion.noise import small_scheduler
from latentsync.diffusion.pipeline import Condition, LipsyncPipeline
from latentsync.diffusion.reference import hide_mouth
from latentsync.diffusion.unet import UNet3DConditionModel
from latentsync.face.mask import latent_mask, mouth_mask
from latentsync.training import LoopConfig, Losses, drawn_batches, fit, record_config, save_once

FPS = 25
READER_STEPS = 600
PATHS = ("packed", "vae", "audio_encoder", "output")  # of the data: a run may move to another disk


@dataclass(frozen=True)
class DataConfig:
    """Paths, and how much of the footage is encoded: `clip_stride` takes every n-th clip of a speaker,
    `frame_stride` every n-th frame of a clip; `variants` colours a clip in so many ways. Distances are from
    the target frame: of the reference at least, of the borrowed visible face from and to.
    """

    packed: str = "???"
    vae: str = "???"
    audio_encoder: str = "???"
    output: str = "???"
    variants: int = 2
    clip_stride: dict[str, int] = field(default_factory=dict)
    frame_stride: int = 1
    reference_distance_frames: int = 8
    context_distance_frames: tuple[int, int] = (4, 25)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the latent error in three regions, and of the mouth shape read off the predicted latents."""

    mouth: float = 3.0
    hole: float = 1.0
    kept: float = 0.15
    mouth_shape_weight: float = 0.05


@dataclass(frozen=True)
class RunConfig:
    """`timestep_power` below 1 draws more of the noisy end; `token_noise` is a share of the spread.

    Noisier than `borrowed_context_above` (a share of the schedule), the visible face is borrowed from another
    frame: how far the mouth opens is decided there, and cheeks and pose must not tell it, only the sound.
    """

    audio_dropout: float = 0.1
    reference_mouth_dropout: float = 0.5
    token_noise: float = 0.1
    timestep_power: float = 0.7
    borrowed_context_above: float = 0.5


@dataclass(frozen=True)
class InferenceConfig:
    """What the pipeline is made with, see `LipsyncPipeline`."""

    inference_steps: int = 4
    guidance_scale: float = 2.0
    paste_region: str = "mouth"
    hide_reference_mouth: bool = True
    reference_shift: int = 8
    guidance_region: str = "lips"
    steady_frames: int = 1


@dataclass(frozen=True)
class TrainUNetConfig:
    data: DataConfig = field(default_factory=DataConfig)
    model: dict[str, Any] = field(default_factory=dict)
    loss: LossConfig = field(default_factory=LossConfig)
    run: RunConfig = field(default_factory=RunConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)


@dataclass(frozen=True)
class Prepared:
    """A clip ready to train on: latents of each variant, tokens (F, N, D) float16, mouth motion (F, K) in
    spreads.

    F counts every `frame_stride`-th frame.
    """

    clip: Clip
    variants: list[ClipLatents]
    tokens: Tensor
    motion: Tensor

    @property
    def frames(self) -> int:
        return len(self.motion)


class Batch(NamedTuple):
    """`latents`, `masked`, `borrowed`, `reference` (B, C, h, w), `tokens` (B, N, D), `motion` (B, K).

    `masked` is the visible face of the target frame, `borrowed` that of another frame.
    """

    latents: Tensor
    masked: Tensor
    borrowed: Tensor
    reference: Tensor
    tokens: Tensor
    motion: Tensor


class LatentData:
    """Prepared clips and how to draw from them."""

    def __init__(self, clips: list[Prepared], config: TrainUNetConfig) -> None:
        self.clips, self.config = clips, config
        self.sampler = ClipSampler([prepared.clip for prepared in clips])

    def draw(self, step: int) -> Batch:
        rng = step_rng(self.config.loop.seed, step)
        rows = []
        for index in self.sampler.draw(self.config.loop.batch_size, rng):
            clip = self.clips[index]
            frame = int(rng.integers(clip.frames))
            variant = clip.variants[int(rng.integers(len(clip.variants)))]
            reference = self._reference(frame, clip.frames, rng)
            lender = self._lender(frame, clip.frames, rng)
            latents = (
                variant.latents[frame],
                variant.masked[frame],
                variant.masked[lender],
                variant.latents[reference],
            )
            rows.append(
                (
                    *(torch.from_numpy(np.array(x)).float() for x in latents),
                    clip.tokens[frame].float(),
                    clip.motion[frame],
                )
            )
        return Batch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def _reference(self, frame: int, frames: int, rng: np.random.Generator) -> int:
        """A frame at least `reference_distance_frames` away, so that its mouth says something else."""
        wanted = self.config.data.reference_distance_frames // self.config.data.frame_stride
        distance = min(max(1, wanted), (frames - 1) // 2)
        return int((frame + rng.integers(distance, frames - distance + 1)) % frames)

    def _lender(self, frame: int, frames: int, rng: np.random.Generator) -> int:
        """A frame near enough to hold the head alike, far enough to say something else."""
        nearest, farthest = (
            max(1, distance // self.config.data.frame_stride)
            for distance in self.config.data.context_distance_frames
        )
        others = [f for f in range(frames) if nearest <= abs(f - frame) <= farthest]
        return int(rng.choice(others)) if others else frame


def prepare(
    clips: list[Clip],
    vae: AutoencoderKL,
    audio_encoder: WhisperModel,
    folder: Path,
    *,
    variants: int,
    stride: int,
    spread: np.ndarray,
    accelerator: Accelerator,
) -> list[Prepared]:
    """Latents, audio tokens and mouth motion of every clip; latents are cached in `folder`."""
    key, prepared = weights_key(vae), []
    for number, clip in enumerate(clips):
        with accelerator.autocast():
            latents = [cached_latents(clip, n, vae, key, folder, stride=stride) for n in range(variants)]
        features = encode(
            torch.from_numpy(clip.waveform), audio_encoder, context=inner_context(audio_encoder)
        )
        tokens = frame_windows(features.cpu(), FPS, frames=clip.frames).half()[::stride]
        motion = torch.from_numpy(clip.mouth_motion() / spread).float()[::stride]
        prepared.append(Prepared(clip, latents, tokens, motion))
        if number % 50 == 0:
            accelerator.print(f"prepared {number + 1} of {len(clips)} clips")
    return prepared


def train_reader(data: LatentData, *, seed: int, device: torch.device) -> MouthReader:
    """A MouthReader that knows the data's latents; frozen, on `device`."""
    first = data.draw(0)
    torch.manual_seed(seed)
    reader = MouthReader(first.latents.shape[1], first.motion.shape[1])
    reader(first.latents)
    reader.to(device)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3, weight_decay=0.01)
    for step in range(READER_STEPS):
        batch = data.draw(10_000_000 + step)
        blurred = batch.latents + 0.05 * torch.randn_like(batch.latents)
        loss = F.smooth_l1_loss(reader(blurred.to(device)), batch.motion.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return reader.eval().requires_grad_(False)


def denoising_losses(
    unet: nn.Module,
    batch: Batch,
    *,
    scheduler: DDIMScheduler,
    mask: Tensor,
    weights: Tensor,
    reader: MouthReader,
    config: TrainUNetConfig,
) -> Losses:
    """Weighted v (or noise) error of a batch at random times, and the error of the mouth read off the
    predicted latents.
    """
    B = len(batch.latents)
    uniform = torch.rand(B, device=batch.latents.device)
    timesteps = (uniform**config.run.timestep_power * scheduler.config.num_train_timesteps).long()
    timesteps = timesteps.clamp(max=scheduler.config.num_train_timesteps - 1)
    noise = torch.randn_like(batch.latents)
    noisy = scheduler.add_noise(batch.latents, noise, timesteps)
    target = noise
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(batch.latents, noise, timesteps)
    tokens = batch.tokens + config.run.token_noise * batch.tokens.std() * torch.randn_like(batch.tokens)
    tokens = tokens * (torch.rand(B, 1, 1, device=tokens.device) >= config.run.audio_dropout)
    is_borrowed = timesteps > config.run.borrowed_context_above * scheduler.config.num_train_timesteps
    visible = torch.where(is_borrowed.view(B, 1, 1, 1), batch.borrowed, batch.masked)
    is_hidden = torch.rand(B, 1, 1, 1, device=tokens.device) < config.run.reference_mouth_dropout
    reference = torch.where(is_hidden, hide_mouth(batch.reference, visible), batch.reference)
    seen = torch.cat([noisy, mask.expand(B, -1, -1, -1), visible, reference], dim=1)
    prediction = unet(seen[:, :, None], timesteps, tokens[:, None]).sample[:, :, 0].float()
    latent = ((prediction - target).square() * weights).mean()
    alpha_bar = scheduler.alphas_cumprod.to(noisy.device)[timesteps].view(B, 1, 1, 1)
    clean = predicted_latents(noisy, prediction, alpha_bar, scheduler.config.prediction_type)
    shape = F.smooth_l1_loss(reader(clean), batch.motion)
    return {"loss": latent + config.loss.mouth_shape_weight * shape, "latent": latent, "mouth_shape": shape}


@torch.no_grad()
def read_correlation(
    pipeline: LipsyncPipeline, reader: MouthReader, clips: list[Prepared], config: TrainUNetConfig
) -> Mapping[str, float]:
    """Mean Pearson r of drawn and true mouths on `clips`, read off the latents; the reference is half a clip
    away. `r_own`: with the sound from half a clip away too, what still agrees with the picture's own mouth.
    """
    device = pipeline.unet.device
    noise = pipeline.draw_noise(torch.Generator().manual_seed(config.loop.seed))
    settings = pipeline.sampling(config.inference.inference_steps, 1.0)
    hole = latent_mask(mouth_mask(pipeline.resolution), pipeline.vae_scale_factor).to(device)
    scores: dict[str, list[float]] = {"r_aperture": [], "r_width": [], "r_own": []}
    for prepared in clips:
        latents, masked = (
            torch.from_numpy(np.array(array)).float().transpose(0, 1).to(device)
            for array in (prepared.variants[0].latents, prepared.variants[0].masked)
        )
        frames = latents.shape[1]
        reference = latents.roll(frames // 2, dims=1)
        reference = hide_mouth(reference, masked) if config.inference.hide_reference_mouth else reference
        condition = Condition(hole[:, None].expand(-1, frames, -1, -1), masked, reference)
        tokens = prepared.tokens.float()
        right, wrong = (
            reader(pipeline.denoise(noise, condition, heard, settings).transpose(0, 1)).cpu().numpy()
            for heard in (tokens, tokens.roll(frames // 2, dims=0))
        )
        for name, told, column in (("r_aperture", right, 0), ("r_width", right, 2), ("r_own", wrong, 0)):
            scores[name].append(float(np.corrcoef(told[:, column], prepared.clip.mouth[:, column])[0, 1]))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def train_unet(config: TrainUNetConfig, accelerator: Accelerator) -> LipsyncPipeline:
    """Train; save the whole pipeline (float16) to `config.data.output`/pipeline."""
    folder = Path(config.data.output)
    record_config(config, folder, accelerator)
    vae = AutoencoderKL.from_pretrained(config.data.vae).eval().requires_grad_(False).to(accelerator.device)
    vae.register_to_config(_name_or_path="")  # not the author's disk
    audio_encoder = WhisperModel.from_pretrained(config.data.audio_encoder).eval().requires_grad_(False)
    nn.Module.to(audio_encoder, accelerator.device)
    clips = load_clips(config.data.packed, "train", stride=config.data.clip_stride)
    spread = motion_spread(clips)
    parts = {"folder": folder / "latents", "spread": spread, "accelerator": accelerator}
    strides = {"variants": config.data.variants, "stride": config.data.frame_stride}
    with accelerator.main_process_first():  # the others read what it has cached
        data = LatentData(prepare(clips, vae, audio_encoder, **strides, **parts), config)
        held_back = prepare(
            load_clips(config.data.packed, "val"), vae, audio_encoder, variants=1, stride=1, **parts
        )
    device = accelerator.device
    reader = train_reader(data, seed=config.loop.seed, device=device)

    torch.manual_seed(config.loop.seed)
    unet = UNet3DConditionModel.from_upstream(config.model)
    nn.init.zeros_(unet.conv_out.weight)
    scheduler = small_scheduler()
    resolution = clips[0].faces.shape[1]
    mask = latent_mask(mouth_mask(resolution), 2 ** (len(vae.config.block_out_channels) - 1))
    weights = region_weights(mask, mouth=config.loss.mouth, hole=config.loss.hole, kept=config.loss.kept)
    fixed = {"mask": mask.to(device), "weights": weights.to(device)}

    drawn = {name: value for name, value in vars(config.data).items() if name not in PATHS}

    def pipeline_of(model: UNet3DConditionModel) -> LipsyncPipeline:
        pipeline = LipsyncPipeline(
            vae,
            audio_encoder,
            model,
            small_scheduler(),
            resolution=resolution,
            **asdict(config.inference),
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def step(model: nn.Module, batch: Batch, number: int) -> Losses:
        with accelerator.autocast():
            return denoising_losses(model, batch, scheduler=scheduler, reader=reader, config=config, **fixed)

    def validate(model: nn.Module, number: int) -> Mapping[str, float]:
        pipeline = pipeline_of(model)
        pipeline.save_pretrained(folder / f"pipeline-{number}")
        return read_correlation(pipeline, reader, held_back, config)

    unet = fit(
        unet,
        drawn_batches(data.draw, accelerator),
        step,
        config.loop,
        folder,
        accelerator,
        validate=validate,
        settings={**vars(config), "data": drawn, "inference": None},
    )
    pipeline = pipeline_of(unet).to(dtype=torch.float16)
    with save_once(accelerator) as is_writer:
        if is_writer:
            pipeline.save_pretrained(folder / "pipeline")
    return pipeline
