"""Trains the autoencoder of a small model.

accelerate launch scripts/train_vae.py --config configs/vae/tiny.yaml data=data/packed output=runs/vae
"""

import argparse

from latentsync.command import Parser, run_command


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--config", required=True, help="YAML of the run (configs/vae/)")
    parser.add_argument("--mixed_precision", default="no", choices=("no", "bf16", "fp16"), help="default: no")
    parser.add_argument("overrides", nargs="*", help="key=value, over the YAML")
    return parser.parse_args()


def run(flags: argparse.Namespace) -> None:
    """Train, then say where the result is."""
    from accelerate import Accelerator

    from latentsync.config import load_config
    from latentsync.diffusion.train_vae import TrainVaeConfig, train_vae

    config = load_config(TrainVaeConfig, flags.config, flags.overrides)
    train_vae(config, Accelerator(mixed_precision=flags.mixed_precision))
    print(f"autoencoder: {config.output}/vae")


def main() -> int:
    return run_command(run, parse())


if __name__ == "__main__":
    raise SystemExit(main())
