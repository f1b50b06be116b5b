"""How often a SyncNet tells windows in sync from others: footage of people that it never saw in, shares out.

    python eval/syncnet_acc.py --syncnet checkpoints/syncnet-tiny --data data/packed --min_shift 5
    python eval/syncnet_acc.py --syncnet checkpoints/stable_syncnet.pt --fileslist val.txt

Half of the windows have the faces of another time of the clip (or of another clip, --other_clip_share), at
least --min_shift frames away; a cosine above 0.5 says "in sync". With --windows 3 the mean cosine of three
windows, five frames apart, decides: a second of speech instead of 0.64 s. A table, then one JSON line.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from latentsync.command import Parser, leave, run_command


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--syncnet", required=True, help="folder that we saved, or a file like upstream's")
    parser.add_argument("--config_path", help="YAML of a file whose network is none of configs/syncnet")
    parser.add_argument("--data", default="", help="packed collection, or folder of videos of aligned faces")
    parser.add_argument("--fileslist", default="", help="text file, a clip a line; wins over --data")
    parser.add_argument("--split", default="val", help="of a packed collection (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=2048, help="questions (default: %(default)s)")
    parser.add_argument("--min_shift", type=int, default=1, help="frames (default: %(default)s, as upstream)")
    parser.add_argument("--windows", type=int, default=1, help="an answer takes (default: %(default)s)")
    parser.add_argument("--other_clip_share", type=float, default=0.0, help="of wrong windows")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--vae", default="stabilityai/sd-vae-ft-mse", help="for a network of latents")
    parser.add_argument("--cache", type=Path, default=Path("runs/syncnet_acc"), help="of mel and surveys")
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    flags = parser.parse_args()
    for name, least in (("samples", 1), ("min_shift", 1), ("windows", 1), ("batch_size", 1)):
        if getattr(flags, name) < least:
            parser.error(f"--{name} is {getattr(flags, name)}, expected {least} or more")
    return flags


def run(flags: argparse.Namespace) -> None:
    """Ask the network, then print the table and the line."""
    from latentsync.device import pick_device
    from latentsync.diffusion.original import open_vae
    from latentsync.footage.listing import find_clips
    from latentsync.sync.accuracy import measure_accuracy, stretch_frames
    from latentsync.sync.open_syncnet import open_any_syncnet
    from latentsync.sync.syncnet_config import of_network
    from latentsync.sync.train import Library, Viewer

    device = pick_device(flags.device)
    syncnet = open_any_syncnet(flags.syncnet, flags.config_path)
    syncnet.to(device)  # pyright: ignore[reportArgumentType]
    config = of_network(syncnet)
    config = replace(
        config,
        data=replace(
            config.data,
            audio_mel_cache_dir=str(flags.cache),
            val_min_shift_frames=flags.min_shift,
            other_clip_share=flags.other_clip_share,
        ),
    )
    clips = find_clips(flags.fileslist, flags.data, split=flags.split)
    vae = open_vae(flags.vae) if config.data.latent_space else None
    found = measure_accuracy(
        syncnet,
        Library(config).windows_to_ask(clips, frames=stretch_frames(config.data.num_frames, flags.windows)),
        frames=config.data.num_frames,
        samples=flags.samples,
        batch_size=flags.batch_size,
        see=Viewer(config, device, vae),
    )
    line = json.dumps({"syncnet": flags.syncnet, "windows_an_answer": flags.windows, **found.as_dict()})
    print(line if flags.json else f"{found.table()}\n{line}")


def main() -> int:
    return run_command(run, parse())


if __name__ == "__main__":
    leave(main())
