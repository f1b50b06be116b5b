"""The refiner: what it may see, which other frame it is given, that it learns, its place in a pipeline."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel

from latentsync.diffusion.dataset import Clip
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.refine import Neighbours, build_refiner, refined, refiner_input, with_drawn_lips
from latentsync.diffusion.train_refiner import DraftBatch, TrainRefinerConfig, draw_drafts, refining_losses
from latentsync.dubbing.model import load_model
from latentsync.errors import CheckpointError, MediaError
from latentsync.face.mask import lips_region, mouth_mask

SIDE = 32


def numbered(count):
    return [torch.full((3, 1, 1), float(number)) for number in range(count)]


@pytest.mark.parametrize("sizes", [[40], [16, 16, 8], [14, 16, 9, 1]])
def test_the_other_frame_is_the_one_before_and_for_the_first_ones_after(sizes):
    faces, neighbours, found = numbered(40), Neighbours(8), []
    seen = 0
    for number, size in enumerate(sizes):
        coming = faces[seen:] if number == len(sizes) - 1 else faces[seen : seen + 16]
        for face in coming:
            neighbours.add(face)
        seen += len(coming)
        own, others = neighbours.take(size)
        found += [(int(a[0]), int(b[0])) for a, b in zip(own, others, strict=True)]
    assert found == [(i, i + 8 if i < 8 else i - 8) for i in range(40)]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_short_run_takes_what_there_is(count):
    neighbours = Neighbours(8)
    for face in numbered(count):
        neighbours.add(face)
    own, others = neighbours.take(count)
    assert own[:, 0, 0, 0].tolist() == list(range(count))
    assert others[:, 0, 0, 0].tolist() == [count - 1] * (count - 1) + [0]


def test_it_begins_by_changing_nothing():
    refiner = build_refiner([8, 16], SIDE)
    drawn, faces, others = torch.rand(3, 2, 3, SIDE, SIDE) * 2 - 1
    seen = refiner_input(drawn, faces, others, mouth_mask(SIDE))
    assert seen.shape == (2, 36, SIDE // 2, SIDE // 2)
    assert torch.equal(refined(refiner, drawn, seen), drawn)


def test_neither_the_frames_own_mouth_nor_another_frames_lips_are_seen():
    drawn, faces, others = torch.rand(3, 1, 3, SIDE, SIDE) * 2 - 1
    mask, lips = mouth_mask(SIDE), lips_region(SIDE)
    seen = F.pixel_shuffle(refiner_input(drawn, faces, others, mask), 2)
    changed = faces.clone()
    changed[:, :, mask[0] == 0] = 0.7
    assert torch.equal(seen, F.pixel_shuffle(refiner_input(drawn, changed, others, mask), 2))
    assert seen[:, 6:, lips > 0.95].abs().max() < 0.06
    assert torch.equal(seen[:, :3], drawn)


def test_at_the_lips_their_colour_is_mended_and_their_shape_is_kept():
    drawn = torch.zeros(1, 3, 128, 128)
    drawn[:, :, 76:84, 56:72] = -0.8  # an open mouth
    closed = torch.full_like(drawn, 0.2)  # brighter all over, and shut
    kept = with_drawn_lips(drawn, closed)
    assert torch.equal(kept[..., :40, :], closed[..., :40, :])
    inside, lip = kept[..., 80, 64], kept[..., 80, 52]
    assert (lip - inside).min() > 0.5  # of the 0.8 that were drawn; mended as it is, none would be left
    brighter = with_drawn_lips(drawn, drawn + 0.2)
    torch.testing.assert_close(brighter, drawn + 0.2)


def test_it_learns_to_give_blurred_skin_its_pattern_back():
    torch.manual_seed(0)
    skin = F.interpolate(torch.rand(1, 3, 16, 16) * 2 - 1, (SIDE, SIDE)).expand(8, -1, -1, -1)
    blurred = F.avg_pool2d(F.pad(skin, (2, 2, 2, 2), "replicate"), 5, 1)
    refiner, mask = build_refiner([16, 32], SIDE), mouth_mask(SIDE)
    batch = DraftBatch(blurred, skin, skin.clone())
    weights = torch.ones(SIDE, SIDE)
    optimizer = torch.optim.Adam(refiner.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        losses.append(refining_losses(refiner, batch, mask, weights, 0.5)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_a_pipeline_keeps_its_refiner_and_one_without_opens_too(frame_pipeline, tmp_path):
    frame_pipeline.save_pretrained(tmp_path / "without")
    assert load_model(tmp_path / "without", torch.device("cpu"), torch.float32)[0].refiner is None
    torch.manual_seed(1)
    refiner = build_refiner([8, 16], frame_pipeline.resolution)
    torch.nn.init.normal_(refiner.conv_out.weight, std=0.1)
    parts = {**frame_pipeline.components, "refiner": refiner}
    pipeline = LipsyncPipeline(**parts, resolution=frame_pipeline.resolution, reference_shift=8)
    pipeline.save_pretrained(tmp_path / "with")
    opened = load_model(tmp_path / "with", torch.device("cpu"), torch.float32)[0]
    R = pipeline.resolution
    faces = torch.rand(20, 3, R, R) * 2 - 1
    windows = torch.randn(20, 20, pipeline.unet.config.cross_attention_dim)
    settings, noise = pipeline.sampling(1, 1.0), pipeline.draw_noise(torch.Generator().manual_seed(1))
    drawn = [list(p.stream(faces, windows, noise, settings)) for p in (pipeline, opened)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*drawn, strict=True))

    for channels in ({"in_channels": 12}, {"out_channels": 3}, {"class_embed_type": "timestep"}):
        told = {name: value for name, value in refiner.config.items() if not name.startswith("_")}
        other = UNet2DModel(**{**told, **channels})
        with pytest.raises(ValueError, match="expected 36, 12 and no classes"):
            LipsyncPipeline(**{**parts, "refiner": other}, resolution=frame_pipeline.resolution)
    for name, wrong in (("reference_shift", -3), ("steady_frames", 1.5), ("steady_frames", 10**9)):
        with pytest.raises(ValueError, match=f"{name} {wrong}: expected a whole number from 0"):
            LipsyncPipeline(**frame_pipeline.components, **{name: wrong})

    index = tmp_path / "with/model_index.json"
    named = json.loads(index.read_text())
    index.write_text(json.dumps(named | {"refiner": ["diffusers", "UNet3DConditionModel"]}))
    with pytest.raises(CheckpointError, match=r"names diffusers\.UNet3DConditionModel as its refiner"):
        load_model(tmp_path / "with", torch.device("cpu"), torch.float32)


def test_clips_that_cannot_be_drawn_and_settings_without_sense_are_named(frame_pipeline, tmp_path):
    R = frame_pipeline.resolution

    def clip(side, samples):
        faces = np.zeros((4, side, side, 3), np.uint8)
        return Clip("a", "ann", "train", faces, np.zeros((4, 6)), np.zeros(samples))

    too_large = f"has faces of {2 * R} px, and the model draws {R} px"
    for wrong, words in ((clip(2 * R, 4 * 640), too_large), (clip(R, 100), "no frame with its")):
        with pytest.raises(MediaError, match=words):
            draw_drafts([wrong], frame_pipeline, tmp_path / "drafts", variants=1, frames=4)
    assert not (tmp_path / "drafts").exists()
    for wrong in ({"variants": 0}, {"channels": []}, {"channels": [10]}, {"reference_distance": (25, 4)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TrainRefinerConfig(**wrong)
