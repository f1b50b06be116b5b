"""Trains the refiner of a small model on what that model draws: drafts of training clips with their own sound
-> the faces as they were; and its articulator, which is a matter of seconds.

`B` batch, `F` frames, `R` resolution. Drafts are drawn once, and lie in the run's folder.
"""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
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
from latentsync.diffusion.dataset import ClipSampler, load_clips, motion_spread, step_rng, told_correlation
from latentsync.diffusion.drafts import Drafts, check_clip, chosen_clips, draw_drafts, drawing_key
from latentsync.diffusion.folder import open_folder
from latentsync.diffusion.losses import MouthReader
from latentsync.diffusion.original import INDEX
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.refine import (
    NORM_GROUPS,
    OTHERS,
    Neighbours,
    build_refiner,
    check_refiner,
    refine,
    relit,
)
from latentsync.diffusion.train_articulator import enlarge, hear, train_articulator
from latentsync.errors import ConfigError, MediaError
from latentsync.face.mask import lips_region, mouth_mask, paste_mask
from latentsync.training import LoopConfig, Losses, drawn_batches, fit, record_config, save_once

OTHERS_WEIGHT = 0.5
READER_STEPS = 400
READER_FOLD = 4  # squares of so many pixels are one to the reader
READER_NOISE = 0.05
READER_BLUR = 5  # px


