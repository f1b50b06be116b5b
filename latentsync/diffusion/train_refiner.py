"""Trains the refiner of a small model on what that model draws: drafts of training clips with their own sound
-> the faces as they were.

`B` batch, `F` frames, `R` resolution. Drafts are drawn once, and lie in the run's folder.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latentsync.device import pick_dtype
from latentsync.diffusion.augment import apply_colour, apply_proportions
from latentsync.diffusion.dataset import Clip, ClipSampler, load_clips, step_rng
from latentsync.diffusion.latents import variant_look, weights_key
from latentsync.diffusion.original import INDEX
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.refine import build_refiner, refined, refiner_input
from latentsync.face.mask import lips_region, mouth_mask, paste_mask
from latentsync.training import LoopConfig, Losses, drawn_batches, fit, record_config, save_once

SAMPLES_PER_FRAME = 640


@dataclass(frozen=True)
class TrainRefinerConfig:
    """`pipeline` is the model whose drafts are learned from: of each speaker `clips_per_speaker` clips (the
    first `frames_per_clip` frames of each) in `variants` looks. The other frame lies `reference_distance`
    (least, most) frames away. The loss counts `lips` and the `pasted` part around them against the rest of
    the face.
    """

    data: str = "???"
    pipeline: str = "???"
    output: str = "???"
    channels: list[int] = field(default_factory=lambda: [32, 64, 96])
    clips_per_speaker: int = 16
    frames_per_clip: int = 150
    variants: int = 3
    reference_distance: tuple[int, int] = (4, 25)
    gradient_weight: float = 0.5
    lips: float = 2.0
    pasted: float = 1.0
    rest: float = 0.1
    loop: LoopConfig = field(default_factory=LoopConfig)


class DraftBatch(NamedTuple):
    """What was drawn, how it was, another frame: (B, 3, R, R) each."""

    drawn: Tensor
    faces: Tensor
    references: Tensor


@dataclass(frozen=True)
class Drafts:
    """A clip in one look: what the model drew of it, uint8 (F, 3, R, R), memory-mapped."""

    clip: Clip
    variant: int
    drawn: np.ndarray

    def faces(self, frames: list[int]) -> Tensor:
        """The true faces of some frames in this look, (n, 3, R, R) in [-1, 1]."""
        return looked_at(self.clip, self.variant, np.stack([self.clip.faces[frame] for frame in frames]))


def looked_at(clip: Clip, variant: int, faces: np.ndarray) -> Tensor:
    """Faces uint8 (F, R, R, 3) of a clip in one of its looks, (F, 3, R, R) in [-1, 1]."""
    colour, proportions = variant_look(clip, variant)
    pixels = apply_colour(torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 127.5 - 1, colour)
    return pixels if proportions is None else apply_proportions(pixels, proportions)


def draw_drafts(
    clips: list[Clip], pipeline: LipsyncPipeline, folder: Path, *, variants: int, frames: int
) -> list[Drafts]:
    """What `pipeline` draws of `clips` with their own sound; files that are there are not drawn again."""
    folder = folder / f"{weights_key(pipeline.vae)}{weights_key(pipeline.unet)}"
    folder.mkdir(parents=True, exist_ok=True)
    drafts = []
    for clip in clips:
        for variant in range(variants):
            path = folder / f"{clip.name}.{variant}.npy"
            if not path.exists():
                partial = path.with_suffix(f".{os.getpid()}.npy")
                np.save(partial, _drawn(clip, variant, pipeline, frames))
                partial.rename(path)
            drafts.append(Drafts(clip, variant, np.load(path, mmap_mode="r")))
    return drafts


@torch.no_grad()
def _drawn(clip: Clip, variant: int, pipeline: LipsyncPipeline, frames: int) -> np.ndarray:
    count = min(frames, clip.frames, len(clip.waveform) // SAMPLES_PER_FRAME)
    faces = looked_at(clip, variant, np.array(clip.faces[:count]))
    seed = int.from_bytes(hashlib.sha256(f"{clip.name}/{variant}".encode()).digest()[:4], "big")
    noise = pipeline.draw_noise(torch.Generator().manual_seed(seed))
    windows = pipeline.audio_windows(torch.from_numpy(clip.waveform), count)
    drawn = torch.stack(list(pipeline.stream(faces, windows, noise, pipeline.sampling())))
    return ((drawn.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()


class DraftData:
    """Batches out of `drafts`, speakers shared out as `ClipSampler` does."""

    def __init__(self, drafts: list[Drafts], config: TrainRefinerConfig) -> None:
        self.config, self.looks = config, {}
        for draft in drafts:
            self.looks.setdefault(draft.clip.name, []).append(draft)
        self.names = list(self.looks)
        self.sampler = ClipSampler([self.looks[name][0].clip for name in self.names])

    def draw(self, step: int) -> DraftBatch:
        """The batch of a step."""
        rng = step_rng(self.config.loop.seed, step)
        rows = []
        for index in self.sampler.draw(self.config.loop.batch_size, rng):
            looks = self.looks[self.names[index]]
            draft = looks[rng.integers(len(looks))]
            frame = int(rng.integers(len(draft.drawn)))
            other = self._other(frame, len(draft.drawn), rng)
            face, reference = draft.faces([frame, other])
            rows.append((torch.from_numpy(draft.drawn[frame].copy()).float() / 127.5 - 1, face, reference))
        return DraftBatch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def _other(self, frame: int, frames: int, rng: np.random.Generator) -> int:
        least, most = self.config.reference_distance
        others = [f for f in range(frames) if least <= abs(f - frame) <= most]
        return int(rng.choice(others)) if others else frame


def refining_losses(
    refiner: nn.Module, batch: DraftBatch, mask: Tensor, weights: Tensor, gradient_weight: float
) -> Losses:
    """L1 of pixels and of their gradients, weighted by place (R, R)."""
    found = refined(refiner, batch.drawn, refiner_input(*batch, mask))
    error = found - batch.faces
    l1 = (error.abs() * weights).mean()
    across, down = (error.diff(dim=dim).abs() for dim in (-1, -2))
    gradient = (across * weights[:, 1:]).mean() + (down * weights[1:]).mean()
    return {"loss": l1 + gradient_weight * gradient, "l1": l1, "gradient": gradient}


@torch.no_grad()
def mouth_psnr(
    refiner: nn.Module, drafts: list[Drafts], *, distance: int, device: torch.device
) -> Mapping[str, float]:
    """PSNR in dB over [0, 1] in the pasted part, mean over clips: drawn, refined, and the other frame itself,
    `distance` frames away.
    """
    sums: dict[str, list[float]] = {"psnr_drawn": [], "psnr_refined": [], "psnr_reference": []}
    for draft in drafts:
        count = len(draft.drawn)
        frames = list(range(0, count, max(1, count // 16)))
        faces = draft.faces(frames).to(device)
        others = draft.faces(
            [f - distance if f >= distance else min(f + distance, count - 1) for f in frames]
        )
        drawn = torch.from_numpy(draft.drawn[frames].copy()).float().to(device) / 127.5 - 1
        side = faces.shape[-1]
        region = (paste_mask(side, "mouth")[0] < 0.5).to(device)
        seen = refiner_input(drawn, faces, others.to(device), mouth_mask(side).to(device))
        found = refined(refiner, drawn, seen).clamp(-1, 1)
        for name, picture in zip(sums, (drawn, found, others.to(device)), strict=True):
            error = ((picture - faces) / 2).square().mean(dim=1)[:, region].mean()
            sums[name].append(float(-10 * error.log10()))
    return {name: float(np.mean(values)) for name, values in sums.items()}


def chosen_clips(clips: list[Clip], most: int) -> list[Clip]:
    """At most `most` clips of each speaker, evenly spread over the list."""
    speakers: dict[str, list[Clip]] = {}
    for clip in clips:
        speakers.setdefault(clip.speaker, []).append(clip)
    return [
        of_one[index]
        for of_one in speakers.values()
        for index in sorted(set(np.linspace(0, len(of_one) - 1, min(most, len(of_one))).round().astype(int)))
    ]


def train_refiner(config: TrainRefinerConfig, accelerator: Accelerator) -> LipsyncPipeline:
    """Train; save the whole pipeline (float16) with its refiner to `config.output`/pipeline.

    Raises: FileNotFoundError, MediaError.
    """
    folder, device = Path(config.output), accelerator.device
    if not (Path(config.pipeline) / INDEX).is_file():
        raise FileNotFoundError(
            f"pipeline {config.pipeline!r} is no model folder (it has no {INDEX}): pass that of train_unet.py"
        )
    record_config(config, folder, accelerator)
    clips = chosen_clips(load_clips(config.data, "train"), config.clips_per_speaker)
    held_back = load_clips(config.data, "val")
    drawing = LipsyncPipeline.from_pretrained(config.pipeline, dtype=pick_dtype("auto", device)).to(device)
    drawing.set_progress_bar_config(disable=True)
    drawing.refiner = None
    with accelerator.main_process_first():  # the others read what it has drawn
        parts = {"pipeline": drawing, "folder": folder / "drafts", "frames": config.frames_per_clip}
        data = DraftData(draw_drafts(clips, variants=config.variants, **parts), config)
        watched = draw_drafts(held_back, variants=1, **parts)
    side, distance = drawing.resolution, drawing.reference_shift
    mask = mouth_mask(side).to(device)
    pasted = (paste_mask(side, "mouth")[0] < 0.5).float().to(device)
    weights = config.rest + (config.pasted - config.rest) * pasted
    weights = weights + (config.lips - config.pasted) * lips_region(side).to(device)

    torch.manual_seed(config.loop.seed)
    refiner = build_refiner(config.channels, side)

    def step(model: nn.Module, batch: DraftBatch, number: int) -> Losses:
        with accelerator.autocast():
            return refining_losses(model, batch, mask, weights, config.gradient_weight)

    trained = fit(
        refiner,
        drawn_batches(data.draw, accelerator),
        step,
        config.loop,
        folder,
        accelerator,
        validate=lambda model, _: mouth_psnr(model, watched, distance=distance, device=device),
        settings={**asdict(config), "data": None, "output": None, "pipeline": None},
    )
    pipeline = LipsyncPipeline.from_pretrained(config.pipeline)
    pipeline.register_modules(refiner=accelerator.unwrap_model(trained).to("cpu"))
    pipeline = pipeline.to(dtype=torch.float16)
    with save_once(accelerator) as is_writer:
        if is_writer:
            pipeline.save_pretrained(folder / "pipeline")
    return pipeline
