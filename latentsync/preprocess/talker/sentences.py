"""Words without sense, read aloud by flite, which tells when each phone ends."""

import json
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from latentsync.errors import MediaError
from latentsync.footage.sentences import SAMPLES_PER_ROW, Sentence
from latentsync.preprocess.talker.speech import SAMPLE_RATE_HZ

FLITE = "flite"
FLITE_SECONDS = 60  # after which a call has hung
MEAN_PITCH_HZ = {"awb": 120, "slt": 190, "rms": 100, "kal16": 105}  # flite's voices of 16 kHz
NAMES = (
    "pau aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y "
    "z zh"
)
PHONES = tuple(NAMES.split())
ROWS_PER_SECOND = SAMPLE_RATE_HZ // SAMPLES_PER_ROW
WORDS_FILE = Path(__file__).with_name("common_words.json")


def read_aloud(rng: np.random.Generator) -> Sentence:
    """Ten to fifteen words, in a voice, a pace and a pitch that `rng` draws.

    Raises: MediaError where flite is missing, fails or answers otherwise.
    """
    words = [str(word) for word in rng.choice(_words(), int(rng.integers(10, 16)))]
    ends = set(np.cumsum(rng.integers(4, 9, 6)).tolist())
    text = " ".join(word + ("," if number in ends else "") for number, word in enumerate(words)) + "."
    voice = str(rng.choice(list(MEAN_PITCH_HZ)))
    pace, pitch = rng.uniform(0.8, 1.25), MEAN_PITCH_HZ[voice] * rng.uniform(0.8, 1.3)
    with tempfile.TemporaryDirectory(prefix="sentence_") as folder:
        path = Path(folder) / "sentence.wav"
        told = _run(
            FLITE,
            *("-voice", voice, "-psdur"),
            *("--setf", f"duration_stretch={pace:.3f}"),
            *("--setf", f"int_f0_target_mean={pitch:.1f}"),
            *("-t", text, "-o", str(path)),
        )
        rate, sound = wavfile.read(path)
    if rate != SAMPLE_RATE_HZ or sound.dtype != np.int16 or sound.ndim != 1:
        raise MediaError(
            f"flite's voice {voice} gave {sound.dtype} at {rate} Hz; expected int16 at 16000 Hz, one "
            "channel: install flite 2"
        )
    rows = len(sound) // SAMPLES_PER_ROW
    return Sentence(sound[: rows * SAMPLES_PER_ROW] / np.float32(32767), phones_of(told, rows))


def phones_of(told: str, rows: int) -> np.ndarray:
    """What flite tells, "pau:0.253 dh:0.280 ...", as numbers of PHONES (rows,) uint8; "pau" where it tells
    nothing. Raises: MediaError for what is no such line.
    """
    phones, start = np.zeros(rows, np.uint8), 0
    try:
        for part in told.split():
            name, _, seconds = part.partition(":")
            end = round(float(seconds) * ROWS_PER_SECOND)
            phones[start:end] = PHONES.index(name)
            start = end
    except ValueError as error:
        raise MediaError(
            f"flite told {told[:80]!r}; expected phones with their ends: install flite 2"
        ) from error
    return phones


@lru_cache(maxsize=1)
def _words() -> list[str]:
    return json.loads(WORDS_FILE.read_text())


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, check=True, capture_output=True, timeout=FLITE_SECONDS, text=True)
    except FileNotFoundError as error:
        raise MediaError(
            f"{command[0]} is not installed: apt-get install flite, or brew install flite"
        ) from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = str(error.stderr or "").strip().splitlines()
        raise MediaError(f"{command[0]} failed: {said[-1] if said else error}") from error
    return done.stdout
