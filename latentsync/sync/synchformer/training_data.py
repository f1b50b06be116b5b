"""The clips of a training's configuration, split by split, as samples of its kind."""

from latentsync.errors import FootageError
from latentsync.sync.synchformer.layouts import ListedClip, list_clips, read_fixed_offsets
from latentsync.sync.synchformer.samples import (
    AvSamples,
    OffsetSamples,
    SegmentSamples,
    SynchronizabilitySamples,
    long_enough,
)
from latentsync.sync.synchformer.training_config import DataConfig, SynchformerTrainConfig

TEST_SEED = 1337  # random offsets of a test are the same whatever the training drew


def samples(config: SynchformerTrainConfig, split: str) -> AvSamples:
    """The clips of `split`, ready to be drawn from; those of "train" change from epoch to epoch.

    Raises: FileNotFoundError, FootageError.
    """
    clips = chosen_clips(config, split)
    if config.kind == "sync":
        return offset_samples(config.data, clips, split, seed=config.loop.seed)
    is_training = split == "train"
    kind = SegmentSamples if config.kind == "segment_avclip" else SynchronizabilitySamples
    return kind(clips, config.data, seed=_seed(split, config.loop.seed), is_training=is_training)


def offset_samples(data: DataConfig, clips: list[ListedClip], split: str, *, seed: int) -> OffsetSamples:
    """Crops with offsets: fixed ones where the configuration says so for `split`, else drawn."""
    fixed = None
    if split in data.load_fixed_offsets_on:
        if not data.fixed_offsets:
            raise FootageError(
                f"data.load_fixed_offsets_on names {split!r} but data.fixed_offsets no table; set it to "
                "one, or leave load_fixed_offsets_on empty"
            )
        fixed = read_fixed_offsets(data.fixed_offsets)
    is_training = split == "train"
    return OffsetSamples(clips, data, seed=_seed(split, seed), is_training=is_training, fixed=fixed)


def chosen_clips(config: SynchformerTrainConfig, split: str) -> list[ListedClip]:
    """The clips of `split` that are long enough, the first `size_ratio` of them in training."""
    data = config.data
    clips = list_clips(data.dataset, data.vids_path, split, data.lists)
    if split == "train":
        clips = clips[: max(1, round(data.size_ratio * len(clips)))]
    return long_enough(clips, data.needed_frames(config.kind)) if data.check_lengths else clips


def _seed(split: str, seed: int) -> int:
    return seed if split == "train" else TEST_SEED
