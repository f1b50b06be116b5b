"""Every stage of a job beside the plain loop that somebody would write first: times, and how far apart the
results are.

`F` frames of the portrait, `R` pixels of a face. The plain loops hold the whole clip and take frames one by
one; ours stream, so what they gain or lose in time comes on top of memory that does not grow with the clip.
"""

import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mediapipe.python.solutions import face_mesh
from side_by_side import ASSETS, Demo, open_demo, row, timed
from torch import Tensor

from latentsync.audio.mel import whisper_mel
from latentsync.audio.whisper import COLUMNS_PER_ROW
from latentsync.audio.windows import window_rows
from latentsync.device import pick_device
from latentsync.diffusion.condition import Condition
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.reference import hide_mouth
from latentsync.diffusion.sampling import Sampling
from latentsync.dubbing.model import load_model
from latentsync.face import Composer, align, bridge_gaps, crop_size, make_detector, paste_mask, track
from latentsync.face.align import FILL, invert, sample
from latentsync.face.detect import LEFT_BROW, NOSE, RIGHT_BROW
from latentsync.face.mask import latent_mask
from latentsync.media import VideoReader, VideoWriter

FRAMES = 32  # two windows of 16
ROUNDS = 3
HD = (1920, 1080)
CRF = 18


def stages() -> None:
    """A row a stage, of the embedded default in float32."""
    pipeline, _ = load_model(None, pick_device("cpu"), torch.float32)
    demo = open_demo(pipeline, FRAMES)
    print(f"\nstage by stage, plain loop -> ours: {FRAMES} frames of the portrait, embedded default, float32")
    read()
    detect(demo)
    cut_out(demo, pipeline.resolution)
    hear(demo, pipeline)
    condition = encode(demo, pipeline)
    latents = denoise(demo, pipeline, condition)
    drawn = decode(pipeline, latents)
    put_back(demo, pipeline, drawn)
    write(demo)


def compare(name: str, plain: Callable[[], Any], ours: Callable[[], Any], *, unit: str = "") -> Any:
    """A row for two ways whose results are one array each, and the result of ours."""
    theirs, result = plain(), ours()
    apart = np.abs(np.asarray(theirs, np.float64) - np.asarray(result, np.float64))
    note = f"apart by {apart.mean():.2g}, {apart.max():.2g} at most{unit}"
    row(
        name,
        *timed({"plain": plain, "ours": ours}, ROUNDS).values(),
        note,
    )
    return result


def read() -> None:
    """The whole clip as RGB."""

    def plain() -> list[np.ndarray]:
        capture, images = cv2.VideoCapture(str(ASSETS / "portrait.mp4")), []
        while (got := capture.read())[0]:
            images.append(cv2.cvtColor(got[1], cv2.COLOR_BGR2RGB))
        return images

    def ours() -> list[np.ndarray]:
        with VideoReader(ASSETS / "portrait.mp4") as reader:
            return [frame.image for frame in reader]

    compare("read: OpenCV, all at once", plain, ours, unit=" of 255")


def detect(demo: Demo) -> None:
    """The face's three anchors in every frame."""
    with (
        make_detector("auto") as detector,
        face_mesh.FaceMesh(static_image_mode=True, min_detection_confidence=0.5) as mesh,
    ):

        def mesh_alone() -> list[list[np.ndarray]]:
            return [_anchors(mesh.process(image), image.shape) for image in demo.images]

        def searched() -> list[np.ndarray]:
            return [detector.detect(image)[0].anchors for image in demo.images]

        def ours() -> list[np.ndarray]:
            return [item.face.anchors for item in bridge_gaps(track(demo.frames, detector))]

        compare("track: FaceMesh on each whole frame", mesh_alone, ours, unit=" px")
        compare("track: our search of each whole frame", searched, ours, unit=" px")


def _anchors(found: Any, shape: tuple[int, ...]) -> list[np.ndarray]:
    points = np.array([(p.x * shape[1], p.y * shape[0]) for p in found.multi_face_landmarks[0].landmark])
    parts = (LEFT_BROW, RIGHT_BROW, NOSE)
    return [np.mean([points[list(group)].mean(axis=0) for group in groups], axis=0) for groups in parts]


