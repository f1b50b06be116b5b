"""One dubbing job, start to end: a talking clip and a soundtrack in, the same clip with matching lips out,
and a report.

read -> track -> draw -> compose -> write, each an iterator of frames: memory does not grow with the clip's
length.
"""

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentsync.audio.mel import syncnet_mel
from latentsync.device import pick_device, pick_dtype
from latentsync.diffusion.condition import FaceMemory
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.sampling import Sampling
from latentsync.diffusion.sync_guidance import SyncGuidance
from latentsync.dubbing.background import run_ahead
from latentsync.dubbing.memory import MemoryPlan, lay_out
from latentsync.dubbing.model import find_syncnet, load_model
from latentsync.dubbing.playback import frame_total, play
from latentsync.dubbing.redraw import Result, redraw, same_noise
from latentsync.dubbing.report import DubReport, Progress, ProgressCallback, package_versions
from latentsync.dubbing.settings import DubSettings, prepared
from latentsync.errors import FaceNotFound, LatentSyncError, MediaError
from latentsync.face import Composer, Face, Tracked, bridge_gaps, make_detector, paste_mask, track
from latentsync.media import VideoReader, VideoWriter, check_output, make_part, read_audio
from latentsync.profiling import Profiler, peak_memory_bytes, stage
from latentsync.sync.open_syncnet import open_syncnet

logger = logging.getLogger(__name__)

SAMPLE_RATE_HZ = 16_000
FRAMES_AHEAD = 4
WINDOWS_AHEAD = 64  # of audio, some 80 kB each: heard while faces are looked for
MAX_CACHED_FRAMES = 5000  # of a looped clip: detections, some 4 kB each, and latents, 64 kB (256 px)
NOTE = "Lips redrawn by a machine (LatentSync): what this person seems to say is not what was recorded."


@dataclass
class FaceCount:
    """Frames in which the followed face was seen, those beside a gap included."""

    frames: int = 0

    def count(self, tracked: Iterable[Tracked]) -> Iterator[Tracked]:
        for item in tracked:
            self.frames += item.face is not None
            yield item


def dub(
    video: str | Path,
    audio: str | Path,
    output: str | Path,
    *,
    model: str | Path | LipsyncPipeline | None = None,
    progress: ProgressCallback | None = None,
    profiler: Profiler | None = None,
    **options: object,
) -> DubReport:
    """Write `output`: the clip `video` with lips that say `audio`, and `audio` as its soundtrack.

    `model` is a folder, a Hub id or a loaded pipeline; by default the embedded one. `options` are those of
    `DubSettings`. `profiler`, a fresh one, is for a caller who wants more than the report's seconds by stage.
    Raises: FileNotFoundError, MediaError, FaceNotFound, CheckpointError, ValueError; `output` is then as it
    was before.
    """
    settings = DubSettings(**options)  # type: ignore[arg-type]  # a wrong name is a TypeError that says so
    video, audio, output = Path(video), Path(audio), Path(output)
    check_output(output, [video, audio])
    profiler, began = profiler or Profiler(), time.perf_counter()
    with profiler("hear"):
        waveform = read_audio(audio, SAMPLE_RATE_HZ)
    with VideoReader(video) as reader:
        with profiler("load", on_device=True):
            device = pick_device(settings.device)
            dtype = pick_dtype(settings.dtype, device)
            first = device if settings.stays_on_device else torch.device("cpu")
            pipeline, name = load_model(
                model, first, dtype, overlap=settings.overlap, lora=settings.lora, **settings.original_files()
            )
            pipeline = prepared(pipeline, settings)
            seconds = _seconds(settings.duration, Fraction(len(waveform), SAMPLE_RATE_HZ), reader)
            batching = settings.batching(pipeline.window, _windows(pipeline, seconds))
            plan = lay_out(pipeline, device, vram=settings.vram, offload=settings.offload, batching=batching)
            if plan is not None:
                logger.info("%s", plan)
            steering = _steering(model, waveform, pipeline, settings) if settings.sync_guidance else None
            sampling = settings.sampling(pipeline, steering)
        faces = FaceCount()
        results = _results(reader, waveform, seconds, pipeline, sampling, settings, profiler, faces)
        with _unfinished(output.resolve(), settings.temp_dir) as target:
            try:
                counts = _write(results, reader, audio, target, seconds, settings, profiler, progress)
            except torch.OutOfMemoryError as error:
                raise LatentSyncError(
                    f"out of memory on {device} in {pipeline.unet.dtype}: "
                    "pass --vram with less than what is free, --dtype float16, or --device cpu"
                ) from error
    return DubReport(
        video=str(video),
        audio=str(audio),
        output=str(output),
        model=name,
        **counts,
        faces_found=faces.frames,
        width=reader.info.width,
        height=reader.info.height,
        fps=float(reader.info.fps),
        duration_seconds=float(seconds),
        total_seconds=time.perf_counter() - began,
        seconds_by_stage=profiler.seconds_by_stage,
        peak_memory_bytes=peak_memory_bytes(),
        seed=settings.seed,
        settings=_plain(settings, sampling, device, pipeline, plan),
        versions=package_versions(),
    )


