"""What a job can be told, checked at once, and what that makes of a pipeline."""

import copy
import logging
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from diffusers.utils import is_xformers_available

from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.presets import PRESETS, with_sampler
from latentsync.diffusion.sampling import Batching, Sampling
from latentsync.diffusion.sync_guidance import SCALES, Steering
from latentsync.dubbing.memory import OFFLOADS, parse_bytes

logger = logging.getLogger(__name__)

RANDOM_SEED = -1  # upstream's word for: any
ATTENTIONS = ("sdpa", "xformers")
DURATIONS = ("audio", "video", "shortest")
CACHE_INTERVAL = 3  # DeepCache's own
CACHING = tuple(name for name, preset in PRESETS.items() if preset.cache_interval > 1)


@dataclass(frozen=True)
class DubSettings:
    """Options of a job. None of `inference_steps` and `guidance_scale` is the model's own choice.

    `duration`: "audio" lasts as long as the soundtrack (the picture goes back and forth when it is shorter),
    "video" as long as the clip, "shortest" as the shorter of both. `temp_dir`: where the unfinished result
    grows, instead of beside `output`.

    `preset` ("reference", "balanced", "fast") sets steps, sampler, cache and guidance window at once
    (`diffusion.presets`); what is said beside it wins. `enable_deepcache` reuses the deep features of the
    U-Net on all but every `cache_interval`-th step (the preset's number, else 3, less for few steps), where
    only the outermost `cache_branch_id` + 1 layers (1) run. `sync_guidance` has a SyncNet (`syncnet`: its
    file or folder) look at the drafts and choose the guidance between 1 and 2. `batch_size`: frames at a
    time, the same picture with less memory below a window (16), with more above it, where several windows
    are drawn at once as far as memory allows; `vae_tiling` sends pieces of a frame, with faint joints.
    `vram` ("8GB"): memory of the device that the job keeps to, whatever that costs in time; `offload`
    ("model", "group", "sequential") keeps weights in the machine's memory until they are needed.
    `attention` is torch's own ("sdpa") or "xformers"; `compile` compiles the U-Net at its first windows,
    which pays for long clips. `unet_config`, `whisper`, `vae` and `resolution` belong to released files
    (`LipsyncPipeline.from_original`). `lora`: the folder or file of matrices that a training run left.
    `seed` -1 draws one.
    """

    inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_window: tuple[float, float] | None = None
    preset: str | None = None
    enable_deepcache: bool = False
    cache_interval: int | None = None
    cache_branch_id: int | None = None
    sync_guidance: bool = False
    syncnet: str | Path | None = None
    batch_size: int | None = None
    vram: str | None = None
    offload: str | None = None
    vae_tiling: bool = False
    attention: str = "sdpa"
    compile: bool = False
    unet_config: str | Path | None = None
    whisper: str | Path | None = None
    vae: str | Path | None = None
    resolution: int | None = None
    overlap: int | None = None
    lora: str | Path | None = None
    seed: int = 1247
    device: str = "auto"
    dtype: str = "auto"
    duration: str = "audio"
    detector: str = "auto"
    crf: int = 18
    temp_dir: str | Path | None = None
    threads: bool = True  # stages overlap; off gives the same frames, one stage at a time

    def __post_init__(self) -> None:
        if self.duration not in DURATIONS:
            raise ValueError(f"duration {self.duration!r} is unknown; expected one of {', '.join(DURATIONS)}")
        if self.seed == RANDOM_SEED:
            object.__setattr__(self, "seed", secrets.randbelow(2**31))
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed} is outside [0, 2**63), and is not -1 (a random one) either")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf {self.crf} is outside [0, 51]; 18 is visually lossless, higher is smaller")
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} is unknown; expected one of {', '.join(PRESETS)}")
        self._check_cache()
        if self.attention not in ATTENTIONS:
            raise ValueError(
                f"attention {self.attention!r} is unknown; expected one of {', '.join(ATTENTIONS)}"
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch size {self.batch_size}: at least 1 frame goes through the autoencoder")
        if self.vram is not None:
            parse_bytes(self.vram)
        if self.offload not in (None, *OFFLOADS):
            raise ValueError(f"offload {self.offload!r} is unknown; expected one of {', '.join(OFFLOADS)}")
        if self.sync_guidance and self.guidance_scale is not None:
            raise ValueError(
                f"sync_guidance chooses the guidance itself, from {SCALES[0]} to {SCALES[1]}: leave "
                f"guidance_scale {self.guidance_scale} out"
            )
        if self.syncnet is not None and not self.sync_guidance:
            raise ValueError(f"syncnet {str(self.syncnet)!r} is only used with sync_guidance: add it")
        start, stop = self.guidance_window or (0.0, 1.0)
        if not 0 <= start <= stop <= 1:
            raise ValueError(
                f"guidance window {start} to {stop}: expected shares of the steps, 0 <= a <= b <= 1"
            )

    def _check_cache(self) -> None:
        numbers = {"cache_interval": (self.cache_interval, 1), "cache_branch_id": (self.cache_branch_id, 0)}
        for name, (value, least) in numbers.items():
            if value is None:
                continue
            if value < least:
                raise ValueError(f"{name.replace('_', ' ')} {value}: expected at least {least}")
            if self._own_interval() == 1:
                raise ValueError(
                    f"--{name} {value} does nothing without a cache: pass --enable_deepcache or --preset "
                    f"{' or '.join(CACHING)} as well, or leave it out"
                )

    def _own_interval(self) -> int:
        """Steps between whole runs of the U-Net where no number is given; 1 is no cache."""
        interval = 1 if self.preset is None else PRESETS[self.preset].cache_interval
        return CACHE_INTERVAL if self.enable_deepcache and interval == 1 else interval

    def _interval(self, steps: int) -> int:
        """The cache's interval over so many steps. One that nobody chose lets two steps at least be whole: of
        the first alone, which sees but noise, no mouth can be drawn.
        """
        if self.cache_interval is None:
            return min(self._own_interval(), max(1, (steps + 1) // 2))
        if self.cache_interval >= steps > 1:
            logger.warning(
                "cache interval %d over %d steps: only the first step runs the whole U-Net, and the mouth "
                "comes out grey; choose at most %d",
                self.cache_interval,
                steps,
                (steps + 1) // 2,
            )
        return self.cache_interval

    def original_files(self) -> dict[str, str | Path | int | None]:
        """What `load_model` is told of released files."""
        parts = {"config": self.unet_config, "whisper": self.whisper, "vae": self.vae}
        return {**parts, "resolution": self.resolution}

    @property
    def stays_on_device(self) -> bool:
        """Whether the weights can go to the device as soon as they are read."""
        return self.vram is None and self.offload in (None, "none")

    def batching(self, window: int, windows: int) -> Batching | None:
        """What `batch_size` means for a job of `windows` windows of `window` frames; None when it was not
        said.
        """
        if self.batch_size is None:
            return None
        return Batching(min(self.batch_size, window), max(1, min(self.batch_size // window, windows)))

    def sampling(self, pipeline: LipsyncPipeline, steering: Steering | None = None) -> Sampling:
        """How `pipeline` denoises: what was said, else the preset, else the model's own choice."""
        preset = None if self.preset is None else PRESETS[self.preset]
        window = self.guidance_window or (0.0, preset.guidance_stop if preset else 1.0)
        steps = preset.steps if preset and self.inference_steps is None else self.inference_steps
        sampling = pipeline.sampling(
            steps,
            sum(SCALES) / 2 if steering else self.guidance_scale,
            guidance_window=window,
            steering=steering,
            cache_branch_id=self.cache_branch_id or 0,
        )
        return replace(sampling, cache_interval=self._interval(sampling.steps))


def prepared(pipeline: LipsyncPipeline, settings: DubSettings) -> LipsyncPipeline:
    """The pipeline with the job's sampler, a copy that shares its networks; what speeds these up stays with
    them.

    Raises: ImportError when xformers was asked for and is not installed.
    """
    if settings.vae_tiling:
        pipeline.vae.enable_tiling()
    if settings.attention == "xformers":
        if not is_xformers_available():
            raise ImportError("attention 'xformers' is not installed: pip install xformers, or leave it out")
        pipeline.unet.enable_xformers_memory_efficient_attention()
    if settings.compile:
        pipeline.unet.compile()
    pipeline = copy.copy(pipeline)
    if settings.preset is not None:
        pipeline.scheduler = with_sampler(pipeline.scheduler, PRESETS[settings.preset].scheduler)
    return pipeline
