"""Peak memory and time of opening a full-size released U-Net (5.07 GB), ours beside the plain way.

    python benchmarks/load.py [--folder /tmp]

Makes a file of the released layout with random values first, and removes it at the end. Every weight is read
once in both ways, so that nothing stays unread in a memory map. Each way runs in a process of its own.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from latentsync.checkpoint import read_weights
from latentsync.diffusion.released_config import ReleasedConfig
from latentsync.diffusion.unet import UNet3DConditionModel


def make(path: Path) -> None:
    """A file as upstream saves it, of random float32 values."""
    with torch.device("meta"):
        shapes = UNet3DConditionModel.from_upstream(ReleasedConfig().model_section()).upstream_state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {key: torch.randn(value.shape, generator=generator) * 0.02 for key, value in shapes.items()}
    torch.save({"global_step": 0, "state_dict": state}, path)


def open_lean(path: Path) -> UNet3DConditionModel:
    """On the meta device, with the file's own pages assigned."""
    weights = read_weights(path, expect="unet")
    return UNet3DConditionModel.from_upstream(ReleasedConfig().model_section(), weights.tensors)


def open_plain(path: Path) -> UNet3DConditionModel:
    """The usual way: build the network, read the file, copy."""
    from latentsync.diffusion.unet_keys import from_upstream_names

    model = UNet3DConditionModel.from_upstream(ReleasedConfig().model_section())
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model.load_state_dict(from_upstream_names(state), strict=False)
    return model


WAYS = {
    "lean": open_lean,
    "plain": open_plain,
}  # a process inherits its parent's peak: the parent stays small


def measure(way: str, path: Path) -> None:
    """Open, read every weight, and print seconds and bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began = time.perf_counter()
    model = WAYS[way](path)
    opened = time.perf_counter() - began
    with torch.no_grad():
        total = sum(float(parameter.sum()) for parameter in model.parameters())
    seconds = time.perf_counter() - began
    assert total == total  # every weight was read
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    size = path.stat().st_size
    print(
        f"{way:<6} {opened:6.1f} s to open, {seconds:6.1f} s with every weight read; peak "
        f"{peak / 1e9:5.2f} GB = {peak / size:4.2f} x the file ({before / 1e9:.2f} GB before)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", default=tempfile.gettempdir(), help="where 5.1 GB fit (default: temporary)"
    )
    parser.add_argument("--way", choices=[*WAYS, "make"], help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.way == "make":
        make(flags.file)
    elif flags.way:
        measure(flags.way, flags.file)
    if flags.way:
        return
    with tempfile.TemporaryDirectory(prefix="latentsync-load-", dir=flags.folder) as folder:
        path = Path(folder) / "latentsync_unet.pt"
        for way in ("make", *WAYS):
            subprocess.run([sys.executable, __file__, "--way", way, "--file", path], check=True)


if __name__ == "__main__":
    main()