def _seconds(duration: str, audio_seconds: Fraction, reader: VideoReader) -> Fraction:
    """How long the result lasts, at least one frame."""
    video_seconds = Fraction(reader.info.duration_seconds).limit_denominator(1_000_000)
    wanted = {"audio": audio_seconds, "video": video_seconds, "shortest": min(audio_seconds, video_seconds)}[
        duration
    ]
    return max(wanted, 1 / reader.info.fps)


def _windows(pipeline: LipsyncPipeline, seconds: Fraction) -> int:
    """How many windows cover so long a job, cuts aside."""
    return math.ceil(seconds * pipeline.fps / (pipeline.window - pipeline.overlap))


def _results(
    reader: VideoReader,
    waveform: np.ndarray,
    seconds: Fraction,
    pipeline: LipsyncPipeline,
    sampling: Sampling,
    settings: DubSettings,
    profiler: Profiler,
    faces: FaceCount,
) -> Iterator[Result]:
    """The stream of finished frames."""
    noise = pipeline.draw_noise(same_noise(settings.seed))
    memory = FaceMemory() if _shows_again(reader, seconds) else None
    draw_run = partial(pipeline.stream, noise=noise, settings=sampling, memory=memory)
    ahead = run_ahead if settings.threads else lambda items, depth: (item for item in items)
    tokens = pipeline.audio_windows(_padded(waveform, seconds), int(seconds * pipeline.fps) + 2)
    windows = ahead(profiler.each("hear", tokens, on_device=True), WINDOWS_AHEAD)
    with profiler("load"):
        detector = make_detector(settings.detector)
    shown = profiler.each("read", play(reader, seconds))
    found: dict[int, list[Face]] | None = {} if _shows_again(reader, seconds) else None
    seen = faces.count(track(shown, detector, cache=found))
    tracked = ahead(profiler.each("track", bridge_gaps(seen)), FRAMES_AHEAD)
    try:
        results = redraw(
            profiler.each("wait", tracked),
            windows,
            lambda faces, tokens, tick: profiler.each(
                "draw", _finite(draw_run(faces, tokens, first_frame=tick)), on_device=True
            ),
            composer=Composer(
                pipeline.resolution, mask=paste_mask(pipeline.resolution, pipeline.paste_region)
            ),
            fps=pipeline.fps,
        )
        yield from ahead(profiler.each("compose", results), FRAMES_AHEAD)
    finally:
        for thread in (tracked, windows):
            thread.close()  # type: ignore[attr-defined]  # a generator: the detector must not be used any more
        detector.close()


def _finite(faces: Iterable[Tensor]) -> Iterator[Tensor]:
    """The drawn faces. Raises: LatentSyncError for one that is no picture."""
    for face in faces:
        if not torch.isfinite(face).all():
            raise LatentSyncError(
                "the model drew no picture (NaN): its weights are damaged, or numbers "
                "overflow; try --dtype float32"
            )
        yield face


def _shows_again(reader: VideoReader, seconds: Fraction) -> bool:
    """Whether frames come more than once, so that what was found in them is worth keeping; not of a long
    clip, whose frames are many.
    """
    is_looped = seconds > reader.info.duration_seconds
    return is_looped and (reader.info.frame_count or MAX_CACHED_FRAMES + 1) <= MAX_CACHED_FRAMES


def _steering(
    model: str | Path | LipsyncPipeline | None,
    waveform: np.ndarray,
    pipeline: LipsyncPipeline,
    settings: DubSettings,
) -> SyncGuidance:
    """Guidance by a judge that hears the whole soundtrack."""
    judge = open_syncnet(settings.syncnet or find_syncnet(model))
    torch.nn.Module.to(judge, pipeline._execution_device)
    mel = syncnet_mel(torch.from_numpy(waveform))
    return SyncGuidance(judge, mel, window=pipeline.window, fps=pipeline.fps)