def cut_out(demo: Demo, resolution: int) -> None:
    """Aligned faces, uint8: of the portrait, and of the same in a frame of 1920x1080."""

    def warped(image: np.ndarray, matrix: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(image).permute(2, 0, 1).float() - FILL
        crop = sample(pixels, invert(matrix), crop_size(resolution)) + FILL
        crop = crop.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        face = cv2.resize(crop, (resolution, resolution), interpolation=cv2.INTER_LANCZOS4)
        return torch.from_numpy(face).permute(2, 0, 1)

    for images, matrices in ((demo.images, demo.matrices), _in_hd(demo)):

        def plain(images=images, matrices=matrices) -> Tensor:
            return torch.stack([warped(*pair) for pair in zip(images, matrices, strict=True)])

        def ours(images=images, matrices=matrices) -> Tensor:
            pairs = zip(images, matrices, strict=True)
            return torch.cat([align([image], matrix[None], resolution) for image, matrix in pairs])

        height, width = images[0].shape[:2]
        compare(f"align: all of {width}x{height} sampled from", plain, ours, unit=" of 255")


def _in_hd(demo: Demo) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The demo's frames in the middle of larger ones, and the matrices for these."""
    height, width = demo.images[0].shape[:2]
    x, y = (HD[0] - width) // 2, (HD[1] - height) // 2
    border = ((y, HD[1] - height - y), (x, HD[0] - width - x), (0, 0))
    images = [np.pad(image, border) for image in demo.images]
    shift = np.array([[x], [y]], np.float64)
    return images, [np.hstack([m[:, :2], m[:, 2:] - m[:, :2] @ shift]) for m in demo.matrices]


@torch.no_grad()
def hear(demo: Demo, pipeline: LipsyncPipeline) -> None:
    """Audio tokens (F, N, D) of every tick of the speech."""
    encoder, config = pipeline.audio_encoder.encoder, pipeline.audio_encoder.config
    columns = COLUMNS_PER_ROW * int(config.max_source_positions)
    ticks = len(demo.waveform) * pipeline.fps // 16_000

    def plain() -> Tensor:
        mel, rows = whisper_mel(demo.waveform, int(config.num_mel_bins)), []
        for start in range(0, mel.shape[1], columns):
            piece = mel[:, start : start + columns]
            padded = F.pad(piece, (0, columns - piece.shape[1]))[None]
            states = encoder(padded, output_hidden_states=True).hidden_states
            rows.append(torch.stack(states, dim=2)[0, : piece.shape[1] // COLUMNS_PER_ROW])
        features = torch.cat(rows)
        wanted = [list(window_rows(tick, pipeline.fps)) for tick in range(ticks)]
        return torch.stack(
            [features[torch.tensor(r).clamp(0, len(features) - 1)].flatten(0, 1) for r in wanted]
        )

    def ours() -> Tensor:
        return torch.stack(list(pipeline.audio_windows(demo.waveform, ticks)))

    compare("hear: Whisper, cut without context", plain, ours)


@torch.no_grad()
def encode(demo: Demo, pipeline: LipsyncPipeline) -> list[Condition]:
    """What the denoiser sees of each window."""
    vae, mask = pipeline.vae, pipeline.mask()

    def latent(face: Tensor) -> Tensor:
        return vae.encode(face[None]).latent_dist.mode()[0] * vae.config.scaling_factor

    def plain() -> Tensor:
        seen = []
        for faces in demo.faces.split(pipeline.window):
            masked = torch.stack([latent(face * mask) for face in faces], dim=1)
            reference = torch.stack([latent(face) for face in faces], dim=1)
            reference = hide_mouth(reference.roll(pipeline.reference_shift, dims=1), masked)
            hole = latent_mask(mask, pipeline.vae_scale_factor)[:, None].expand(-1, len(faces), -1, -1)
            seen.append(torch.cat([hole, masked, reference]))
        return torch.stack(seen)

    def ours() -> Tensor:
        return torch.stack([_seen(pipeline.encode_condition(part, mask)) for part in faces])

    faces = demo.faces.split(pipeline.window)
    compare("encode: face by face", plain, ours)
    return [pipeline.encode_condition(part, mask) for part in faces]


def _seen(condition: Condition) -> Tensor:
    """The channels (1 + 2 C, F, h, w) beside the noise."""
    return torch.cat([condition.mask, condition.masked, condition.reference])


@torch.no_grad()
def denoise(demo: Demo, pipeline: LipsyncPipeline, conditions: list[Condition]) -> list[Tensor]:
    """Latents (C, F, h, w) of each window, in the model's own steps, and of one in 20."""
    noise = pipeline.draw_noise(torch.Generator().manual_seed(1247))
    windows = demo.windows.split(pipeline.window)

    def loop(condition: Condition, audio: Tensor, settings: Sampling) -> Tensor:
        pipeline.scheduler.set_timesteps(settings.steps)
        latents = noise[None].repeat(1, 1, len(condition), 1, 1)
        for t in pipeline.scheduler.timesteps:
            x = torch.cat([latents, _seen(condition)[None]], dim=1)
            deaf = pipeline.unet(x, t, torch.zeros_like(audio)).sample
            hearing = pipeline.unet(x, t, audio).sample
            prediction = deaf + settings.guidance_scale * (hearing - deaf)
            latents = pipeline.scheduler.step(prediction, t, latents).prev_sample
        return latents[0]

    def row_of(name: str, plain: Sampling, ours: Sampling, count: int) -> Tensor:
        pairs = list(zip(conditions, windows, strict=True))[:count]
        return compare(
            name,
            lambda: torch.stack([loop(*pair, plain) for pair in pairs]),
            lambda: torch.stack([pipeline.denoise(noise, *pair, ours) for pair in pairs]),
        )

    own = pipeline.sampling()
    latents = row_of(f"denoise: {own.steps} steps of two passes", own, own, len(windows))
    long, cached = pipeline.sampling(20), pipeline.sampling(20, cache_interval=3)
    row_of("denoise: 20 steps, one window -> cached", long, cached, 1)
    return list(latents)


@torch.no_grad()
def decode(pipeline: LipsyncPipeline, latents: list[Tensor]) -> Tensor:
    """Faces (F, 3, R, R)."""
    vae = pipeline.vae

    def plain() -> Tensor:
        singles = (latent / vae.config.scaling_factor for part in latents for latent in part.unbind(1))
        return torch.cat([vae.decode(latent[None]).sample for latent in singles])

    return compare(
        "decode: face by face", plain, lambda: torch.cat([pipeline.decode(part) for part in latents])
    )


def put_back(demo: Demo, pipeline: LipsyncPipeline, drawn: Tensor) -> None:
    """Frames with the mouth in them: of the portrait, and of 1920x1080; only the last row matches colours."""
    mask = paste_mask(pipeline.resolution, pipeline.paste_region)
    plain_composer = Composer(pipeline.resolution, mask=mask, match_colour=False)
    matching = Composer(pipeline.resolution, mask=mask)

    def whole(image: np.ndarray, face: Tensor, matrix: np.ndarray) -> np.ndarray:
        width, height = crop_size(pipeline.resolution)
        crop = F.interpolate(face[None], (height, width), mode="bicubic", antialias=True)[0]
        size = (image.shape[1], image.shape[0])
        warped = sample((crop.clamp(-1, 1) + 1) * 127.5, matrix, size)
        alpha = sample(plain_composer.alpha, matrix, size)
        pixels = torch.from_numpy(image).permute(2, 0, 1).float()
        return torch.lerp(pixels, warped, alpha).round().to(torch.uint8).permute(1, 2, 0).numpy()

    for images, matrices in ((demo.images, demo.matrices), _in_hd(demo)):
        items = list(zip(images, drawn, matrices, strict=True))
        height, width = images[0].shape[:2]
        compare(
            f"compose: all of {width}x{height} warped",
            lambda items=items: [whole(*item) for item in items],
            lambda items=items: [plain_composer.compose(*item) for item in items],
            unit=" of 255",
        )
    items = list(zip(demo.images, drawn, demo.matrices, demo.faces, strict=True))
    compare(
        "compose: the same of 512x512 -> colours matched",
        lambda: [whole(image, face, matrix) for image, face, matrix, _ in items],
        lambda: [matching.compose(*item[:3], source_face=item[3]) for item in items],
        unit=" of 255",
    )


def write(demo: Demo) -> None:
    """An H.264 file without sound, of one quality: frames to disk first, or straight to the encoder."""
    height, width = demo.images[0].shape[:2]
    with tempfile.TemporaryDirectory(prefix="latentsync-bench-") as name:
        folder = Path(name)

        def plain() -> None:
            with (folder / "raw").open("wb") as file:
                for image in demo.images:
                    file.write(image.tobytes())
            images = np.fromfile(folder / "raw", np.uint8).reshape(-1, height, width, 3)
            with av.open(str(folder / "plain.mp4"), "w") as output:
                stream = output.add_stream("libx264", rate=25, options={"crf": str(CRF), "preset": "medium"})
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                for image in images:
                    output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
                output.mux(stream.encode(None))

        def ours() -> None:
            size = {"fps": Fraction(25), "width": width, "height": height}
            with VideoWriter(folder / "ours.mp4", **size, crf=CRF) as writer:
                for number, image in enumerate(demo.images):
                    writer.write(image, Fraction(number, 25))

        seconds = timed({"plain": plain, "ours": ours}, ROUNDS)
        sizes = [(folder / f"{way}.mp4").stat().st_size / 1000 for way in seconds]
        row(
            "write: raw frames to disk, then encoded",
            *seconds.values(),
            "{:.0f} and {:.0f} kB".format(*sizes),
        )
