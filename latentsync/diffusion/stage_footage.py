"""Footage -> batches of the two-stage recipe, the same in every process; sound is heard beforehand."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import WhisperModel

from latentsync.diffusion.released_config import ReleasedConfig
from latentsync.diffusion.stages import FaceBatch
from latentsync.footage.content import ContentKeys
from latentsync.footage.dataset import FaceWindows, unet_min_frames
from latentsync.footage.features import FeatureCache, SyncNetMel, WhisperStates
from latentsync.footage.listing import find_clips
from latentsync.footage.survey import Rules, Surveyor

CACHE = "cache"  # in the run's folder, unless the configuration names another


def open_footage(
    config: ReleasedConfig, encoder: WhisperModel, folder: Path, accelerator: Accelerator
) -> FaceWindows:
    """The clips of `data.train_fileslist`, or else `data.train_data_dir`, with their mel and tokens on disk.

    Tokens lie in `data.audio_embeds_cache_dir`, all else in `data.audio_mel_cache_dir`, by default in
    `folder`/cache; runs may share them. The encoder computes on the accelerator's device and comes back to
    the CPU. Raises: FileNotFoundError, FootageError, MediaError.
    """
    data = config.data
    cache = Path(data.audio_mel_cache_dir or folder / CACHE)
    rules = Rules(unet_min_frames(data.num_frames), max_dropped_share=config.train.max_dropped_share)
    keys = ContentKeys(cache)
    with accelerator.main_process_first():  # the others read what it has measured
        files = find_clips(data.train_fileslist, data.train_data_dir)
        kept = Surveyor(cache, keys).select(files, rules).kept
    mel = FeatureCache(cache, SyncNetMel(), keys)
    tokens = FeatureCache(data.audio_embeds_cache_dir or cache, WhisperStates(encoder), keys)
    windows = FaceWindows(
        kept,
        mel,
        tokens=tokens,
        resolution=data.resolution,
        frames=data.num_frames,
        seed=config.run.seed,
        allow_upscale=config.train.allow_upscale,
    )
    torch.nn.Module.to(encoder, accelerator.device)
    for features in (mel, tokens):
        features.fill(
            (clip.file for clip in kept), rank=accelerator.process_index, ranks=accelerator.num_processes
        )
    torch.nn.Module.to(encoder, "cpu")
    accelerator.wait_for_everyone()
    return windows


def collate(samples: Sequence[Mapping[str, Tensor]]) -> FaceBatch:
    """Samples of `FaceWindows` side by side."""
    return FaceBatch(*(torch.stack([sample[name] for sample in samples]) for name in FaceBatch._fields))
