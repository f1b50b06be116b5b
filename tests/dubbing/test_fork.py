"""Two readers of one stream: both read all of it, in any order of reading, and nothing else is kept."""

import random
import weakref

from latentsync.dubbing.fork import fork


def test_both_readers_get_everything_however_they_take_turns():
    for seed in range(20):
        draw = random.Random(seed)
        readers, read = fork(range(30)), ([], [])
        while len(read[0]) < 30 or len(read[1]) < 30:
            side = draw.randrange(2)
            read[side].extend([item] if (item := next(readers[side], None)) is not None else [])
        assert read == (list(range(30)), list(range(30)))
        assert next(readers[0], "end") == next(readers[1], "end") == "end"


def test_only_what_one_reader_is_behind_is_kept():
    class Big:
        pass

    born = []

    def items():
        for _ in range(50):
            item = Big()
            born.append(weakref.ref(item))
            yield item

    ahead, behind = fork(items())
    for _ in range(5):
        next(ahead)
    for _ in range(45):
        next(behind)
        next(ahead)
        assert sum(reference() is not None for reference in born) <= 7
