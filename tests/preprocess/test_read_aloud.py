"""Sentences that flite reads aloud, and the phones that it tells of them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from latentsync.audio.loudness import log_energy
from latentsync.errors import MediaError
from latentsync.footage.sentences import SAMPLES_PER_ROW, load_sentences
from latentsync.preprocess.talker.sentences import PHONES, phones_of, read_aloud

SCRIPT = Path(__file__).parents[2] / "scripts/make_sentences.py"


@pytest.fixture
def flite():
    if shutil.which("flite") is None:
        if os.environ.get("CI"):
            pytest.fail("flite is not installed, and CI skips nothing: apt-get install flite")
        pytest.skip("flite is not installed")


def test_rows_get_the_phone_that_sounds_in_them():
    rows = phones_of("pau:0.10 aa:0.20 b:0.24 \n", 15)
    assert [PHONES[number] for number in rows] == ["pau"] * 5 + ["aa"] * 5 + ["b"] * 2 + ["pau"] * 3


@pytest.mark.parametrize("told", ["pau", "pau:x", "nonsense:0.2"])
def test_another_answer_of_flite_is_refused(told):
    with pytest.raises(MediaError, match="expected phones with their ends"):
        phones_of(told, 10)


@pytest.mark.usefixtures("flite")
def test_a_sentence_is_silent_where_its_phones_say_so():
    said = read_aloud(np.random.default_rng(3))
    assert len(said.waveform) == SAMPLES_PER_ROW * len(said.phones) > 2 * 16_000
    energy = log_energy(said.waveform, 50, len(said.phones))
    vowels = np.isin(said.phones, [PHONES.index(name) for name in ("aa", "ae", "iy", "ow", "ah")])
    pauses = said.phones == PHONES.index("pau")
    assert vowels.sum() > 10 and pauses.sum() > 5
    assert np.median(energy[vowels]) > np.median(energy[pauses]) + 2
    again = read_aloud(np.random.default_rng(3))
    assert np.array_equal(said.waveform, again.waveform) and np.array_equal(said.phones, again.phones)


def test_without_flite_the_remedy_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MediaError, match="apt-get install flite"):
        read_aloud(np.random.default_rng(0))


@pytest.mark.slow
@pytest.mark.usefixtures("flite")
def test_the_script_writes_a_file_once(tmp_path):
    path = tmp_path / "sentences.safetensors"
    command = [sys.executable, str(SCRIPT), "--output", str(path), "--count", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(load_sentences(path).sentences) == 3
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2 and "is there already" in again.stderr and "Traceback" not in again.stderr
