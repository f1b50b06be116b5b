"""The refiner: what it may see, which other frame it is given, that it learns, its place in a pipeline."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from tiny_pipeline import refining_parts

from latentsync.diffusion.articulator import Articulator
from latentsync.diffusion.augment import NO_COLOUR
from latentsync.diffusion.dataset import Clip
from latentsync.diffusion.drafts import Drafts, draw_drafts
from latentsync.diffusion.pipeline import LipsyncPipeline
from latentsync.diffusion.refine import (
    FINEST_STEP,
    FLOW_UNIT,
    MOTION_SIZE,
    OTHERS,
    Neighbours,
    build_refiner,
    motion_embedding,
    refine,
    refiner_input,
    relit,
)
from latentsync.diffusion.sampling import Batching
from latentsync.diffusion.train_refiner import DraftBatch, DraftData, TrainRefinerConfig, refining_losses
from latentsync.dubbing.model import load_model
from latentsync.errors import CheckpointError, MediaError
from latentsync.face.mask import mouth_mask
from latentsync.training import LoopConfig

SIDE = 32
MEASURES = 6
PIXELS = TrainRefinerConfig(mouth_shape=0.0)  # of its losses, those of pixels alone


def blind(faces):
    """Reads nothing."""
    return torch.zeros(len(faces), MEASURES)


def still(count):
    """No motion of `count` mouths."""
    return torch.zeros(count, MEASURES)


def some_faces(count):
    """Two sets of faces, (2, count, 3, R, R), and others of each."""
    faces = torch.rand(2 + OTHERS, count, 3, SIDE, SIDE) * 2 - 1
    return faces[:2], faces[2:].transpose(0, 1)


def numbered(count):
    return [torch.full((3, 1, 1), float(number)) for number in range(count)]


def handed_out(count, chunks):
    """(number, those of its others) of `count` faces, `chunks` at a time, taken as soon as they can be."""
    neighbours, found, coming = Neighbours(), [], iter(numbered(count))
    for size in itertools.chain(chunks, itertools.repeat(16)):
        part = list(itertools.islice(coming, size))
        for face in part:
            neighbours.add(face)
        if not part:
            neighbours.end()
        if ready := neighbours.ready():
            own, others = neighbours.take(ready)
            found += zip(own[:, 0, 0, 0].int().tolist(), others[:, :, 0, 0, 0].int().tolist(), strict=True)
        if not part:
            return found


@pytest.mark.parametrize("count", [96, 97, 144, 145, 192, 250])
def test_blocks_lend_each_other_frames_that_stay_the_same(count):
    found = handed_out(count, [])
    assert [own for own, _ in found] == list(range(count))
    for chunks in ([1] * count, [count], [14, 16, 9, 1]):
        assert handed_out(count, chunks) == found
    first, second = [4, 14, 24, 33, 43], [52, 62, 72, 81, 91]
    assert all(others == (second if own < 48 else first) for own, others in found[:96])
    assert all({abs(other // 48 - own // 48) for other in others} == {1} for own, others in found)
    assert min(abs(own - other) for own, others in found for other in others) > 4


@pytest.mark.parametrize("count", [1, 2, 7, 17, 41, 95])
def test_of_a_short_stream_halves_lend_to_each_other(count):
    found = handed_out(count, [])
    assert [own for own, _ in found] == list(range(count)) and found == handed_out(count, [count])
    half = count // 2
    assert count == 1 or all((own < half) != (other < half) for own, others in found for other in others)


def test_it_begins_with_the_mean_of_all_pictures():
    refiner = build_refiner([8, 16], SIDE)
    (drawn, faces), others = some_faces(2)
    found = refine(refiner, drawn, faces, others, mouth_mask(SIDE), still(2))
    torch.testing.assert_close(found.faces(), (drawn + others.sum(dim=1)) / (1 + OTHERS))
    torch.testing.assert_close(found.of_others(), others.mean(dim=1))


def test_other_frames_are_bent_by_the_flow_and_their_border_goes_on():
    (drawn, faces), others = some_faces(1)
    refiner = build_refiner([8, 16], SIDE)
    with torch.no_grad():
        refiner.conv_out.bias[2] = 4 / (SIDE - 1) / FLOW_UNIT  # the second one: from 4 px further right
        refiner.conv_out.bias[2 * OTHERS + 1] = 50.0  # and it alone
    found = refine(refiner, drawn, faces, others, mouth_mask(SIDE), still(1)).faces()
    torch.testing.assert_close(found[..., :-4], others[:, 1, :, :, 4:], atol=1e-4, rtol=0)
    beyond = others[:, 1, :, :, -1:].expand(-1, -1, -1, 4)
    torch.testing.assert_close(found[..., -4:], beyond, atol=1e-4, rtol=0)


def test_a_draft_is_put_into_the_light_of_the_other_frames():
    """Skin in a wrong colour, darker to one side, with a bar on it: the colour goes, the bar stays."""
    others = torch.full((2, OTHERS, 3, 128, 128), 0.3)
    others[:, :, 2] = -0.2
    drawn = torch.linspace(-0.6, 0.0, 128).expand(2, 3, 128, 128).clone()
    drawn[..., 78:82, 50:78] -= 0.4
    found = relit(drawn, others)
    assert (found - others[:, 0]).abs()[..., :60, 8:120].max() < 0.01
    bar, skin = found[..., 79:81, 58:70], found[..., 66:68, 58:70]
    assert (skin - bar).mean() == pytest.approx(0.4, abs=0.12)
    torch.testing.assert_close(relit(others[:, 0], others), others[:, 0])


def test_the_frames_own_mouth_is_not_seen_and_others_are():
    (drawn, faces), others = some_faces(1)
    mask = mouth_mask(SIDE)
    seen = F.pixel_shuffle(refiner_input(drawn, faces, others, mask), 2)
    changed = faces.clone()
    changed[:, :, mask[0] == 0] = 0.7
    assert torch.equal(seen, F.pixel_shuffle(refiner_input(drawn, changed, others, mask), 2))
    assert torch.equal(seen[:, :3], drawn)
    assert torch.equal(seen[:, 6:], others[0].flatten(0, 1)[None])


@pytest.mark.slow
def test_lips_come_from_the_draft_and_their_look_from_others():
    """Bars at random heights, red or blue: the draft shows where they are, others what colour they have."""
    rng, hues = np.random.default_rng(0), torch.tensor([[0.8, -0.2, -0.8], [-0.8, -0.2, 0.8]])

    def bars(people):
        faces = torch.zeros(len(people), 3, SIDE, SIDE)
        heights = rng.integers(18, 26, len(people))
        for face, height, person in zip(faces, heights, people, strict=True):
            face[:, height : height + 3, 8:24] = hues[person][:, None, None]
        return faces, heights

    def drawn_batch(count):
        people = rng.integers(2, size=count)
        faces, heights = bars(people)
        drawn = -0.5 * (faces != 0).float()
        others = torch.stack([bars(people)[0] for _ in range(OTHERS)], dim=1)
        return DraftBatch(drawn, faces, others, still(count), still(count)), heights

    torch.manual_seed(0)
    refiner, mask, weights = build_refiner([16, 32], SIDE), mouth_mask(SIDE), torch.full((SIDE, SIDE), 0.1)
    weights[16:30, 6:26] = 3.0
    optimizer = torch.optim.Adam(refiner.parameters(), 2e-3)
    for _ in range(200):
        loss = refining_losses(refiner, drawn_batch(16)[0], mask, weights, blind, PIXELS)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seen, heights = drawn_batch(32)
    with torch.no_grad():
        found = refine(refiner, *seen[:3], mask, seen.motion).faces()
    for face, true, height in zip(found, seen.faces, heights, strict=True):
        bar = (slice(None), slice(height, height + 3), slice(10, 22))
        assert (face - true)[bar].abs().mean() < 0.5  # nothing done is 0.63, the other colour 1.07


def test_it_learns_to_give_blurred_skin_its_pattern_back():
    torch.manual_seed(0)
    skin = F.interpolate(torch.rand(1, 3, 16, 16) * 2 - 1, (SIDE, SIDE)).expand(8, -1, -1, -1)
    blurred = F.avg_pool2d(F.pad(skin, (2, 2, 2, 2), "replicate"), 5, 1)
    refiner, mask = build_refiner([16, 32], SIDE), mouth_mask(SIDE)
    batch = DraftBatch(blurred, skin, skin[:, None].expand(-1, OTHERS, -1, -1, -1), still(8), still(8))
    weights = torch.ones(SIDE, SIDE)
    optimizer = torch.optim.Adam(refiner.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        losses.append(refining_losses(refiner, batch, mask, weights, blind, PIXELS)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_a_pipeline_keeps_its_refiner_and_one_without_opens_too(frame_pipeline, tmp_path):
    frame_pipeline.save_pretrained(tmp_path / "without")
    assert load_model(tmp_path / "without", torch.device("cpu"), torch.float32)[0].refiner is None
    parts = refining_parts(frame_pipeline)
    pipeline = LipsyncPipeline(**parts, resolution=frame_pipeline.resolution, reference_shift=8)
    pipeline.save_pretrained(tmp_path / "with")
    opened = load_model(tmp_path / "with", torch.device("cpu"), torch.float32)[0]
    R = pipeline.resolution
    faces = torch.rand(20, 3, R, R) * 2 - 1
    windows = torch.randn(20, 20, pipeline.unet.config.cross_attention_dim)
    settings, noise = pipeline.sampling(1, 1.0), pipeline.draw_noise(torch.Generator().manual_seed(1))
    drawn = [list(p.stream(faces, windows, noise, settings)) for p in (pipeline, opened)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*drawn, strict=True))

    for channels in (
        {"in_channels": 12},
        {"out_channels": 3},
        {"class_embed_type": None},
        {"time_embedding_dim": 64},
    ):
        told = {name: value for name, value in parts["refiner"].config.items() if not name.startswith("_")}
        other = UNet2DModel(**{**told, **channels})
        with pytest.raises(ValueError, match="expected 84, 28, identity and 128"):
            LipsyncPipeline(**{**parts, "refiner": other}, resolution=frame_pipeline.resolution)
    for missing in ("refiner", "articulator"):
        with pytest.raises(ValueError, match=f"go together, and there is no {missing}: train both"):
            LipsyncPipeline(**{**parts, missing: None}, resolution=frame_pipeline.resolution)
    for wrong in ((21, 16, 8, 6), (20, 32, 8, 6), (20, 16, 8, 5)):
        with pytest.raises(ValueError, match="expected 20 of 16 and 6"):
            LipsyncPipeline(
                **{**parts, "articulator": Articulator(*wrong)}, resolution=frame_pipeline.resolution
            )
    low, high = [-1.0] * 6, [1.0] * 6
    for least, most in (
        (low[:2], high),
        (low, None),
        (high, low),
        (low, [float("nan")] * 6),
        ("abcdef", high),
        ([None] * 6, high),
        (dict(enumerate(low)), high),
        (5, high),
    ):
        strange = Articulator(20, 16, 8, 6, least=least, most=most)
        with pytest.raises(ValueError, match=r"tells from .*; expected two lists of 6 numbers"):
            LipsyncPipeline(**{**parts, "articulator": strange}, resolution=frame_pipeline.resolution)
    bounded = Articulator(20, 16, 8, 6, least=low, most=high)
    LipsyncPipeline(**{**parts, "articulator": bounded}, resolution=frame_pipeline.resolution)
    with pytest.raises(ValueError, match="paste_region 'Mouth' is unknown; expected hole or mouth"):
        LipsyncPipeline(**frame_pipeline.components, paste_region="Mouth")
    for name, wrong in (("reference_shift", -3), ("steady_frames", 1.5), ("steady_frames", 10**9)):
        with pytest.raises(ValueError, match=f"{name} {wrong}: expected a whole number from 0"):
            LipsyncPipeline(**frame_pipeline.components, **{name: wrong})

    index = tmp_path / "with/model_index.json"
    named = json.loads(index.read_text())
    index.write_text(json.dumps(named | {"refiner": ["diffusers", "UNet3DConditionModel"]}))
    with pytest.raises(CheckpointError, match=r"names diffusers\.UNet3DConditionModel as its refiner"):
        load_model(tmp_path / "with", torch.device("cpu"), torch.float32)


def bright_drafts(frames):
    """A clip whose faces are grey, brighter from frame to frame, and whose mouth opens by 6 a frame; drawn
    black with a white mouth that is less blue from frame to frame.
    """
    faces = np.broadcast_to(100 + np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, 64, 64, 3))
    drawn = np.zeros((frames, 3, 64, 64), np.uint8)
    drawn[:, :, 36:44, 24:40] = 255
    drawn[:, 2, 36:44, 24:40] -= np.arange(frames, dtype=np.uint8)[:, None, None]
    clip = Clip(
        "a", "ann", "train", faces, np.arange(6.0 * frames).reshape(frames, 6), np.zeros(frames * 640)
    )
    return Drafts(clip, 0, drawn)


def test_what_a_refiner_learns_from():
    calm = TrainRefinerConfig(
        other_drafts=0.0,
        tint=0.0,
        misplaced=0.0,
        alike=0.0,
        other_distance=(4, 10),
        loop=LoopConfig(batch_size=32),
    )

    def batch(frames=40, **changed):
        return DraftData([bright_drafts(frames)], np.full(6, 2.0), replace(calm, **changed)).draw(0)

    def mouths(drawn):  # where each begins
        inside = drawn.mean(dim=1)[:, 20:60, 28:36].mean(dim=-1)
        return (inside > inside.amax(dim=-1, keepdim=True) - 0.2).float().argmax(dim=-1)

    still, moved, dyed = batch(), batch(misplaced=1.0), batch(tint=0.3)
    assert still.others.shape == (32, OTHERS, 3, 64, 64)
    assert (still.others[..., 0, 0] - still.faces[:, None, :, 0, 0]).abs().amin(dim=(1, 2)).min() > 0
    assert still.others.std(dim=1).amax(dim=(1, 2, 3)).min() > 0
    assert batch(alike=1.0).others.std(dim=1).max() < 1e-6
    assert len(mouths(still.drawn).unique()) == 1 < len(mouths(moved.drawn).unique())
    mask = mouth_mask(64)
    kept = ((mask == 1) & (mask.flip(-1) == 1))[0]  # half of the samples are mirrored
    assert moved.drawn[..., kept].std(dim=-1).max() < 0.01  # it moves in the hole alone
    assert torch.equal(dyed.faces, still.faces) and torch.equal(dyed.others, still.others)
    assert (dyed.drawn - still.drawn).abs()[:, :, 40, 32].mean() > 0.02
    with pytest.raises(MediaError, match="clip a has 7 frames, and not all have another one 4 away"):
        batch(frames=7)
    assert batch(frames=8).others.shape == (32, OTHERS, 3, 64, 64)


def test_motion_tells_of_the_true_frame_even_where_the_draft_is_of_another(monkeypatch):
    """How far a draft's mouth is from blue says which frame it is of, and motion says which the truth is."""
    plain = {"tint": 0.0, "misplaced": 0.0, "other_distance": (4, 10), "loop": LoopConfig(batch_size=64)}

    monkeypatch.setattr("latentsync.diffusion.train_refiner.draw_colour", lambda rng: NO_COLOUR)

    def frames(**settings):
        data = DraftData([bright_drafts(40)], np.full(6, 2.0), TrainRefinerConfig(**settings, **plain))
        batch = data.draw(0)
        shown = (batch.drawn[:, 0, 40, 30] - batch.drawn[:, 2, 40, 30]) * 127.5
        return (batch.motion[:, 0] / 3 + 19.5).round().int(), shown.round().int()

    true, shown = frames(other_drafts=0.0)
    assert torch.equal(true, shown) and len(true.unique()) > 10
    assert (true >= 20).float().mean() > 0.6  # open mouths come more often
    true, shown = frames(other_drafts=1.0)
    assert (true - shown).abs().min() >= 4 and (true - shown).abs().max() <= 10


