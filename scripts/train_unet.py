"""Trains a U-Net, by the recipe that the YAML is of: two stages in upstream's words, or single frames.

    accelerate launch scripts/train_unet.py --unet_config_path configs/unet/stage1.yaml \\
        data.train_data_dir=data/faces data.train_output_dir=runs/stage1
    accelerate launch scripts/train_unet.py --unet_config_path configs/unet/tiny.yaml \\
        data.packed=data/packed data.vae=runs/vae/vae \\
        data.audio_encoder=runs/audio/audio_encoder data.output=runs/unet

Started again, the same command goes on where it was stopped or killed. docs/training.md says more.
"""

import argparse

from latentsync.command import TrainingParser, leave


def parse() -> argparse.Namespace:
    parser = TrainingParser(__doc__)
    add = parser.add_argument
    add("--unet_config_path", required=True, help="YAML of the run (configs/unet/)")
    add("--lora_rank", type=int, help="two stages: LoRA of this rank on the attention (default: none)")
    add("--export_upstream", action="store_true", help="two stages: also upstream's latentsync_unet.pt")
    return parser.parse_args()


def stage_overrides(flags: argparse.Namespace) -> list[str]:
    """The flags that stand for keys of the YAML."""
    lora = [] if flags.lora_rank is None else [f"train.lora_rank={flags.lora_rank}"]
    return [*lora, *(["train.export_upstream=true"] if flags.export_upstream else [])]


def main() -> int:
    flags = parse()

    from latentsync.diffusion.stage_config import load_recipe, precision_of
    from latentsync.diffusion.train import TrainUNetConfig, train_unet
    from latentsync.diffusion.train_stages import train_stages
    from latentsync.dubbing.validation import validation_of
    from latentsync.training import make_accelerator, run_job

    def job() -> None:
        config = load_recipe(flags.unet_config_path, [*flags.overrides, *stage_overrides(flags)])
        if isinstance(config, TrainUNetConfig):
            accelerator = make_accelerator(
                config.data.output, mixed_precision=flags.mixed_precision, trackers=flags.tracker
            )
            train_unet(config, accelerator)
            model = f"{config.data.output}/pipeline"
        else:
            accelerator = make_accelerator(
                config.data.train_output_dir,
                mixed_precision=precision_of(config, flags.mixed_precision),
                trackers=flags.tracker,
            )
            model = train_stages(config, accelerator, validation=validation_of(config, accelerator))
        accelerator.print(f"pipeline: {model}")
        accelerator.end_training()

    return run_job(job)


if __name__ == "__main__":
    leave(main())
