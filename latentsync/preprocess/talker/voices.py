"""What a talker can say besides babble: words by espeak-ng, or any recording, with lips that follow the
sound.
"""

import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from latentsync.errors import MediaError
from latentsync.media import read_audio
from latentsync.preprocess.talker.speech import FPS, SAMPLE_RATE_HZ, Speech, lips_of
from latentsync.preprocess.talker.talker import SAMPLES_PER_FRAME, Speaks

ESPEAK = "espeak-ng"
ESPEAK_SECONDS = 60  # after which a call has hung
VOICES = ("en-us+f2", "en-us+f3", "en-us+m1", "en-us+m3", "en-us+m7", "en-gb+f4", "en-gb+m2", "en-gb+m5")
WORDS = (
    "about after again answer apple bottle bring broad butter careful carry change city clever cloud coffee "
    "corner cover dinner early every family father feather follow forest garden gentle given happy hollow "
    "island kitchen ladder large letter little lovely marble matter meadow moment morning mother mountain "
    "music never number open orange over paper people picture pocket problem quiet rather river second seven "
    "shallow silver simple sister slowly summer table thunder together tomorrow under valley village wander "
    "water weather window winter wonder yellow"
)
WORDS_PER_SECOND = 3.5  # more than is ever spoken: what is too long is cut


def espeak(frames: int, rng: np.random.Generator) -> Speech:
    """Words without sense, spoken by espeak-ng in a voice, a pace and a pitch that `rng` draws.

    Raises: MediaError where espeak-ng is missing or fails.
    """
    seconds = frames / FPS
    words = [str(word) for word in rng.choice(WORDS.split(), 4 + round(WORDS_PER_SECOND * seconds))]
    ends = set(np.cumsum(rng.integers(3, 9, len(words))).tolist())
    text = " ".join(word + ("," if number in ends else "") for number, word in enumerate(words))
    options = [
        "-v",
        str(rng.choice(VOICES)),
        "-s",
        str(rng.integers(130, 185)),
        "-p",
        str(rng.integers(30, 70)),
    ]
    with tempfile.TemporaryDirectory(prefix="talker_") as folder:
        path = Path(folder) / "speech.wav"
        _run([ESPEAK, *options, "-w", str(path), text])
        sound = read_audio(path, SAMPLE_RATE_HZ)
    return _lips(sound, frames, rng)


def recording(path: str | Path) -> Speaks:
    """A voice that says what a sound file says, from somewhere in it.

    Raises, when it speaks: FileNotFoundError; MediaError for no sound, or less of it than wanted.
    """

    def speak(frames: int, rng: np.random.Generator) -> Speech:
        sound = _sound(Path(path))
        spare = len(sound) // SAMPLES_PER_FRAME - frames
        if spare < 0:
            raise MediaError(
                f"{path} lasts {len(sound) / SAMPLE_RATE_HZ:.1f} s, {frames / FPS:.1f} s are to be spoken; "
                "pass a longer recording or ask for fewer seconds"
            )
        start = int(rng.integers(spare + 1)) * SAMPLES_PER_FRAME
        return _lips(sound[start:], frames, rng)

    return speak


def _lips(sound: np.ndarray, frames: int, rng: np.random.Generator) -> Speech:
    """The first `frames` of a sound, at some loudness, with its lips."""
    sound = sound[: frames * SAMPLES_PER_FRAME]
    sound = np.pad(sound, (0, frames * SAMPLES_PER_FRAME - len(sound)))
    loudest = max(float(np.abs(sound).max()), 1e-6)
    return lips_of(sound * np.float32(rng.uniform(0.15, 0.6) / loudest), frames)


@lru_cache(maxsize=2)
def _sound(path: Path) -> np.ndarray:
    return read_audio(path, SAMPLE_RATE_HZ)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=ESPEAK_SECONDS)
    except FileNotFoundError as error:
        raise MediaError(f"{command[0]} is not installed; install it or let talkers babble") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        raise MediaError(f"{command[0]} failed: {said[-1] if said else error}") from error
