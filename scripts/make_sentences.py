"""Makes spoken sentences whose phones are known, for scripts/train_audio.py: flite reads words aloud in four
voices.

    python scripts/make_sentences.py --output data/sentences.safetensors

The same flags give the same sentences, flite of another version apart.
"""

import argparse
from pathlib import Path

from latentsync.command import Parser, run_command


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--output", required=True, type=Path, help="new file, .safetensors")
    parser.add_argument("--count", type=int, default=600, help="sentences of some 5 s (default 600)")
    parser.add_argument("--seed", type=int, default=77, help="decides words and voices (default 77)")
    flags = parser.parse_args()
    if flags.count < 1 or flags.seed < 0:
        parser.error(f"--count {flags.count} --seed {flags.seed}: a count above 0 and a seed of 0 or more")
    return flags


def run(flags: argparse.Namespace) -> None:
    """Read aloud, write, say where."""
    import numpy as np
    from tqdm import tqdm

    from latentsync.errors import FootageError
    from latentsync.footage.sentences import save_sentences
    from latentsync.preprocess.talker.sentences import PHONES, read_aloud

    if flags.output.exists():
        raise FootageError(f"{flags.output} is there already; name another file for these sentences")
    numbers = tqdm(range(flags.count), unit="sentence")
    save_sentences(
        (read_aloud(np.random.default_rng([flags.seed, n])) for n in numbers), PHONES, flags.output
    )
    print(f"sentences: {flags.output}")


def main() -> int:
    return run_command(run, parse())


if __name__ == "__main__":
    raise SystemExit(main())
