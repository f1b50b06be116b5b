"""What a training run shows of itself: a clip dubbed with the weights so far, its numbers and its pictures.

The trainer knows no dubbing; scripts hand it this. Files lie in the run's folder: validation/step-<n>.mp4 and
step-<n>.png, a row of frames.
"""

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image

from latentsync.audio.loudness import log_energy
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.released_config import ReleasedConfig
from latentsync.diffusion.stage_parts import syncnet_at_hand
from latentsync.dubbing.job import dub
from latentsync.errors import FaceNotFound, MediaError
from latentsync.face import MediaPipeDetector
from latentsync.face.detect import Detector
from latentsync.media import VideoReader, read_audio
from latentsync.quality.aperture import LipTrack, pearson
from latentsync.quality.cross_dub import FPS, measure_clip, ping_pong
from latentsync.sync.judge import Judge
from latentsync.sync.stable_judge import StableSyncNetJudge
from latentsync.sync.verdict import judge_clip
from latentsync.training import log_pictures

Validation = Callable[[LipsyncPipeline, int], Mapping[str, float]]
Show = Callable[[np.ndarray, int], None]  # pictures uint8 (N, H, W, 3), step
FOLDER = "validation"
PICTURES, PICTURE_HEIGHT = 6, 256

logger = logging.getLogger(__name__)


def validation_of(config: ReleasedConfig, accelerator: Accelerator) -> Validation | None:
    """`dub_validation` of the clip that `config` names, None where it names none; the judge of sync is the
    run's SyncNet where it looks at pixels, and where its file is there. Only the first process prepares.
    """
    data = config.data
    if not data.val_video_path or not data.val_audio_path or not accelerator.is_main_process:
        return None
    syncnet = syncnet_at_hand(config)
    judge = None if syncnet is None else StableSyncNetJudge(syncnet, device=accelerator.device)
    return dub_validation(
        Path(data.val_video_path),
        Path(data.val_audio_path),
        Path(data.train_output_dir) / FOLDER,
        judge=judge,
        show=lambda pictures, step: log_pictures(accelerator, FOLDER, pictures, step),
    )


def dub_validation(
    video: Path, audio: Path, folder: Path, *, judge: Judge | None = None, show: Show | None = None
) -> Validation:
    """A function that dubs `video` with `audio` into `folder`, tells numbers and shows pictures.

    Numbers: `lip_r`, the correlation of the lips' opening with that of the speaker of `audio`, where that is
    a video; `lip_r_own`, with the source's own, `lip_r_loudness`, with the sound's loudness; with a `judge`
    `sync_confidence` and `sync_offset_frames`. NaN where no face is found in the result. Raises, at once:
    FileNotFoundError, MediaError, FaceNotFound for clips that cannot serve.
    """
    waveform = read_audio(audio)
    with MediaPipeDetector() as detector:
        own, truth = measure_clip(video, detector), _speaker(audio, detector)
    if not np.isfinite(own.aperture).any():
        raise FaceNotFound(
            f"no face in the validation clip {video}: set data.val_video_path to one that shows a face, or "
            'to "" for none'
        )

    def validate(pipeline: LipsyncPipeline, step: int) -> Mapping[str, float]:
        folder.mkdir(parents=True, exist_ok=True)
        result = folder / f"step-{step}.mp4"
        dtype = str(pipeline.unet.dtype).removeprefix("torch.")
        dub(video, audio, result, model=pipeline, device=str(pipeline.device), dtype=dtype)
        pictures = pictures_of(result)
        Image.fromarray(np.concatenate(list(pictures), axis=1)).save(folder / f"step-{step}.png")
        if show is not None:
            show(pictures, step)
        with MediaPipeDetector() as detector:
            numbers = lip_numbers(measure_clip(result, detector), own, truth, waveform)
            if judge is not None:
                numbers |= sync_numbers(result, judge, detector)
        return numbers

    return validate


def lip_numbers(
    result: LipTrack, own: LipTrack, truth: LipTrack | None, waveform: np.ndarray
) -> dict[str, float]:
    """Correlations of the lips of a `result` with what they should follow, and with what they should not."""
    count = len(result.aperture)
    shown = own.take(ping_pong(len(own.aperture), count))
    numbers = {
        "lip_r_own": pearson(result.aperture, shown.aperture),
        "lip_r_loudness": pearson(result.aperture, log_energy(waveform, FPS, count)),
    }
    if truth is not None:
        count = min(count, len(truth.aperture))
        numbers["lip_r"] = pearson(result.aperture[:count], truth.aperture[:count])
    return numbers


def sync_numbers(video: Path, judge: Judge, detector: Detector) -> dict[str, float]:
    """What a judge says of the face in a result; NaN for one that it cannot judge."""
    best = judge_clip(video, judge, detector).best
    score = None if best is None else best.score
    return {
        "sync_confidence": math.nan if score is None else score.confidence,
        "sync_offset_frames": math.nan if score is None else score.offset_frames,
    }


def pictures_of(video: Path, count: int = PICTURES) -> np.ndarray:
    """Frames spread over a clip, uint8 (count, PICTURE_HEIGHT, W, 3)."""
    with VideoReader(video) as reader:
        total = reader.info.frame_count or sum(1 for _ in reader)
        wanted = {round(place) for place in np.linspace(0, total - 1, count)}
        images = [frame.image for frame in reader if frame.index in wanted]
    height, width = images[0].shape[:2]
    size = (max(1, round(width * PICTURE_HEIGHT / height)), PICTURE_HEIGHT)
    return np.stack([np.asarray(Image.fromarray(image).resize(size)) for image in images])


def _speaker(audio: Path, detector: Detector) -> LipTrack | None:
    """The lips that spoke `audio`, where it is a video that shows them."""
    try:
        lips = measure_clip(audio, detector)
    except MediaError:  # a sound file has no pictures
        return None
    return lips if math.isfinite(np.nanmax(lips.aperture, initial=-math.inf)) else None