@pytest.mark.slow
def test_told_motion_moves_the_mouth_where_the_draft_is_silent():
    """Bars as high as motion says; the draft shows none, the other frames show one somewhere."""
    rng = np.random.default_rng(0)

    def bars(heights):
        faces = torch.zeros(len(heights), 3, SIDE, SIDE)
        for face, height in zip(faces, heights, strict=True):
            face[:, height : height + 3, 8:24] = 0.8
        return faces

    def drawn_batch(count):
        heights = rng.integers(18, 26, count)
        others = torch.stack([bars(rng.integers(18, 26, count)) for _ in range(OTHERS)], dim=1)
        motion = still(count)
        motion[:, 0] = torch.from_numpy(heights - 22) / 2
        return DraftBatch(torch.zeros(count, 3, SIDE, SIDE), bars(heights), others, motion, motion)

    torch.manual_seed(0)
    refiner, mask, weights = build_refiner([16, 32], SIDE), mouth_mask(SIDE), torch.full((SIDE, SIDE), 0.1)
    weights[16:30, 6:26] = 3.0
    optimizer = torch.optim.Adam(refiner.parameters(), 3e-3)
    for _ in range(250):
        loss = refining_losses(refiner, drawn_batch(16), mask, weights, blind, PIXELS)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seen = drawn_batch(32)
    with torch.no_grad():
        found, unmoved = (
            refine(refiner, *seen[:3], mask, motion).faces() for motion in (seen.motion, still(32))
        )
    region = (slice(None), slice(None), slice(16, 30), slice(10, 22))
    error, untold = ((faces - seen.faces)[region].square().mean() for faces in (found, unmoved))
    assert error < 0.5 * untold


