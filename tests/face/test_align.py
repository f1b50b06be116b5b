"""Alignment against reference numbers, and what must hold for any face."""

import numpy as np
import pytest
import torch

from latentsync.face.align import align, crop_size, invert, matrix_scale, similarity, template, warp_to_crop


def sampled(array, spec):
    """The part of a full result that a golden case keeps."""
    return array[tuple(slice(a, None, b) for a, b in zip(spec["start"], spec["step"], strict=True))]


def placed(resolution, *, centre=(160.0, 120.0), scale=0.5, degrees=0.0):
    """A matrix frame -> crop for a face at `centre` with `scale` crop pixels per frame pixel."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    target = template(resolution)
    points = (target - target.mean(axis=0)) @ turn.T + centre
    return similarity(points[None], target)[0]


def smooth_frame(height, width, rng):
    """A picture of slow waves, whose value is known between the pixels too."""
    y, x = np.mgrid[:height, :width]
    phase = rng.uniform(0, 6, 3)
    waves = [np.sin(x / 17 + p) * np.cos(y / 23 - p) for p in phase]
    return np.rint(128 + 100 * np.stack(waves, axis=2)).astype(np.uint8)


@pytest.mark.golden
def test_template_and_matrices_agree_with_upstream(golden):
    info, _, tensors = golden("latentsync", "align_restore")
    resolution = info["config"]["resolution"]
    assert np.abs(template(resolution) - tensors["output.face_template"]).max() < 1e-5
    assert crop_size(resolution) == tuple(tensors["output.face_size_wh"])
    matrices = similarity(tensors["input.landmarks3"], template(resolution))
    wanted = tensors["output.affine_matrix_no_smooth"]
    # upstream computes in float32, where a shift of 500 pixels has steps of 3e-5
    np.testing.assert_allclose(matrices, wanted, rtol=1e-5, atol=1e-5 * max(1, np.abs(wanted).max() / 50))


@pytest.mark.golden
def test_crops_agree_with_upstream_but_for_its_truncation(golden):
    info, _, tensors = golden("latentsync", "align_restore")
    resolution = info["config"]["resolution"]
    matrices = tensors["output.affine_matrix"]
    crops = warp_to_crop(tensors["input.frames"], matrices, crop_size(resolution))
    crops = sampled(crops.permute(0, 2, 3, 1).numpy(), info["outputs"]["aligned"]["sample"])
    wanted = tensors["output.aligned"].astype(float)
    assert np.abs(np.rint(crops) - wanted).max() <= 1  # we round
    assert (np.floor(crops + 1e-3) != wanted).mean() < 0.005
    faces = align(tensors["input.frames"], matrices, resolution).permute(0, 2, 3, 1).numpy()
    faces = sampled(faces, info["outputs"]["aligned_resized"]["sample"]).astype(float)
    difference = faces - tensors["output.aligned_resized"]
    assert np.abs(difference).max() <= 2  # Lanczos weights exceed 1, so a level may become two
    assert abs(difference.mean() - 0.5) < 0.1  # upstream's truncation, and nothing else


@pytest.mark.parametrize(
    ("resolution", "size"),
    [(64, (52, 70)), (128, (105, 140)), (256, (210, 280)), (384, (314, 419)), (512, (420, 560))],
)
def test_crop_sizes(resolution, size):
    assert crop_size(resolution) == size


def test_similarity_recovers_rotation_scale_and_shift():
    rng = np.random.default_rng(1)
    target = template(256)
    for _ in range(50):
        angle, scale = rng.uniform(-np.pi, np.pi), rng.uniform(0.05, 20)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = target @ turn.T + rng.uniform(-500, 500, 2)
        matrix = similarity(points[None], target)[0]
        assert np.abs(points @ matrix[:, :2].T + matrix[:, 2] - target).max() < 1e-2
        assert matrix_scale(matrix) == pytest.approx(1 / scale, rel=1e-4)


def test_similarity_never_mirrors():
    target = template(256)
    mirrored = target * (-1, 1) + (300, 50)
    assert np.linalg.det(similarity(mirrored[None], target)[0][:, :2]) > 0


def test_similarity_refuses_what_has_no_answer():
    with pytest.raises(ValueError, match="coincide"):
        similarity(np.zeros((1, 3, 2)), template(64))
    with pytest.raises(ValueError, match=r"\(F, 3, 2\)"):
        similarity(np.zeros((3, 2)), template(64))


@pytest.mark.parametrize("degrees", [0, 17, -120])
def test_there_and_back(degrees):
    rng = np.random.default_rng(2)
    frame = smooth_frame(240, 320, rng)
    matrix = placed(128, scale=1.5, degrees=degrees)
    size = crop_size(128)
    crop = warp_to_crop(frame, matrix, size)[0].round().to(torch.uint8).permute(1, 2, 0).numpy()
    back = warp_to_crop(crop, invert(matrix), (320, 240))[0].permute(1, 2, 0).numpy()
    inside = warp_to_crop(np.full((size[1], size[0], 3), 255, np.uint8), invert(matrix), (320, 240))[0, 0]
    inside = inside.numpy() > 254.5
    assert inside.sum() > 2000
    assert np.abs(back - frame)[inside].max() < 3  # two bilinear steps on slow waves


def test_only_the_region_is_read():
    """The crop is the same whether the frame around the face is there or grey, or was cut away."""
    rng = np.random.default_rng(3)
    frame = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    matrix = placed(64, centre=(200, 150), scale=1.0)
    whole = align([frame], matrix[None], 64)
    small = frame[60:240, 100:300]
    moved = matrix.copy()
    moved[:, 2] += moved[:, :2] @ (100, 60)
    assert torch.equal(whole, align([small], moved[None], 64))


def test_fill_beyond_the_picture():
    frame = np.zeros((50, 50, 3), np.uint8)
    away = placed(64, centre=(500, 500))
    assert (align([frame], away[None], 64) == 127).all()
    beside = placed(64, centre=(0, 25), scale=1.0)
    crop = warp_to_crop(frame, beside, crop_size(64))[0]
    assert (crop[:, :, 0] == 127).all() and (crop == 0).any()


def test_strong_reduction_does_not_alias():
    """A checkerboard of single pixels, ten times too fine for the crop, must turn grey."""
    board = (np.indices((1000, 1000)).sum(axis=0) % 2 * 255).astype(np.uint8)
    frame = np.repeat(board[:, :, None], 3, axis=2)
    matrix = placed(64, centre=(500, 400), scale=0.101)
    crop = warp_to_crop(frame, matrix, crop_size(64))[0]
    assert (crop - 127.5).abs().max() < 10


def test_reduction_keeps_the_place():
    frame = smooth_frame(600, 800, np.random.default_rng(4))
    matrix = placed(64, centre=(400, 300), scale=0.31, degrees=10)
    crop = warp_to_crop(frame, matrix, crop_size(64))[0].numpy()
    width, height = crop_size(64)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    where = np.stack([x, y, np.ones_like(x)], axis=-1) @ invert(matrix).T
    nearest = frame[np.clip(np.rint(where[..., 1]), 0, 599).astype(int), np.rint(where[..., 0]).astype(int)]
    inside = (where[..., 1] > 5) & (where[..., 1] < 594)
    # a shift of one source pixel would show as some 4 levels on average
    assert np.abs(crop.transpose(1, 2, 0) - nearest)[inside].mean() < 2.5


def test_wrong_pictures_are_named():
    with pytest.raises(ValueError, match="float64"):
        align([np.zeros((10, 10, 3))], np.eye(3)[None, :2], 64)
    with pytest.raises(ValueError, match="2 images with 1"):
        align(np.zeros((2, 10, 10, 3), np.uint8), np.eye(3)[None, :2], 64)
