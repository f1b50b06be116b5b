"""Trains the audio encoder of a small model.

accelerate launch scripts/train_audio.py --config configs/audio_encoder/tiny.yaml data=data/packed
output=runs/audio
"""

import argparse

from latentsync.command import Parser, run_command


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--config", required=True, help="YAML of the run (configs/audio_encoder/)")
    parser.add_argument("overrides", nargs="*", help="key=value, over the YAML")
    return parser.parse_args()


def run(flags: argparse.Namespace) -> None:
    """Train, then say where the result is."""
    from accelerate import Accelerator

    from latentsync.config import load_config
    from latentsync.diffusion.train_audio import TrainAudioConfig, train_audio

    config = load_config(TrainAudioConfig, flags.config, flags.overrides)
    train_audio(config, Accelerator())
    print(f"audio encoder: {config.output}/audio_encoder")


def main() -> int:
    return run_command(run, parse())


if __name__ == "__main__":
    raise SystemExit(main())
