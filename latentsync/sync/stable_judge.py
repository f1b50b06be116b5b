"""StableSyncNet as a judge: windows of aligned faces slid over windows of mel -> SyncScore.

`F` frames, `D` width. The distance of a pair is 1 - cosine, in [0, 1], and a curve is its mean over the
windows that have their sound at that offset, levelled (`levelled_curve`): nothing is padded. So
`min_distance` is comparable between clips, which the original SyncNet's is not.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from latentsync.audio.mel import syncnet_mel
from latentsync.audio.windows import mel_window
from latentsync.face.mask import normalize
from latentsync.sync.face_cut import AlignedCut
from latentsync.sync.judge import (
    MAX_OFFSET_FRAMES,
    SAMPLES_PER_FRAME,
    Faces,
    Judge,
    SyncScore,
    batches,
)
from latentsync.sync.offset import levelled_curve, overlapping_distances, score_of
from latentsync.sync.stable_syncnet import StableSyncNet

BATCH_WINDOWS = 16
MIN_PAIRS = 10  # windows that are compared at the farthest offset of the shortest run


class StableSyncNetJudge(Judge):
    """Any StableSyncNet: `num_frames`, size, half or whole face are its own; one of latents needs a `vae`.

    A window begins every `stride_frames` frames; the sound is heard at every frame.

    Raises: ValueError for a network of latents without `vae`, or a stride that leaves frames out.
    """

    name = "stable_syncnet"

    def __init__(
        self,
        syncnet: StableSyncNet,
        *,
        vae: AutoencoderKL | None = None,
        device: torch.device | str = "cpu",
        stride_frames: int = 1,
    ) -> None:
        config = syncnet.config
        if config.latent_space and vae is None:
            raise ValueError("this StableSyncNet compares latents; it needs the autoencoder that made them")
        if not 1 <= stride_frames <= config.num_frames:
            raise ValueError(f"stride_frames {stride_frames}: expected 1 to {config.num_frames}, a window")
        self.device, self.stride_frames = torch.device(device), stride_frames
        self.syncnet = syncnet.eval()
        self.syncnet.to(self.device)  # pyright: ignore[reportArgumentType]
        self.vae = vae.eval() if vae is not None and config.latent_space else None
        if self.vae is not None:
            self.vae.to(self.device)  # pyright: ignore[reportArgumentType]
        self.window = int(config.num_frames)
        self.face_cut = AlignedCut(int(config.resolution))
        self.min_frames = self.window + MAX_OFFSET_FRAMES + MIN_PAIRS - 1

    def score_sounds(self, faces: Faces, waveforms: Sequence[Tensor]) -> list[SyncScore]:
        lips = self.encode_faces(faces)
        return [self._score(lips, waveform) for waveform in waveforms]

    @torch.inference_mode()
    def encode_faces(self, faces: Faces) -> Tensor:
        """One unit vector a window, (N, D): row `i` sees the frames from i * stride_frames on."""
        stride, run = self.stride_frames, (BATCH_WINDOWS - 1) * self.stride_frames + self.window
        rows = []
        for part in batches(faces, run, overlap=self.window - stride):
            if len(part) >= self.window:
                frames = self._frames(part).unfold(0, self.window, stride)  # (N, C, H, W, window)
                rows.append(self._embedded(frames.permute(0, 4, 1, 2, 3).flatten(1, 2)))
        return torch.cat(rows) if rows else torch.zeros(0, 0)

    @torch.inference_mode()
    def encode_sound(self, waveform: Tensor, stride_frames: int = 1) -> Tensor:
        """One unit vector every `stride_frames` frames, (N, D): row `i` hears `num_frames` frames from
        i * stride_frames on.
        """
        mel = syncnet_mel(waveform).numpy()
        starts = range(0, waveform.numel() // SAMPLES_PER_FRAME - self.window + 1, stride_frames)
        windows = torch.stack([mel_window(mel, start, self.window) for start in starts])
        rows = [
            F.normalize(self.syncnet.audio_encoder(batch.to(self.device, self.syncnet.dtype)).flatten(1))
            for batch in windows.split(BATCH_WINDOWS)
        ]
        return torch.cat(rows).float()

    def _score(self, lips: Tensor, waveform: Tensor) -> SyncScore:
        heard = waveform.numel() // SAMPLES_PER_FRAME
        if len(lips) == 0 or heard < self.window:
            raise ValueError(
                f"{len(lips)} windows of faces and {heard} frames of sound; at least {self.window} frames "
                "of both are needed"
            )
        seen = (len(lips) - 1) * self.stride_frames + 1
        sound = self.encode_sound(waveform)[:seen]
        lips = lips[: (len(sound) - 1) // self.stride_frames + 1]
        distances = overlapping_distances(
            lips,
            sound,
            max_offset=min(MAX_OFFSET_FRAMES, (len(lips) - 1) * self.stride_frames),
            distance=_unlikeness,
            stride=self.stride_frames,
        )
        return score_of(levelled_curve(distances, stride=self.stride_frames))

    def _frames(self, faces: Tensor) -> Tensor:
        """uint8 faces as the network sees single frames, (F, C, H, W): pixels or latents, half or whole."""
        pixels = normalize(faces.to(self.device))
        frames = self.syncnet.prepare(pixels).unflatten(0, (-1, 3))
        if self.vae is None:
            return frames.to(self.syncnet.dtype)
        latents = self.vae.encode(frames.to(self.vae.dtype)).latent_dist.mode()
        return (latents * self.vae.config.scaling_factor).to(self.syncnet.dtype)

    def _embedded(self, windows: Tensor) -> Tensor:
        return F.normalize(self.syncnet.visual_encoder(windows.contiguous()).flatten(1)).float()


def _unlikeness(first: Tensor, second: Tensor) -> Tensor:
    """1 - cosine of unit vectors (N, D)."""
    return 1 - (first * second).sum(dim=1)
