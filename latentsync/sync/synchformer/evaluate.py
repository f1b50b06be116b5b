"""A network put to a whole test set: predictions of every pass, and what they are worth.

`N` items of all passes, `K` classes. A pass is an epoch of the data set, whose random offsets are its own.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from latentsync.sync.synchformer.contrast import Similarities, contrastive_loss, similarities, window_scores
from latentsync.sync.synchformer.network import SegmentContrast, Synchformer
from latentsync.sync.synchformer.samples import AvSamples, Sample


class Predictions(NamedTuple):
    """`logits` (N, K), `targets` (N,), and for synchronizability `offset_targets` (N,), -1 where there is
    no offset.
    """

    logits: np.ndarray
    targets: np.ndarray
    offset_targets: np.ndarray | None = None

    @property
    def loss(self) -> float:
        """Mean cross entropy."""
        logits, targets = torch.from_numpy(self.logits), torch.from_numpy(self.targets)
        return float(F.cross_entropy(logits.double(), targets))

    @property
    def probabilities(self) -> np.ndarray:
        return torch.from_numpy(self.logits).double().softmax(dim=1).numpy()


class PassOf(Dataset[Sample]):
    """One epoch of a data set, in order: its items by index alone."""

    def __init__(self, samples: AvSamples, epoch: int, count: int) -> None:
        self.samples, self.epoch, self.count = samples, epoch, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return self.samples[(self.epoch, index)]


def loader(
    samples: AvSamples, epoch: int, *, batch_size: int, max_clips: int = 0, workers: int = 0
) -> DataLoader[Sample]:
    """Batches of one pass, each clip once, at most `max_clips` of them (0: all), spread evenly."""
    whole = PassOf(samples, epoch, len(samples))
    if 0 < max_clips < len(samples):
        chosen = np.linspace(0, len(samples) - 1, max_clips).round().astype(int)
        whole = Subset(whole, sorted(set(chosen.tolist())))
    return DataLoader(whole, batch_size, num_workers=workers, generator=torch.Generator())


@torch.no_grad()
def predictions(
    network: Synchformer,
    samples: AvSamples,
    *,
    passes: int = 1,
    batch_size: int = 8,
    max_clips: int = 0,
    workers: int = 0,
    quiet: bool = True,
) -> Predictions:
    """What `network` says of every clip in every pass; of more segments than it takes it sees the first."""
    parts: list[tuple[Tensor, ...]] = []
    for epoch in range(passes):
        batches = loader(samples, epoch, batch_size=batch_size, max_clips=max_clips, workers=workers)
        for batch in tqdm(batches, desc=f"pass {epoch + 1} of {passes}", disable=quiet):
            video, audio = (batch[name][:, : network.viewing.segments] for name in ("video", "audio"))
            logits = network(video.to(network.device), audio.to(network.device))
            parts.append(
                (logits.float().cpu(), *(batch[n] for n in ("target", "offset_target") if n in batch))
            )
    return Predictions(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))


@torch.no_grad()
def segment_scores(
    network: SegmentContrast,
    samples: AvSamples,
    *,
    window: int,
    batch_size: int,
    max_clips: int = 0,
    workers: int = 0,
) -> tuple[dict[str, float], Similarities]:
    """How well windows of segments find their own (see `window_scores`) and the contrastive loss, mean over
    clips; and the similarities of the first batch.
    """
    sums: dict[str, list[float]] = {"precision": [], "precision_a": [], "precision_v": [], "valid_loss": []}
    first: Similarities | None = None
    for batch in loader(samples, 0, batch_size=batch_size, max_clips=max_clips, workers=workers):
        vision, sound, temperature = network(
            batch["video"].to(network.device), batch["audio"].to(network.device)
        )
        scores = window_scores(vision, sound, window)
        sums["precision"] += scores.precision.tolist()
        sums["precision_a"] += scores.precision_sound.tolist()
        sums["precision_v"] += scores.precision_video.tolist()
        vision, sound = (rearrange(features, "b s d -> (b s) d") for features in (vision, sound))
        sums["valid_loss"].append(float(contrastive_loss(vision, sound, temperature)))
        first = first or similarities(vision.cpu(), sound.cpu(), temperature.cpu())
    assert first is not None  # there are clips
    return {name: float(np.mean(values)) for name, values in sums.items()}, first


@torch.no_grad()
def feature_similarities(network: Synchformer, batch: Sample) -> Similarities | None:
    """Those of the segments of a batch by the extractors alone, their features averaged over time.

    None where the extractors' widths differ.
    """
    features = [
        F.normalize(extractor(batch[name].to(network.device)).mean(dim=2).flatten(0, 1), dim=-1).cpu()
        for extractor, name in ((network.vfeat_extractor, "video"), (network.afeat_extractor, "audio"))
    ]
    if features[0].shape[1] != features[1].shape[1]:
        return None
    return similarities(features[0], features[1])
