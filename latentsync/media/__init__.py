"""Video and sound files in and out; the only package that opens them."""

from latentsync.media.audio import AudioInfo, audio_info, check_soundtrack, read_audio
from latentsync.media.frame import Frame
from latentsync.media.info import VideoInfo
from latentsync.media.picture import ColorTags
from latentsync.media.read import VideoReader
from latentsync.media.retime import Resampled, nearest_tick, resample
from latentsync.media.write import VideoWriter, check_output, make_part

__all__ = [
    "AudioInfo",
    "ColorTags",
    "Frame",
    "Resampled",
    "VideoInfo",
    "VideoReader",
    "VideoWriter",
    "audio_info",
    "check_output",
    "check_soundtrack",
    "make_part",
    "nearest_tick",
    "read_audio",
    "resample",
]
