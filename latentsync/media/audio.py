"""Sound out of any video or sound file: float32 samples in [-1, 1] on the timeline of the pictures.

Sample 0 is the container's time zero, as for `VideoReader`: a track that starts late is padded with silence,
what lies before zero (the priming of AAC, MP3 and Opus) is cut. In a file without pictures zero is the first
sample after the priming. `T` counts samples.
"""

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from latentsync.errors import MediaError
from latentsync.media.container import open_media
from latentsync.media.sound import audio_stream, resampled, sound_blocks, unplaced_blocks

SAMPLE_RATE_HZ = 16000
MIN_AUDIO_SECONDS = 0.04  # one picture at 25 fps


@dataclass(frozen=True)
class AudioInfo:
    codec: str
    rate: int  # samples a second
    channels: int
    duration_seconds: float  # as declared by the file; 0 where it does not say


def read_audio(path: str | Path, rate: int = SAMPLE_RATE_HZ, *, keep_priming: bool = False) -> np.ndarray:
    """The whole soundtrack as mono, (T,) float32 in [-1, 1]: channels averaged, resampled to `rate`.

    Samples that are not finite (a damaged float WAV) become silence, with a warning. With `keep_priming`,
    sample 0 is the first that the decoder has: the sound then comes up to 0.1 s late in files whose encoder
    needed to start up, as it did in data sets that were read so.

    Raises: FileNotFoundError; MediaError where there is no sound or less than MIN_AUDIO_SECONDS of it.
    """
    path = Path(path)
    with open_media(path, what="sound") as container:
        stream = audio_stream(container, path)
        blocks = unplaced_blocks if keep_priming else sound_blocks
        mono = (block.mean(axis=0, keepdims=True) for block in blocks(container, stream))
        heard = [block[0] for block in resampled(mono, stream.rate, rate)]
    sound = np.concatenate(heard) if heard else np.zeros(0, np.float32)
    _check_duration(path, len(sound) / rate)
    return np.clip(sound, -1, 1, out=sound)


def audio_info(path: str | Path) -> AudioInfo:
    """What the file says of its first sound track.

    Raises: FileNotFoundError; MediaError where there is no sound track.
    """
    with open_media(path, what="sound") as container:
        stream = audio_stream(container, Path(path))
        return AudioInfo(
            stream.codec_context.name, stream.rate, stream.channels, _declared(container, stream)
        )


def check_soundtrack(path: str | Path) -> AudioInfo:
    """`audio_info` of a file whose sound was found decodable and at least MIN_AUDIO_SECONDS long.

    Raises: FileNotFoundError; MediaError.
    """
    info, seconds = audio_info(path), 0.0
    with open_media(path, what="sound") as container:
        stream = audio_stream(container, Path(path))
        for block in sound_blocks(container, stream):
            seconds += block.shape[1] / stream.rate
            if seconds >= MIN_AUDIO_SECONDS:
                return info
    _check_duration(Path(path), seconds)
    return info


def _declared(container: InputContainer, stream: AudioStream) -> float:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _check_duration(path: Path, seconds: float) -> None:
    if seconds == 0:
        raise MediaError(
            f"{path} has a sound track, but nothing of it can be decoded; save it as WAV and try again"
        )
    if seconds < MIN_AUDIO_SECONDS:
        raise MediaError(
            f"the sound of {path} lasts {seconds * 1000:.0f} ms, at least {MIN_AUDIO_SECONDS * 1000:.0f} ms "
            "(one picture) are needed; pass a longer recording"
        )
