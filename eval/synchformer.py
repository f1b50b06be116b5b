"""How good a Synchformer is on a collection: accuracy of offsets, or of whether one can be told at all.

    python eval/synchformer.py --ckpt runs/sync/best --dataset packed --vids_path data/packed --iter_times 25
    python eval/synchformer.py --exp_name 23-12-23T18-33-57 --dataset lrs3 --vids_path DATA --lists LISTS \\
        --fixed_offsets LISTS/fixed_offsets_lrs3
    python eval/synchformer.py --ckpt runs/synchability/best --offset_ckpt runs/sync/best \\
        --dataset vggsound_sparse_clean --vids_path DATA --lists LISTS --iter_times 25

Which of the two is measured follows from the network. With --offset_ckpt also what offsets are worth where
the network is sure that there is one.
"""

import argparse
import json
from pathlib import Path

from latentsync.command import Parser, leave, run_command

DATA = ("dataset", "vids_path", "lists", "fixed_offsets", "iter_times", "clip_max_len_sec", "keep_priming")


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--exp_name", help="a published run, such as 24-01-04T16-39-21, whose file is here")
    add("--ckpt", type=Path, help="a file or a folder instead (default: the embedded network)")
    add("--offset_ckpt", type=Path, help="beside a synchronizability network: one for offsets")
    add("--dataset", default="folder", help="layout of the collection (default: any *.mp4 of a folder)")
    add("--vids_path", required=True, help="folder of the collection")
    add("--lists", default="", help="data/ folder of v-iashin/Synchformer, with its lists and tables")
    add("--split", default="test", choices=("train", "valid", "test"), help="default: %(default)s")
    add("--fixed_offsets", default="", help="table, or folder of tables, of offsets (default: random ones)")
    add("--iter_times", type=int, default=1, help="passes with random offsets (default: %(default)s)")
    add("--clip_max_len_sec", type=float, default=10.0, help="read of each clip (default: %(default)s s)")
    add("--keep_priming", action="store_true", help="read the sound with the encoder's start-up, as of old")
    add("--batch_size", type=int, default=4, help="crops at a time (default: %(default)s)")
    add("--num_workers", type=int, default=0, help="processes that read clips (default: this one)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    add("--json", action="store_true", help="one JSON line instead of a table")
    return parser.parse_args()


def run(flags: argparse.Namespace) -> None:
    """Open, list, predict, print."""
    from latentsync.device import pick_device
    from latentsync.sync.synchformer.collection import evaluate_offsets, evaluate_synchronizability, lines
    from latentsync.sync.synchformer.layouts import list_clips
    from latentsync.sync.synchformer.open import open_synchformer
    from latentsync.sync.synchformer.places import locate
    from latentsync.sync.synchformer.samples import long_enough
    from latentsync.sync.synchformer.training_config import DataConfig

    device = pick_device(flags.device)
    network = open_synchformer(locate(flags.exp_name, flags.ckpt)).to(device)
    names = (
        "dataset",
        "vids_path",
        "lists",
        "fixed_offsets",
        "iter_times",
        "clip_max_len_sec",
        "keep_priming",
    )
    chosen = {name: getattr(flags, name) for name in names}
    fixed_on = [flags.split] if flags.fixed_offsets else []
    data = DataConfig.showing(network.viewing, load_fixed_offsets_on=fixed_on, **chosen)
    kind = "sync" if network.judges_offsets else "ft_synchability"
    clips = list_clips(flags.dataset, flags.vids_path, flags.split, flags.lists)
    clips = long_enough(clips, data.needed_frames(kind))
    options = {"batch_size": flags.batch_size, "workers": flags.num_workers, "quiet": False}
    if network.judges_offsets:
        table = evaluate_offsets(network, clips, data, flags.split, **options)
    else:
        offsets = open_synchformer(flags.offset_ckpt).to(device) if flags.offset_ckpt else None
        table = evaluate_synchronizability(network, clips, data, offsets, **options)
    print(json.dumps(table) if flags.json else "\n".join(lines(table)))


def main() -> int:
    return run_command(run, parse())


if __name__ == "__main__":
    leave(main())
