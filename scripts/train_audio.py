"""Trains the audio encoder of a small model.

accelerate launch scripts/train_audio.py --config configs/audio_encoder/tiny.yaml data=data/packed
output=runs/audio
"""

import sys

from latentsync.command import Parser
from latentsync.config import load_config
from latentsync.diffusion.train_audio import TrainAudioConfig, train_audio
from latentsync.training import make_accelerator, run_job


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--config", required=True, help="YAML of the run (configs/audio_encoder/)")
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
        config = load_config(TrainAudioConfig, flags.config, flags.overrides)
        accelerator = make_accelerator(
            config.output, mixed_precision=flags.mixed_precision, trackers=flags.tracker
        )
        train_audio(config, accelerator)
        accelerator.print(f"audio encoder: {config.output}/audio_encoder")
        accelerator.end_training()

    return run_job(job)


if __name__ == "__main__":
    sys.exit(main())
