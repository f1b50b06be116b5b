"""Trains the denoiser of a small model and saves the whole pipeline.

    accelerate launch scripts/train_unet.py --unet_config_path configs/unet/tiny.yaml \\
        data.packed=data/packed data.vae=runs/vae/vae \\
        data.audio_encoder=runs/audio/audio_encoder data.output=runs/unet
"""

import sys

from latentsync.command import Parser
from latentsync.config import load_config
from latentsync.diffusion.train import TrainUNetConfig, train_unet
from latentsync.training import make_accelerator, run_job


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--unet_config_path", required=True, help="YAML of the run (configs/unet/)")
    parser.add_argument(
        "--mixed_precision",
        choices=("no", "bf16", "fp16"),
        help="default: what accelerate launch says, or no",
    )
    parser.add_argument(
        "--tracker",
        action="append",
        default=[],
        choices=("tensorboard", "wandb"),
        help="may be given twice; default: log.jsonl alone",
    )
    parser.add_argument("overrides", nargs="*", help="key=value, over the YAML")
    flags = parser.parse_args()

    def job() -> None:
        config = load_config(TrainUNetConfig, flags.unet_config_path, flags.overrides)
        accelerator = make_accelerator(
            config.data.output, mixed_precision=flags.mixed_precision, trackers=flags.tracker
        )
        train_unet(config, accelerator)
        accelerator.print(f"pipeline: {config.data.output}/pipeline")
        accelerator.end_training()

    return run_job(job)


if __name__ == "__main__":
    sys.exit(main())
