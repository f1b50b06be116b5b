"""Trains the autoencoder of a small model.

accelerate launch scripts/train_vae.py --config configs/vae/tiny.yaml data=data/packed output=runs/vae
"""

from latentsync.command import TrainingParser, leave


def main() -> int:
    parser = TrainingParser(__doc__)
    parser.add_argument("--config", required=True, help="YAML of the run (configs/vae/)")
    flags = parser.parse_args()

    from latentsync.config import load_config
    from latentsync.diffusion.train_vae import TrainVaeConfig, train_vae
    from latentsync.training import make_accelerator, run_job

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
    leave(main())
