"""Trains the embedded default from footage, stage after stage; a stage that is done is skipped, a stopped one
goes on.

    python scripts/train_default.py --list data/clips.csv --work runs/tiny

The list is a CSV with the header path,speaker,split. The result is WORK/refiner/pipeline, a model folder. On
two CPU cores with AMX the stages took us about 10 minutes (packing), 25 (autoencoder), 15 (audio encoder), an
hour (denoiser) and 60 (refiner). On two without, reckon with 40 minutes for the refiner's drafts and 2 s a
step: two thirds of the drafts took 25 minutes, and the parts of a step 1.6 and 0.4 s.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from latentsync.command import Parser, run_command
from latentsync.errors import LatentSyncError

SCRIPTS = Path(__file__).resolve().parent
CONFIGS = SCRIPTS.parent / "configs"


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--list", required=True, type=Path, help="CSV of clips: path,speaker,split (train or val)"
    )
    parser.add_argument(
        "--work", required=True, type=Path, help="folder for packed clips, checkpoints and the result"
    )
    parser.add_argument(
        "--mixed_precision",
        default="auto",
        choices=("auto", "no", "bf16"),
        help="of the networks (default: bf16 where it is quick)",
    )
    return parser.parse_args()


def precision_here(name: str) -> str:
    """What accelerate calls the number type `name`; "auto" is bf16 unless this machine is slow at it."""
    if name != "auto":
        return name
    import torch

    from latentsync.device import pick_device, pick_dtype

    return "no" if pick_dtype("auto", pick_device()) is torch.float32 else "bf16"


def do(script: str, *arguments: str | Path) -> None:
    """Run a script of this folder in its own process, as `accelerate launch` would on one device.

    Raises: LatentSyncError when it fails; it has said why by then.
    """
    done = subprocess.run([sys.executable, str(SCRIPTS / script), *map(str, arguments)])
    if done.returncode:
        raise LatentSyncError(f"{script} ended with exit code {done.returncode}; see the lines above")


def run(flags: argparse.Namespace) -> None:
    """Every stage that is not done yet, then say where the model is."""
    packed, vae, audio, unet, refiner = (
        flags.work / name for name in ("packed", "vae", "audio", "unet", "refiner")
    )
    precision = ("--mixed_precision", precision_here(flags.mixed_precision))
    do("pack_footage.py", "--list", flags.list, "--output", packed, "--resolution", "128")
    if not (vae / "vae").is_dir():
        do(
            "train_vae.py",
            "--config",
            CONFIGS / "vae/tiny.yaml",
            *precision,
            f"data={packed}",
            f"output={vae}",
        )
    if not (audio / "audio_encoder").is_dir():
        config = CONFIGS / "audio_encoder/tiny.yaml"
        do("train_audio.py", "--config", config, f"data={packed}", f"output={audio}")
    data = (
        f"data.packed={packed}",
        f"data.vae={vae / 'vae'}",
        f"data.audio_encoder={audio / 'audio_encoder'}",
    )
    do(
        "train_unet.py",
        "--unet_config_path",
        CONFIGS / "unet/tiny.yaml",
        *precision,
        *data,
        f"data.output={unet}",
    )
    do(
        "train_refiner.py",
        "--config",
        CONFIGS / "refiner/tiny.yaml",
        *precision,
        f"data={packed}",
        f"pipeline={unet / 'pipeline'}",
        f"output={refiner}",
    )
    print(f"model: {refiner / 'pipeline'}")


def main() -> int:
    return run_command(run, parse())


if __name__ == "__main__":
    raise SystemExit(main())