def _padded(waveform: np.ndarray, seconds: Fraction) -> Tensor:
    """The soundtrack with silence up to the end of the picture, and at least one window of it."""
    missing = max(0, int(seconds * SAMPLE_RATE_HZ) + SAMPLE_RATE_HZ // 25 - len(waveform))
    return torch.from_numpy(np.pad(waveform, (0, missing)))


def _write(
    results: Iterator[Result],
    reader: VideoReader,
    audio: Path,
    target: Path,
    seconds: Fraction,
    settings: DubSettings,
    profiler: Profiler,
    progress: ProgressCallback | None,
) -> dict[str, int]:
    """Encode the stream into `target`; counts frames and redrawn mouths. Raises: FaceNotFound when
    none had a face.
    """
    info, began, total = reader.info, time.perf_counter(), frame_total(reader, seconds)
    frames = redrawn = 0
    rate = {"fps": info.fps, "width": info.width, "height": info.height, "color": info.color}
    writer = VideoWriter(
        target,
        **rate,
        soundtrack=audio,
        crf=settings.crf,
        duration_seconds=float(seconds),
        sample_aspect_ratio=info.sample_aspect_ratio,
        metadata={"comment": NOTE},
    )
    try:
        with writer:
            for result in results:
                with profiler("write"):
                    writer.write(result.image, result.time)
                frames, redrawn = frames + 1, redrawn + result.is_redrawn
                if progress is not None:
                    progress(Progress(frames, max(total, frames), time.perf_counter() - began))
            if not redrawn:
                raise FaceNotFound(
                    f"no face to redraw in the {frames} frames of {info.path} ({info.width}x{info.height}): "
                    "a human face, seen from the front for several frames, is needed; "
                    "is it large enough, upright and uncovered?"
                )
            with profiler("write"), stage("finish"):
                writer.close()
    finally:
        results.close()  # type: ignore[attr-defined]  # a generator: ends its threads
    return {
        "frames": frames,
        "frames_redrawn": redrawn,
        "frames_passed_through": frames - redrawn,
    }


@contextmanager
def _unfinished(output: Path, temp_dir: str | Path | None) -> Iterator[Path]:
    """Where to write: `output` itself (the writer works beside it), or a fresh folder in `temp_dir`, moved
    when complete.
    """
    if temp_dir is None:
        yield output
        return
    check_temp_dir(temp_dir)
    with tempfile.TemporaryDirectory(prefix="latentsync-", dir=temp_dir) as folder:
        grown = Path(folder) / f"result{output.suffix}"
        yield grown
        part = make_part(output)
        try:
            shutil.copyfile(grown, part)
            os.replace(part, output)
        except OSError as error:
            raise MediaError(
                f"the result cannot be moved to {output}: {error.strerror}; is the disk full?"
            ) from error
        finally:
            part.unlink(missing_ok=True)


def check_temp_dir(temp_dir: str | Path | None) -> None:
    """Make the folder when only its last part is missing. Raises: MediaError when it cannot be had."""
    if temp_dir is None:
        return
    try:
        Path(temp_dir).mkdir(exist_ok=True)
    except OSError as error:
        raise MediaError(
            f"the folder {str(temp_dir)!r} for unfinished results cannot be had: {error.strerror}"
        ) from error


def _plain(
    settings: DubSettings,
    sampling: Sampling,
    device: torch.device,
    pipeline: LipsyncPipeline,
    plan: MemoryPlan | None,
) -> dict[str, object]:
    """What was chosen, as JSON takes it."""
    chosen: dict[str, object] = {
        "inference_steps": sampling.steps,
        "guidance_scale": sampling.guidance_scale,
        "device": str(device),
        "dtype": str(pipeline.unet.dtype).removeprefix("torch."),
        "cache_interval": sampling.cache_interval,
        "cache_branch_id": sampling.cache_branch_id,
        "memory_plan": None if plan is None else str(plan),
    }
    if isinstance(sampling.steering, SyncGuidance):
        chosen["guidance_scale"] = "by sync"
        chosen["draft_sync_confidences"] = [round(value, 3) for value in sampling.steering.confidences]
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()}
    return {**plain, **chosen}
