"""Turns released files into a model folder of ours, and a model's U-Net back into upstream's `.pt`.

    python scripts/convert_checkpoint.py checkpoints/latentsync_unet.pt checkpoints/latentsync-1.6 \\
        --unet_config_path configs/unet/stage2_512.yaml --dtype float16
    python scripts/convert_checkpoint.py --to-upstream checkpoints/latentsync-1.6 latentsync_unet.pt
"""

import argparse

from latentsync.command import Parser, run_command


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("source", help="latentsync_unet.pt (or .safetensors); with --to-upstream a model folder")
    add("output", help="the new folder; with --to-upstream the new .pt")
    add("--to-upstream", action="store_true", help="write the folder's U-Net for upstream's code")
    add("--unet_config_path", help="upstream's YAML (default: read off the tensors)")
    add("--whisper", help="whisper/tiny.pt (default: beside the U-Net)")
    add("--vae", help="autoencoder: folder, file or Hub id (default: beside the U-Net, else the Hub)")
    add("--resolution", type=int, help="pixels of a face, for a file that nothing else identifies")
    add(
        "--dtype",
        default="float32",
        choices=("bfloat16", "float16", "float32"),
        help="of the folder (default float32: exact)",
    )
    return parser.parse_args()


def run(flags: argparse.Namespace) -> None:
    """Convert, then say where the result is."""
    from latentsync.device import DTYPES
    from latentsync.diffusion.convert import to_folder, to_upstream

    if flags.to_upstream:
        print(to_upstream(flags.source, flags.output))
        return
    options = {"whisper": flags.whisper, "vae": flags.vae, "resolution": flags.resolution}
    options |= {"config": flags.unet_config_path, "dtype": DTYPES[flags.dtype]}
    print(to_folder(flags.source, flags.output, **options))


def main() -> int:
    return run_command(run, parse(), interrupted="interrupted: nothing was written")


if __name__ == "__main__":
    raise SystemExit(main())
