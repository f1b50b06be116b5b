"""Trains a SyncNet, or examines footage and network before anybody does.

    accelerate launch scripts/train_syncnet.py --config_path configs/syncnet/syncnet_16_pixel_attn.yaml \\
        data.train_data_dir=data/packed data.train_output_dir=runs/syncnet
    python scripts/train_syncnet.py --check data/packed
    python scripts/train_syncnet.py --config_path configs/syncnet/tiny.yaml --overfit \\
        data.train_data_dir=data/packed

--check tells how lips and sound of the footage agree, what is silent or still and what is in two splits, and
leaves report.txt, report.json and faces.png in data.train_output_dir/check; --overfit trains one batch until
the network knows it by heart, or says what is broken. Both end with exit code 1 when they find something.
"""

import argparse
from pathlib import Path

from latentsync.command import TrainingParser, leave

FOUND_SOMETHING = 1
OUTPUT = Path("runs/syncnet")


def parse() -> argparse.Namespace:
    parser = TrainingParser(__doc__)
    parser.add_argument("--config_path", help="YAML of the run (configs/syncnet/); not needed for --check")
    parser.add_argument(
        "--check",
        metavar="DATA",
        help="examine a folder or list of clips, all its splits, and train nothing",
    )
    parser.add_argument("--overfit", action="store_true", help="learn one batch by heart, no more")
    return parser.parse_args()


def examine(flags: argparse.Namespace) -> int:
    """The doctor's report of the footage, on the screen and in files."""
    from latentsync.config import load_config
    from latentsync.footage.check import check
    from latentsync.footage.listing import all_clips, find_clips
    from latentsync.sync.syncnet_config import SyncNetConfig

    config = load_config(SyncNetConfig, flags.config_path, flags.overrides) if flags.config_path else None
    files = all_clips(flags.check)
    if config and (config.data.val_fileslist or config.data.val_data_dir):
        files += find_clips(config.data.val_fileslist, config.data.val_data_dir, split="val")
    folder = Path(config.data.train_output_dir if config else OUTPUT) / "check"
    report = check(files, folder / "cache")
    report.save(folder)
    print(report.table())
    print(f"report and faces: {folder}")
    return FOUND_SOMETHING if report.findings() else 0


def train(flags: argparse.Namespace) -> int:
    """A run, or one batch of it."""
    from latentsync.config import load_config
    from latentsync.diffusion.original import open_vae
    from latentsync.errors import ConfigError
    from latentsync.sync.syncnet_config import SyncNetConfig
    from latentsync.sync.train import RESULT, overfit_one_batch, train_syncnet
    from latentsync.training import choose_precision, make_accelerator

    if not flags.config_path:
        raise ConfigError("--config_path is missing: name a YAML of configs/syncnet, or use --check DATA")
    config = load_config(SyncNetConfig, flags.config_path, flags.overrides)
    accelerator = make_accelerator(
        config.data.train_output_dir,
        mixed_precision=choose_precision(flags.mixed_precision, wanted=config.run.mixed_precision_training),
        trackers=flags.tracker,
    )
    vae = open_vae(config.data.vae_path) if config.data.latent_space else None
    if flags.overfit:
        report = overfit_one_batch(config, accelerator, vae=vae)
        accelerator.print(report)
        return 0 if report.is_passed else FOUND_SOMETHING
    train_syncnet(config, accelerator, vae=vae)
    accelerator.print(f"SyncNet: {config.data.train_output_dir}/{RESULT}")
    accelerator.end_training()
    return 0


def main() -> int:
    flags = parse()

    from latentsync.training import run_job

    code = 0

    def job() -> None:
        nonlocal code
        code = examine(flags) if flags.check else train(flags)

    return run_job(job) or code


if __name__ == "__main__":
    leave(main())
