"""Trains the autoencoder of a small model.

accelerate launch scripts/train_vae.py --config configs/vae/tiny.yaml data=data/packed output=runs/vae
"""

import sys

from latentsync.command import Parser
from latentsync.config import load_config
from latentsync.diffusion.train_vae import TrainVaeConfig, train_vae
from latentsync.training import make_accelerator, run_job


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--config", required=True, help="YAML of the run (configs/vae/)")
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
        config = load_config(TrainVaeConfig, flags.config, flags.overrides)
        accelerator = make_accelerator(
            config.output, mixed_precision=flags.mixed_precision, trackers=flags.tracker
        )
        train_vae(config, accelerator)
        accelerator.print(f"autoencoder: {config.output}/vae")
        accelerator.end_training()

    return run_job(job)


if __name__ == "__main__":
    sys.exit(main())
