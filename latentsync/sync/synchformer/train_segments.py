"""Stage I: segments of lips and sound that belong together, close to each other and far from all others.

`B` clips, `S` segments of each. Source: v-iashin/Synchformer, segment_avclip. Validation needs no labels:
windows of segments look for their own sound among all windows of their clip.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latentsync.sync.synchformer.augment import changed_people
from latentsync.sync.synchformer.build import build_segments
from latentsync.sync.synchformer.contrast import contrastive_loss, own_clip_loss
from latentsync.sync.synchformer.evaluate import segment_scores
from latentsync.sync.synchformer.lessons import prepare_lessons
from latentsync.sync.synchformer.network import SegmentContrast
from latentsync.sync.synchformer.pictures import draw_if_possible
from latentsync.sync.synchformer.samples import AvSamples, Sample, SegmentSamples
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
    if config.model.teacher:
        cast(SegmentSamples, data).lessons = prepare_lessons(
            config.model.teacher,
            data.clips,
            frames=config.data.segment_size_vframes,
            width=network.width,
            folder=folder,
            accelerator=accelerator,
        )

    def step(model: nn.Module, batch: Sample, number: int) -> Losses:
        video, audio = batch["video"], batch["audio"]
        if config.data.augment:
            video, audio = changed_people(video, audio, by_segment=True)
        with accelerator.autocast():
            vision, sound, temperature = model(video, audio)
        contrast = contrasted(vision.float(), sound.float(), temperature)
        losses = {"loss": contrast, "contrast": contrast, "temperature": temperature.detach()}
        if config.model.teacher:
            pairs = (vision, batch["taught_video"]), (sound, batch["taught_audio"])
            distance = torch.stack([1 - (own * taught).sum(dim=-1).mean() for own, taught in pairs]).mean()
            losses |= {"loss": contrast + config.run.teacher_weight * distance, "distance": distance}
        return losses

    def contrasted(vision: Tensor, sound: Tensor, temperature: Tensor) -> Tensor:
        if config.run.own_clip_only:
            return own_clip_loss(vision, sound, temperature)
        gathered = config.run.gather_for_loss
        return contrastive_loss(vision.flatten(0, 1), sound.flatten(0, 1), temperature, gathered=gathered)

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
