"""Trains the refiner of a small model on what the model draws, and the articulator that tells it motion.

accelerate launch scripts/train_refiner.py --config configs/refiner/tiny.yaml data=data/packed \
    pipeline=runs/unet/pipeline output=runs/refiner
"""

from latentsync.command import TrainingParser, leave


def main() -> int:
    parser = TrainingParser(__doc__)
    parser.add_argument("--config", required=True, help="YAML of the run (configs/refiner/)")
    flags = parser.parse_args()

    from latentsync.config import load_config
    from latentsync.diffusion.train_refiner import TrainRefinerConfig, train_refiner
    from latentsync.training import make_accelerator, run_job

    def job() -> None:
        config = load_config(TrainRefinerConfig, flags.config, flags.overrides)
        accelerator = make_accelerator(
            config.output, mixed_precision=flags.mixed_precision, trackers=flags.tracker
        )
        train_refiner(config, accelerator)
        accelerator.print(f"model: {config.output}/pipeline")
        accelerator.end_training()

    return run_job(job)


if __name__ == "__main__":
    leave(main())
