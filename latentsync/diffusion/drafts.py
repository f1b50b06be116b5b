"""What a small model draws of training clips with their own sound, kept on disk: a refiner learns from it.

`F` frames, `R` resolution.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentsync.diffusion.augment import apply_colour, apply_proportions
from latentsync.diffusion.dataset import Clip
from latentsync.diffusion.latents import variant_look, weights_key
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.errors import MediaError
from latentsync.training.files import writing

SAMPLES_PER_FRAME = 640
NO_PART_OF_DRAFTS = ("vae", "unet", "audio_encoder", "refiner", "articulator")  # or known by its weights


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
    clips: list[Clip], pipeline: LipsyncPipeline, folder: Path, *, variants: int, frames: int, strength: float
) -> list[Drafts]:
    """What `pipeline` draws of `clips` with their own sound. Files in `folder` that were drawn by the same
    model of the same clips serve; damaged ones are drawn again.

    Raises: MediaError for clips of another size or without a frame and its sound; TrainingError for a folder
    that cannot be written.
    """
    folder = folder / drawing_key(pipeline, frames, strength)
    drafts = []
    for clip in clips:
        check_clip(clip, pipeline.resolution)
        heard = zlib.crc32(np.ascontiguousarray(clip.waveform).tobytes())
        for variant in range(variants):
            path = folder / f"{clip.name}.{heard:08x}.{variant}.npy"
            drawn = _stored(path)
            if drawn is None:
                with writing(path):
                    folder.mkdir(parents=True, exist_ok=True)
                    part = path.with_suffix(".part")
                    with part.open("wb") as file:
                        np.save(file, _drawn(clip, variant, pipeline, frames, strength))
                    part.replace(path)
                drawn = np.load(path, mmap_mode="r", allow_pickle=False)
            drafts.append(Drafts(clip, variant, drawn))
    return drafts


def check_clip(clip: Clip, resolution: int) -> None:
    """Raises: MediaError for a clip of faces of another size, or without a frame and its sound."""
    if clip.faces.shape[1] != resolution:
        raise MediaError(
            f"clip {clip.name} has faces of {clip.faces.shape[1]} px, and the model draws {resolution} px: "
            "pack the footage at that size (scripts/pack_footage.py)"
        )
    if min(clip.frames, len(clip.waveform) // SAMPLES_PER_FRAME) < 1:
        raise MediaError(f"clip {clip.name} has no frame with its sound; take it off the list")


def drawing_key(pipeline: LipsyncPipeline, frames: int, strength: float) -> str:
    """A short hash of all that decides a draft: weights, settings, sampler, `frames` a clip at most."""
    parts = [weights_key(part) for part in (pipeline.vae, pipeline.unet, pipeline.audio_encoder)]
    told = {name: str(value) for name, value in pipeline.config.items() if not name.startswith("_")}
    told |= {"scheduler": str(sorted(pipeline.scheduler.config.items())), "frames": str(frames)}
    told["strength"] = str(strength)
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
def _drawn(clip: Clip, variant: int, pipeline: LipsyncPipeline, frames: int, strength: float) -> np.ndarray:
    count = min(frames, clip.frames, len(clip.waveform) // SAMPLES_PER_FRAME)
    faces = looked_at(clip, variant, np.array(clip.faces[:count]))
    seed = int.from_bytes(hashlib.sha256(f"{clip.name}/{variant}".encode()).digest()[:4], "big")
    noise = pipeline.draw_noise(torch.Generator().manual_seed(seed))
    windows = pipeline.audio_windows(torch.from_numpy(clip.waveform), count)
    drawn = torch.stack(list(pipeline.stream(faces, windows, noise, pipeline.sampling(strength=strength))))
    return ((drawn.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()


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