def test_a_mouth_of_another_shape_costs_by_its_reader():
    """A reader that sees where the bar is: the loss grows with the distance, and pulls the mouth there."""
    faces = torch.zeros(2, 3, SIDE, SIDE)
    faces[0, :, 20:23], faces[1, :, 20:23] = 0.8, 0.8
    drawn = faces.roll(3, dims=2)
    batch = DraftBatch(drawn, faces, drawn[:, None].expand(-1, OTHERS, -1, -1, -1), still(2), still(2))

    def reader(pictures):
        rows = pictures[:, 0].mean(dim=-1)
        return (rows * torch.arange(SIDE)).sum(dim=-1, keepdim=True) / rows.sum(dim=-1, keepdim=True)

    refiner, mask, weights = build_refiner([8, 16], SIDE), mouth_mask(SIDE), torch.ones(SIDE, SIDE)
    found = refining_losses(refiner, batch, mask, weights, reader, TrainRefinerConfig(mouth_shape=2.0))
    assert found["mouth_shape"].item() == pytest.approx(2.5, abs=1e-3)  # smooth L1 of three rows
    alone = refining_losses(refiner, batch, mask, weights, reader, PIXELS)
    assert (found["loss"] - alone["loss"]).item() == pytest.approx(5.0, abs=1e-3)
    found["mouth_shape"].backward()
    assert refiner.conv_out.weight.grad.abs().max() > 0


