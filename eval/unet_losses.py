"""How far training brought a U-Net: all losses of its recipe before and after, on the same windows and noise.

    python eval/unet_losses.py --unet_config_path configs/unet/tiny_stage2.yaml \\
        --after runs/tiny_stage2/pipeline data.train_data_dir=data/packed

Before is what the recipe starts from (ckpt.resume_ckpt_path). The losses that training logs come from other
windows, times and noise at each step, which moves them more than some hundred steps of learning do. A table,
then one JSON line.
"""

import argparse
import json
from pathlib import Path

from latentsync.command import Parser, leave, run_command

EPOCH = 1_000_000  # its windows are drawn anew: no training comes so far


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--unet_config_path", required=True, help="YAML of two-stage training")
    parser.add_argument("--after", type=Path, required=True, help="model folder that the run left")
    parser.add_argument("--samples", type=int, default=16, help="windows (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=Path("runs/unet_losses"), help="of mel and features")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    parser.add_argument("overrides", nargs="*", help="key=value, over the YAML")
    flags = parser.parse_args()
    if flags.samples < 1:
        parser.error(f"--samples is {flags.samples}, expected 1 or more")
    return flags


def run(flags: argparse.Namespace) -> None:
    """Ask both networks, then print the table and the line."""
    from latentsync.device import pick_device
    from latentsync.diffusion.compare_stages import losses_before_and_after
    from latentsync.diffusion.released_config import ReleasedConfig
    from latentsync.diffusion.stage_config import load_recipe
    from latentsync.errors import ConfigError

    overrides = [*flags.overrides, f"data.train_output_dir={flags.cache}"]
    config = load_recipe(flags.unet_config_path, overrides)
    if not isinstance(config, ReleasedConfig):
        raise ConfigError(
            f"{flags.unet_config_path} is no recipe of two stages; expected one like stage2.yaml"
        )
    found = losses_before_and_after(
        config, flags.after, samples=flags.samples, device=pick_device(flags.device), epoch=EPOCH
    )
    if not flags.json:
        print(f"{'':8}{'before':>10}{'after':>10}   lower in")
        for name, change in found.items():
            print(f"{name:8}{change.before:10.5f}{change.after:10.5f}   {change.lower} of {flags.samples}")
    print(json.dumps({"after": str(flags.after), **{name: vars(change) for name, change in found.items()}}))


def main() -> int:
    return run_command(run, parse())


if __name__ == "__main__":
    leave(main())
