"""Trains the refiner of a small model on what that model draws: drafts of training clips with their own sound
-> the faces as they were.

`B` batch, `F` frames, `R` resolution. Drafts are drawn once, and lie in the run's folder.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latentsync.device import pick_dtype
from latentsync.diffusion.augment import (
    MOUTHS,
    POSES,
    apply_colour,
    apply_proportions,
    draw_colour,
    draw_proportions,
    tinted,
)
from latentsync.diffusion.dataset import ClipSampler, load_clips, step_rng
from latentsync.diffusion.drafts import Drafts, chosen_clips, draw_drafts, drawing_key
from latentsync.diffusion.folder import open_folder
from latentsync.diffusion.original import INDEX
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.refine import NORM_GROUPS, OTHERS, Neighbours, build_refiner, check_refiner, refine
from latentsync.errors import ConfigError, MediaError
from latentsync.face.mask import lips_region, mouth_mask, paste_mask
from latentsync.training import LoopConfig, Losses, drawn_batches, fit, record_config, save_once

OTHERS_WEIGHT = 0.5


@dataclass(frozen=True)
class TrainRefinerConfig:
    """`pipeline` is the model whose drafts are learned from: of each speaker `clips_per_speaker` clips (the
    first `frames_per_clip` frames of each) in `variants` looks. Drafts begin at the clip's own latents with
    the noise of `strength` (see Sampling), so that their mouths are the clip's in the model's hand.

    The other frames lie `other_distance` (least, most) frames away. Colours of a draft are made wrong by
    up to `tint`; in a share `misplaced` its mouth is moved, and the other frames are a little, so that it is
    these that tell colours and place. In a share `alike` these are five times one frame, as of a still
    picture. All samples are recoloured, half of them mirrored, on top of their clip's look. The loss counts
    `lips` and the `pasted` part around them against the rest of the face.

    `guidance_scale` is what the finished model asks for: refined mouths open less than drawn ones. None keeps
    the model's own, by which drafts are drawn.
    """

    data: str = "???"
    pipeline: str = "???"
    output: str = "???"
    channels: list[int] = field(default_factory=lambda: [32, 64, 96, 128])
    clips_per_speaker: int = 16
    frames_per_clip: int = 150
    variants: int = 3
    strength: float = 0.67
    other_distance: tuple[int, int] = (4, 40)
    tint: float = 0.15
    misplaced: float = 0.75
    alike: float = 0.4
    guidance_scale: float | None = None
    gradient_weight: float = 0.5
    lips: float = 3.0
    pasted: float = 1.0
    rest: float = 0.1
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        for name in ("clips_per_speaker", "frames_per_clip", "variants"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not self.channels or any(width < 1 or width % NORM_GROUPS for width in self.channels):
            raise ValueError(
                f"channels are {self.channels}; expected multiples of {NORM_GROUPS}, one a level"
            )
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength is {self.strength}; it must be above 0, and 1 at most")
        for name in ("tint", "misplaced", "alike"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")
        if self.guidance_scale is not None and not 0 <= self.guidance_scale <= 20:
            raise ValueError(f"guidance_scale is {self.guidance_scale}; it must be in [0, 20]")
        least, most = self.other_distance
        if not 1 <= least <= most:
            raise ValueError(f"other_distance is {least} to {most}; expected 1 <= least <= most, in frames")


class DraftBatch(NamedTuple):
    """What was drawn and how it was, (B, 3, R, R) each, and other frames (B, K, 3, R, R)."""

    drawn: Tensor
    faces: Tensor
    others: Tensor


class DraftData:
    """Batches out of `drafts`, speakers shared out as `ClipSampler` does."""

    def __init__(self, drafts: list[Drafts], config: TrainRefinerConfig) -> None:
        least = config.other_distance[0]
        for draft in drafts:
            if len(draft.drawn) < 2 * least:  # the middle one must have another
                raise MediaError(
                    f"clip {draft.clip.name} has {len(draft.drawn)} frames, and not all have another one "
                    f"{least} away: take it off the list, or make other_distance less"
                )
        self.config, self.looks = config, {}
        self.mask = mouth_mask(drafts[0].drawn.shape[-1])
        for draft in drafts:
            self.looks.setdefault(draft.clip.name, []).append(draft)
        self.names = list(self.looks)
        self.sampler = ClipSampler([self.looks[name][0].clip for name in self.names])

    def draw(self, step: int) -> DraftBatch:
        """The batch of a step."""
        rng = step_rng(self.config.loop.seed, step)
        indices = self.sampler.draw(self.config.loop.batch_size, rng)
        rows = [self._sample(self.looks[self.names[index]], rng) for index in indices]
        return DraftBatch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def _sample(self, looks: list[Drafts], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        draft = looks[rng.integers(len(looks))]
        frame = int(rng.integers(len(draft.drawn)))
        drawn = torch.from_numpy(draft.drawn[frame].copy()).float() / 127.5 - 1
        faces = draft.faces([frame, *self._others(frame, len(draft.drawn), rng)])
        if rng.random() < self.config.misplaced:
            moved = apply_proportions(drawn[None], draw_proportions(rng, MOUTHS))[0]
            drawn = torch.lerp(moved, drawn, self.mask)
            for other in faces[1:]:
                other[:] = apply_proportions(other[None], draw_proportions(rng, POSES))[0]
        drawn, face, *others = apply_colour(torch.cat([drawn[None], faces]), draw_colour(rng))
        return tinted(drawn, self.config.tint, rng), face, torch.stack(others)

    def _others(self, frame: int, frames: int, rng: np.random.Generator) -> list[int]:
        least, most = self.config.other_distance
        others = [f for f in range(frames) if least <= abs(f - frame) <= most]
        if rng.random() < self.config.alike:
            return [int(rng.choice(others))] * OTHERS
        return rng.choice(others, OTHERS).tolist()


def refining_losses(
    refiner: nn.Module, batch: DraftBatch, mask: Tensor, weights: Tensor, gradient_weight: float
) -> Losses:
    """L1 of pixels and of their gradients, weighted by place (R, R), of the faces and, half as much, of what
    other frames alone make of them, so that these are learned to be bent into shape.
    """
    found = refine(refiner, *batch, mask)
    error = found.faces() - batch.faces
    l1 = (error.abs() * weights).mean()
    across, down = (error.diff(dim=dim).abs() for dim in (-1, -2))
    gradient = (across * weights[:, 1:]).mean() + (down * weights[1:]).mean()
    others = ((found.of_others() - batch.faces).abs() * weights).mean()
    loss = l1 + gradient_weight * gradient + OTHERS_WEIGHT * others
    return {"loss": loss, "l1": l1, "gradient": gradient, "others": others}


@torch.no_grad()
def mouth_psnr(refiner: nn.Module, drafts: list[Drafts], *, device: torch.device) -> Mapping[str, float]:
    """PSNR in dB over [0, 1] in the pasted part, mean over clips: drawn, refined, and the first other frame
    itself.
    """
    sums: dict[str, list[float]] = {"psnr_drawn": [], "psnr_refined": [], "psnr_other": []}
    for draft in drafts:
        count = len(draft.drawn)
        some = list(range(0, count, max(1, count // 16)))
        neighbours = Neighbours()
        for face in draft.faces(list(range(count))):
            neighbours.add(face)
        neighbours.end()
        faces, others = (part[some].to(device) for part in neighbours.take(count))
        drawn = torch.from_numpy(draft.drawn[some].copy()).float().to(device) / 127.5 - 1
        side = faces.shape[-1]
        region = (paste_mask(side, "mouth")[0] < 0.5).to(device)
        found = refine(refiner, drawn, faces, others, mouth_mask(side).to(device)).faces().clamp(-1, 1)
        for name, picture in zip(sums, (drawn, found, others[:, 0]), strict=True):
            error = ((picture - faces) / 2).square().mean(dim=1)[:, region].mean()
            sums[name].append(float(-10 * error.log10()))
    return {name: float(np.mean(values)) for name, values in sums.items()}


def train_refiner(config: TrainRefinerConfig, accelerator: Accelerator) -> LipsyncPipeline:
    """Train; save the whole pipeline (float16) with its refiner to `config.output`/pipeline.

    Raises: FileNotFoundError, CheckpointError, ConfigError, MediaError, TrainingError.
    """
    folder, device = Path(config.output), accelerator.device
    if not (Path(config.pipeline) / INDEX).is_file():
        raise FileNotFoundError(
            f"pipeline {config.pipeline!r} is no model folder (it has no {INDEX}): pass that of train_unet.py"
        )
    clips = chosen_clips(load_clips(config.data, "train"), config.clips_per_speaker)
    held_back = load_clips(config.data, "val")
    drawing = open_folder(Path(config.pipeline), pick_dtype("auto", device)).to(device)
    drawing.set_progress_bar_config(disable=True)
    drawing.refiner = None
    side = drawing.resolution
    torch.manual_seed(config.loop.seed)
    refiner = build_refiner(config.channels, side)
    try:
        check_refiner(refiner, side)
    except ValueError as error:
        raise ConfigError(f"channels {config.channels} and faces of {side} px: {error}") from error
    with accelerator.main_process_first():  # the others read what it has drawn
        parts = {
            "pipeline": drawing,
            "folder": folder / "drafts",
            "frames": config.frames_per_clip,
            "strength": config.strength,
        }
        data = DraftData(draw_drafts(clips, variants=config.variants, **parts), config)
        watched = draw_drafts(held_back, variants=1, **parts)
    record_config(config, folder, accelerator)
    mask = mouth_mask(side).to(device)
    pasted = (paste_mask(side, "mouth")[0] < 0.5).float().to(device)
    weights = config.rest + (config.pasted - config.rest) * pasted
    weights = weights + (config.lips - config.pasted) * lips_region(side).to(device)

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
        validate=lambda model, _: mouth_psnr(model, watched, device=device),
        settings={
            **asdict(config),
            **{"data": None, "output": None},  # a run may move to another disk
            "pipeline": drawing_key(drawing, config.frames_per_clip, config.strength),
        },
    )
    pipeline = open_folder(Path(config.pipeline), torch.float32)
    pipeline.register_modules(refiner=accelerator.unwrap_model(trained).to("cpu"))
    pipeline.register_to_config(_name_or_path="")  # not the author's disk
    if config.guidance_scale is not None:
        pipeline.register_to_config(guidance_scale=config.guidance_scale)
    pipeline = pipeline.to(dtype=torch.float16)
    with save_once(accelerator) as is_writer:
        if is_writer:
            pipeline.save_pretrained(folder / "pipeline")
    return pipeline
