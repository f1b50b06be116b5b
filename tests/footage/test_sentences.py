"""Spoken sentences on disk: what goes in comes out, and anything else is refused in one line."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from latentsync.errors import FootageError
from latentsync.footage.sentences import SAMPLES_PER_ROW, Sentence, load_sentences, save_sentences

NAMES = ("pau", "aa", "b")


def sentence(rows, seed):
    rng = np.random.default_rng(seed)
    waveform = rng.uniform(-1, 1, rows * SAMPLES_PER_ROW).astype(np.float32)
    return Sentence(waveform, rng.integers(0, len(NAMES), rows).astype(np.uint8))


def test_what_is_saved_comes_back(tmp_path):
    path, held = tmp_path / "new/sentences.safetensors", [sentence(5, 0), sentence(9, 1)]
    save_sentences(iter(held), NAMES, path)
    found = load_sentences(path)
    assert found.names == NAMES and len(found.sentences) == 2
    for one, other in zip(held, found.sentences, strict=True):
        assert np.array_equal(one.phones, other.phones)
        assert np.abs(one.waveform - other.waveform).max() < 1 / 32767
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no part is left
    with pytest.raises(FootageError, match="is there already"):
        save_sentences(held, NAMES, path)


def parts(**changes):
    held = {
        "waveform": np.zeros(4 * SAMPLES_PER_ROW, np.int16),
        "phones": np.zeros(4, np.uint8),
        "rows": np.array([1, 3], np.int32),
    }
    return held | changes


@pytest.mark.parametrize(
    ("tensors", "names", "said"),
    [
        ({"weight": np.zeros(3, np.float32)}, "pau", "not spoken sentences"),
        (parts(), "", "not spoken sentences"),
        (parts(waveform=np.zeros(9, np.float32)), "pau", "not spoken sentences"),
        (parts(waveform=np.zeros(9, np.int16)), "pau", r"\(4,\) phones for \(9,\) samples"),
        (parts(rows=np.array([1, 2], np.int32)), "pau", "lengths or phones that it does not have"),
        (parts(rows=np.array([5, -1], np.int32)), "pau", "lengths or phones that it does not have"),
        (parts(rows=np.zeros(0, np.int32)), "pau", "lengths or phones that it does not have"),
        (parts(phones=np.full(4, 7, np.uint8)), "pau", "lengths or phones that it does not have"),
    ],
)
def test_another_file_is_refused(tmp_path, tensors, names, said):
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata={"phones": names})
    with pytest.raises(FootageError, match=said):
        load_sentences(path)


def test_a_missing_or_cut_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="make_sentences"):
        load_sentences(tmp_path / "no.safetensors")
    path = tmp_path / "sentences.safetensors"
    save_sentences([sentence(5, 0)], NAMES, path)
    for count in (0, 40, path.stat().st_size - 7):
        path.write_bytes(path.read_bytes()[:count])
        with pytest.raises(FootageError, match="cannot be read"):
            load_sentences(path)
