"""Turns released files into a model folder of ours, and a model's U-Net back into upstream's `.pt`.

    python scripts/convert_checkpoint.py checkpoints/latentsync_unet.pt checkpoints/latentsync-1.6 \\
        --unet_config_path configs/unet/stage2_512.yaml --dtype float16
    python scripts/convert_checkpoint.py --to-upstream checkpoints/latentsync-1.6 latentsync_unet.pt
"""

import argparse
import sys

from latentsync.device import DTYPES
from latentsync.diffusion.convert import to_folder, to_upstream
from latentsync.errors import LatentSyncError


def parse() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    add = parser.add_argument
    add("source", help="latentsync_unet.pt (or .safetensors); with --to-upstream a model folder")
    add("output", help="the new folder; with --to-upstream the new .pt")
    add("--to-upstream", action="store_true", help="write the folder's U-Net for upstream's code")
    add("--unet_config_path", help="upstream's YAML (default: read off the tensors)")
    add("--whisper", help="whisper/tiny.pt (default: beside the U-Net)")
    add("--vae", help="autoencoder: folder, file or Hub id (default: beside the U-Net, else the Hub)")
    add("--resolution", type=int, help="pixels of a face, for a file that nothing else identifies")
    add("--dtype", default="float32", choices=sorted(DTYPES), help="of the folder (default float32: exact)")
    return parser.parse_args()


def main() -> int:
    flags = parse()
    try:
        if flags.to_upstream:
            print(to_upstream(flags.source, flags.output))
        else:
            options = {"whisper": flags.whisper, "vae": flags.vae, "resolution": flags.resolution}
            options |= {"config": flags.unet_config_path, "dtype": DTYPES[flags.dtype]}
            print(to_folder(flags.source, flags.output, **options))
    except (LatentSyncError, OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
