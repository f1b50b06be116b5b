"""Trains the refiner of a small model on what that model draws: drafts of training clips with their own sound
-> the faces as they were.

`B` batch, `F` frames, `R` resolution. Drafts are drawn once, and lie in the run's folder.
"""

import hashlib
import json
import zlib
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
from latentsync.diffusion.folder import open_folder
from latentsync.diffusion.latents import variant_look, weights_key
from latentsync.diffusion.original import INDEX
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.refine import NORM_GROUPS, build_refiner, refined, refiner_input, with_drawn_lips
from latentsync.errors import MediaError
from latentsync.face.mask import lips_region, mouth_mask, paste_mask
from latentsync.training import LoopConfig, Losses, drawn_batches, fit, record_config, save_once
from latentsync.training.files import writing

SAMPLES_PER_FRAME = 640
NO_PART_OF_DRAFTS = ("vae", "unet", "audio_encoder", "refiner", "match_colour")  # or known by its weights


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

    def __post_init__(self) -> None:
        for name in ("clips_per_speaker", "frames_per_clip", "variants"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not self.channels or any(width < 1 or width % NORM_GROUPS for width in self.channels):
            raise ValueError(
                f"channels are {self.channels}; expected multiples of {NORM_GROUPS}, one a level"
            )
        least, most = self.reference_distance
        if not 1 <= least <= most:
            raise ValueError(
                f"reference_distance is {least} to {most}; expected 1 <= least <= most, in frames"
            )


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
    """What `pipeline` draws of `clips` with their own sound. Files in `folder` that were drawn by the same
    model of the same clips serve; damaged ones are drawn again.

    Raises: MediaError for clips of another size or without a frame and its sound; TrainingError for a folder
    that cannot be written.
    """
    folder = folder / drawing_key(pipeline, frames)
    drafts = []
    for clip in clips:
        if clip.faces.shape[1] != pipeline.resolution:
            raise MediaError(
                f"clip {clip.name} has faces of {clip.faces.shape[1]} px, and the model draws "
                f"{pipeline.resolution} px: pack the footage at that size (scripts/pack_footage.py)"
            )
        if min(clip.frames, len(clip.waveform) // SAMPLES_PER_FRAME) < 1:
            raise MediaError(f"clip {clip.name} has no frame with its sound; take it off the list")
        heard = zlib.crc32(np.ascontiguousarray(clip.waveform).tobytes())
        for variant in range(variants):
            path = folder / f"{clip.name}.{heard:08x}.{variant}.npy"
            drawn = _stored(path)
            if drawn is None:
                with writing(path):
                    folder.mkdir(parents=True, exist_ok=True)
                    part = path.with_suffix(".part")
                    with part.open("wb") as file:
                        np.save(file, _drawn(clip, variant, pipeline, frames))
                    part.replace(path)
                drawn = np.load(path, mmap_mode="r", allow_pickle=False)
            drafts.append(Drafts(clip, variant, drawn))
    return drafts


def drawing_key(pipeline: LipsyncPipeline, frames: int) -> str:
    """A short hash of all that decides a draft: weights, settings, sampler, `frames` a clip at most."""
    parts = [weights_key(part) for part in (pipeline.vae, pipeline.unet, pipeline.audio_encoder)]
    told = {name: str(value) for name, value in pipeline.config.items() if not name.startswith("_")}
    told |= {"scheduler": str(sorted(pipeline.scheduler.config.items())), "frames": str(frames)}
    told = {name: value for name, value in told.items() if name not in NO_PART_OF_DRAFTS}
    text = json.dumps([*parts, told], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stored(path: Path) -> np.ndarray | None:
    """The drafts at `path`; None where there are none, or what a stopped run left of them."""
    try:
        drawn = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return drawn if drawn.ndim == 4 and drawn.dtype == np.uint8 else None


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
        found = with_drawn_lips(drawn, refined(refiner, drawn, seen)).clamp(-1, 1)
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

    Raises: FileNotFoundError, CheckpointError, MediaError, TrainingError.
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
    drawing.refiner, drawing.match_colour = None, False  # the refiner comes first
    with accelerator.main_process_first():  # the others read what it has drawn
        parts = {"pipeline": drawing, "folder": folder / "drafts", "frames": config.frames_per_clip}
        data = DraftData(draw_drafts(clips, variants=config.variants, **parts), config)
        watched = draw_drafts(held_back, variants=1, **parts)
    record_config(config, folder, accelerator)
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
        settings={
            **asdict(config),
            **{"data": None, "output": None},  # a run may move to another disk
            "pipeline": drawing_key(drawing, config.frames_per_clip),
        },
    )
    pipeline = open_folder(Path(config.pipeline), torch.float32)
    pipeline.register_modules(refiner=accelerator.unwrap_model(trained).to("cpu"))
    pipeline.register_to_config(_name_or_path="")  # not the author's disk
    pipeline = pipeline.to(dtype=torch.float16)
    with save_once(accelerator) as is_writer:
        if is_writer:
            pipeline.save_pretrained(folder / "pipeline")
    return pipeline
