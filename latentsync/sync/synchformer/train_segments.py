"""Stage I: segments of lips and sound that belong together, close to each other and far from all others.

`B` clips, `S` segments of each. Source: v-iashin/Synchformer, segment_avclip. Validation needs no labels:
windows of segments look for their own sound among all windows of their clip.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from accelerate import Accelerator
from torch import nn

from latentsync.sync.synchformer.build import build_segments
from latentsync.sync.synchformer.contrast import contrastive_loss
from latentsync.sync.synchformer.evaluate import segment_scores
from latentsync.sync.synchformer.network import SegmentContrast
from latentsync.sync.synchformer.pictures import draw_if_possible
from latentsync.sync.synchformer.samples import AvSamples, Sample
from latentsync.sync.synchformer.train import train
from latentsync.sync.synchformer.training_config import SynchformerTrainConfig
from latentsync.sync.synchformer.training_data import samples
from latentsync.training import Losses

TRAIN_CLIPS = 32  # that validation looks at beside its own, to tell whether the network has learned by heart


def train_segments(config: SynchformerTrainConfig, accelerator: Accelerator) -> Path:
    """Train, and keep the best network in `config.output`/best, whose folder is given back."""
    data, held_back = samples(config, "train"), samples(config, "valid")
    network, folder = build_segments(config), Path(config.output)
    accelerator.print(f"{len(data)} clips to learn from, {len(held_back)} held back")

    def step(model: nn.Module, batch: Sample, number: int) -> Losses:
        with accelerator.autocast():
            vision, sound, temperature = model(batch["video"], batch["audio"])
        loss = contrastive_loss(
            vision.float().flatten(0, 1),
            sound.float().flatten(0, 1),
            temperature,
            gathered=config.run.gather_for_loss,
        )
        return {"loss": loss, "temperature": temperature.detach()}

    def validate(model: nn.Module, done: int) -> Mapping[str, float]:
        network, row = cast(SegmentContrast, model), {}
        for phase, of_phase, most in (
            ("valid", held_back, config.run.max_valid_clips),
            ("train", data, TRAIN_CLIPS),
        ):
            told = scores(network, of_phase, most, phase, done)
            row |= told if phase == "valid" else {"train_precision": told["precision"]}
        return row

    def scores(network: SegmentContrast, clips: AvSamples, most: int, phase: str, done: int):
        told, alike = segment_scores(
            network,
            clips,
            window=config.run.win_size,
            batch_size=config.run.valid_batch_size,
            max_clips=most,
            workers=config.loop.num_workers,
        )
        if config.run.pictures:
            draw_if_possible(alike, folder, phase, done)
        return told

    return train(network, data, step, validate, config, accelerator)
