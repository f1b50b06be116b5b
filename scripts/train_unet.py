"""Trains the denoiser of a small model and saves the whole pipeline.

    accelerate launch scripts/train_unet.py --unet_config_path configs/unet/tiny.yaml \\
        data.packed=data/packed data.vae=runs/vae/vae \\
        data.audio_encoder=runs/audio/audio_encoder data.output=runs/unet
"""

import argparse

from latentsync.command import Parser, run_command


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--unet_config_path", required=True, help="YAML of the run (configs/unet/)")
    parser.add_argument("--mixed_precision", default="no", choices=("no", "bf16", "fp16"), help="default: no")
    parser.add_argument("overrides", nargs="*", help="key=value, over the YAML")
    return parser.parse_args()


def run(flags: argparse.Namespace) -> None:
    """Train, then say where the result is."""
    from accelerate import Accelerator

    from latentsync.config import load_config
    from latentsync.diffusion.train import TrainUNetConfig, train_unet

    config = load_config(TrainUNetConfig, flags.unet_config_path, flags.overrides)
    train_unet(config, Accelerator(mixed_precision=flags.mixed_precision))
    print(f"pipeline: {config.data.output}/pipeline")


def main() -> int:
    return run_command(run, parse())


if __name__ == "__main__":
    raise SystemExit(main())
