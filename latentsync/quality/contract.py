"""What a dubbed clip promises besides its mouth: size and rate of its source, frames and length that fit."""

from dataclasses import dataclass
from pathlib import Path

from latentsync.errors import MediaError
from latentsync.media import VideoInfo, VideoReader, read_audio
from latentsync.media.audio import SAMPLE_RATE_HZ

CODEC_SECONDS = (
    0.064  # an AAC track ends with a whole frame, and some decoders keep its start-up: 1024 samples
)
RATE_TOLERANCE = 1e-3  # 29.97 and 30000/1001 are the same


@dataclass(frozen=True)
class Contract:
    """A result's form; `faults` say in words what differs from what was promised, () where all holds."""

    frames: int
    width: int
    height: int
    fps: float
    video_seconds: float
    sound_seconds: float | None  # of the result's own sound track, None without one
    faults: tuple[str, ...] = ()

    @property
    def is_kept(self) -> bool:
        return not self.faults


def check_contract(
    result: str | Path, *, source: str | Path | None = None, sound: str | Path | None = None
) -> Contract:
    """Compare a result with the `source` that it shows and the `sound` that it should have.

    Size and rate must be the source's; pictures and sound of the result must last equally long, and as long
    as either `sound` (the clip was fitted to it) or `source` (the sound was), to within a picture and what a
    codec adds. Raises: FileNotFoundError, MediaError for files that cannot be read.
    """
    info, frames = _counted(Path(result))
    picture = 1 / float(info.fps)
    own_seconds = _sound_seconds(result) if info.has_audio else None
    faults = [] if own_seconds is not None else ["it has no sound track"]
    if own_seconds is not None and abs(info.duration_seconds - own_seconds) > picture + CODEC_SECONDS:
        faults.append(f"its pictures last {info.duration_seconds:.3f} s, its sound {own_seconds:.3f} s")
    promised = []
    if source is not None:
        wanted, count = _counted(Path(source))
        faults += _form_faults(info, wanted)
        promised.append(
            (f"the source {wanted.duration_seconds:.3f} s ({count} frames)", wanted.duration_seconds)
        )
    if sound is not None:
        seconds = _sound_seconds(sound)
        promised.append((f"the sound {seconds:.3f} s", seconds))
    lengths = [seconds for _, seconds in promised]
    if promised and all(abs(info.duration_seconds - length) > picture + CODEC_SECONDS for length in lengths):
        said = ", ".join(words for words, _ in promised)
        faults.append(f"it lasts {info.duration_seconds:.3f} s ({frames} frames), {said}")
    return Contract(
        frames, info.width, info.height, float(info.fps), info.duration_seconds, own_seconds, tuple(faults)
    )


def _form_faults(info: VideoInfo, wanted: VideoInfo) -> list[str]:
    faults = []
    if (info.width, info.height) != (wanted.width, wanted.height):
        faults.append(f"it is {info.width}x{info.height} px, the source {wanted.width}x{wanted.height}")
    if abs(float(info.fps / wanted.fps) - 1) > RATE_TOLERANCE:
        faults.append(f"it has {float(info.fps):.5g} frames a second, the source {float(wanted.fps):.5g}")
    return faults


def _counted(path: Path) -> tuple[VideoInfo, int]:
    with VideoReader(path) as reader:
        return reader.info, reader.info.frame_count or sum(1 for _ in reader)


def _sound_seconds(path: str | Path) -> float:
    sound = read_audio(path)
    if len(sound) == 0:
        raise MediaError(f"{path} has no sound")
    return len(sound) / SAMPLE_RATE_HZ