def test_motion_is_embedded_so_that_small_differences_tell():
    motion = torch.tensor([[0.0, -9.0, 9.0], [0.2, -9.0, 9.0]])
    embedded = motion_embedding(motion)  # 42 steps a measure, two left over
    assert embedded.shape == (2, 128) and not embedded[:, 126:].any()
    assert (embedded[:, 42:84] < -0.99 * MOTION_SIZE).all() and (
        embedded[:, 84:126] > 0.99 * MOTION_SIZE
    ).all()
    assert (embedded[1] - embedded[0])[:42].max() > 0.5 * MOTION_SIZE * 0.2 / FINEST_STEP
    told = motion_embedding(torch.linspace(-6, 6, 50)[:, None].expand(-1, 6))
    assert (told.diff(dim=0) > 0).any(dim=1).all()  # no two are alike


def test_a_refiner_that_is_wrapped_to_be_trained_by_several_processes_is_called_as_it_is():
    class Wrapped(torch.nn.Module):  # as DistributedDataParallel: it has no attributes of what it holds
        def __init__(self, held):
            super().__init__()
            self.module = held

        def forward(self, *given, **named):
            return self.module(*given, **named)

    refiner, (drawn, faces), others = build_refiner([8, 16], SIDE), *some_faces(2)
    found = refine(Wrapped(refiner), drawn, faces, others, mouth_mask(SIDE), still(2)).faces()
    assert torch.equal(found, refine(refiner, drawn, faces, others, mouth_mask(SIDE), still(2)).faces())


