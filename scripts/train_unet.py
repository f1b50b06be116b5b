"""Trains the denoiser of a small model and saves the whole pipeline.

    accelerate launch scripts/train_unet.py --unet_config_path configs/unet/tiny.yaml \\
        data.packed=data/packed data.vae=runs/vae/vae \\
        data.audio_encoder=runs/audio/audio_encoder data.output=runs/unet
"""

import argparse

from accelerate import Accelerator

from latentsync.config import load_config
from latentsync.diffusion.train import TrainUNetConfig, train_unet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--unet_config_path", required=True, help="YAML of the run (configs/unet/)")
    parser.add_argument("--mixed_precision", default="no", choices=("no", "bf16", "fp16"), help="default: no")
    parser.add_argument("overrides", nargs="*", help="key=value, over the YAML")
    flags = parser.parse_args()
    config = load_config(TrainUNetConfig, flags.unet_config_path, flags.overrides)
    train_unet(config, Accelerator(mixed_precision=flags.mixed_precision))
    print(f"pipeline: {config.data.output}/pipeline")


if __name__ == "__main__":
    main()
