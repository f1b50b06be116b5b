"""What is installed, on what it can run, which weights lie where, and what is missing for what: one page.

python -m latentsync.doctor [--checkpoints FOLDER] [--verify]
"""

import argparse
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from latentsync.checkpoint import known_release, read_weights
from latentsync.device import DTYPES, pick_device, pick_dtype
from latentsync.diffusion.convert import file_sha256
from latentsync.diffusion.original import INDEX
from latentsync.dubbing.model import DEFAULT_MODEL
from latentsync.errors import LatentSyncError

CHECKPOINTS = DEFAULT_MODEL.parent
CORE = (
    "torch diffusers transformers accelerate safetensors huggingface_hub av mediapipe numpy scipy omegaconf"
)
OPTIONAL = {  # package: what it is for
    "xformers": "its attention on CUDA; torch's own serves without it",
    "insightface": "--detector insightface, as released weights were trained; MediaPipe serves else",
    "onnxruntime": "insightface",
    "DeepCache": "its own helper around our pipeline; --enable_deepcache needs none",
    "gradio": "gradio_app.py",
    "matplotlib": "plots of --profile",
    "tensorboard": "training charts",
}
FILES = {  # relative to the folder of checkpoints: (family, what it is for)
    "latentsync_unet.pt": ("unet", "released model"),
    "whisper/tiny.pt": ("whisper", "released model"),
    "whisper/small.pt": ("whisper", "U-Nets with an audio width of 768"),
    "stable_syncnet.pt": ("stable_syncnet", "training of stage 2, sync judge"),
    "auxiliary/syncnet_v2.model": ("syncnet_v2", "sync judge"),
    "auxiliary/vgg16-397923af.pth": ("vgg16", "training of stage 2: LPIPS"),
    "auxiliary/vit_g_hybrid_pt_1200e_ssv2_ft.pth": ("videomae", "training of stage 2: TREPA"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the page: `is_good` False is something a user may want to mend."""

    what: str
    state: str
    is_good: bool = True


def packages() -> Iterator[Finding]:
    """The packages this project needs, then those that add to it."""
    for name in CORE.split():
        found = _version(name)
        yield Finding(name, found or "missing: pip install -r requirements.txt", found is not None)
    for name, use in OPTIONAL.items():
        found = _version(name)
        yield Finding(name, found or f"not installed (for {use})")


def devices() -> Iterator[Finding]:
    """Where a job can run, and what `auto` picks."""
    yield Finding("CPU", f"{torch.get_num_threads()} threads, {platform.machine()}")
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        size = card.total_memory / 2**30
        yield Finding(f"cuda:{index}", f"{card.name}, {size:.0f} GiB, capability {card.major}.{card.minor}")
    if not torch.cuda.is_available():
        yield Finding("CUDA", "none")
    yield Finding("MPS", "available" if torch.backends.mps.is_available() else "none")
    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    yield Finding("auto means", f"{device}, {str(dtype).removeprefix('torch.')} (of {', '.join(DTYPES)})")


def weights(folder: Path, *, verify: bool = False) -> Iterator[Finding]:
    """What lies in the folder of checkpoints; `verify` also compares published hashes (minutes)."""
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        if (entry / INDEX).is_file():
            size = sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
            yield Finding(f"{entry.name}/", f"model folder, {size / 1e6:.0f} MB")
        elif (entry / "latentsync_unet.pt").is_file():
            yield from _files(entry, verify=verify, prefix=f"{entry.name}/")
    yield from _files(folder, verify=verify)


def _files(folder: Path, *, verify: bool, prefix: str = "") -> Iterator[Finding]:
    for name, (family, use) in FILES.items():
        path = folder / name
        if not path.exists():
            if not prefix:
                yield Finding(name, f"not there (for: {use})")
            continue
        try:
            found = read_weights(path, expect=family)
        except (LatentSyncError, OSError) as error:
            yield Finding(prefix + name, str(error), is_good=False)
            continue
        release = known_release(path) if family == "unet" else None
        state = f"{found.identity}, {path.stat().st_size / 1e9:.2f} GB"
        if family == "unet":
            state += f"; {release.name}" if release else "; no published file: say --resolution or its YAML"
        good = True
        if verify and release is not None:
            good = file_sha256(path) == release.sha256
            state += "; hash as published" if good else "; HASH DIFFERS: download the file again"
        yield Finding(prefix + name, state, good)


def page(folder: Path, *, verify: bool = False) -> tuple[str, bool]:
    """The whole page, and whether nothing in it must be mended."""
    sections = {
        f"Python {platform.python_version()} on {platform.system()}": list(packages()),
        "Devices": list(devices()),
        f"Weights in {folder}": list(weights(folder, verify=verify)),
    }
    lines = []
    for title, findings in sections.items():
        width = max((len(finding.what) for finding in findings), default=0)
        lines += ["", title, "-" * len(title)]
        lines += [f"{' ' if f.is_good else '!'} {f.what:<{width}}  {f.state}" for f in findings]
    is_good = all(finding.is_good for findings in sections.values() for finding in findings)
    return "\n".join(lines[1:]), is_good


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m latentsync.doctor", description=__doc__)
    parser.add_argument(
        "--checkpoints", type=Path, default=CHECKPOINTS, help="folder of weights (default: checkpoints/)"
    )
    parser.add_argument("--verify", action="store_true", help="compare published hashes too (slow)")
    flags = parser.parse_args()
    if not flags.checkpoints.is_dir():
        print(f"error: {str(flags.checkpoints)!r} is no folder; pass --checkpoints", file=sys.stderr)
        return 2
    text, is_good = page(flags.checkpoints, verify=flags.verify)
    print(text)
    return 0 if is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