def test_each_face_is_told_the_motion_of_its_own_sound(frame_pipeline, monkeypatch):
    """The denoiser deaf, one frame's sound another: of 110 faces that one alone is another."""
    pipeline = LipsyncPipeline(
        **refining_parts(frame_pipeline, change=0.3), resolution=frame_pipeline.resolution, steady_frames=1
    )
    pipeline.set_progress_bar_config(disable=True)
    R, noise = pipeline.resolution, pipeline.draw_noise()

    def undrawn(runs, *_):
        return [noise.expand(-1, len(run.faces), -1, -1) for run in runs]

    monkeypatch.setattr(pipeline, "_denoise_runs", undrawn)
    monkeypatch.setattr(pipeline, "decode", lambda latents: torch.zeros(latents.shape[1], 3, R, R))
    faces = torch.rand(110, 3, R, R) * 2 - 1
    windows = torch.randn(110, 20, pipeline.unet.config.cross_attention_dim)
    for frame in (0, 47, 100, 109):
        others = windows.clone()
        others[frame] = torch.randn_like(windows[frame])
        first, second = (
            torch.stack(list(pipeline.stream(faces, sound, noise, pipeline.sampling(1, 1.0))))
            for sound in (windows, others)
        )
        changed = (first - second).abs().amax(dim=(1, 2, 3)) > 1e-4
        assert changed.nonzero().flatten().tolist() == [frame]