@dataclass(frozen=True)
class TrainRefinerConfig:
    """`pipeline` is the model whose drafts are learned from: of each speaker `clips_per_speaker` clips
    (the first `frames_per_clip` frames of each) in `variants` looks, with their own sound. With a
    `strength` (see Sampling) below 1 drafts begin at the clip's own latents, and so have its mouths in
    the model's hand.

    The mouth's true motion is told. In a share `other_drafts` the draft is that of another frame, so that
    it is motion that says what the mouth does. The other frames lie `other_distance` (least, most) frames
    away. Colours of a draft are made wrong by up to `tint`; in a share `misplaced` its mouth is moved,
    and the other frames are a little, so that it is these that tell colours and place. In a share `alike`
    these are five times one frame, as of a still picture. All samples are recoloured, half of them
    mirrored, on top of their clip's look.

    The loss counts `lips` and the `pasted` part around them against the rest of the face; to it comes,
    `mouth_shape` times, the difference of what a small frozen network reads of the mouth's shape.
    Of the finished model, `guidance_scale` is its guidance (None keeps the model's own, by which drafts are
    drawn), and `motion_gain` times the motion heard, within what mouths of the clips do, is what its refiner
    is told: mouths that are told their true motion open less than it says.
    """

    data: str = "???"
    pipeline: str = "???"
    output: str = "???"
    channels: list[int] = field(default_factory=lambda: [32, 64, 96, 128])
    clips_per_speaker: int = 16
    frames_per_clip: int = 150
    variants: int = 3
    strength: float = 1.0
    other_drafts: float = 0.5
    other_distance: tuple[int, int] = (4, 40)
    tint: float = 0.15
    misplaced: float = 0.75
    alike: float = 0.4
    guidance_scale: float | None = None
    motion_gain: float = 1.0
    gradient_weight: float = 0.5
    mouth_shape: float = 0.2
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
        for name in ("other_drafts", "tint", "misplaced", "alike"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")
        if not self.mouth_shape >= 0:
            raise ValueError(f"mouth_shape is {self.mouth_shape}; a weight is 0 or more")
        if self.guidance_scale is not None and not 0 <= self.guidance_scale <= 20:
            raise ValueError(f"guidance_scale is {self.guidance_scale}; it must be in [0, 20]")
        if not 0 < self.motion_gain <= 10:
            raise ValueError(f"motion_gain is {self.motion_gain}; it must be above 0, and 10 at most")
        least, most = self.other_distance
        if not 1 <= least <= most:
            raise ValueError(f"other_distance is {least} to {most}; expected 1 <= least <= most, in frames")


class DraftBatch(NamedTuple):
    """What was drawn and how it was, (B, 3, R, R) each, other frames (B, K, 3, R, R), the mouth's motion and
    its whole shape (B, M), in spreads.
    """

    drawn: Tensor
    faces: Tensor
    others: Tensor
    motion: Tensor
    shape: Tensor


class DraftData:
    """Batches out of `drafts`, speakers shared out as `ClipSampler` does, and frames so that an open mouth
    comes more often than a closed one; motion in units of `spread` (M,).
    """

    def __init__(self, drafts: list[Drafts], spread: np.ndarray, config: TrainRefinerConfig) -> None:
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
        clips = {name: looks[0].clip for name, looks in self.looks.items()}
        self.motion = {
            name: torch.from_numpy(clip.mouth_motion() / spread).float() for name, clip in clips.items()
        }
        usual = np.mean([np.median(clip.mouth, axis=0) for clip in clips.values()], axis=0)
        self.shape = {
            name: torch.from_numpy((clip.mouth - usual) / spread).float() for name, clip in clips.items()
        }
        self.sampler = ClipSampler([self.looks[name][0].clip for name in self.names])

    def draw(self, step: int) -> DraftBatch:
        """The batch of a step."""
        rng = step_rng(self.config.loop.seed, step)
        indices = self.sampler.draw(self.config.loop.batch_size, rng)
        rows = [self._sample(self.looks[self.names[index]], rng) for index in indices]
        return DraftBatch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def _sample(self, looks: list[Drafts], rng: np.random.Generator) -> tuple[Tensor, ...]:
        draft = looks[rng.integers(len(looks))]
        openness = 1 + self.motion[draft.clip.name][: len(draft.drawn), 0].clamp(min=0).double().numpy()
        frame = int(rng.choice(len(draft.drawn), p=openness / openness.sum()))
        shown = frame
        if rng.random() < self.config.other_drafts:
            shown = int(rng.choice(self._around(frame, len(draft.drawn))))
        drawn = torch.from_numpy(draft.drawn[shown].copy()).float() / 127.5 - 1
        faces = draft.faces([frame, *self._others(frame, len(draft.drawn), rng)])
        if rng.random() < self.config.misplaced:
            moved = apply_proportions(drawn[None], draw_proportions(rng, MOUTHS))[0]
            drawn = torch.lerp(moved, drawn, self.mask)
            for other in faces[1:]:
                other[:] = apply_proportions(other[None], draw_proportions(rng, POSES))[0]
        drawn, face, *others = apply_colour(torch.cat([drawn[None], faces]), draw_colour(rng))
        drawn = tinted(drawn, self.config.tint, rng)
        name = draft.clip.name
        return drawn, face, torch.stack(others), self.motion[name][frame], self.shape[name][frame]

    def _around(self, frame: int, frames: int) -> list[int]:
        """The frames that may serve as others of `frame`."""
        least, most = self.config.other_distance
        return [f for f in range(frames) if least <= abs(f - frame) <= most]

    def _others(self, frame: int, frames: int, rng: np.random.Generator) -> list[int]:
        others = self._around(frame, frames)
        if rng.random() < self.config.alike:
            return [int(rng.choice(others))] * OTHERS
        return rng.choice(others, OTHERS).tolist()


def train_face_reader(data: DraftData, *, seed: int, device: torch.device) -> nn.Module:
    """A network that reads the mouth's shape (B, M) off faces (B, 3, R, R) like the data's, noisy and blurred
    ones too; frozen, on `device`.
    """
    first = data.draw(0)
    torch.manual_seed(seed)
    reader = nn.Sequential(
        nn.PixelUnshuffle(READER_FOLD), MouthReader(3 * READER_FOLD**2, first.shape.shape[1])
    )
    reader(first.faces)
    reader.to(device)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3, weight_decay=0.01)
    for step in range(READER_STEPS):
        batch = data.draw(10_000_000 + step)
        blurred = F.avg_pool2d(batch.faces, READER_BLUR, 1, READER_BLUR // 2, count_include_pad=False)
        faces = torch.lerp(batch.faces, blurred, torch.rand(len(blurred), 1, 1, 1))
        faces = faces + READER_NOISE * torch.randn_like(faces)
        loss = F.smooth_l1_loss(reader(faces.to(device)), batch.shape.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return reader.eval().requires_grad_(False)


def refining_losses(
    refiner: nn.Module,
    batch: DraftBatch,
    mask: Tensor,
    weights: Tensor,
    reader: nn.Module | None,
    config: TrainRefinerConfig,
) -> Losses:
    """L1 of pixels and of their gradients, weighted by place (R, R), of the faces and, half as much, of what
    other frames alone make of them, so that these are learned to be bent into shape; and the difference of
    the mouth's shapes that `reader`, if there is one, reads.
    """
    found = refine(refiner, batch.drawn, batch.faces, batch.others, mask, batch.motion)
    faces = found.faces()
    error = faces - batch.faces
    l1 = (error.abs() * weights).mean()
    across, down = (error.diff(dim=dim).abs() for dim in (-1, -2))
    gradient = (across * weights[:, 1:]).mean() + (down * weights[1:]).mean()
    others = ((found.of_others() - batch.faces).abs() * weights).mean()
    losses = {"l1": l1, "gradient": gradient, "others": others}
    loss = l1 + config.gradient_weight * gradient + OTHERS_WEIGHT * others
    if reader is not None:
        losses["mouth_shape"] = F.smooth_l1_loss(reader(faces), reader(batch.faces))
        loss = loss + config.mouth_shape * losses["mouth_shape"]
    return {"loss": loss, **losses}


@torch.no_grad()
def mouth_psnr(
    refiner: nn.Module, drafts: list[Drafts], told: list[Tensor], mask: Tensor, region: Tensor
) -> Mapping[str, float]:
    """PSNR in dB over [0, 1] in `region` (R, R), mean over clips: drawn, refined with the motion (F, M) that
    sound `told` of each, and the first other frame itself; `mask` (1, R, R) hides the frames' own mouths.
    """
    sums: dict[str, list[float]] = {"psnr_drawn": [], "psnr_refined": [], "psnr_other": []}
    for draft, motion in zip(drafts, told, strict=True):
        count = len(draft.drawn)
        some = list(range(0, count, max(1, count // 16)))
        neighbours = Neighbours()
        for face in draft.faces(list(range(count))):
            neighbours.add(face)
        neighbours.end()
        faces, others = (known[some].to(mask) for known in neighbours.take(count))
        drawn = torch.from_numpy(draft.drawn[some].copy()).to(mask) / 127.5 - 1
        lit = relit(drawn, others)
        found = refine(refiner, lit, faces, others, mask, motion[some].to(mask)).faces().clamp(-1, 1)
        for name, picture in zip(sums, (drawn, found, others[:, 0]), strict=True):
            error = ((picture - faces) / 2).square().mean(dim=1)[:, region].mean()
            sums[name].append(float(-10 * error.log10()))
    return {name: float(np.mean(values)) for name, values in sums.items()}


def train_refiner(config: TrainRefinerConfig, accelerator: Accelerator) -> LipsyncPipeline:
    """Train; save the whole pipeline (float16) with its refiner and articulator to `config.output`/pipeline.

    Raises: FileNotFoundError, CheckpointError, ConfigError, MediaError, TrainingError.
    """
    folder, device = Path(config.output), accelerator.device
    if not (Path(config.pipeline) / INDEX).is_file():
        raise FileNotFoundError(
            f"pipeline {config.pipeline!r} is no model folder (it has no {INDEX}): pass that of train_unet.py"
        )
    every_clip = load_clips(config.data, "train")
    clips, spread = chosen_clips(every_clip, config.clips_per_speaker), motion_spread(every_clip)
    held_back = load_clips(config.data, "val")
    drawing = open_folder(Path(config.pipeline), pick_dtype("auto", device)).to(device)
    drawing.set_progress_bar_config(disable=True)
    drawing.refiner = drawing.articulator = None
    side = drawing.resolution
    torch.manual_seed(config.loop.seed)
    refiner = build_refiner(config.channels, side)
    try:
        check_refiner(refiner, side)
    except ValueError as error:
        raise ConfigError(f"channels {config.channels} and faces of {side} px: {error}") from error
    for clip in (*every_clip, *held_back):
        check_clip(clip, side)
    with accelerator.main_process_first():  # the others read what it has drawn
        parts = {
            "pipeline": drawing,
            "folder": folder / "drafts",
            "frames": config.frames_per_clip,
            "strength": config.strength,
        }
        data = DraftData(draw_drafts(clips, variants=config.variants, **parts), spread, config)
        watched = draw_drafts(held_back, variants=1, **parts)
    speech = [hear(clip, drawing, spread) for clip in held_back]
    articulator = train_articulator(every_clip, speech, drawing, spread, seed=config.loop.seed)
    told = [articulator(heard.tokens) for heard in speech]
    scores = told_correlation((motion.numpy() for motion in told), held_back)
    accelerator.print(f"articulator: {', '.join(f'{name} {r:.2f}' for name, r in scores.items())}")
    record_config(config, folder, accelerator)
    mask = mouth_mask(side).to(device)
    pasted = (paste_mask(side, drawing.paste_region)[0] < 0.5).to(device)
    weights = config.rest + (config.pasted - config.rest) * pasted.float()
    weights = weights + (config.lips - config.pasted) * lips_region(side).to(device)

    @functools.cache  # a run that is finished needs none
    def reader() -> nn.Module | None:
        return train_face_reader(data, seed=config.loop.seed, device=device) if config.mouth_shape else None

    def step(model: nn.Module, batch: DraftBatch, number: int) -> Losses:
        judge = reader()
        with accelerator.autocast():
            return refining_losses(model, batch, mask, weights, judge, config)

    trained = fit(
        refiner,
        drawn_batches(data.draw, accelerator),
        step,
        config.loop,
        folder,
        accelerator,
        validate=lambda model, _: mouth_psnr(model, watched, told, mask, pasted),
        settings={
            **asdict(config),
            **{"data": None, "output": None},  # a run may move to another disk
            **{"guidance_scale": None, "motion_gain": None},  # and be finished anew
            "pipeline": drawing_key(drawing, config.frames_per_clip, config.strength),
        },
    )
    pipeline = open_folder(Path(config.pipeline), torch.float32)
    refiner = accelerator.unwrap_model(trained).to("cpu")
    enlarge(articulator, config.motion_gain)
    pipeline.register_modules(refiner=refiner, articulator=articulator)
    pipeline.register_to_config(_name_or_path="")  # not the author's disk
    if config.guidance_scale is not None:
        pipeline.register_to_config(guidance_scale=config.guidance_scale)
    pipeline = pipeline.to(dtype=torch.float16)
    with save_once(accelerator) as is_writer:
        if is_writer:
            pipeline.save_pretrained(folder / "pipeline")
    return pipeline
