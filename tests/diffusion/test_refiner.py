"""The refiner: what it may see, which other frame it is given, that it learns, its place in a pipeline."""

import json

import pytest
import torch
import torch.nn.functional as F

from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.refine import Neighbours, build_refiner, refined, refiner_input
from latentsync.diffusion.train_refiner import DraftBatch, refining_losses
from latentsync.dubbing.model import load_model
from latentsync.errors import CheckpointError
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

    index = tmp_path / "with/model_index.json"
    named = json.loads(index.read_text())
    index.write_text(json.dumps(named | {"refiner": ["diffusers", "UNet3DConditionModel"]}))
    with pytest.raises(CheckpointError, match=r"names diffusers\.UNet3DConditionModel as its refiner"):
        load_model(tmp_path / "with", torch.device("cpu"), torch.float32)
