"""The one door for weights: a file in, its tensors and what they are out; never code.

Read are PyTorch's `.pt` files (by the unpickler that knows tensors only) and safetensors, both memory-mapped,
so that nothing is copied before it is used. What a file holds is read off its tensors, for names say little:
LatentSync 1.5 and 1.6 have the same tensors and the same file name.
"""

import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from latentsync.errors import CheckpointError

HEAD_BYTES = 512
MIN_BYTES = 64
ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = (b"\x80\x02", b"\x80\x03", b"\x80\x04")  # PyTorch before 1.6
SAFETENSORS_HEADER_OFFSET = 8
MAX_SAFETENSORS_HEADER_BYTES = 100_000_000
STATE_KEYS = ("state_dict", "model_state_dict", "ema_state_dict", "model", "module", "model_state")
WRAPPER = "module."  # what DistributedDataParallel puts before every name
NUMBERS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
COUNTS = (torch.int64, *NUMBERS)
UNREADABLE = (  # what torch's readers raise on damaged files
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    AttributeError,
    TypeError,
    AssertionError,
    ArithmeticError,
    struct.error,
)
OPENAI_DIMS = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")


@dataclass(frozen=True)
class Release:
    """A published U-Net file: which it is, and how to tell."""

    name: str
    hub_id: str
    revision: str
    resolution: int
    file_bytes: int
    sha256: str


# file sizes and hashes: the Hub's LFS records of the named revisions, as other projects quote them
RELEASES = (
    Release(
        "LatentSync 1.5",
        "ByteDance/LatentSync-1.5",
        "32a20d29aead0498e3e885e90dbbe8027da1b61b",
        256,
        5_072_348_184,
        "6440b49a7ccceff56cdc001f5f17605216337f5bbd66fa360139768926e23f51",
    ),
    Release(
        "LatentSync 1.6",
        "ByteDance/LatentSync-1.6",
        "c42c7e6c8e9c213626389fa7d9a3c444b8536353",
        512,
        5_072_222_488,
        "0a478e89eb660f82da4c35dbdde8a5adfb27f99d1b4e50edd03729e1e98316d3",
    ),
)


@dataclass(frozen=True)
class Identity:
    """What a set of tensors is: its family, and the numbers that decide which configuration fits.

    `family` is one of "unet" (LatentSync's, in upstream's names), "unet (ours)", "stable-diffusion unet",
    "vae", "whisper" (openai's names), "whisper (transformers)", "stable_syncnet", "wav2lip_syncnet",
    "syncnet_v2", "synchformer", "synchformer segments" (its stage I), "vgg16", "lpips" (its 1x1 layers),
    "videomae", "unknown". Fields that a family lacks are None.
    """

    family: str
    in_channels: int | None = None
    audio_width: int | None = None  # of the U-Net's audio attention, or of a Whisper encoder
    block_out_channels: tuple[int, ...] | None = None
    has_motion: bool | None = None
    is_decoder_only: bool | None = None  # motion modules in the up blocks alone
    layers: int | None = None  # of a Whisper encoder
    examples: tuple[str, ...] = ()  # tensor names, where nothing fits

    @property
    def stage(self) -> int | None:
        """Training stage of a U-Net: 1 has no motion modules."""
        return None if self.has_motion is None else 2 if self.has_motion else 1

    def __str__(self) -> str:
        if self.family in ("unet", "unet (ours)"):
            where = " in the up blocks only" if self.is_decoder_only else ""
            motion = f"with motion modules{where}" if self.has_motion else "without motion modules"
            hears = f"audio width {self.audio_width}" if self.audio_width else "no audio layers"
            return (
                f"a LatentSync U-Net of stage {self.stage} ({motion}), {hears}, "
                f"widths {list(self.block_out_channels or ())}, {self.in_channels} input channels"
            )
        if self.family.startswith("whisper"):
            return f"a Whisper encoder of width {self.audio_width} with {self.layers} layers"
        names = {
            "vae": "a Stable Diffusion autoencoder",
            "stable-diffusion unet": f"a Stable Diffusion U-Net ({self.in_channels} input channels)",
            "stable_syncnet": "a StableSyncNet",
            "wav2lip_syncnet": "a Wav2Lip SyncNet",
            "syncnet_v2": "the original SyncNet",
            "synchformer": "a Synchformer",
            "synchformer segments": "a Synchformer of stage I (Segment AVCLIP)",
            "vgg16": "a VGG16",
            "lpips": "the 1x1 layers of LPIPS",
            "videomae": "a fine-tuned VideoMAE",
        }
        return names.get(self.family) or f"unknown tensors ({', '.join(self.examples) or 'none at all'})"


