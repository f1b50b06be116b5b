"""Trains the audio encoder of a small model.

accelerate launch scripts/train_audio.py --config configs/audio_encoder/tiny.yaml data=data/packed
output=runs/audio
"""

from latentsync.command import TrainingParser, leave


def main() -> int:
    parser = TrainingParser(__doc__)
    parser.add_argument("--config", required=True, help="YAML of the run (configs/audio_encoder/)")
    flags = parser.parse_args()

    from latentsync.config import load_config
    from latentsync.diffusion.train_audio import TrainAudioConfig, train_audio
    from latentsync.training import make_accelerator, run_job

    def job() -> None:
        config = load_config(TrainAudioConfig, flags.config, flags.overrides)
        accelerator = make_accelerator(
            config.output, mixed_precision=flags.mixed_precision, trackers=flags.tracker
        )
        train_audio(config, accelerator)
        accelerator.print(f"audio encoder: {config.output}/audio_encoder")
        accelerator.end_training()

    return run_job(job)


if __name__ == "__main__":
    leave(main())
