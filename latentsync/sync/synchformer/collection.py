"""Networks on a whole collection, evaluated as upstream's are: offsets with tolerance and by class, or
whether an offset can be told, and then what offsets are worth where one says so.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from latentsync.errors import ConfigError
from latentsync.sync.synchformer.evaluate import Predictions, predictions
from latentsync.sync.synchformer.layouts import ListedClip
from latentsync.sync.synchformer.metrics import (
    accuracy_by_class,
    metrics_above_thresholds,
    offset_metrics,
    synchronizability_metrics,
)
from latentsync.sync.synchformer.network import Synchformer
from latentsync.sync.synchformer.samples import SynchronizabilitySamples
from latentsync.sync.synchformer.training_config import DataConfig
from latentsync.sync.synchformer.training_data import TEST_SEED, offset_samples

Table = dict[str, Any]
NOT_OF_VIEW = ("dataset", "vids_path", "lists", "iter_times", "keep_priming", "clip_max_len_sec")


def evaluate_offsets(
    network: Synchformer, clips: list[ListedClip], data: DataConfig, split: str, **options: Any
) -> Table:
    """Metrics of an offset network on `clips`: fixed offsets in one pass where `data` has them for `split`,
    else `data.iter_times` passes with random ones. `options` of `predictions`.
    """
    is_fixed = split in data.load_fixed_offsets_on
    samples = offset_samples(data, clips, split, seed=TEST_SEED)
    found = predictions(network, samples, passes=1 if is_fixed else data.iter_times, **options)
    seconds = network.viewing.grid.seconds
    by_class = accuracy_by_class(found.logits, found.targets)
    return {
        "items": len(found.targets),
        "loss": found.loss,
        **offset_metrics(found.logits, found.targets),
        "accuracy_1_by_offset": {f"{seconds[c]:+.2f}": share for c, share in by_class.items()},
        "median_accuracy_1_of_offsets": float(np.median(list(by_class.values()))),
    }


def evaluate_synchronizability(
    network: Synchformer,
    clips: list[ListedClip],
    data: DataConfig,
    offsets: Synchformer | None = None,
    **options: Any,
) -> Table:
    """Metrics of a network that says whether an offset can be told, with random sound; and, with a network
    for `offsets`, what that is worth above thresholds of confidence (Fig. 4 of the paper).

    Raises: ConfigError where the two networks do not look at the same.
    """
    if offsets is not None:
        data = shared_view(data, network, offsets)
    samples = SynchronizabilitySamples(clips, data, seed=TEST_SEED, is_training=False)
    found = predictions(network, samples, passes=data.iter_times, **options)
    table: Table = {"items": len(found.targets), "loss": found.loss}
    table |= synchronizability_metrics(found.logits, found.targets)
    if offsets is not None:
        told = predictions(offsets, samples, passes=data.iter_times, **options)
        table["above_threshold"] = above_thresholds(found, told)
    return table


def above_thresholds(found: Predictions, offsets: Predictions) -> Mapping[float, Mapping[str, float]]:
    """Offset metrics of the items of which `found` is surer than each threshold that they have an offset."""
    assert offsets.offset_targets is not None  # SynchronizabilitySamples tell them
    return metrics_above_thresholds(
        offsets.logits, offsets.offset_targets, found.probabilities[:, 1], found.targets == 1
    )


def shared_view(data: DataConfig, network: Synchformer, offsets: Synchformer) -> DataConfig:
    """Crops that serve both networks: as many segments as the one that takes more of them."""
    one, other = network.viewing, offsets.viewing
    same = replace(one, segments=other.segments, crop_frames=other.crop_frames)
    same = replace(same, offset_limit_seconds=other.offset_limit_seconds, offset_classes=other.offset_classes)
    if same != other:
        raise ConfigError(
            f"the two networks look at different things ({one.kind}, {one.crop} px, segments of "
            f"{one.segment_frames} frames; {other.kind}, {other.crop} px, {other.segment_frames} frames): "
            "pass two that were made for the same"
        )
    most = max(one, other, key=lambda viewing: viewing.segments)
    shown = replace(other, segments=most.segments, crop_frames=most.span_frames)
    kept = {name: getattr(data, name) for name in NOT_OF_VIEW}
    return DataConfig.showing(shown, **kept)


def lines(table: Mapping[str, Any]) -> list[str]:
    """A table as text: a name and a number a line; nested tables below their name."""
    told = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            told.append(f"{name}:")
            told += [f"  {line}" for line in lines(value)]
        elif isinstance(value, float):
            told.append(f"{name:<32} {value:.4f}")
        else:
            told.append(f"{name:<32} {value}")
    return told