@dataclass(frozen=True)
class Weights:
    """The tensors of a file, memory-mapped, names without DistributedDataParallel's prefix.

    `extra` is what lay beside them: numbers, strings and lists, such as `global_step` or Whisper's `dims`.
    """

    path: Path
    tensors: dict[str, Tensor]
    identity: Identity
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def release(self) -> Release | None:
        """The published file that this is, None when it is not known."""
        return known_release(self.path)


def read_weights(path: str | Path, *, expect: str | None = None) -> Weights:
    """The tensors of `path` and what they are; with `expect`, only those of that family (see `Identity`).

    Raises: FileNotFoundError; CheckpointError for a file that is damaged, is no weights, would run code, or
    is of another family.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(
            f"weights {str(path)!r} are a folder; expected a .pt or .safetensors file in it"
        )
    if os.path.lexists(path) and not path.is_file():
        raise CheckpointError(
            f"weights {str(path)!r} are no file (a broken link, or a pipe); pass the file itself"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"weights {str(path)!r} do not exist; checkpoints/README.md says where to get them"
        )
    tensors, extra = _tensors_and_rest(path, _load(path))
    _check_numbers(path, tensors)
    try:
        identity = identify(tensors)
    except (IndexError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"weights {str(path)!r} have tensors of shapes that no network here has ({first_line(error)}): "
            "download the file again"
        ) from error
    if expect is not None and identity.family != expect:
        wanted = {
            "unet": "a LatentSync U-Net (latentsync_unet.pt)",
            "whisper": "an openai Whisper (whisper/tiny.pt)",
            "vae": "a Stable Diffusion autoencoder (stabilityai/sd-vae-ft-mse)",
            "stable_syncnet": "a StableSyncNet (stable_syncnet.pt)",
            "vgg16": "torchvision's VGG16 (vgg16-397923af.pth)",
            "lpips": "the 1x1 layers of LPIPS (vgg.pth)",
            "videomae": "VideoMAEv2's ViT-g (vit_g_hybrid_pt_1200e_ssv2_ft.pth)",
        }.get(expect, expect)
        raise CheckpointError(f"weights {str(path)!r} hold {identity}; expected {wanted}: pass that file")
    return Weights(path, tensors, identity, extra)


def _check_numbers(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Only real numbers, and counters, that are there."""
    for name, value in tensors.items():
        if value.is_meta or value.dtype not in (COUNTS if name.endswith("num_batches_tracked") else NUMBERS):
            kind = "no values" if value.is_meta else str(value.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"weights {str(path)!r}: {name} has {kind}; expected float32, float16 or bfloat16"
            )


def identify(tensors: Mapping[str, Tensor]) -> Identity:
    """What these tensors are, by their names and shapes."""
    names = tensors.keys()
    if "conv_in.weight" in names and "time_embedding.linear_1.weight" in names:
        return _identify_unet(tensors)
    if "encoder.conv1.weight" in names and "encoder.blocks.0.attn.query.weight" in names:
        return _whisper("whisper", tensors, "encoder.blocks.")
    if "encoder.conv1.weight" in names and "encoder.layers.0.self_attn.q_proj.weight" in names:
        return _whisper("whisper (transformers)", tensors, "encoder.layers.")
    for family, name in (
        ("stable_syncnet", "visual_encoder.conv_in.weight"),
        ("wav2lip_syncnet", "visual_encoder.0.conv_block.0.weight"),
        ("syncnet_v2", "netcnnlip.0.weight"),
        ("synchformer", "transformer.OFF_tok"),
        ("synchformer segments", "v_encoder.temp_embed"),
        ("vae", "decoder.conv_in.weight"),
        ("vgg16", "features.28.weight"),
        ("lpips", "lin0.model.1.weight"),
        ("videomae", "blocks.0.attn.q_bias"),
    ):
        if name in names:
            return Identity(family)
    return Identity("unknown", examples=tuple(sorted(names)[:3]))


