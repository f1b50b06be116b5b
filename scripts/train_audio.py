"""Trains the audio encoder of a small model.

accelerate launch scripts/train_audio.py --config configs/audio_encoder/tiny.yaml data=data/packed
output=runs/audio
"""

import argparse

from accelerate import Accelerator

from latentsync.config import load_config
from latentsync.diffusion.train_audio import TrainAudioConfig, train_audio


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="YAML of the run (configs/audio_encoder/)")
    parser.add_argument("overrides", nargs="*", help="key=value, over the YAML")
    flags = parser.parse_args()
    config = load_config(TrainAudioConfig, flags.config, flags.overrides)
    train_audio(config, Accelerator())
    print(f"audio encoder: {config.output}/audio_encoder")


if __name__ == "__main__":
    main()