@pytest.mark.parametrize("frames", [1, 17, 60])
def test_how_much_is_computed_at_a_time_does_not_change_the_picture(frame_pipeline, frames):
    R = frame_pipeline.resolution
    parts = refining_parts(frame_pipeline, change=0.3)
    pipeline = LipsyncPipeline(**parts, resolution=R, reference_shift=8, steady_frames=1)
    pipeline.set_progress_bar_config(disable=True)
    faces = torch.rand(frames, 3, R, R) * 2 - 1
    windows = torch.randn(frames, 20, pipeline.unet.config.cross_attention_dim)
    settings, noise = pipeline.sampling(1, 1.0), pipeline.draw_noise(torch.Generator().manual_seed(1))
    drawn = []
    for batching in (Batching(frames=16), Batching(frames=3, windows=3), Batching(frames=16, windows=4)):
        pipeline.batching = batching
        drawn.append(torch.stack(list(pipeline.stream(faces, windows, noise, settings))))
    assert len(drawn[0]) == frames
    for other in drawn[1:]:
        torch.testing.assert_close(other, drawn[0], atol=1e-4, rtol=0)


def test_clips_that_cannot_be_drawn_and_settings_without_sense_are_named(frame_pipeline, tmp_path):
    R = frame_pipeline.resolution

    def clip(side, samples):
        faces = np.zeros((4, side, side, 3), np.uint8)
        return Clip("a", "ann", "train", faces, np.zeros((4, 6)), np.zeros(samples))

    too_large = f"has faces of {2 * R} px, and the model draws {R} px"
    for wrong, words in ((clip(2 * R, 4 * 640), too_large), (clip(R, 100), "no frame with its")):
        with pytest.raises(MediaError, match=words):
            draw_drafts([wrong], frame_pipeline, tmp_path / "drafts", variants=1, frames=4, strength=0.5)
    assert not (tmp_path / "drafts").exists()
    for wrong in (
        {"variants": 0},
        {"channels": []},
        {"channels": [10]},
        {"other_distance": (25, 4)},
        {"strength": 0.0},
        {"other_drafts": 1.5},
        {"mouth_shape": -1.0},
        {"tint": -0.1},
        {"misplaced": 2.0},
        {"alike": float("nan")},
        {"guidance_scale": 30.0},
        {"motion_gain": 0.0},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TrainRefinerConfig(**wrong)