def known_release(path: Path) -> Release | None:
    """The published U-Net that `path` is, by the hash that names it in the Hub's cache, its Hub id in the
    path, or its exact size.
    """
    path = path.absolute()
    target = path.resolve()
    for release in RELEASES:
        cached = release.hub_id.replace("/", "--")
        if target.name == release.sha256 or any(
            part in (f"models--{cached}", release.hub_id.split("/")[1]) for part in path.parts[:-1]
        ):
            return release
    size = target.stat().st_size if target.is_file() else -1
    return next((release for release in RELEASES if release.file_bytes == size), None)


def _identify_unet(tensors: Mapping[str, Tensor]) -> Identity:
    names = tensors.keys()
    motion = [name for name in names if ".motion_modules." in name]
    is_upstream = not motion or any(".temporal_transformer." in name for name in motion)
    audio = next((t.shape[1] for n, t in tensors.items() if _is_audio_key(n)), None)
    in_channels = int(tensors["conv_in.weight"].shape[1])
    widths = []
    while (first := f"down_blocks.{len(widths)}.resnets.0.conv1.weight") in names:
        widths.append(int(tensors[first].shape[0]))
    family = "unet" if is_upstream else "unet (ours)"
    if in_channels in (4, 9) and not motion and audio in (768, 1024, 2048):
        family = "stable-diffusion unet"
    return Identity(
        family,
        in_channels=in_channels,
        audio_width=None if audio is None else int(audio),
        block_out_channels=tuple(widths),
        has_motion=bool(motion),
        is_decoder_only=bool(motion) and not any(name.startswith("down_blocks.") for name in motion),
    )


def _is_audio_key(name: str) -> bool:
    return name.endswith(".attn2.to_k.weight") and ".motion_modules." not in name


def _whisper(family: str, tensors: Mapping[str, Tensor], blocks: str) -> Identity:
    numbers = {int(name[len(blocks) :].split(".")[0]) for name in tensors if name.startswith(blocks)}
    return Identity(family, audio_width=int(tensors["encoder.conv1.weight"].shape[0]), layers=len(numbers))


def _load(path: Path) -> Any:
    """What the file holds, by the loader for what its first bytes say it is."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if size < MIN_BYTES:
        raise CheckpointError(
            f"weights {str(path)!r} are {size} bytes long, too short for any tensor: download the file again"
        )
    if head.startswith(ZIP_MAGIC):
        return _load_torch(path, mmap=True)
    if head.startswith(PICKLE_MAGIC):
        return _load_torch(path, mmap=False)
    if head[SAFETENSORS_HEADER_OFFSET : SAFETENSORS_HEADER_OFFSET + 1] == b"{":
        return _load_safetensors(path)
    raise CheckpointError(f"weights {str(path)!r} {_what_it_is(head)}; expected a .pt or .safetensors file")


def _what_it_is(head: bytes) -> str:
    text = head.lstrip()[:100].lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "are a web page, an error page of the server most likely: download the file again"
    if text.startswith(b"version https://git-lfs"):
        return "are a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"
    if text.startswith((b"{", b"[")):
        return "are JSON, such as an error message: download the file again"
    if not any(head):
        return "hold zeros only, as an interrupted download does: download the file again"
    return f"begin with {head[:8].hex(' ')}, which no weights do"


def _load_torch(path: Path, *, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"hold more than tensors ({found[1]})" if found else "are damaged, or hold more than tensors"
        raise CheckpointError(
            f"weights {str(path)!r} {what}: opening them could run code of their author, so they stay "
            "closed; download the file again, or ask for one of tensors alone (safetensors)"
        ) from error
    except UNREADABLE as error:
        if mmap and not _is_whole_zip(path):
            raise CheckpointError(
                f"weights {str(path)!r} are cut short ({path.stat().st_size} bytes): download the file again"
            ) from error
        raise CheckpointError(
            f"weights {str(path)!r} cannot be read as a PyTorch file ({first_line(error)}): "
            "download the file again"
        ) from error


def _is_whole_zip(path: Path) -> bool:
    """Whether the directory at the end of a zip file is there."""
    try:
        with zipfile.ZipFile(path):
            return True
    except (zipfile.BadZipFile, OSError):
        return False


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"weights {str(path)!r} cannot be read as safetensors ({first_line(error)}), "
            "perhaps cut short: download the file again"
        ) from error


def _tensors_and_rest(path: Path, held: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict in what a file holds, and the plain values beside it."""
    if not isinstance(held, Mapping):
        raise CheckpointError(
            f"weights {str(path)!r} hold a {type(held).__name__}; expected named tensors (a state dict)"
        )
    inner = next((held[key] for key in STATE_KEYS if isinstance(held.get(key), Mapping)), None)
    rest = {} if inner is None else {key: v for key, v in held.items() if key not in STATE_KEYS}
    state = held if inner is None else inner
    tensors = {str(key).removeprefix(WRAPPER): v for key, v in state.items() if isinstance(v, Tensor)}
    others = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if not tensors and (nested := [str(key) for key, value in state.items() if _holds_tensors(value)]):
        where = f"in {nested[0]!r}" if len(nested) == 1 else f"apart, in {', '.join(map(repr, nested[:5]))}"
        raise CheckpointError(
            f"weights {str(path)!r} hold their tensors a level too deep, {where}; expected a state dict, "
            f"alone or under one of {', '.join(STATE_KEYS)}: save one such dict as a file of its own"
        )
    if not tensors:
        keys = ", ".join(map(str, list(state)[:5])) or "nothing"
        raise CheckpointError(f"weights {str(path)!r} hold no tensors but {keys}; expected a state dict")
    if others and inner is not None:
        raise CheckpointError(f"weights {str(path)!r}: {others[0]!r} in the state dict is no tensor")
    return tensors, {**rest, **({key: held[key] for key in others} if inner is None else {})}


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(inner, Tensor) for inner in value.values())


