"""Stage II, offsets of a crop as classes; and fine-tuning to tell whether there is an offset at all.

Source: v-iashin/Synchformer, sync and ft_synchability. The extractors come from stage I and stay as they
are, unless the configuration says otherwise. Of its advice: the loss of validation says little, look at
accuracy; and a long plateau near ln(classes) comes first.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from latentsync.sync.synchformer.augment import changed_people
from latentsync.sync.synchformer.build import build_synchformer
from latentsync.sync.synchformer.evaluate import feature_similarities, loader, predictions
from latentsync.sync.synchformer.metrics import offset_metrics, synchronizability_metrics
from latentsync.sync.synchformer.network import Synchformer
from latentsync.sync.synchformer.open import open_synchformer
from latentsync.sync.synchformer.pictures import draw_if_possible
from latentsync.sync.synchformer.samples import AvSamples, Sample
from latentsync.sync.synchformer.sync_transformer import HEADS
from latentsync.sync.synchformer.train import train, write_results
from latentsync.sync.synchformer.training_config import SynchformerTrainConfig
from latentsync.sync.synchformer.training_data import samples
from latentsync.training import Losses


def train_offsets(config: SynchformerTrainConfig, accelerator: Accelerator) -> Path:
    """Train stage II, keep the best network in `config.output`/best, and test it: results.json."""
    return _train(config, accelerator, HEADS[0])


def train_synchronizability(config: SynchformerTrainConfig, accelerator: Accelerator) -> Path:
    """The same for "can an offset be told", from `config.model.start`."""
    return _train(config, accelerator, HEADS[1])


def _train(config: SynchformerTrainConfig, accelerator: Accelerator, head: str) -> Path:
    data, held_back = samples(config, "train"), samples(config, "valid")
    network, folder = build_synchformer(config, head), Path(config.output)
    accelerator.print(f"{len(data)} clips to learn from, {len(held_back)} held back")

    def step(model: nn.Module, batch: Sample, number: int) -> Losses:
        video, audio = batch["video"], batch["audio"]
        if config.data.augment:
            video, audio = changed_people(video, audio, by_segment=False)
        with accelerator.autocast():
            logits = model(video, audio)
        loss = F.cross_entropy(logits.float(), batch["target"])
        right = (logits.argmax(dim=1) == batch["target"]).float().mean()
        return {"loss": loss, "train_accuracy_1": right}

    def validate(model: nn.Module, done: int) -> Mapping[str, float]:
        network = cast(Synchformer, model)
        if config.run.pictures:
            batch = next(iter(loader(held_back, 0, batch_size=config.run.valid_batch_size)))
            draw_if_possible(feature_similarities(network, batch), folder, "valid", done)
        most, passes = config.run.max_valid_clips, config.run.valid_passes
        return test(network, held_back, config, passes=passes, most=most)

    best = train(network, data, step, validate, config, accelerator)
    if accelerator.is_main_process:
        found = open_synchformer(best).to(accelerator.device)
        passes = 1 if "test" in config.data.load_fixed_offsets_on else config.data.iter_times
        results = test(found, samples(config, "test"), config, passes=passes)
        write_results(folder, {"test": results})
        accelerator.print(f"test: {results}")
    accelerator.wait_for_everyone()
    return best


def test(
    network: Synchformer,
    clips: AvSamples,
    config: SynchformerTrainConfig,
    *,
    passes: int = 1,
    most: int = 0,
) -> dict[str, float]:
    """Metrics and loss of `network` on `passes` passes over `clips`."""
    found = predictions(
        network,
        clips,
        passes=passes,
        batch_size=config.run.valid_batch_size,
        max_clips=most,
        workers=config.loop.num_workers,
    )
    metrics = offset_metrics if network.judges_offsets else synchronizability_metrics
    return {**metrics(found.logits, found.targets), "valid_loss": found.loss}
