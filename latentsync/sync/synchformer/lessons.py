"""What a SyncNet says of every stretch of a clip, which stage I learns to say beside its contrast.

A convolutional network finds lips on strange faces from less footage than one of attention does; imitating
it hands that on (Touvron et al. 2021, arXiv 2012.12877, do so with labels). `K` stretches of a clip, one from
every STRIDE frames on; `D` width of the pupil, to which the teacher's space is narrowed along its
principal axes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from latentsync.device import pick_dtype
from latentsync.errors import ConfigError, FootageError
from latentsync.footage.clip import heard_frames, open_clip
from latentsync.sync.open_syncnet import open_syncnet
from latentsync.sync.stable_judge import StableSyncNetJudge
from latentsync.sync.synchformer.layouts import ListedClip
from latentsync.training import save_once
from latentsync.training.files import writing

LESSONS = "lessons.safetensors"
KEY = "key"
VISION, SOUND = "vision/", "sound/"
STRIDE = 2  # frames


class Lessons:
    """Unit vectors (K, D) of the pictures and of the sound of each clip, by its key."""

    def __init__(self, vision: Mapping[str, Tensor], sound: Mapping[str, Tensor]) -> None:
        self.vision, self.sound = vision, sound

    def of(self, key: str, starts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Vectors (S, D), (S, D) of the stretches of a clip that begin at the frames `starts`, multiples of
        STRIDE.
        """
        rows = [start // STRIDE for start in starts]
        return self.vision[key][rows].float(), self.sound[key][rows].float()


def prepare_lessons(
    teacher: str,
    clips: Sequence[ListedClip],
    *,
    frames: int,
    width: int,
    folder: Path,
    accelerator: Accelerator,
) -> Lessons:
    """What the SyncNet at `teacher` says of `clips`; asked once a run, kept in `folder`.

    Raises: what `open_syncnet` raises; ConfigError for one of latents, or of another length than `frames`.
    """
    place, key = folder / LESSONS, lessons_key(teacher, clips, frames, width)
    with save_once(accelerator) as is_writer:
        if is_writer and _key_of(place) != key:
            heard = ask(teacher, clips, frames=frames, width=width, device=accelerator.device)
            part = place.with_suffix(".part")
            with writing(place):
                folder.mkdir(parents=True, exist_ok=True)
                save_file(heard, part, metadata={KEY: key})
                part.replace(place)
    tensors = load_file(place)
    return Lessons(
        *(
            {name.removeprefix(kind): rows for name, rows in tensors.items() if name.startswith(kind)}
            for kind in (VISION, SOUND)
        )
    )


def lessons_key(teacher: str, clips: Sequence[ListedClip], frames: int, width: int) -> str:
    """A hash of all that decides the lessons: the teacher's weights, which clips, how long and how wide.

    Raises: what `open_syncnet` raises.
    """
    digest = hashlib.sha256(f"{frames} {width} {STRIDE}".encode())
    for name, value in sorted(open_syncnet(teacher).state_dict().items()):
        digest.update(name.encode() + value.float().numpy().tobytes())
    for clip in clips:
        digest.update(f"{clip.key} {clip.path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def _key_of(place: Path) -> str | None:
    """What the lessons at `place` were made of; None where there are none that can be read."""
    try:
        with safe_open(place, "pt") as file:
            return (file.metadata() or {}).get(KEY)
    except (FileNotFoundError, SafetensorError):
        return None


def ask(
    teacher: str, clips: Sequence[ListedClip], *, frames: int, width: int, device: torch.device
) -> dict[str, Tensor]:
    """Narrowed vectors float16 (K, D), under VISION or SOUND and the clip's key: what sets a stretch apart
    from the mean of all, for what all have in common is learned first and says nothing.
    """
    syncnet = open_syncnet(teacher)
    if syncnet.config.latent_space or syncnet.config.num_frames != frames:
        kind = "latents" if syncnet.config.latent_space else "pixels"
        raise ConfigError(
            f"model.teacher {teacher!r} looks at {syncnet.config.num_frames} frames of {kind}; expected "
            f"pixels and the {frames} frames of a segment"
        )
    if width > (most := int(syncnet.config.vision["block_out_channels"][-1])):
        raise ConfigError(
            f"model.visual.width {width} is wider than the teacher {teacher!r} ({most}): make it narrower"
        )
    syncnet.to(pick_dtype("auto", torch.device(device)))  # pyright: ignore[reportArgumentType]
    judge = StableSyncNetJudge(syncnet, device=device, stride_frames=STRIDE)
    said: dict[str, Tensor] = {}
    for clip in tqdm(clips, desc="asking the teacher", disable=None):
        faces, waveform = _whole(clip, int(syncnet.config.resolution))
        if len(faces) < frames:
            raise FootageError(
                f"clip {clip.key} has {len(faces)} frames with their sound, the teacher looks at {frames}: "
                "take it off the list (data.check_lengths does)"
            )
        said[VISION + clip.key] = judge.encode_faces(faces).cpu()
        said[SOUND + clip.key] = judge.encode_sound(waveform, STRIDE).cpu()
    for kind in (VISION, SOUND):
        mean = torch.cat([rows for name, rows in said.items() if name.startswith(kind)]).mean(dim=0)
        said |= {name: rows - mean for name, rows in said.items() if name.startswith(kind)}
    axes = principal_axes(torch.cat(list(said.values())), width)
    return {name: F.normalize(rows @ axes, dim=-1).half() for name, rows in said.items()}


def principal_axes(vectors: Tensor, width: int) -> Tensor:
    """The D = `width` directions (D', D) along which `vectors` (N, D') together are longest."""
    vectors = vectors.double()
    return torch.linalg.eigh(vectors.T @ vectors).eigenvectors[:, -width:].float()


def _whole(clip: ListedClip, side: int) -> tuple[Tensor, Tensor]:
    """All faces (F, 3, R, R) that have their sound, and that sound."""
    assert clip.file is not None  # views of faces have files
    with open_clip(clip.file, side, allow_upscale=True) as opened:
        waveform = torch.from_numpy(opened.waveform)
        faces = torch.from_numpy(opened.faces(0, heard_frames(opened.frames, len(waveform))))
        return faces.permute(0, 3, 1, 2), waveform