def openai_dims(weights: Weights) -> dict[str, int]:
    """The sizes of an openai Whisper, read off its tensors.

    Raises: CheckpointError when the file's own dims say otherwise.
    """
    tensors = weights.tensors
    conv, table = tensors["encoder.conv1.weight"], tensors.get("encoder.positional_embedding")
    width = int(conv.shape[0])
    found = {
        "n_mels": int(conv.shape[1]),
        "n_audio_ctx": 1500 if table is None else int(table.shape[0]),
        "n_audio_state": width,
        "n_audio_head": max(1, width // 64),  # every published size has heads of 64
        "n_audio_layer": int(weights.identity.layers or 0),
    }
    given = weights.extra.get("dims")
    if not isinstance(given, Mapping):
        return found
    for name in OPENAI_DIMS:
        if given.get(name) != found[name]:
            raise CheckpointError(
                f"weights {str(weights.path)!r}: {name} is {given.get(name)} in the file's dims but "
                f"{found[name]} in its tensors; download the file again"
            )
    return found


def assign_exactly(model: nn.Module, tensors: Mapping[str, Tensor], path: Path, *, source: str) -> None:
    """Give `model`, on the meta device or not, the tensors that `path` held, without a copy.

    Raises: CheckpointError that counts and names tensors missing, unknown or of another shape, and `source`.
    """
    wanted = model.state_dict()
    missing, unknown = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or unknown:
        raise CheckpointError(
            f"weights {str(path)!r} do not fit a {type(model).__name__}: {len(missing)} tensor(s) missing "
            f"{missing[:3]}, {len(unknown)} unknown {unknown[:3]}; get the file from {source}"
        )
    for name, value in tensors.items():
        if value.shape != wanted[name].shape:
            raise CheckpointError(
                f"weights {str(path)!r}: {name} has shape {tuple(value.shape)}, expected "
                f"{tuple(wanted[name].shape)}; get the file from {source}"
            )
    model.load_state_dict(tensors, assign=True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises: CheckpointError when the file is none."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); copy the folder again") from error
    if not isinstance(held, dict):
        raise CheckpointError(f"{path} holds a {type(held).__name__}; expected a JSON object")
    return held


def check_stored(folder: Path, names: Iterable[str]) -> None:
    """Raise CheckpointError for a tensor of a model, by `names`, that the safetensors of its folder lack:
    libraries leave it random.
    """
    held: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            held.update(file.keys())
    if missing := sorted(set(names) - held):
        raise CheckpointError(
            f"{str(folder)!r} lacks {len(missing)} tensor(s), {missing[0]} first; copy the folder again"
        )


def first_line(error: Exception) -> str:
    """What an error says, or is, in one short line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
